"""Names of the Serve deployments, which gateways and operators find each other by."""

GATEWAY = "gateway"


def engine_deployment(pool: str) -> str:
    """The deployment of a pool's engine replicas."""
    return f"engine-{pool}"


def wanted_key(cluster: str, pool: str) -> str:
    """Where the autoscaler writes the size that the pool should have."""
    return f"{cluster}/{pool}/wanted"
