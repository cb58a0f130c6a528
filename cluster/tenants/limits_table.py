"""Limits as rows: changed, copied and read by subject (``tenant:NAME`` or ``key:ID``)."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from cluster.tenants.orders import Bounds, LimitsByTier
from cluster.tenants.snapshot import LIMIT_FIELDS
from cluster.tenants.tables import LimitRow

ALL_TIERS = "all"
"""How operators write the bounds over all tiers; their row's tier is empty."""

DEFAULTS = Bounds().model_dump()


def change_limits(session: Session, subject: str, limits: LimitsByTier) -> None:
    """Set what each ``Bounds`` sets, keep the rest, and drop a row that bounds nothing."""
    for tier, bounds in limits.items():
        place = {"subject": subject, "tier": "" if tier == ALL_TIERS else tier}
        row = session.get(LimitRow, place)
        before = DEFAULTS if row is None else {name: getattr(row, name) for name in LIMIT_FIELDS}
        after = {**before, **bounds.model_dump(exclude_unset=True)}
        if all(after[name] is None for name in LIMIT_FIELDS if name != "soft_share"):
            if row is not None:
                session.delete(row)
        elif row is None:
            session.add(LimitRow(**place, **after))
        else:
            for name, value in after.items():
                setattr(row, name, value)
    session.flush()


def copy_limits(session: Session, subject: str, to: str) -> None:
    for row in session.scalars(select(LimitRow).where(LimitRow.subject == subject)).all():
        bounds = {name: getattr(row, name) for name in LIMIT_FIELDS}
        session.add(LimitRow(subject=to, tier=row.tier, **bounds))
    session.flush()


def drop_limits(session: Session, subjects: Sequence[str]) -> None:
    session.execute(delete(LimitRow).where(LimitRow.subject.in_(subjects)))


def limits_of(session: Session, subject: str) -> dict[str, dict[str, Any]]:
    """By tier (``all`` first), without bounds that are not set."""
    rows = session.scalars(
        select(LimitRow).where(LimitRow.subject == subject).order_by(LimitRow.tier)
    ).all()
    return {
        row.tier or ALL_TIERS: {
            name: value for name in LIMIT_FIELDS if (value := getattr(row, name)) is not None
        }
        for row in rows
    }
