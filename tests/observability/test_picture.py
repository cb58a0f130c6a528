"""What `trireme top` makes of the processes' words."""

from typing import Any

import pytest

from cluster.telemetry.picture import picture


def gateway(kept: int, missed: int, drain_s: float = 1.0, aside: str = "") -> dict[str, Any]:
    counted = {"model": "m", "tier": "low", "objective": "ttft", "kept": kept, "missed": missed}
    seen = {"replica": "a", "model": "m", "draining": False, "aside": aside, "tiers": {"low": 1}}
    return {
        "queues": [{"model": "m", "tier": "low", "drain_s": drain_s}],
        "objectives": [counted],
        "replicas": [seen],
    }


SHOWN: dict[str, Any] = {
    "name": "c",
    "endpoint": "http://c/v1",
    "up": True,
    "stale": False,
    "tiers": [
        {"model": "m", "tier": "high", "queued": 0, "in_flight": 0, "oldest_wait_s": 0.0},
        {"model": "m", "tier": "low", "queued": 3, "in_flight": 2, "oldest_wait_s": 0.5},
    ],
    "replicas": [{"replica": "a", "pool": "p", "healthy": True, "step_s": 0.0123, "kv_use": 0.5}],
    "gateways": [{"gateway": "g", "ready": True, "generations": 2, "ops_url": ""}],
}


def test_gateways_are_summed_and_the_longest_backlog_counts() -> None:
    made = picture(SHOWN, [gateway(8, 0, 1.0), gateway(1, 1, 7.0)], [], None)
    low, high = made["tiers"]
    assert (low["tier"], high["tier"]) == ("low", "high")
    assert low["kept"] == {"served": None, "ttft": 0.9, "tpot": None}
    assert low["drain_s"] == 7.0
    assert made["replicas"][0]["step_ms"] == 12.3


def test_kept_objectives_are_counted_since_the_picture_before() -> None:
    before = picture(SHOWN, [gateway(100, 0)], [], None)
    after = picture(SHOWN, [gateway(101, 3)], [], before)
    assert after["tiers"][0]["kept"]["ttft"] == pytest.approx(0.25)
    still = picture(SHOWN, [gateway(100, 0)], [], before)
    assert still["tiers"][0]["kept"]["ttft"] is None


def test_a_gateway_that_began_anew_counts_from_its_own_start() -> None:
    before = picture(SHOWN, [gateway(100, 9)], [], None)
    after = picture(SHOWN, [gateway(3, 1)], [], before)
    assert after["tiers"][0]["kept"]["ttft"] == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("healthy", "aside", "state"),
    [(True, "", "ok"), (True, "slow", "slow"), (False, "", "lost"), (False, "hung", "hung")],
)
def test_a_replica_is_told_with_what_is_wrong_with_it(
    healthy: bool, aside: str, state: str
) -> None:
    shown = {**SHOWN, "replicas": [{**SHOWN["replicas"][0], "healthy": healthy}]}
    made = picture(shown, [gateway(1, 0), gateway(1, 0, aside=aside)], [], None)
    assert made["replicas"][0]["state"] == state


def test_decisions_of_the_autoscaler_are_told_by_pool() -> None:
    pools = [{"pool": "p", "before": 2, "wanted": 3, "why": "load"}]
    made = picture(SHOWN, [], [{"clock": "12:00", "pools": pools}], None)
    assert made["decisions"] == [
        {"clock": "12:00", "pool": "p", "before": 2, "wanted": 3, "why": "load"}
    ]


def test_a_gateway_that_does_not_answer_leaves_a_picture_without_it() -> None:
    made = picture(SHOWN, [{}], [], None)
    assert made["tiers"][0]["kept"]["ttft"] is None
