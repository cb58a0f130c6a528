"""Requests that come however the cluster fares."""

from collections.abc import Iterator, Sequence
from random import Random

from autoscaling.simulator.work import Arrival, Outcome
from autoscaling.simulator.workloads.arrivals import arrival_times
from autoscaling.simulator.workloads.requests import RequestDraw
from autoscaling.simulator.workloads.retries import Retries
from autoscaling.simulator.workloads.settings import OpenLoop


class OpenLoopWorkload:
    """Poisson, bursty or diurnal arrivals of independent requests."""

    def __init__(self, settings: OpenLoop, workload: int, seed: int, until_s: float) -> None:
        self._arrivals = settings.arrivals
        self._until_s = until_s
        self._seed = seed
        self._draw = RequestDraw(
            settings.mix, settings.prompts, settings.tenants, settings.patience, workload
        )
        self._retries = Retries(settings.retry, seed)

    def first(self) -> Iterator[Arrival]:
        # Times and contents are drawn apart: another mix meets the same times.
        times = arrival_times(self._arrivals, Random(self._seed), self._until_s)
        rng, draw = Random(self._seed + 1), self._draw
        return (draw(rng, at_s) for at_s in times)

    def after(self, outcome: Outcome, now: float) -> Sequence[Arrival]:
        retry = self._retries.after(outcome, now)
        return () if retry is None else (retry,)
