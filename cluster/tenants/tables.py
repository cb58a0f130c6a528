"""The store's tables of who may call: tenants and what belongs to them, limits, and the audit log.

Times are Unix seconds in UTC, so that SQLite and PostgreSQL read them alike. Nothing here lets
anybody in: a key's secret is stored as a keyed hash only, and its pepper is not in the store.
"""

from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, Double, ForeignKey, Integer, String, Text, false
from sqlalchemy.orm import Mapped, mapped_column

from cluster.tenants.base import Base

NAME_CHARS = 64
KEY_ID_CHARS = 12

Names = list[str]


class TenantRow(Base):
    """A part of the company that calls the endpoint. ``models`` NULL: all of them."""

    __tablename__ = "tenants"

    name: Mapped[str] = mapped_column(String(NAME_CHARS), primary_key=True)
    weight: Mapped[float] = mapped_column(Double)
    priority: Mapped[bool] = mapped_column(Boolean, server_default=false())
    tiers: Mapped[Names] = mapped_column(JSON)
    models: Mapped[Names | None] = mapped_column(JSON(none_as_null=True))
    default_tier: Mapped[str | None] = mapped_column(String(16))
    cache_group: Mapped[str] = mapped_column(String(NAME_CHARS))
    enabled: Mapped[bool] = mapped_column(Boolean)
    created_at: Mapped[float] = mapped_column(Double)


class TeamRow(Base):
    """A team of a tenant."""

    __tablename__ = "teams"

    tenant: Mapped[str] = mapped_column(
        ForeignKey("tenants.name", ondelete="CASCADE"), primary_key=True
    )
    name: Mapped[str] = mapped_column(String(NAME_CHARS), primary_key=True)


class ProjectRow(Base):
    """A project of a tenant; ``team`` is empty for one that belongs to no team."""

    __tablename__ = "projects"

    tenant: Mapped[str] = mapped_column(
        ForeignKey("tenants.name", ondelete="CASCADE"), primary_key=True
    )
    team: Mapped[str] = mapped_column(String(NAME_CHARS), primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_CHARS), primary_key=True)


class KeyRow(Base):
    """A key. ``digest`` is the keyed hash of the whole key, in hexadecimal.

    It is good until ``expires_at`` or ``revoked_at``, whichever comes first; a ``revoked_at`` in
    the future is the end of a rotation's overlap. ``replaced_by`` is the key that it was rotated
    to.
    """

    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(String(KEY_ID_CHARS), primary_key=True)
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name", ondelete="CASCADE"), index=True)
    team: Mapped[str] = mapped_column(String(NAME_CHARS))
    project: Mapped[str] = mapped_column(String(NAME_CHARS))
    label: Mapped[str] = mapped_column(String(200))
    digest: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[Names] = mapped_column(JSON)
    tiers: Mapped[Names | None] = mapped_column(JSON(none_as_null=True))
    models: Mapped[Names | None] = mapped_column(JSON(none_as_null=True))
    default_tier: Mapped[str | None] = mapped_column(String(16))
    created_at: Mapped[float] = mapped_column(Double)
    expires_at: Mapped[float | None] = mapped_column(Double)
    revoked_at: Mapped[float | None] = mapped_column(Double)
    replaced_by: Mapped[str | None] = mapped_column(String(KEY_ID_CHARS))


class LimitRow(Base):
    """Bounds of ``tenant:NAME`` or ``key:ID``; ``tier`` is empty for all tiers together."""

    __tablename__ = "limits"

    subject: Mapped[str] = mapped_column(String(NAME_CHARS + 8), primary_key=True)
    tier: Mapped[str] = mapped_column(String(16), primary_key=True)
    requests_per_minute: Mapped[int | None] = mapped_column(BigInteger)
    tokens_per_minute: Mapped[int | None] = mapped_column(BigInteger)
    concurrent_requests: Mapped[int | None] = mapped_column(BigInteger)
    tokens_per_day: Mapped[int | None] = mapped_column(BigInteger)
    tokens_per_month: Mapped[int | None] = mapped_column(BigInteger)
    cost_per_day: Mapped[float | None] = mapped_column(Double)
    cost_per_month: Mapped[float | None] = mapped_column(Double)
    soft_share: Mapped[float] = mapped_column(Double)


class AuditRow(Base):
    """Who changed what, and when. The database itself refuses to change or delete a row."""

    __tablename__ = "audit"

    # SQLite counts up by itself only what it calls INTEGER.
    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    at: Mapped[float] = mapped_column(Double, index=True)
    who: Mapped[str] = mapped_column(String(200))
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(NAME_CHARS + 8))
    detail: Mapped[dict[str, Any]] = mapped_column(JSON)
    request_from: Mapped[str] = mapped_column(Text)


class SecretRow(Base):
    """One row: by what the secret is recognised that the keys were hashed with."""

    __tablename__ = "secret"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    mark: Mapped[str] = mapped_column(String(64))


class ChangeRow(Base):
    """One row: counts the changes, so that a gateway finds out cheaply whether there was one."""

    __tablename__ = "changes"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)
