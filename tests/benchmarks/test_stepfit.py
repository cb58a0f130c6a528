"""The step times of `cluster/steptime.py` are those that the measured points give."""

from typing import get_args

import pytest

from benchmarks.fidelity import errors, quantile
from benchmarks.stepfit import POINTS, Point, Use, closed_loop, fit, fitted, read_points
from cluster.steptime import measured, step_model


def test_every_measured_point_is_carried_and_says_what_it_is_used_for() -> None:
    lines = [line for line in POINTS.read_text().splitlines() if not line.startswith("#")]
    assert sum(len(read_points(use)) for use in get_args(Use)) == len(lines) - 1 == 180
    assert {point.replica for point in read_points()} == set(measured())


@pytest.mark.parametrize(("gpu", "tp"), measured())
def test_fitting_the_points_again_gives_the_stored_step_times(gpu: str, tp: int) -> None:
    points = [point for point in read_points() if point.replica == (gpu, tp)]
    stored = step_model(gpu, tp)
    assert stored is not None
    # Four digits are stored.
    assert fitted(fit(points)) == pytest.approx(fitted(stored), rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("gpu", ["H100", "H200"])
def test_the_stored_step_times_repeat_what_was_measured(gpu: str) -> None:
    found = []
    for tp in (tp for name, tp in measured() if name == gpu):
        steps = step_model(gpu, tp)
        assert steps is not None
        found += errors(steps, [p for p in read_points() if p.replica == (gpu, tp)])
    tpot, ttft = [abs(e.tpot) for e in found], [abs(e.ttft) for e in found]
    assert quantile(tpot, 0.5) < 0.02
    assert quantile(tpot, 0.95) < 0.06
    assert quantile(ttft, 0.5) < 0.08


def test_other_lengths_of_the_same_workload_change_the_means_little() -> None:
    """The fit's seed is not what makes the errors small."""
    point = Point("H200", 2, 1024, 1024, 64, 177.91, 14.4218, "0.18.0", "fit")
    steps = step_model("H200", 2)
    assert steps is not None
    tpot = [closed_loop(steps, point, seed).tpot_s for seed in range(4)]
    assert max(tpot) / min(tpot) < 1.02
