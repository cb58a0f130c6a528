"""The subjects of callers, worked out once for each caller and tier."""

from cluster.config import Tier
from cluster.quotas.work import Subject, subjects_of
from cluster.tenants.caller import Caller, Limited

MOST_KEPT = 20_000

Found = tuple[tuple[Subject, ...], tuple[str, ...]]
"""Subjects and their names."""


class Subjects:
    """Callers come from a snapshot of the store: the same limits are the same object for long."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, Tier], tuple[tuple[Limited, ...], Found]] = {}

    def of(self, caller: Caller | None, tier: Tier) -> Found:
        """Those that a request of ``caller`` in ``tier`` counts for."""
        if caller is None or not caller.limits:
            return (), ()
        limited = caller.limits
        known = self._kept.get((id(limited), tier))
        # The object is kept here, so nothing else can have its id meanwhile.
        if known is not None and known[0] is limited:
            return known[1]
        if len(self._kept) >= MOST_KEPT:
            self._kept.clear()
        subjects = subjects_of(limited, tier)
        found = subjects, tuple(each.name for each in subjects)
        self._kept[id(limited), tier] = limited, found
        return found
