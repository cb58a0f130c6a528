"""What the goals' modules share: the runs, the seeds, and how fine to look."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from autoscaling.simulator.scenario import Scenario
from benchmarks.routing_cases.measured import Measured
from benchmarks.routing_cases.runs import Runs
from benchmarks.routing_cases.scenarios import MIXED, OURS
from benchmarks.routing_cases.search import Search


@dataclass(frozen=True)
class Context:
    """``seeds`` for figures, the first few of them (``few``) for what only picks a load or a rival.

    ``others`` are the policies to compare with."""

    runs: Runs
    search: Search
    seeds: Sequence[int]
    few: Sequence[int]
    others: Sequence[str]

    async def capacity_per_s(self) -> float:
        """Our capacity in the mixed scenario: the load that other goals are measured at."""
        found = await self.search.capacity(MIXED, OURS, self.few)
        return fmean(found.per_s.values())

    async def by_seed(self, scenario: Scenario, policy: str = OURS) -> dict[int, Measured]:
        found = await self.runs.all(scenario, policy, self.seeds)
        return dict(zip(self.seeds, found, strict=True))


def goodput(runs: Mapping[int, Measured]) -> dict[int, float]:
    """Requests a second within their objectives, by seed."""
    return {seed: run.goodput_per_s for seed, run in runs.items()}
