"""Many runs over processes give what each of them alone would."""

import pytest

from autoscaling.simulator.batch import Run, run_all
from tests.autoscaling.making import scenario
from tests.autoscaling.queue_world import run

WORLD = scenario(
    {
        "open_loop": [{"arrivals": {"rate_per_s": 3}}],
        "sessions": [{"arrivals": {"rate_per_s": 0.2}}],
    },
    duration_s=30.0,
    fleet={"pools": [{"replicas": 10}]},
)
POLICIES, SEEDS = ["fifo", "lifo"], [3, 1, 2]


def test_processes_change_neither_the_order_nor_the_figures() -> None:
    heard: list[Run] = []
    here = run_all(WORLD, POLICIES, SEEDS, jobs=1, runner=run)
    there = run_all(WORLD, POLICIES, SEEDS, jobs=2, runner=run, on_run=heard.append)
    assert [(each.policy, each.seed) for each in there] == [
        *(("fifo", seed) for seed in SEEDS),
        *(("lifo", seed) for seed in SEEDS),
    ]
    assert [repr(each) for each in here] == [repr(each) for each in there]
    assert len(heard) == 6


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_that_fails_is_told(jobs: int) -> None:
    with pytest.raises(RuntimeError, match="this policy is broken"):
        run_all(WORLD, ["fifo", "broken"], [1, 2], jobs=jobs, runner=run)
