"""Names of the Serve deployments, which gateways and operators find each other by."""

GATEWAY = "gateway"


def engine_deployment(pool: str) -> str:
    """The deployment of a pool's engine replicas."""
    return f"engine-{pool}"
