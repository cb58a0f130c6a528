"""The simulated cluster: what must hold after every event, whatever goes wrong in it."""

from collections import Counter
from typing import Any

import pytest

from autoscaling.simulator.scenario import Scenario
from autoscaling.simulator.world import POLICIES, run
from cluster.config import TIERS, PolicyName
from tests.autoscaling.checked_world import Checked
from tests.autoscaling.making import scenario

MIX = {
    "low": {"weight": 0.5, "output_tokens_mean": 60, "output_sigma": 0.8},
    "medium": {"weight": 0.3, "output_tokens_mean": 200, "output_sigma": 0.8},
    "high": {"weight": 0.2, "output_tokens_mean": 600, "output_sigma": 0.8},
}


def small(rate_per_s: float = 12.0, **rest: Any) -> Scenario:
    """Two replicas of few seats for 30 s, with clients that leave and clients that ask again."""
    settings: dict[str, Any] = {
        "duration_s": 30.0,
        "drain_s": 200.0,
        "fleet": {
            "pools": [{"replicas": 2, "gpu": "H200", "max_num_seqs": 24, "kv_tokens": 60_000}],
            "cold_start_s": 5.0,
        },
        "tiers": {
            tier: {"max_queued": 12, "max_queue_wait_s": 8.0, "prior_output_tokens_mean": 200}
            for tier in TIERS
        },
    }
    workload = {
        "open_loop": [
            {
                "arrivals": {"rate_per_s": rate_per_s, "cv": 1.5},
                "mix": MIX,
                "prompts": {"tokens_mean": 600, "sigma": 1.0},
                "tenants": [{"name": "a"}, {"name": "b", "share": 3.0}],
                "patience": {"share": 0.2, "mean_s": 4.0},
                "retry": {"attempts": 1},
            }
        ],
        "sessions": [{"arrivals": {"rate_per_s": 0.5}, "mix": MIX, "think_s": 2.0}],
    }
    return scenario(workload, **{**settings, **rest})


FAULTS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "crash": {"faults": [{"at_s": 8.0, "kind": "crash", "replica": 0, "for_s": 3.0}]},
    "hang": {"faults": [{"at_s": 8.0, "kind": "hang", "replica": 1}]},
    "short hang": {"faults": [{"at_s": 8.0, "kind": "hang", "replica": 1, "for_s": 4.0}]},
    "slow": {"faults": [{"at_s": 5.0, "kind": "slow", "replica": 0, "for_s": 9.0, "factor": 5}]},
    "partition": {
        "faults": [
            {"at_s": 8.0, "kind": "partition", "replica": 0, "gateway": 1, "for_s": 15.0},
        ],
        "gateways": {"number": 2},
    },
    "three gateways and old news": {
        "gateways": {
            "number": 3,
            "report_age_s": 3.0,
            "reports_lost": [{"at_s": 10.0, "for_s": 8.0}],
        }
    },
    "a replica more": {
        "fleet": {
            "pools": [{"replicas": 1, "gpu": "H200", "max_num_seqs": 24, "kv_tokens": 60_000}],
            "joins": [{"at_s": 3.0, "replicas": 2}],
            "cold_start_s": 5.0,
        }
    },
}


@pytest.mark.parametrize("changes", FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_lost_leaked_or_done_twice(changes: dict[str, Any], seed: int) -> None:
    world = Checked(small(**changes), "effort", seed)
    world.run(world.check)
    world.check_end()
    statuses = Counter(outcome.status for outcome in world.outcomes)
    assert statuses["finished"] > 100
    assert statuses["cancelled"] > 0


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_keeps_the_books_under_overload(policy: PolicyName) -> None:
    world = Checked(small(rate_per_s=40.0), policy, 3)
    world.run(world.check)
    world.check_end()
    statuses = Counter(outcome.status for outcome in world.outcomes)
    assert statuses["refused"] + statuses["expired"] > 0


@pytest.mark.parametrize("fault", ["crash", "hang", "partition"])
def test_a_fault_fails_nobody_and_what_had_begun_goes_on_elsewhere(fault: str) -> None:
    world = Checked(small(rate_per_s=6.0, **FAULTS[fault]), "effort", 5)
    began_s = world.scenario.faults[0].at_s
    moved: set[int] = set()

    def look() -> None:
        world.check()
        for gateway in world.gateways:
            for stream in gateway.streams.values():
                if stream.request.written:
                    moved.add(stream.outcome.number)

    world.run(look)
    world.check_end()
    assert not [outcome for outcome in world.outcomes if outcome.status == "failed"]
    on_both_sides = [world.outcomes[number] for number in moved]
    assert on_both_sides
    ended = [outcome for outcome in on_both_sides if outcome.status == "finished"]
    assert ended
    for outcome in ended:
        assert outcome.first_token_s < outcome.ended_s
        assert outcome.ended_s > began_s
        assert outcome.tokens == min(outcome.arrival.output_tokens, outcome.arrival.max_tokens)


def test_a_hang_is_noticed_within_two_seconds() -> None:
    world = Checked(small(rate_per_s=6.0, **FAULTS["hang"]), "effort", 5)
    (gateway,) = world.gateways
    noticed: list[float] = []

    def look() -> None:
        hung = gateway.router.fleet.get(world.replicas[1].replica_id)
        if not noticed and hung is not None and hung.shunned:
            noticed.append(world.agenda.now)

    world.run(look)
    assert 8.0 < noticed[0] <= 10.0


def test_the_same_seed_gives_the_same_run_and_another_does_not() -> None:
    one, two, other = (run(small(), "effort", seed) for seed in (7, 7, 8))

    def told(result: Any) -> list[tuple[Any, ...]]:
        return [(o.arrival, o.status, o.ended_s, o.tokens, o.replica) for o in result.outcomes]

    assert told(one) == told(two)
    assert told(one) != told(other)


def test_all_policies_meet_the_same_open_loop_arrivals() -> None:
    first, second = (
        {o.arrival for o in run(small(), policy, 4).outcomes if not o.arrival.attempt}
        for policy in ("effort", "round-robin")
    )
    open_loop = [each for each in first if not each.session]
    assert len(open_loop) > 200
    assert set(open_loop) <= second


def test_events_of_an_engine_are_told_after_the_frames_latency() -> None:
    quick, late = (
        run(small(rate_per_s=1.0, gateways={"frame_latency_s": latency_s}), "effort", 6)
        for latency_s in (0.0, 0.5)
    )
    # Both ways are crossed: the request's and the token's.
    pairs = [
        (one, two)
        for one, two in zip(quick.outcomes, late.outcomes, strict=False)
        if one.arrival == two.arrival and one.status == two.status == "finished"
    ]
    assert pairs
    assert min(two.ttft_s - one.ttft_s for one, two in pairs[:5]) >= 0.9
