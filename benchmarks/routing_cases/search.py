"""The highest rate at which enough requests of every tier keep their objectives."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import median_low

from benchmarks.routing_cases.measured import Measured
from benchmarks.routing_cases.runs import Runs
from benchmarks.routing_cases.scenarios import OURS, Case

ENOUGH = 0.95
"""Of every tier, so many must keep the tier's objectives."""

FIRST_STRIDE = 4
"""Grid points of the first step, when nothing is known but a guess."""

FARTHEST = 16.0
"""A capacity that is so many times the guess, or a part of it so small, is not looked for."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """``per_s`` is between grid points ``index``, where it is enough, and ``index + 1``."""

    per_s: float
    index: int


async def crossing(
    attained: Callable[[float], Awaitable[float]],
    rate_of: Callable[[int], float],
    start: int,
    stride: int,
    reach: int,
) -> Crossing | None:
    """Where the attainment falls below ``ENOUGH`` as the rate grows, interpolated.

    From grid point ``start`` in growing strides to the other side, then halving. None when even
    ``reach`` points further down it is not enough; ``reach`` points further up the search ends.
    """
    seen: dict[int, float] = {}

    async def enough(index: int) -> bool:
        if index not in seen:
            seen[index] = await attained(rate_of(index))
        return seen[index] >= ENOUGH

    up = 1 if await enough(start) else -1
    here, there = start, start + up * stride
    while await enough(there) == (up > 0):
        if abs(there - start) >= reach:
            return Crossing(rate_of(there), there) if up > 0 else None
        stride *= 2
        here, there = there, there + up * stride
    low, high = min(here, there), max(here, there)
    while high - low > 1:
        middle = (low + high) // 2
        if await enough(middle):
            low = middle
        else:
            high = middle
    part = (seen[low] - ENOUGH) / (seen[low] - seen[high])
    return Crossing(rate_of(low) + part * (rate_of(high) - rate_of(low)), low)


@dataclass(frozen=True)
class Capacity:
    """A policy's capacity in a case, seed by seed, in requests (or sessions) offered a second.

    0 for a seed at which no rate was low enough. ``above`` are the runs just above each seed's.
    """

    policy: str
    per_s: dict[int, float]
    above: list[Measured]


class Search:
    """Finds capacities on one grid: rates ``ours_per_s · ratio^k``."""

    def __init__(self, runs: Runs, ratio: float) -> None:
        self._runs = runs
        self._ratio = ratio
        self._found: dict[tuple[str, str, int], asyncio.Task[Crossing | None]] = {}

    async def capacity(self, case: Case, policy: str, seeds: Sequence[int]) -> Capacity:
        """Each seed's own: the first is searched for, the others begin where that was found."""
        named, policy = policy, self._same_as(case, policy)
        first, *others = seeds
        start = self._guess(case, policy)
        found = {first: await self._seed(case, policy, first, start, FIRST_STRIDE)}
        start = next((each.index for each in found.values() if each), start)
        # Some more before the rest: one seed may be an odd one.
        for part in (others[:2], others[2:]):
            more = await asyncio.gather(
                *(self._seed(case, policy, seed, start, 1) for seed in part)
            )
            found |= dict(zip(part, more, strict=True))
            start = median_low([each.index for each in found.values() if each] or [start])
        above = [
            await self._measured(case, policy, seed, each.index + 1)
            for seed, each in found.items()
            if each is not None
        ]
        rates = {seed: each.per_s if each else 0.0 for seed, each in found.items()}
        return Capacity(named, rates, above)

    async def _seed(
        self, case: Case, policy: str, seed: int, start: int, stride: int
    ) -> Crossing | None:
        # A seed's capacity is what was first found, whatever later searches begin with.
        known = self._found.get((case.name, policy, seed))
        if known is None:
            task = asyncio.ensure_future(self._cross(case, policy, seed, start, stride))
            known = self._found[case.name, policy, seed] = task
        return await asyncio.shield(known)

    async def _cross(
        self, case: Case, policy: str, seed: int, start: int, stride: int
    ) -> Crossing | None:
        async def attained(per_s: float) -> float:
            run = await self._runs.measured(case.scenario.at_rate(per_s), policy, seed)
            return run.worst

        reach = math.ceil(math.log(FARTHEST, self._ratio))
        return await crossing(attained, self._rate(case), start, stride, reach)

    def _rate(self, case: Case) -> Callable[[int], float]:
        return lambda index: case.ours_per_s * self._ratio**index

    @staticmethod
    def _same_as(case: Case, policy: str) -> str:
        """Where no prompt begins like another, prefix-affinity does what least-requests does."""
        if policy == "prefix-affinity" and not case.shares_prefixes:
            return "least-requests"
        return policy

    def _guess(self, case: Case, policy: str) -> int:
        if policy == OURS:
            return 0
        return round(math.log(case.others_per_s / case.ours_per_s, self._ratio))

    async def _measured(self, case: Case, policy: str, seed: int, index: int) -> Measured:
        scenario = case.scenario.at_rate(self._rate(case)(index))
        return await self._runs.measured(scenario, policy, seed)
