"""What the policy decided, with everything it followed from; kept in a ring."""

from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from autoscaling.signals import Freshness

Limit = Literal[
    "none", "at_least", "at_most", "stale_signals", "reversals", "hold", "no_replica_known"
]

KEPT = 1024


@dataclass(frozen=True, slots=True)
class Wanted:
    """One pool. ``before`` and ``wanted`` count replicas awake or getting so, ``asleep`` standbys.

    ``limit`` is what kept the number from being another, ``limited_by`` says so in words.
    """

    pool: str
    ready: int
    starting: int
    before: int
    wanted: int
    asleep: int
    why: str
    limit: Limit = "none"
    limited_by: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision on a model's pools; loads are in replicas of its first pool.

    ``load`` is what the arrivals so far fill, ``expected`` the most that they are expected to fill
    while a replica starts, ``headroom`` what is kept beyond it, ``backlog`` what the queues would
    fill if they were served at once.
    """

    at_s: float
    clock: str
    model: str
    freshness: Freshness
    load: float
    expected: float
    headroom: float
    backlog: float
    backlog_s: float
    outlook: float
    outlook_by: str
    level: float
    horizon_s: float
    ttft_attained: float | None
    pools: tuple[Wanted, ...]

    def of(self, pool: str) -> Wanted:
        return next(each for each in self.pools if each.pool == pool)

    def as_dict(self) -> dict[str, object]:
        """For JSON; figures to three digits."""
        return {
            key: round(value, 3) if isinstance(value, float) else value
            for key, value in asdict(self).items()
        }


class Decisions:
    """The last decisions, the newest first."""

    def __init__(self, kept: int = KEPT) -> None:
        self._ring: deque[Decision] = deque(maxlen=kept)

    def add(self, decision: Decision) -> None:
        self._ring.appendleft(decision)

    def __iter__(self) -> Iterator[Decision]:
        return iter(self._ring)

    def __len__(self) -> int:
        return len(self._ring)
