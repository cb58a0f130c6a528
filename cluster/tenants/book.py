"""Changes to tenants and keys: each one transaction, counted for the gateways, and audited.

The command line and the admin API do the same through it. ``who`` stands in the audit log; no
secret ever does.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from cluster.tenants.keys import NewKey, make_key
from cluster.tenants.limits_table import change_limits, copy_limits, drop_limits, limits_of
from cluster.tenants.orders import NewKeyOrder, NewTenant, Rotation, TenantChange
from cluster.tenants.secret import DoorSecret
from cluster.tenants.store import Store
from cluster.tenants.tables import (
    AuditRow,
    ChangeRow,
    KeyRow,
    ProjectRow,
    SecretRow,
    TeamRow,
    TenantRow,
)
from cluster.tenants.views import KeyView, TenantView, key_view, tenant_view


class NotThere(LookupError):
    """There is no such tenant or key. ``str()`` is one line."""


class Conflict(ValueError):
    """It cannot be done as things are. ``str()`` is one line."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who orders a change, and from where, for the audit log."""

    name: str
    place: str = ""


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A key as it is told once: ``text`` is nowhere else."""

    view: KeyView
    key: NewKey


class Book:
    """``secret`` is needed to make keys only. ``clock`` is Unix time in seconds."""

    def __init__(
        self, store: Store, secret: DoorSecret | None, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._secret = secret
        self._clock = clock

    @contextmanager
    def _change(self) -> Iterator[Session]:
        with Session(self._store.engine) as session, session.begin():
            # First of all: whoever changes something waits here for the one before, so that what
            # it reads stays as it is until it is done.
            session.execute(update(ChangeRow).values(number=ChangeRow.number + 1))
            yield session

    def _note(
        self, session: Session, actor: Actor, action: str, subject: str, detail: Mapping[str, Any]
    ) -> None:
        row = AuditRow(
            at=self._clock(),
            who=actor.name[:200],
            action=action,
            subject=subject,
            detail=dict(detail),
            request_from=actor.place[:200],
        )
        session.add(row)

    # -------------------------------------------------------------- tenants

    def tenants(self) -> list[TenantView]:
        with Session(self._store.engine) as session:
            rows = session.scalars(select(TenantRow).order_by(TenantRow.name)).all()
            return [self._tenant_view(session, row) for row in rows]

    def tenant(self, name: str) -> TenantView:
        """Raises ``NotThere``."""
        with Session(self._store.engine) as session:
            return self._tenant_view(session, self._tenant(session, name))

    def create_tenant(self, order: NewTenant, actor: Actor) -> TenantView:
        """Raises ``Conflict``."""
        with self._change() as session:
            if session.get(TenantRow, order.name) is not None:
                raise Conflict(f"the tenant {order.name} is already there")
            given = order.model_dump(exclude={"name", "limits"})
            row = TenantRow(name=order.name, created_at=self._clock(), **given)
            session.add(row)
            session.flush()
            change_limits(session, f"tenant:{order.name}", order.limits)
            detail = order.model_dump(exclude={"name"}, exclude_unset=True)
            self._note(session, actor, "tenant.create", f"tenant:{order.name}", detail)
            return self._tenant_view(session, row)

    def set_tenant(self, name: str, order: TenantChange, actor: Actor) -> TenantView:
        """Change what the order sets. Raises ``NotThere``."""
        with self._change() as session:
            row = self._tenant(session, name)
            given = order.model_dump(exclude={"limits"}, exclude_unset=True)
            for field, value in given.items():
                setattr(row, field, value)
            change_limits(session, f"tenant:{name}", order.limits)
            detail = order.model_dump(exclude_unset=True)
            self._note(session, actor, "tenant.set", f"tenant:{name}", detail)
            session.flush()
            return self._tenant_view(session, row)

    def delete_tenant(self, name: str, actor: Actor, *, with_keys: bool = False) -> None:
        """Raises ``NotThere``; and ``Conflict`` while it has keys that are good, unless they shall
        go with it."""
        with self._change() as session:
            row = self._tenant(session, name)
            good = self._good_keys(session, name)
            if good and not with_keys:
                raise Conflict(f"the tenant {name} has {good} keys that are good: revoke them")
            ids = session.scalars(select(KeyRow.id).where(KeyRow.tenant == name)).all()
            drop_limits(session, [f"tenant:{name}", *(f"key:{each}" for each in ids)])
            for table in (KeyRow, ProjectRow, TeamRow):
                session.execute(delete(table).where(table.tenant == name))
            session.delete(row)
            detail = {"keys": sorted(ids)}
            self._note(session, actor, "tenant.delete", f"tenant:{name}", detail)

    @staticmethod
    def _tenant(session: Session, name: str) -> TenantRow:
        row = session.get(TenantRow, name)
        if row is None:
            raise NotThere(f"there is no tenant {name}")
        return row

    def _good_keys(self, session: Session, tenant: str | None = None) -> int:
        now = self._clock()
        good = (
            select(func.count())
            .select_from(KeyRow)
            .where(
                (KeyRow.expires_at.is_(None)) | (KeyRow.expires_at > now),
                (KeyRow.revoked_at.is_(None)) | (KeyRow.revoked_at > now),
            )
        )
        if tenant is not None:
            good = good.where(KeyRow.tenant == tenant)
        return int(session.execute(good).scalar_one())

    def _tenant_view(self, session: Session, row: TenantRow) -> TenantView:
        teams = session.scalars(select(TeamRow.name).where(TeamRow.tenant == row.name)).all()
        limits = limits_of(session, f"tenant:{row.name}")
        return tenant_view(row, limits, sorted(teams), self._good_keys(session, row.name))

    # -------------------------------------------------------------- keys

    def keys(self, tenant: str | None = None) -> list[KeyView]:
        """All keys, or those of ``tenant``; the oldest first."""
        asked = select(KeyRow).order_by(KeyRow.created_at, KeyRow.id)
        if tenant is not None:
            asked = asked.where(KeyRow.tenant == tenant)
        with Session(self._store.engine) as session:
            return [self._key_view(session, row) for row in session.scalars(asked).all()]

    def create_key(self, order: NewKeyOrder, actor: Actor) -> MadeKey:
        """Raises ``NotThere`` for an unknown tenant, ``Conflict`` for what that does not have."""
        with self._change() as session:
            tenant = self._tenant(session, order.tenant)
            _check_within(tenant, order)
            self._place(session, order)
            key = make_key()
            now = self._clock()
            row = KeyRow(
                id=key.id,
                **order.model_dump(exclude={"expires_in_s", "limits"}),
                digest=self._digest(session, key),
                created_at=now,
                expires_at=None if order.expires_in_s is None else now + order.expires_in_s,
            )
            session.add(row)
            session.flush()
            change_limits(session, f"key:{key.id}", order.limits)
            detail = order.model_dump(exclude_unset=True)
            self._note(session, actor, "key.create", f"key:{key.id}", detail)
            return MadeKey(self._key_view(session, row), key)

    def rotate_key(self, key_id: str, order: Rotation, actor: Actor) -> MadeKey:
        """A new key in place of an old one. Raises ``NotThere``, and ``Conflict`` for a key that
        is no longer good or was rotated already."""
        with self._change() as session:
            old, now = self._key(session, key_id), self._clock()
            state = self._key_view(session, old).state
            if state != "good":
                raise Conflict(f"the key {key_id} is {state}: create a new one")
            key = make_key()
            kept = ("tenant", "team", "project", "label", "scopes", "tiers", "models")
            row = KeyRow(
                id=key.id,
                **{name: getattr(old, name) for name in (*kept, "default_tier")},
                digest=self._digest(session, key),
                created_at=now,
                expires_at=None if order.expires_in_s is None else now + order.expires_in_s,
            )
            session.add(row)
            old.revoked_at, old.replaced_by = now + order.overlap_s, key.id
            session.flush()
            copy_limits(session, f"key:{key_id}", f"key:{key.id}")
            detail = {**order.model_dump(), "replaced_by": key.id}
            self._note(session, actor, "key.rotate", f"key:{key_id}", detail)
            return MadeKey(self._key_view(session, row), key)

    def revoke_key(self, key_id: str, actor: Actor) -> KeyView:
        """No gateway lets it in any more. One that was revoked stays so. Raises ``NotThere``."""
        with self._change() as session:
            row, now = self._key(session, key_id), self._clock()
            row.revoked_at = now if row.revoked_at is None else min(now, row.revoked_at)
            self._note(session, actor, "key.revoke", f"key:{key_id}", {"tenant": row.tenant})
            session.flush()
            return self._key_view(session, row)

    def _digest(self, session: Session, key: NewKey) -> str:
        """A key that is hashed with another secret than the gateways have would let nobody in."""
        if self._secret is None:
            raise Conflict("without the access secret no key can be made")
        known = session.get(SecretRow, 1)
        if known is None:
            session.add(SecretRow(id=1, mark=self._secret.mark))
        elif known.mark != self._secret.mark:
            if self._good_keys(session):
                raise Conflict(
                    "the access secret is not the one that the keys of this store were made with "
                    "(access.secret_file, TRIREME_ACCESS_SECRET)"
                )
            known.mark = self._secret.mark
        return self._secret.digest(key.text.encode()).hex()

    @staticmethod
    def _key(session: Session, key_id: str) -> KeyRow:
        row = session.get(KeyRow, key_id)
        if row is None:
            raise NotThere(f"there is no key {key_id}")
        return row

    def _key_view(self, session: Session, row: KeyRow) -> KeyView:
        return key_view(row, limits_of(session, f"key:{row.id}"), self._clock())

    @staticmethod
    def _place(session: Session, order: NewKeyOrder) -> None:
        """Teams and projects come into being with their first key."""
        if order.team:
            session.merge(TeamRow(tenant=order.tenant, name=order.team))
        if order.project:
            session.merge(ProjectRow(tenant=order.tenant, team=order.team, name=order.project))

    # -------------------------------------------------------------- audit

    def audit(self, limit: int = 100, before: int | None = None) -> list[dict[str, Any]]:
        """The last changes, the newest first; ``before`` goes on where an answer ended (its last
        ``id``)."""
        asked = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit)
        if before is not None:
            asked = asked.where(AuditRow.id < before)
        columns = ("id", "at", "who", "request_from", "action", "subject", "detail")
        with Session(self._store.engine) as session:
            rows = session.scalars(asked).all()
            return [{name: getattr(row, name) for name in columns} for row in rows]


def _check_within(tenant: TenantRow, order: NewKeyOrder) -> None:
    """A key that allows what its tenant does not have would be a surprise later."""
    beyond: list[str] = [tier for tier in order.tiers or () if tier not in tenant.tiers]
    if tenant.models is not None:
        beyond += sorted(set(order.models or ()) - set(tenant.models))
    if order.default_tier is not None and order.default_tier not in tenant.tiers:
        beyond.append(order.default_tier)
    if beyond:
        raise Conflict(f"the tenant {order.tenant} does not have {', '.join(beyond)}")
