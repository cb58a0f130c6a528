"""Names of the Serve deployments, which gateways and operators find each other by."""

from collections.abc import Iterable

GATEWAY = "gateway"


def engine_deployment(pool: str) -> str:
    """The deployment of a pool's engine replicas."""
    return f"engine-{pool}"


def pool_application(cluster: str, pool: str) -> str:
    """The Serve application of a pool that has one of its own."""
    return f"{cluster}-{engine_deployment(pool)}"


def applications(cluster: str, pools: Iterable[str], *, apart: bool) -> dict[str, str]:
    """The Serve application of each deployment, gateways first. ``apart``: as on Kubernetes, where
    each pool is an application of its own."""
    engines = {
        engine_deployment(pool): pool_application(cluster, pool) if apart else cluster
        for pool in pools
    }
    return {GATEWAY: cluster, **engines}


def wanted_key(cluster: str, pool: str) -> str:
    """Where the autoscaler writes the size that the pool should have."""
    return f"{cluster}/{pool}/wanted"
