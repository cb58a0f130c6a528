"""What a known caller may do: scopes, models, tiers."""

from typing import Protocol

from cluster.config import TIERS, Tier
from cluster.errors import Forbidden
from cluster.tenants.caller import Caller, Scope
from deployments.gateway.contract.asgi import Headers
from deployments.gateway.contract.routes import OPEN, Kind


class Access(Protocol):
    """Who calls. ``caller`` raises ``TriremeError`` for those who may not; ``cache_salt`` is what
    the prefix caches tell the caller's group by."""

    public_metrics: bool

    async def caller(self, headers: Headers) -> Caller: ...
    def cache_salt(self, caller: Caller) -> str: ...
    def refused(self, reason: str) -> None: ...


def is_open(kind: Kind, access: Access) -> bool:
    """Whether the route answers everybody."""
    return kind in OPEN or (kind == "metrics" and access.public_metrics)


def scope_of(kind: Kind) -> Scope:
    """What a key must be for."""
    return "usage" if str(kind) == "usage" else "generate"


def check_scope(caller: Caller, kind: Kind) -> None:
    """Raises ``Forbidden``."""
    scope = scope_of(kind)
    if scope not in caller.scopes:
        raise Forbidden(f"This key is not for this: it has not the scope `{scope}`.")


def check_model(caller: Caller | None, model: str, name: str) -> None:
    """``name`` is how the caller wrote the model. Raises ``Forbidden``."""
    if caller is not None and caller.models is not None and model not in caller.models:
        raise Forbidden(
            f"The model `{name}` is not for this key.", param="model", code="model_not_allowed"
        )


def check_tier(caller: Caller | None, tier: Tier) -> None:
    """Raises ``Forbidden``."""
    if caller is not None and tier not in caller.tiers:
        allowed = ", ".join(f"'{each}'" for each in TIERS if each in caller.tiers) or "none"
        raise Forbidden(
            f"The effort '{tier}' is not for this key. Its efforts are: {allowed}.",
            code="tier_not_allowed",
        )


def default_tier(caller: Caller | None, default: Tier) -> Tier:
    """The tier of a request that asks for none: the caller's own, else ``default``; where the
    caller has not that, the next lower one that it has, else its lowest."""
    if caller is None:
        return default
    wanted = caller.default_tier or default
    if wanted in caller.tiers or not caller.tiers:
        return wanted
    below = [tier for tier in TIERS[: TIERS.index(wanted)] if tier in caller.tiers]
    return below[-1] if below else next(tier for tier in TIERS if tier in caller.tiers)
