"""A short slice of the suite: every kind of fault a few times, and every token of every stream."""

import pytest

from tests.chaos.harness import Report, quantile, run, wilson_upper
from tests.chaos.plan import KINDS, plan

pytestmark = pytest.mark.timeout(180)

FAULTS = 2 * len(KINDS)


async def test_no_client_sees_any_of_the_faults() -> None:
    report: Report = await run(FAULTS, seed=20)
    assert report.violations == [], f"replay with: python -m tests.chaos --seed 20 ({FAULTS})"
    assert report.by_kind == dict.fromkeys(KINDS, 2)
    assert report.streams > 100
    assert report.continued > 20
    # Each poison once for its trial, and once more when it came again.
    assert report.quarantined == 4


def test_a_seed_draws_the_same_faults_and_another_does_not() -> None:
    assert list(plan(1, 100)) == list(plan(1, 100))
    assert list(plan(1, 100)) != list(plan(2, 100))


def test_the_upper_bound_is_wilsons() -> None:
    # Newcombe (1998), table I: 0 of 20 at 95 % is up to 0.1611.
    assert wilson_upper(0, 20) == pytest.approx(0.1611, abs=5e-5)
    assert wilson_upper(15, 148) == pytest.approx(0.1605, abs=5e-5)
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([], 0.99) == 0.0
