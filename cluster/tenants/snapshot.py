"""All callers at one moment, read from the store and ready to be looked up."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from sqlalchemy import Connection, select

from cluster.config import TIERS, Tier
from cluster.tenants.caller import SCOPES, Caller, Limited, Limits, Scope
from cluster.tenants.tables import ChangeRow, KeyRow, LimitRow, SecretRow, TenantRow

Fields = Mapping[Any, Any]
"""A row of a table, by its columns."""

LIMIT_FIELDS = tuple(each.name for each in fields(Limits))


@dataclass(frozen=True, slots=True)
class KnownKey:
    """``digest`` is the keyed hash. It is good before ``ends_at`` (Unix seconds; None: for ever).
    ``revoked`` tells why it ends."""

    digest: bytes
    caller: Caller
    ends_at: float | None
    revoked: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """``keys`` by id, ``tenants`` as callers without a key, by name: what a token of an identity
    provider gets. Disabled tenants and their keys are not among them. ``secret_mark`` is that of
    the secret that the keys were hashed with, None while there is none."""

    change: int
    keys: Mapping[str, KnownKey] = field(default_factory=dict)
    tenants: Mapping[str, Caller] = field(default_factory=dict)
    secret_mark: str | None = None

    def expiry_s(self, now: float) -> float:
        """Seconds until the first key that is good at ``now`` expires; infinite if none does.

        Looks at all of them: milliseconds for ten thousand.
        """
        ends = (key.ends_at for key in self.keys.values() if not key.revoked)
        return min((end - now for end in ends if end is not None and end > now), default=math.inf)

    @property
    def weights(self) -> dict[str, float]:
        """Each tenant's share of a queue."""
        return {name: caller.weight for name, caller in self.tenants.items()}


def read_change(connection: Connection) -> int:
    """How many changes there were so far."""
    return int(connection.execute(select(ChangeRow.number).where(ChangeRow.id == 1)).scalar_one())


def read_snapshot(connection: Connection, change: int) -> Snapshot:
    """Everything, as it is now. ``change`` must have been read before."""
    limits: dict[str, list[Limited]] = {}
    for row in connection.execute(select(LimitRow.__table__).order_by(LimitRow.tier)).mappings():
        limits.setdefault(row["subject"], []).append(limited_of(row))
    tenants = {
        row["name"]: _tenant(row, limits)
        for row in connection.execute(select(TenantRow.__table__)).mappings()
        if row["enabled"]
    }
    keys = {
        row["id"]: _key(row, tenants[row["tenant"]], limits)
        for row in connection.execute(select(KeyRow.__table__)).mappings()
        # A tenant that was made after the tenants were read comes with the next snapshot.
        if row["tenant"] in tenants
    }
    mark = connection.execute(select(SecretRow.mark).where(SecretRow.id == 1)).scalar_one_or_none()
    return Snapshot(change, keys, tenants, mark)


def limited_of(row: Fields) -> Limited:
    """A row of limits."""
    bounds = {name: row[name] for name in LIMIT_FIELDS}
    return Limited(row["subject"], tier_of(row["tier"]), Limits(**bounds))


def _tenant(row: Fields, limits: Mapping[str, list[Limited]]) -> Caller:
    name, group = row["name"], row["cache_group"]
    return Caller(
        tenant=name,
        key_id="",
        tiers=tiers_of(row["tiers"]),
        models=names_of(row["models"]),
        default_tier=tier_of(row["default_tier"]),
        weight=row["weight"],
        priority=row["priority"],
        limits=tuple(limits.get(f"tenant:{name}", ())),
        # Told apart, so that no tenant gets into a group by being called like it.
        cache_group=f"group:{group}" if group else f"tenant:{name}",
    )


def _key(row: Fields, tenant: Caller, limits: Mapping[str, list[Limited]]) -> KnownKey:
    ends = [each for each in (row["expires_at"], row["revoked_at"]) if each is not None]
    ends_at = min(ends, default=None)
    caller = Caller(
        tenant=tenant.tenant,
        key_id=row["id"],
        team=row["team"],
        project=row["project"],
        scopes=scopes_of(row["scopes"]),
        # A key never allows more than its tenant has, whatever that had when the key was made.
        tiers=tenant.tiers if row["tiers"] is None else tiers_of(row["tiers"]) & tenant.tiers,
        models=both(names_of(row["models"]), tenant.models),
        default_tier=tier_of(row["default_tier"]) or tenant.default_tier,
        weight=tenant.weight,
        priority=tenant.priority,
        limits=(*tenant.limits, *limits.get(f"key:{row['id']}", ())),
        cache_group=tenant.cache_group,
    )
    revoked = row["revoked_at"] is not None and row["revoked_at"] == ends_at
    return KnownKey(bytes.fromhex(row["digest"]), caller, ends_at, revoked)


def both(one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    if one is None or other is None:
        return other if one is None else one
    return one & other


def names_of(names: list[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)


def tiers_of(names: list[str]) -> frozenset[Tier]:
    """Those that this program knows: a newer one may have written others."""
    return frozenset(tier for tier in TIERS if tier in names)


def tier_of(name: str | None) -> Tier | None:
    return next((tier for tier in TIERS if tier == name), None)


def scopes_of(names: list[str]) -> frozenset[Scope]:
    return frozenset(scope for scope in SCOPES if scope in names)
