"""What all workloads can do, and several of them as one."""

from collections.abc import Iterator, Sequence
from heapq import merge
from operator import attrgetter
from random import Random
from typing import Protocol

from autoscaling.simulator.work import Arrival, Outcome
from autoscaling.simulator.workloads.closed_loop import ClosedLoopWorkload
from autoscaling.simulator.workloads.open_loop import OpenLoopWorkload
from autoscaling.simulator.workloads.replay import ReplayWorkload
from autoscaling.simulator.workloads.sessions import SessionWorkload
from autoscaling.simulator.workloads.settings import (
    ClosedLoop,
    OpenLoop,
    Replay,
    Sessions,
    WorkloadSettings,
)


class Workload(Protocol):
    """Clients of a simulated cluster. The same seed brings the same requests under any policy."""

    def first(self) -> Iterator[Arrival]:
        """What comes by itself, in the order of time. To be asked for once."""
        ...

    def after(self, outcome: Outcome, now: float) -> Sequence[Arrival]:
        """What follows from the end of a request at `now`; none of it comes earlier than that."""
        ...


class Traffic:
    """All workloads of a scenario, as one."""

    def __init__(self, settings: WorkloadSettings, seed: int, until_s: float) -> None:
        """Nothing comes from `until_s` (in seconds) on."""
        seeds = Random(seed)
        self._until_s = until_s
        self._workloads = [
            _workload(each, number, seeds.getrandbits(60), until_s)
            for number, each in enumerate(settings.all())
        ]

    def first(self) -> Iterator[Arrival]:
        firsts = [workload.first() for workload in self._workloads]
        if len(firsts) == 1:
            return firsts[0]
        return merge(*firsts, key=attrgetter("at_s"))

    def after(self, outcome: Outcome, now: float) -> Sequence[Arrival]:
        following = self._workloads[outcome.arrival.workload].after(outcome, now)
        if following and following[-1].at_s >= self._until_s:
            return [arrival for arrival in following if arrival.at_s < self._until_s]
        return following


def _workload(
    settings: OpenLoop | ClosedLoop | Sessions | Replay, number: int, seed: int, until_s: float
) -> Workload:
    match settings:
        case OpenLoop():
            return OpenLoopWorkload(settings, number, seed, until_s)
        case ClosedLoop():
            return ClosedLoopWorkload(settings, number, seed, until_s)
        case Sessions():
            return SessionWorkload(settings, number, seed, until_s)
        case Replay():
            return ReplayWorkload(settings, number, seed, until_s)
