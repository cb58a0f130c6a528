"""Refusals of a moment ago: who is over a limit is refused again without work for anybody."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cluster.quotas.work import Refused, Subject

REMEMBER_S = 1.0
"""For so long after a refusal, requests of the same subject are refused at the door, before their
prompts are rendered: only for bounds that free nothing sooner, or hardly ever."""

MOST_REMEMBERED = 10_000

Told = Mapping[str, str]


class Refusals:
    """``now`` is seconds of a clock that is never set; ``told``: headers that went with it."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, Refused, Told]] = {}

    def remember(self, refused: Refused, told: Told, now: float) -> None:
        if refused.never or refused.kind in ("tokens_per_minute", "concurrent_requests"):
            return
        if len(self._known) >= MOST_REMEMBERED:
            self._known.clear()
        self._known[refused.name] = now, refused, told

    def find(self, subjects: Sequence[Subject], now: float) -> tuple[Refused, Told] | None:
        """One that still holds for any of these, with the time that is left to wait."""
        if not self._known:
            return None
        for subject in subjects:
            known = self._known.get(subject.name)
            if known is None:
                continue
            since, refused, told = known
            limit = getattr(subject.limits, refused.kind)
            if now >= since + min(REMEMBER_S, refused.wait_s) or limit != refused.limit:
                del self._known[subject.name]
                continue
            return replace(refused, wait_s=refused.wait_s + since - now), told
        return None
