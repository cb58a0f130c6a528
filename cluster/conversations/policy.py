"""What may be kept of a tenant's responses, by the configuration."""

from dataclasses import dataclass

from cluster.config import ResponsesConfig

DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Policy:
    """``by_default``: a response is kept where its request does not say."""

    by_default: bool
    retain_s: float
    max_responses: int
    max_bytes: int


def policy_of(config: ResponsesConfig, tenant: str) -> Policy:
    """The tenant's policy, whether anything may be kept of it or not."""
    own = config.tenants.get(tenant)
    return Policy(
        config.store_by_default,
        DAY_S * (config.retain_days if own is None else own.retain_days or config.retain_days),
        config.max_responses if own is None else own.max_responses or config.max_responses,
        config.max_bytes if own is None else own.max_bytes or config.max_bytes,
    )


def may_keep(config: ResponsesConfig, tenant: str) -> bool:
    """Whether responses of the tenant are kept at all."""
    own = config.tenants.get(tenant)
    return config.enabled and (own is None or own.enabled)
