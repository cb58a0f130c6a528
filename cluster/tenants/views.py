"""Tenants and keys as operators see them: everything but what a key's secret is hashed to."""

from dataclasses import dataclass
from typing import Any, Literal

from cluster.tenants.tables import KeyRow, TenantRow

KeyState = Literal["good", "rotated", "revoked", "expired"]
"""``rotated``: it has a successor, and is good until the overlap ends."""


@dataclass(frozen=True, slots=True)
class TenantView:
    """``good_keys``: how many keys let somebody in. Times are Unix seconds."""

    name: str
    weight: float
    priority: bool
    tiers: list[str]
    models: list[str] | None
    default_tier: str | None
    cache_group: str
    enabled: bool
    created_at: float
    limits: dict[str, dict[str, Any]]
    teams: list[str]
    good_keys: int


@dataclass(frozen=True, slots=True)
class KeyView:
    """Times are Unix seconds."""

    id: str
    tenant: str
    team: str
    project: str
    label: str
    state: KeyState
    scopes: list[str]
    tiers: list[str] | None
    models: list[str] | None
    default_tier: str | None
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    replaced_by: str | None
    limits: dict[str, dict[str, Any]]


def tenant_view(
    row: TenantRow, limits: dict[str, dict[str, Any]], teams: list[str], good_keys: int
) -> TenantView:
    return TenantView(
        row.name,
        row.weight,
        row.priority,
        row.tiers,
        row.models,
        row.default_tier,
        row.cache_group,
        row.enabled,
        row.created_at,
        limits,
        teams,
        good_keys,
    )


def key_view(row: KeyRow, limits: dict[str, dict[str, Any]], now: float) -> KeyView:
    return KeyView(
        row.id,
        row.tenant,
        row.team,
        row.project,
        row.label,
        _state(row, now),
        row.scopes,
        row.tiers,
        row.models,
        row.default_tier,
        row.created_at,
        row.expires_at,
        row.revoked_at,
        row.replaced_by,
        limits,
    )


def _state(row: KeyRow, now: float) -> KeyState:
    if row.revoked_at is not None and row.revoked_at <= now:
        return "revoked"
    if row.expires_at is not None and row.expires_at <= now:
        return "expired"
    return "good" if row.revoked_at is None else "rotated"
