"""Many runs of a scenario, policy by seed, over the machine's cores."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass

from autoscaling.simulator.result import RunResult
from autoscaling.simulator.scenario import Scenario
from autoscaling.simulator.summary import Summary, summarise

Runner = Callable[[Scenario, str, int], RunResult]


@dataclass(frozen=True, slots=True)
class Run:
    """One policy on the arrivals of one seed."""

    policy: str
    seed: int
    summary: Summary


def run_all(
    scenario: Scenario,
    policies: Sequence[str],
    seeds: Sequence[int],
    *,
    jobs: int | None = None,
    on_run: Callable[[Run], None] = lambda run: None,
    runner: Runner | None = None,
) -> list[Run]:
    """Every policy on every seed, in that order, whatever the order in which they end.

    `jobs` processes work at once (default: a core each); one works here. `on_run` hears of each
    run as it ends. `runner` runs one, and must be a function of a module; the default is the
    simulator's. An exception of a run ends the others and is raised.
    """
    wanted = [(policy, seed) for policy in policies for seed in seeds]
    jobs = min(jobs or os.cpu_count() or 1, len(wanted))
    done: dict[tuple[str, int], Run] = {}

    def end(run: Run) -> None:
        done[run.policy, run.seed] = run
        on_run(run)

    if jobs <= 1:
        for policy, seed in wanted:
            end(_one(scenario, policy, seed, runner))
    else:
        # Seed by seed, so that what is there after an interruption can be compared.
        by_seed = sorted(wanted, key=lambda each: seeds.index(each[1]))
        _pooled(scenario, by_seed, jobs, end, runner)
    return [done[each] for each in wanted]


def _pooled(
    scenario: Scenario,
    wanted: Sequence[tuple[str, int]],
    jobs: int,
    end: Callable[[Run], None],
    runner: Runner | None,
) -> None:
    # Spawned, not forked: the caller may have threads (a progress bar), and their locks would come
    # along as they happen to be.
    context = multiprocessing.get_context("spawn")
    # A keyboard's interrupt ends the workers at once, without a traceback of each.
    quietly = (signal.SIGINT, signal.SIG_DFL)
    with ProcessPoolExecutor(jobs, context, signal.signal, quietly) as pool:
        futures: list[Future[Run]] = [
            pool.submit(_one, scenario, policy, seed, runner) for policy, seed in wanted
        ]
        try:
            for future in as_completed(futures):
                end(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _one(scenario: Scenario, policy: str, seed: int, runner: Runner | None) -> Run:
    result = (runner or _simulated)(scenario, policy, seed)
    # Summed up here: figures cross to the parent process, and not every outcome.
    return Run(policy, seed, summarise(result, scenario))


def _simulated(scenario: Scenario, policy: str, seed: int) -> RunResult:
    # Here, so that what only compares and draws results needs no simulator.
    from autoscaling.simulator.world import run

    return run(scenario, policy, seed)
