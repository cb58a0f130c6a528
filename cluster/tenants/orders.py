"""What an operator may order, by the command line or the admin API, checked before it is done."""

import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from cluster.config import Tier
from cluster.tenants.caller import SCOPES, Scope

# They stand in counters' names, metrics and logs, so there is nothing in them to be escaped.
NAME = r"^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$"
NAME_PATTERN = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?")
Name = Annotated[str, StringConstraints(pattern=NAME, max_length=64)]
MaybeName = Annotated[str, StringConstraints(pattern=rf"^$|{NAME}", max_length=64)]
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Label = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=200)]

Count = Annotated[int, Field(ge=1, le=10**15)]
Cost = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]

YEAR_S = 366 * 86_400.0
MOST_OVERLAP_S = 30 * 86_400.0


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Bounds(Order):
    """Limits of a subject. What is left out stays as it is; null takes the bound away."""

    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    concurrent_requests: Count | None = None
    tokens_per_day: Count | None = None
    tokens_per_month: Count | None = None
    cost_per_day: Cost | None = None
    cost_per_month: Cost | None = None
    soft_share: Annotated[float, Field(gt=0, le=1)] = 0.9


LimitsByTier = dict[Literal["all", "low", "medium", "high"], Bounds]
"""``all`` holds over all tiers together."""


class TenantChange(Order):
    """What changes of a tenant; what is left out stays.

    ``priority``: its requests go ahead of those of all tenants without, at every tier, unless they
    ask for another ``service_tier``. ``models``: names of served models; null: all.
    ``cache_group``: tenants of one group share prefix-cache entries, which lets them find out what
    others of the group have asked; empty: the tenant shares with nobody.
    """

    weight: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 1.0
    priority: bool = False
    tiers: list[Tier] = ["low", "medium", "high"]
    models: list[ModelName] | None = None
    default_tier: Tier | None = None
    cache_group: MaybeName = ""
    enabled: bool = True
    limits: LimitsByTier = {}


class NewTenant(TenantChange):
    """A tenant that is made."""

    name: Name


class NewKeyOrder(Order):
    """A key that is made. ``tiers`` and ``models`` null: what the tenant has at any time.

    ``expires_in_s`` null: never.
    """

    tenant: Name
    team: MaybeName = ""
    project: MaybeName = ""
    label: Label = ""
    scopes: Annotated[list[Scope], Field(min_length=1)] = list(SCOPES)
    tiers: Annotated[list[Tier], Field(min_length=1)] | None = None
    models: Annotated[list[ModelName], Field(min_length=1)] | None = None
    default_tier: Tier | None = None
    expires_in_s: Annotated[float, Field(gt=0, le=10 * YEAR_S)] | None = None
    limits: LimitsByTier = {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.tiers is not None and self.default_tier not in (None, *self.tiers):
            raise ValueError(f"default_tier {self.default_tier} is not among the key's tiers")
        return self


class Rotation(Order):
    """The old key stays good for ``overlap_s`` beside the new one, which has all that it had."""

    overlap_s: Annotated[float, Field(ge=0, le=MOST_OVERLAP_S)] = 86_400.0
    expires_in_s: Annotated[float, Field(gt=0, le=10 * YEAR_S)] | None = None
