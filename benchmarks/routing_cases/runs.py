"""Runs over the machine's cores, each made once however many figures need it."""

import asyncio
import gc
import multiprocessing
import pickle
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Self, TypeVar

from autoscaling.simulator.batch import Runner
from autoscaling.simulator.result import RunResult
from autoscaling.simulator.scenario import Scenario
from autoscaling.simulator.world import run as simulate
from benchmarks.routing_cases.measured import Measured, measure
from benchmarks.routing_cases.scenarios import with_times

T = TypeVar("T")

Key = tuple[bytes, str, int, str, str]


class Runs:
    """A pool of ``jobs`` processes. ``runner`` makes one run and must be a function of a module.

    All scenarios are made ``time_factor`` times as long. ``on_run`` is called after each run, with
    how many are done and how many are known of.
    """

    def __init__(
        self,
        jobs: int,
        *,
        runner: Runner = simulate,
        time_factor: float = 1.0,
        on_run: Callable[[int, int], None] = lambda done, known: None,
    ) -> None:
        self._runner = runner
        self._time_factor = time_factor
        self._on_run = on_run
        self._made: dict[Key, asyncio.Future[Any]] = {}
        self._done = 0
        # Spawned and deaf to the keyboard's traceback, as in the simulator's own batches.
        self._pool = ProcessPoolExecutor(
            jobs,
            multiprocessing.get_context("spawn"),
            signal.signal,
            (signal.SIGINT, signal.SIG_DFL),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        # After an interruption nobody wants to wait for what still runs.
        self._pool.shutdown(wait=kind is None, cancel_futures=True)

    async def get(
        self,
        scenario: Scenario,
        policy: str,
        seed: int,
        figures: Callable[[RunResult, Scenario], T],
        runner: Runner | None = None,
    ) -> T:
        """The ``figures`` of one run. Both functions must be of a module: they go to a worker."""
        runner = runner or self._runner
        if self._time_factor != 1.0:
            scenario = with_times(scenario, self._time_factor)
        key = (
            pickle.dumps(scenario.model_dump()),
            policy,
            seed,
            figures.__qualname__,
            f"{runner.__module__}.{runner.__qualname__}",
        )
        made = self._made.get(key)
        if made is None:
            loop = asyncio.get_running_loop()
            made = self._made[key] = asyncio.ensure_future(
                loop.run_in_executor(self._pool, _one, scenario, policy, seed, figures, runner)
            )
            made.add_done_callback(self._count)
        result: T = await asyncio.shield(made)
        return result

    async def measured(self, scenario: Scenario, policy: str, seed: int) -> Measured:
        return await self.get(scenario, policy, seed, measure)

    async def all(self, scenario: Scenario, policy: str, seeds: Sequence[int]) -> list[Measured]:
        """One run for each seed, in their order."""
        return await asyncio.gather(*(self.measured(scenario, policy, seed) for seed in seeds))

    def _count(self, _: object) -> None:
        self._done += 1
        self._on_run(self._done, len(self._made))


def _one(
    scenario: Scenario,
    policy: str,
    seed: int,
    figures: Callable[[RunResult, Scenario], T],
    runner: Runner,
) -> T:
    # A run keeps all that it makes to its end: searching that for rubbish is in vain.
    gc.disable()
    try:
        return figures(runner(scenario, policy, seed), scenario)
    finally:
        gc.enable()
        gc.collect()
