"""A slice of the faults in virtual time; ``python -m tests.chaos --simulated`` runs them all."""

import pytest

from tests.autoscaling.making import lost, served
from tests.chaos.harness import quantile
from tests.chaos.simulated import KINDS, Found, judged, run_one


@pytest.fixture(scope="module")
def found() -> Found:
    return run_one(seed=5, run_s=400.0)


def test_every_stream_gets_all_of_its_tokens(found: Found) -> None:
    assert found.violations == []
    assert found.streams > 500
    assert found.tokens > 500_000


def test_there_were_faults_of_every_kind(found: Found) -> None:
    assert found.faults.keys() == set(KINDS)
    assert found.faults.total() > 25


def test_whoever_lost_a_replica_went_on_within_seconds(found: Found) -> None:
    stalls_s = [each for kind in KINDS for each in found.stalls_s[kind]]
    assert len(stalls_s) > 100
    assert quantile(stalls_s, 0.5) < 1.0
    assert quantile(stalls_s, 0.99) < 5.0


def test_the_same_seed_gives_the_same_faults(found: Found) -> None:
    assert run_one(seed=5, run_s=400.0) == found


def test_what_a_client_missed_is_a_violation() -> None:
    assert judged(served(tokens=50)) == ""
    assert judged(lost(3.0, "failed", tokens=4)) == "failed after 4 of 100 tokens"
    cut = served(tokens=50)
    cut.tokens = 49
    assert judged(cut) == "49 tokens came of 50"
