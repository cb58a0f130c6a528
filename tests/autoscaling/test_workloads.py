"""Workloads as a simulator asks them: in order, the same for the same seed, following outcomes."""

import math
from collections import Counter
from itertools import islice, pairwise
from statistics import fmean
from typing import Any

import pytest

from autoscaling.simulator.work import Arrival, Outcome
from autoscaling.simulator.workloads import Traffic, WorkloadSettings
from autoscaling.simulator.workloads.requests import CONTEXT_TOKENS
from tests.autoscaling.making import lost, scenario
from tests.autoscaling.queue_world import run

EVERYTHING: dict[str, Any] = {
    "open_loop": [
        {
            "arrivals": {"rate_per_s": 3, "cv": 2},
            "patience": {"share": 0.3, "mean_s": 5},
            "retry": {"attempts": 2},
            "tenants": [{"name": "a"}, {"name": "b"}],
        }
    ],
    "closed_loop": [{"clients": 5, "think_s": 2}],
    "sessions": [{"arrivals": {"rate_per_s": 0.5}, "think_s": 1, "prompts": {"system_prompts": 2}}],
}


def traffic(workload: dict[str, Any], seed: int = 1, until_s: float = 100.0) -> Traffic:
    return Traffic(WorkloadSettings.model_validate(workload), seed, until_s)


def finished(arrival: Arrival, after_s: float = 1.0) -> Outcome:
    ended_s = arrival.at_s + after_s
    return Outcome(arrival, 0, 0, status="finished", ended_s=ended_s, tokens=arrival.output_tokens)


def conversation(found: Traffic, first: Arrival, after_s: float = 1.0) -> list[Arrival]:
    turns = [first]
    while following := found.after(finished(turns[-1], after_s), turns[-1].at_s + after_s):
        turns += following
    return turns


def test_what_comes_by_itself_is_in_order_and_ends_with_the_scenario() -> None:
    found = list(traffic(EVERYTHING).first())
    assert [each.at_s for each in found] == sorted(each.at_s for each in found)
    assert found[-1].at_s < 100
    assert Counter(each.workload for each in found).keys() == {0, 1, 2}


def test_the_same_seed_brings_the_same_first_requests_and_another_brings_others() -> None:
    assert list(traffic(EVERYTHING).first()) == list(traffic(EVERYTHING).first())
    assert list(traffic(EVERYTHING).first()) != list(traffic(EVERYTHING, seed=2).first())


def test_first_requests_are_drawn_only_when_asked_for() -> None:
    endless = traffic({"open_loop": [{"arrivals": {"rate_per_s": 1000}}]}, until_s=1e12)
    assert len(list(islice(endless.first(), 100))) == 100


def test_one_workload_does_not_change_what_another_of_the_file_brings() -> None:
    both = list(traffic(EVERYTHING).first())
    alone = list(traffic({"open_loop": EVERYTHING["open_loop"]}).first())
    assert [each for each in both if each.workload == 0] == alone


@pytest.mark.parametrize("seed", [1, 2])
def test_sessions_and_clients_ask_for_the_same_under_any_policy(seed: int) -> None:
    # So few servers that requests wait: the policies serve them at other times.
    world = scenario(EVERYTHING, duration_s=60, fleet={"pools": [{"replicas": 12}]})
    fifo, lifo = (run(world, policy, seed).outcomes for policy in ("fifo", "lifo"))
    assert [each.ended_s for each in fifo] != [each.ended_s for each in lifo]
    one, two = _contents(fifo), _contents(lifo)
    assert one.keys() == two.keys()
    for key in one:
        both = min(len(one[key]), len(two[key]))
        assert one[key][:both] == two[key][:both]
    assert sum(map(len, one.values())) > len(one), "somebody asked twice"


def _contents(outcomes: list[Outcome]) -> dict[tuple[int, int, int], list[tuple[Any, ...]]]:
    """What each client and each session asked for, in its own order."""
    found: dict[tuple[int, int, int], list[tuple[Any, ...]]] = {}
    for outcome in sorted(outcomes, key=lambda each: each.arrival.at_s):
        asked = outcome.arrival
        if asked.workload and asked.attempt == 0:
            what = (asked.tier, asked.prompt_tokens, asked.output_tokens, asked.shared)
            key = (asked.workload, asked.client, asked.session)
            found.setdefault(key, []).append(what)
    return found


# ------------------------------------------------------------------------------- closed loop


def test_a_closed_loop_keeps_as_many_requests_as_it_has_clients() -> None:
    found = traffic({"closed_loop": [{"clients": 3, "ramp_s": 3, "think_s": 0}]})
    first = list(found.first())
    assert [each.at_s for each in first] == [0, 1, 2]
    for each in first:
        (following,) = found.after(finished(each), each.at_s + 1.0)
        assert (following.at_s, following.client) == (each.at_s + 1.0, each.client)
    # Also after a request that went wrong.
    assert len(found.after(lost(5.0, "failed", client=1), 6.0)) == 1


def test_clients_think_for_the_mean_time_and_stop_with_the_scenario() -> None:
    found = traffic({"closed_loop": [{"clients": 1, "think_s": 4}]}, until_s=40_000)
    turns = conversation(found, next(found.first()))
    gaps = [two.at_s - one.at_s - 1.0 for one, two in pairwise(turns)]
    assert fmean(gaps) == pytest.approx(4, rel=0.05)
    assert turns[-1].at_s < 40_000


# ---------------------------------------------------------------------------------- sessions


def test_a_sessions_prompts_grow_by_the_answer_and_something_new() -> None:
    settings = {"turns_mean": 8, "keeps_reasoning": False, "think_s": 3}
    found = traffic({"sessions": [settings | {"prompts": {"system_prompts": 1}}]}, until_s=1e9)
    firsts = list(islice(found.first(), 300))
    lengths = []
    for first in firsts:
        turns = conversation(found, first)
        lengths.append(len(turns))
        assert len({(each.session, each.shared, each.tier) for each in turns}) == 1
        for one, two in pairwise(turns):
            assert two.prompt_tokens > one.prompt_tokens + one.answer_tokens
            assert two.at_s >= one.at_s + 1.0
    assert len({first.session for first in firsts}) == 300
    assert fmean(lengths) == pytest.approx(8, rel=0.25)


def test_kept_reasoning_makes_prompts_longer() -> None:
    lengths = []
    for keeps in (False, True):
        settings = {"turns_mean": 8, "keeps_reasoning": keeps, "added_sigma": 0}
        found = traffic({"sessions": [settings]}, until_s=1e9)
        one, two = next(
            turns
            for turns in (conversation(found, each)[:2] for each in found.first())
            if len(turns) == 2
        )
        kept = one.output_tokens if keeps else one.answer_tokens
        assert two.prompt_tokens == one.prompt_tokens + kept + 150
        lengths.append(two.prompt_tokens)
    assert lengths[0] < lengths[1]


def test_a_session_ends_when_a_turn_fails_or_the_context_is_full() -> None:
    found = traffic({"sessions": [{"turns_mean": 10_000}]}, until_s=1e9)
    one, two = islice(found.first(), 2)
    failed = Outcome(one, 0, 0, status="failed", ended_s=one.at_s + 1)
    assert not found.after(failed, one.at_s + 1)
    assert not found.after(finished(one), one.at_s + 2)
    turns = conversation(found, two)
    assert len(turns) > 5
    assert all(each.prompt_tokens + each.output_tokens <= CONTEXT_TOKENS for each in turns)


# ----------------------------------------------------------------------------------- retries


def retrying(**retry: Any) -> Traffic:
    return traffic({"open_loop": [{"retry": {"attempts": 2} | retry}]})


def refused(at_s: float = 10.0, retry_after_s: float = math.nan, **arrival: Any) -> Outcome:
    outcome = lost(at_s, "refused", **arrival)
    outcome.ended_s, outcome.retry_after_s = at_s, retry_after_s
    return outcome


def test_a_client_comes_back_when_it_was_told_to() -> None:
    (again,) = retrying().after(refused(retry_after_s=7.0), 10.0)
    assert (again.at_s, again.attempt, again.waited_s) == (17.0, 1, 7.0)
    (third,) = retrying().after(refused(17.0, 5.0, attempt=1, waited_s=7.0), 17.0)
    assert (third.at_s, third.attempt, third.waited_s) == (22.0, 2, 12.0)
    assert not retrying().after(refused(22.0, 5.0, attempt=2, waited_s=12.0), 22.0)


def test_a_client_told_nothing_backs_off_with_its_own_chance() -> None:
    for attempt, longest_s in ((0, 0.5), (1, 1.0)):
        (again,) = retrying().after(refused(attempt=attempt), 10.0)
        assert 10.0 + 0.75 * longest_s <= again.at_s <= 10.0 + longest_s
        assert retrying().after(refused(attempt=attempt), 10.0) == (again,)
    (capped,) = retrying(attempts=50).after(refused(attempt=40), 10.0)
    assert 16.0 <= capped.at_s <= 18.0
    (other,) = retrying(honours_retry_after=False).after(refused(retry_after_s=60.0), 10.0)
    assert other.at_s <= 10.5


def test_a_client_gives_up_when_told_to_wait_too_long_or_out_of_patience() -> None:
    assert not retrying().after(refused(retry_after_s=121.0), 10.0)
    assert not retrying().after(refused(retry_after_s=7.0, patience_s=6.0), 10.0)
    (again,) = retrying().after(refused(retry_after_s=7.0, patience_s=20.0), 10.0)
    assert again.patience_s == 13.0


@pytest.mark.parametrize("status", ["cancelled", "finished", "unfinished"])
def test_only_those_turned_away_ask_again(status: str) -> None:
    assert not retrying().after(lost(1.0, status), 2.0)


def test_more_load_is_more_arrivals_of_every_kind() -> None:
    settings = WorkloadSettings.model_validate(EVERYTHING).at_rate(3.0)
    counts = Counter(each.workload for each in Traffic(settings, 1, 300.0).first())
    base = Counter(each.workload for each in traffic(EVERYTHING, until_s=300.0).first())
    assert counts[1] == 3 * base[1]
    assert counts[0] / base[0] == pytest.approx(3, rel=0.2)
    assert counts[2] / base[2] == pytest.approx(3, rel=0.4)
