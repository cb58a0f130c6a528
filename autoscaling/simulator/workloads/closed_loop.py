"""Clients that send the next request only after the last one has ended."""

from collections.abc import Iterator, Sequence
from random import Random

from autoscaling.simulator.work import Arrival, Outcome
from autoscaling.simulator.workloads.requests import RequestDraw
from autoscaling.simulator.workloads.retries import Retries
from autoscaling.simulator.workloads.settings import ClosedLoop


class ClosedLoopWorkload:
    """A fixed number of clients, each with a chance of its own."""

    def __init__(self, settings: ClosedLoop, workload: int, seed: int, until_s: float) -> None:
        self._settings = settings
        self._until_s = until_s
        self._draw = RequestDraw(
            settings.mix, settings.prompts, settings.tenants, settings.patience, workload
        )
        self._retries = Retries(settings.retry, seed)
        self._rngs = [Random(hash((seed, client))) for client in range(settings.clients)]

    def first(self) -> Iterator[Arrival]:
        apart_s = self._settings.ramp_s / self._settings.clients
        for index, rng in enumerate(self._rngs):
            if index * apart_s >= self._until_s:
                return
            yield self._draw(rng, index * apart_s, client=index)

    def after(self, outcome: Outcome, now: float) -> Sequence[Arrival]:
        retry = self._retries.after(outcome, now)
        if retry is not None:
            return (retry,)
        client = outcome.arrival.client
        rng = self._rngs[client]
        # Drawn even for no think time, so that the requests stay the same when it changes.
        think_s = rng.expovariate(1.0) * self._settings.think_s
        return (self._draw(rng, now + think_s, client=client),)
