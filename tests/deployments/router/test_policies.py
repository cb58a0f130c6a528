"""Where requests go: by effort with its objectives, memory, zones and caches, and as others do."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config import POLICIES, TIERS, PolicyName, Tier
from cluster.steptime import StepModel
from deployments.router import Decision, Flight, Request, Router
from deployments.router.columns import Columns
from deployments.router.fleet import Replica
from deployments.router.policies import Verdict
from deployments.router.policies.effort import (
    AHEAD_MARGIN,
    MANY,
    MARGIN,
    MOST_TTFTS,
    SPILL_SLACK,
    EffortPolicy,
)
from deployments.router.policies.simple import PrefixAffinity
from deployments.router.prefixes import BLOCK_TOKENS
from tests.deployments.router.router_world import (
    MODEL,
    OTHER_MODEL,
    ROOMY,
    SAME_SLOS,
    SLOS,
    STEPS,
    admitted,
    flight_of,
    join,
    load_of,
    make_router,
    occupy,
    placed,
    placed_on,
    request,
    write,
)


def router_of(*replicas: str, policy: PolicyName = "effort", **changes: object) -> Router:
    router = make_router(ROOMY, policy)
    for replica_id in replicas:
        join(router, replica_id, **changes)
    return router


def verdicts(decision: Decision) -> dict[str, Verdict]:
    return {each.replica_id: verdict for each, _, verdict in decision.choice.considered}


def seats_within(tpot_s: float, margin: float = MARGIN) -> int:
    """How many requests a step of the world's step model can hold within this objective."""
    seats = 0
    while STEPS.step_s(seats + 1, 0.0) <= margin * tpot_s:
        seats += 1
    return seats


def many(count: int) -> list[Tier]:
    """So many requests of the tier with the loosest objective."""
    return ["high"] * count


# ------------------------------------------------------------------ who finishes first


def test_a_request_goes_where_it_would_finish_first() -> None:
    router = router_of("slow", "quick")
    router.on_load("slow", load_of((0, 2, 0), step_s=0.010), 0.0)
    router.on_load("quick", load_of((0, 2, 0), step_s=0.005), 0.0)
    assert placed_on(router, request("medium")) == "quick"


def test_a_larger_batch_takes_longer_than_a_smaller_one() -> None:
    router = router_of("more", "fewer")
    occupy(router, "more", ["high"] * 4)
    occupy(router, "fewer", ["high"] * 3)
    assert placed_on(router, request("high")) == "fewer"


def test_a_choice_is_the_least_delay_for_itself_and_for_those_who_run_there() -> None:
    router = router_of("a", "b", "c")
    for n, name in enumerate("abc"):
        router.on_load(name, load_of((0, n, 0), step_s=0.004 + 0.001 * n), 0.0)
    each = request("medium", prompt_tokens=5_000)
    admitted(router, each)
    own_s = 5_000 * STEPS.prefill_token_s
    costs_s = {
        replica.replica_id: own_s * (1 + replica.in_flight)
        + each.predicted * (replica.next_step_s + replica.crowding_s)
        for replica in router.fleet
    }
    (found,) = router.placements(0.0)
    assert found.flight.replica_id == min(costs_s, key=lambda name: costs_s[name])
    assert len(found.decision.choice.considered) == 3


def test_a_long_prompt_goes_where_fewer_wait_for_it_even_if_it_ends_later_there() -> None:
    router = router_of("quick", "empty", max_num_seqs=50, kv_tokens=10**8)
    router.on_load("quick", load_of((0, 0, 20), step_s=0.0085), 0.0)
    router.on_load("empty", load_of((0, 0, 1), step_s=0.009), 0.0)
    found = placed(router, request("high", prompt_tokens=50_000, max_tokens=100))
    assert found is not None
    ends = {each.replica_id: end_s for each, end_s, _ in found.decision.choice.considered}
    assert ends["quick"] < ends["empty"]
    assert found.flight.replica_id == "empty"


LENT = {"tiers": frozenset({"high"}), "lends_to": frozenset({"low"})}


@pytest.mark.parametrize(
    ("waits_at_home", "waits_where_lent", "chosen"),
    [
        (10_000, 10_000, "home"),  # both in time
        (40_000, 10_000, "lent"),  # late at home only
        (40_000, 60_000, "home"),  # late in both
        (60_000, 40_000, "home"),
    ],
)
def test_a_replica_of_another_pool_is_taken_only_to_be_in_time(
    waits_at_home: int, waits_where_lent: int, chosen: str
) -> None:
    router = make_router(ROOMY)
    home = join(router, "home", tiers=frozenset({"low"}))
    lent = join(router, "lent", **LENT)
    for replica, tokens in ((home, waits_at_home), (lent, waits_where_lent)):
        replica.awaiting_prefill = tokens  # 0.03 ms each; the low tier has a second
    assert placed_on(router, request("low")) == chosen


def test_prompts_that_wait_for_their_prefill_make_a_replica_less_attractive() -> None:
    router = router_of("a", "b")
    first = placed_on(router, request(prompt_tokens=100_000, max_tokens=1))
    # One more in the batch weighs little against three seconds of prefill.
    assert placed_on(router, request(max_tokens=1)) != first


def test_a_short_prompt_avoids_a_replica_where_its_first_token_would_be_late() -> None:
    router = router_of("a", "b", max_num_seqs=50)
    long = placed_on(router, request("high", prompt_tokens=60_000))  # 1.8 s of prefill
    other = next(name for name in "ab" if name != long)
    occupy(router, other, ["high"] * 40)  # slower by far in the long run
    found = placed(router, request("low"))
    assert found is not None
    assert found.flight.replica_id == other
    assert verdicts(found.decision)[str(long)] is Verdict.LATE


def test_a_request_that_will_be_late_everywhere_is_placed_all_the_same() -> None:
    router = router_of("a")
    found = placed(router, request("low", prompt_tokens=100_000))
    assert found is not None
    assert found.decision.choice.verdict is Verdict.LATE


# ------------------------------------------------------------------ replies that go on


def lost_after(router: Router, tokens: int, **asked: int) -> Request:
    """A request whose replica was lost after so many tokens; it waits to go on."""
    join(router, "dies")
    each = request("high", **asked)
    for other in [replica for replica in router.fleet if replica.replica_id != "dies"]:
        other.refusing = True
    assert placed_on(router, each) == "dies"
    write(router, flight_of(router, each), tokens)
    for other in router.fleet:
        other.refusing = False
    assert router.on_replica_lost("dies", 1.0).retried == (each,)
    return each


def test_a_reply_goes_on_where_its_prompt_is_computed_soonest_even_if_it_ends_later_there() -> None:
    router = router_of("idle", "busy", max_num_seqs=50, kv_tokens=10**8)
    occupy(router, "busy", many(20))
    fleet = {replica.replica_id: replica for replica in router.fleet}
    lost_after(router, 500, prompt_tokens=1_000, max_tokens=20_000)
    fleet["idle"].awaiting_prefill = 50_000  # of others that have just come there
    (found,) = router.placements(1.0)
    ends = {each.replica_id: end_s for each, end_s, _ in found.decision.choice.considered}
    assert ends["idle"] < ends["busy"]
    assert found.flight.replica_id == "busy"


def test_no_objective_holds_up_a_reply_that_lost_its_replica() -> None:
    router = router_of("full", max_num_seqs=1000, kv_tokens=10**8)
    occupy(router, "full", ["low", *many(seats_within(SLOS["low"].tpot_s))])
    each = lost_after(router, 5, prompt_tokens=1)
    admitted(router, request("high", prompt_tokens=1))  # this one waits
    assert [found.flight.request for found in router.placements(1.0)] == [each]


def test_a_reply_that_still_has_its_replica_is_moved_only_where_objectives_allow() -> None:
    router = router_of("own", max_num_seqs=1000, kv_tokens=10**8)
    each = request("high", prompt_tokens=1)
    assert placed_on(router, each) == "own"
    write(router, flight_of(router, each), 5)
    join(router, "other", max_num_seqs=1000, kv_tokens=10**8)
    occupy(router, "other", ["low", *many(seats_within(SLOS["low"].tpot_s))])
    router.on_load("own", load_of((0, 0, 0), step_s=0.005, draining=True), 1.0)
    assert router.move(each.request_id, 1.0) is None
    occupy(router, "other", [])
    moved = router.move(each.request_id, 1.0)
    assert moved is not None
    assert moved.flight.replica_id == "other"


def test_a_reply_waits_for_a_seat_and_for_memory_like_any_other_request() -> None:
    router = router_of("a", max_num_seqs=2, kv_tokens=10**8)
    occupy(router, "a", many(2))
    lost_after(router, 5)
    assert router.placements(1.0) == []
    occupy(router, "a", many(1))
    assert len(router.placements(2.0)) == 1


def test_idle_replicas_share_what_comes() -> None:
    router = router_of(*"abcdefgh")
    homes = [placed_on(router, request()) for _ in range(8)]
    assert sorted(map(str, homes)) == list("abcdefgh")


@pytest.mark.parametrize("policy", ["effort", "least-requests", "power-of-two", "prefix-affinity"])
def test_gateways_that_know_nothing_of_each_other_spread_over_idle_replicas(
    policy: PolicyName,
) -> None:
    homes = Counter(
        placed_on(router_of(*"abcd", policy=policy), request(request_id=f"q{n}")) for n in range(80)
    )
    assert all(homes[replica_id] >= 8 for replica_id in "abcd")


def test_gateways_spread_over_idle_replicas_with_long_ids_too() -> None:
    names = [f"SERVE_REPLICA::trireme#engine-gpt-oss-120b-main#{n:04}" for n in range(16)]
    homes = Counter(
        placed_on(router_of(*names), request(request_id=f"chatcmpl-{n:032x}")) for n in range(160)
    )
    assert len(homes) == 16
    assert max(homes.values()) <= 30


def test_a_draining_replica_gets_nothing_new() -> None:
    router = router_of("a", "b")
    router.on_load("a", load_of(draining=True), 0.0)
    assert {placed_on(router, request()) for _ in range(6)} == {"b"}


@pytest.mark.parametrize("policy", POLICIES)
def test_only_replicas_of_the_asked_model_are_considered(policy: PolicyName) -> None:
    router = make_router(ROOMY, policy)
    join(router, "big")
    join(router, "small", model=OTHER_MODEL)
    occupy(router, "big", ["high"] * 6)
    assert placed_on(router, request(model=MODEL)) == "big"
    assert placed_on(router, request(model=OTHER_MODEL)) == "small"


@pytest.mark.parametrize("policy", POLICIES)
def test_a_replica_with_all_seats_taken_is_left_out_whoever_filled_it(policy: PolicyName) -> None:
    router = router_of("a", "b", policy=policy, max_num_seqs=2)
    homes = [placed_on(router, request()) for _ in range(5)]
    assert homes[4] is None
    assert sorted(map(str, homes[:4])) == ["a", "a", "b", "b"]
    others = router_of("a", policy=policy, max_num_seqs=2)
    others.on_load("a", load_of((1, 1, 0), waiting=1), 0.0)
    assert placed_on(others, request()) is None
    others.on_load("a", load_of((1, 0, 0)), 0.0)
    ((found),) = others.placements(1.0)
    assert found.flight.replica_id == "a"


def test_load_is_balanced_over_equal_replicas_whatever_the_mixture() -> None:
    router, rng = router_of("a", "b", "c", "d", max_num_seqs=64, kv_tokens=10**7), random.Random(7)
    tiers: list[Tier] = rng.choices(TIERS, k=120)
    for tier in tiers:
        each: Request = request(tier, prompt_tokens=rng.randint(1, 1000))
        assert placed_on(router, each) is not None
    counts = [replica.in_flight for replica in router.fleet]
    assert max(counts) - min(counts) <= 4


# ------------------------------------------------------------------ objectives


@pytest.mark.parametrize("tier", TIERS)
def test_a_request_waits_where_its_own_objective_would_be_missed(tier: Tier) -> None:
    seats = seats_within(SLOS[tier].tpot_s)
    for taken, home in ((seats - 1, "a"), (seats, None)):
        router = router_of("a", max_num_seqs=1000, kv_tokens=10**8)
        occupy(router, "a", many(taken))
        assert placed_on(router, request(tier, prompt_tokens=1, max_tokens=10)) == home


def test_a_request_waits_where_a_residents_objective_would_be_missed() -> None:
    router = router_of("a", max_num_seqs=1000, kv_tokens=10**8)
    seats = seats_within(SLOS["low"].tpot_s)
    occupy(router, "a", ["low", *many(seats - 1)])
    assert placed_on(router, request("high", prompt_tokens=1)) is None
    occupy(router, "a", ["high"] * seats)  # the low one has ended
    assert len(router.placements(1.0)) == 1


def test_who_has_waited_for_far_too_long_asks_for_no_pace_of_its_own() -> None:
    seats, long_s = seats_within(SLOS["low"].tpot_s), MOST_TTFTS * SLOS["low"].ttft_s
    for residents, goes in ((many(seats), True), (["low", *many(seats)], False)):
        router = router_of("a", max_num_seqs=1000, kv_tokens=10**8)
        occupy(router, "a", residents)
        assert placed_on(router, request("low", prompt_tokens=1)) is None
        assert router.placements(long_s - 0.1) == []
        assert bool(router.placements(long_s)) is goes, "a resident's pace is kept all the same"


def test_who_comes_later_leaves_more_to_spare_where_somebody_goes_ahead() -> None:
    low = SLOS["low"].tpot_s
    seats, fewer = seats_within(low), seats_within(low, AHEAD_MARGIN)
    assert fewer < seats
    for taken, alone, beside in ((fewer, "a", None), (fewer // 2, "a", "a")):
        for ahead, home in ((False, alone), (True, beside)):
            router = router_of("a", max_num_seqs=1000, kv_tokens=10**8)
            assert placed_on(router, request("low", prompt_tokens=1, ahead=ahead)) == "a"
            occupy(router, "a", ["low"] * taken)
            assert placed_on(router, request("low", prompt_tokens=1)) == home


def test_who_goes_ahead_is_not_held_up_by_that() -> None:
    router = router_of("a", max_num_seqs=1000, kv_tokens=10**8)
    assert placed_on(router, request("low", prompt_tokens=1, ahead=True)) == "a"
    occupy(router, "a", ["low"] * seats_within(SLOS["low"].tpot_s, 0.86))
    assert placed_on(router, request("low", prompt_tokens=1)) is None
    assert placed_on(router, request("high", prompt_tokens=1, ahead=True)) == "a"


def test_a_request_goes_to_the_replica_that_keeps_everybodys_objectives() -> None:
    router = router_of("with-low", "without", max_num_seqs=1000, kv_tokens=10**8)
    seats = seats_within(SLOS["low"].tpot_s)
    occupy(router, "with-low", ["low", *many(seats)])
    occupy(router, "without", ["high"] * (seats + 50))
    found = placed(router, request("high", prompt_tokens=1))
    assert found is not None
    assert found.flight.replica_id == "without"
    assert verdicts(found.decision)["with-low"] is Verdict.SLOW


@pytest.mark.parametrize("tier", TIERS)
def test_an_objective_that_no_replica_could_keep_for_a_few_is_not_enforced(tier: Tier) -> None:
    router = router_of("a", max_num_seqs=20, kv_tokens=10**8)
    # A CPU, say: a hundred times slower than the step model.
    router.on_load("a", load_of((1, 0, 0), step_s=100 * STEPS.step_s(1, 0.0)), 0.0)
    homes = [placed_on(router, request(tier, prompt_tokens=1)) for _ in range(19)]
    assert homes == ["a"] * 19


def test_an_objective_that_one_replica_could_not_keep_is_still_kept_by_another() -> None:
    router = router_of("cpu", "gpu", max_num_seqs=1000, kv_tokens=10**8)
    router.on_load("cpu", load_of((1, 0, 0), step_s=100 * STEPS.step_s(1, 0.0)), 0.0)
    seats = seats_within(SLOS["low"].tpot_s)
    occupy(router, "gpu", ["low"] * (seats - 1))
    assert placed_on(router, request("low", prompt_tokens=1)) == "gpu"
    assert placed_on(router, request("low", prompt_tokens=1)) == "cpu"


def test_an_idle_replica_is_never_too_slow() -> None:
    router = router_of("a", max_num_seqs=100, kv_tokens=10**8)
    for n in range(8):  # 24 s of prompts, as 10 s see it: their share is at its bound
        long = request("high", prompt_tokens=100_000, max_tokens=1)
        assert placed_on(router, long, 1.0 * n) == "a"
        write(router, flight_of(router, long), 1)
        router.on_finished(long.request_id, 1.0 * n, complete=True)
    router.on_load("a", load_of(), 8.0)
    assert placed_on(router, request("low"), 8.0) == "a"


# ------------------------------------------------------------------ memory


def test_high_requests_keep_apart_so_that_none_is_preempted() -> None:
    # Each is expected to hold 13k tokens at its peak; two of them do not fit one replica.
    router = router_of("a", "b", "c", kv_tokens=20_000)
    homes = [placed_on(router, request("high")) for _ in range(4)]
    assert sorted(map(str, homes[:3])) == ["a", "b", "c"]
    assert homes[3] is None
    # A short one still fits beside them.
    assert placed_on(router, request("low")) is not None


def test_a_reservation_follows_the_limit_that_the_caller_set() -> None:
    router = router_of("a", kv_tokens=20_000)
    homes = [placed_on(router, request("high", max_tokens=900)) for _ in range(8)]
    assert homes == ["a"] * 8


def test_an_outgrown_prediction_takes_the_room_of_the_next() -> None:
    router = router_of("a", kv_tokens=20_000)
    long = request("low")
    assert placed_on(router, long) == "a"
    flight = flight_of(router, long)
    write(router, flight, 1)
    write(router, flight, 17_999)
    assert placed_on(router, request("medium")) is None


def test_kv_in_use_by_other_gateways_is_not_given_away() -> None:
    router = router_of("a", kv_tokens=20_000)
    router.on_load("a", load_of((0, 2, 0), kv_use=0.9), 0.0)
    assert placed_on(router, request("medium")) is None
    router.on_load("a", load_of((0, 2, 0), kv_use=0.1), 0.0)
    assert len(router.placements(1.0)) == 1


def test_what_others_hold_does_not_shrink_as_we_place_beside_them() -> None:
    router = router_of("a", kv_tokens=20_000)
    router.on_load("a", load_of((1, 0, 0), kv_use=0.9), 0.0)
    assert placed_on(router, request(max_tokens=1)) == "a"
    assert placed_on(router, request(prompt_tokens=8_000, max_tokens=1)) is None


def test_an_idle_replica_takes_what_no_busy_one_has_room_for() -> None:
    router = router_of("a", kv_tokens=5_000)
    assert placed_on(router, request("high")) == "a"
    assert placed_on(router, request("high")) is None


# ------------------------------------------------------------------ caches


def blocks_of(name: str, count: int) -> tuple[int, ...]:
    return tuple(hash((name, n)) for n in range(count))


def conversation(name: str, turn: int, **more: object) -> Request:
    """A prompt that begins with all turns before it, of 40 blocks each."""
    blocks = blocks_of(name, 40 * turn)
    values: dict[str, object] = {"prompt_tokens": BLOCK_TOKENS * len(blocks) + 10}
    return request(blocks=blocks, **{**values, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", ["effort", "prefix-affinity"])
def test_a_conversation_returns_to_the_replica_that_has_computed_it(policy: PolicyName) -> None:
    router = router_of(*"abcdefgh", policy=policy, max_num_seqs=64, kv_tokens=10**7)
    homes: dict[str, set[str | None]] = {}
    for turn in range(5, 9):
        for n in range(8):
            each = conversation(f"c{n}", turn, max_tokens=50)
            homes.setdefault(f"c{n}", set()).add(placed_on(router, each))
            write(router, flight_of(router, each), 50)
            router.on_finished(each.request_id, 0.0, complete=True)
    assert all(len(its) == 1 for its in homes.values())


def test_the_tokens_found_in_the_cache_are_told_and_shorten_the_finish() -> None:
    router = router_of("a", max_num_seqs=64)
    first = placed(router, conversation("c", 5))
    assert first is not None
    router.on_first_token(first.flight)
    again = placed(router, conversation("c", 5))
    assert (first.decision.choice.cached_tokens, first.flight.replica_id) == (0, "a")
    assert again is not None
    assert again.decision.choice.cached_tokens == 200 * BLOCK_TOKENS
    saved_s = 200 * BLOCK_TOKENS * STEPS.prefill_token_s
    decode_s = again.decision.predicted_tokens * again.flight.replica.next_step_s
    assert (
        again.decision.choice.finish_s < decode_s + 12_810 * STEPS.prefill_token_s - 0.9 * saved_s
    )


def test_a_cache_hit_does_not_outweigh_a_longer_wait() -> None:
    router = router_of("a", "b", max_num_seqs=64, kv_tokens=10**7)
    home = placed_on(router, conversation("c", 1, max_tokens=1))
    other = next(name for name in "ab" if name != home)
    occupy(router, str(home), ["high"] * 30)
    assert placed_on(router, conversation("c", 1)) == other


def test_a_cache_is_lost_with_its_replica() -> None:
    router = router_of("a", max_num_seqs=64)
    first = conversation("c", 5)
    assert placed_on(router, first) == "a"
    router.on_finished(first.request_id, 1.0, complete=True)
    router.on_replica_lost("a", 1.0)
    join(router, "a", max_num_seqs=64)
    again = placed(router, conversation("c", 5), 2.0)
    assert again is not None
    assert again.decision.choice.cached_tokens == 0


# ------------------------------------------------------------------ pools and zones


def test_a_pool_lends_only_what_the_tiers_own_pools_have_no_room_for() -> None:
    router = make_router(ROOMY)
    join(router, "own", tiers=frozenset({"low"}), max_num_seqs=3)
    join(router, "lender", tiers=frozenset({"high"}), lends_to=frozenset({"low"}))
    found = [placed(router, request("low")) for _ in range(4)]
    homes = [None if each is None else each.flight.replica_id for each in found]
    assert homes == ["own"] * 3 + ["lender"]
    last = found[-1]
    assert last is not None
    assert last.decision.choice.verdict is Verdict.SPILL


@pytest.mark.parametrize("policy", POLICIES)
def test_a_pool_never_takes_a_tier_that_it_neither_prefers_nor_lends_to(policy: PolicyName) -> None:
    router = make_router(ROOMY, policy)
    join(router, "high", tiers=frozenset({"high"}), lends_to=frozenset({"medium"}))
    assert placed_on(router, request("low")) is None
    assert placed_on(router, request("medium")) == "high"


GPU = StepModel(base_s=0.004, experts_s=0.008, seq_s=0.0002, prefill_token_s=0.00003)
LENGTHS: dict[Tier, int] = {"low": 300, "medium": 1000, "high": 6000}


class Busy:
    """A fleet under a steady mix, as a gateway sees it; requests end as the step model says."""

    def __init__(self, router: Router, per_s: dict[Tier, float], prompt_tokens: int = 200) -> None:
        self.router = router
        self.per_s = per_s
        self.prompt_tokens = prompt_tokens
        self.now = 1000.0
        self.left = dict.fromkeys(TIERS, 0.0)
        self.decisions: list[Decision] = []
        self.number = self.refused = 0

    def run(self, seconds: float) -> "Busy":
        for _ in range(int(10 * seconds)):
            self._tick(0.1)
        return self

    def _tick(self, tick_s: float) -> None:
        self.now += tick_s
        self._write(tick_s)
        for tier, rate in self.per_s.items():
            self.left[tier] += rate * tick_s
            while self.left[tier] >= 1.0:
                self.left[tier] -= 1.0
                self.number += 1
                each = request(
                    tier, self.prompt_tokens, LENGTHS[tier], request_id=f"busy-{self.number}"
                )
                self.refused += self.router.admit(each, self.now) is not None
        self.decisions += [each.decision for each in self.router.placements(self.now)]

    def _write(self, tick_s: float) -> None:
        for replica in self.router.fleet:
            steps, batch = replica.traits.steps, len(replica.flights)
            tokens = int(tick_s / steps.step_s(batch, 0.0)) if batch else 0
            for flight in list(replica.flights.values()):
                write(self.router, flight, tokens)
                if flight.emitted >= LENGTHS[flight.request.tier]:
                    self.router.on_finished(flight.request.request_id, self.now, complete=True)
            low, medium, high = replica.own
            ours = (low, medium, high)
            load = load_of(ours, ours, step_s=steps.step_s(max(1, sum(ours)), 0.0))
            self.router.on_load(replica.replica_id, load, self.now)


def busy(slos: object = SLOS, scale: float = 1.0, seconds: float = 90.0) -> Busy:
    router = make_router(dict.fromkeys(TIERS, 10_000), slos=slos)  # type: ignore[arg-type]
    for n in range(6):
        join(router, f"r{n}", max_num_seqs=400, kv_tokens=10**8, steps=GPU)
    return Busy(router, {"low": 12.0 * scale, "high": 1.8 * scale}).run(seconds)


def homes_of(world: Busy) -> dict[str, int]:
    policy = world.router.policy
    assert isinstance(policy, EffortPolicy)
    zones = policy.zones(MODEL)
    return dict(zones.home_of(world.router.fleet.open_to(MODEL, "low"), world.now))


def test_under_load_each_tier_has_replicas_of_its_own_and_mostly_stays_there() -> None:
    world = busy()
    homes = homes_of(world)
    assert set(homes.values()) == {0, 2}
    late = world.decisions[-300:]
    home = [each for each in late if each.choice.verdict is Verdict.HOME]
    assert len(home) > 0.9 * len(late)
    for each in home:
        assert homes[each.replica_id] == TIERS.index(each.tier)


def test_equal_objectives_leave_every_replica_to_every_tier_under_the_same_load() -> None:
    assert homes_of(busy(SAME_SLOS)) == {}


def test_light_load_makes_no_zones() -> None:
    world = busy(scale=0.1)
    assert homes_of(world) == {}
    assert all(each.choice.verdict is Verdict.HOME for each in world.decisions)


def test_a_strict_tier_whose_zone_is_full_spills_into_another() -> None:
    world = busy()
    homes = homes_of(world)
    router = world.router
    for name, home in homes.items():
        if home == 0:
            router.on_load(name, load_of((400, 0, 0)), world.now)
        else:
            router.on_load(name, load_of(), world.now)
            for request_id in list(router.fleet.get(name).flights):  # type: ignore[union-attr]
                router.on_finished(request_id, world.now, complete=False)
    found = placed(router, request("low"), world.now)
    assert found is not None
    assert homes[found.flight.replica_id] == 2
    assert found.decision.choice.verdict is Verdict.SPILL


def spare(world: Busy, step_share: float) -> Router:
    """All of the high zone is full; the low zone's steps take so much of the low objective."""
    router, homes = world.router, homes_of(world)
    for name, home in homes.items():
        replica = router.fleet.get(name)
        assert replica is not None
        for request_id in list(replica.flights):
            router.on_finished(request_id, world.now, complete=False)
        if home == 2:
            router.on_load(name, load_of((0, 0, 400)), world.now)
            continue
        router.on_load(name, load_of(), world.now)  # what its prompts take, from now on
        batch = 1
        limit_s = step_share * SLOS["low"].tpot_s * (1.0 - replica.prefill_share)
        while GPU.step_s(batch + 2, 0.0) <= limit_s:
            batch += 1
        load = load_of((batch, 0, 0), step_s=GPU.step_s(batch, 0.0))
        router.on_load(name, load, world.now)
        assert replica.next_step_s <= step_share * SLOS["low"].tpot_s
    return router


def test_a_loose_tier_enters_a_strict_zone_only_while_that_has_slack() -> None:
    world = busy()
    router = spare(world, SPILL_SLACK)
    found = placed(router, request("high"), world.now)
    assert found is not None
    assert found.decision.choice.verdict is Verdict.SPILL
    world = busy()
    router = spare(world, 0.5 * (SPILL_SLACK + MARGIN))
    assert placed_on(router, request("high"), world.now) is None


def test_in_service_steps_stay_within_the_objectives_of_all_who_are_there() -> None:
    world = busy(scale=2.0, seconds=40.0)  # more than the fleet can serve
    assert world.router.waiting > 0
    for replica in world.router.fleet:
        here = [tier for index, tier in enumerate(TIERS) if replica.own[index]]
        batch = len(replica.flights)
        assert GPU.step_s(batch, 0.0) <= min(SLOS[tier].tpot_s for tier in here)


def test_pools_that_take_different_tiers_are_used_whole_under_load() -> None:
    router = make_router(dict.fromkeys(TIERS, 10_000))
    for n in range(3):
        for tier in ("low", "high"):
            join(
                router,
                f"{tier}{n}",
                tiers=frozenset({tier}),
                max_num_seqs=400,
                kv_tokens=10**8,
                steps=GPU,
            )
    world = Busy(router, {"low": 14.0, "high": 1.2}).run(90.0)
    late = world.decisions[-500:]
    counts = Counter(each.replica_id for each in late if each.tier == "low")
    assert len(counts) == 3
    assert max(counts.values()) < 2 * min(counts.values())
    assert all(each.choice.verdict is Verdict.HOME for each in late)


# ------------------------------------------------------------------ what others do


def test_least_requests_takes_the_fewest_whatever_a_step_takes_there() -> None:
    router = router_of("a", "b", policy="least-requests")
    router.on_load("a", load_of((0, 0, 2), step_s=0.5), 0.0)
    router.on_load("b", load_of((3, 0, 0), step_s=0.001), 0.0)
    assert [placed_on(router, request()) for _ in range(1)] == ["a"]
    router.on_load("a", load_of((0, 0, 4), ours=(1, 0, 0)), 0.0)
    assert placed_on(router, request()) == "b"


def test_round_robin_goes_round() -> None:
    router = router_of("a", "b", "c", policy="round-robin", max_num_seqs=50)
    homes = [placed_on(router, request(tier)) for tier in TIERS * 3]
    assert homes == ["a", "b", "c"] * 3


def test_round_robin_passes_over_the_full_and_takes_up_the_new() -> None:
    router = router_of("a", "b", policy="round-robin", max_num_seqs=50)
    occupy(router, "a", ["low"] * 50)
    assert [placed_on(router, request()) for _ in range(2)] == ["b", "b"]
    occupy(router, "a", [])
    join(router, "c", max_num_seqs=50)
    assert {placed_on(router, request()) for _ in range(2)} == {"a", "c"}
    router.on_replica_lost("b", 1.0)
    homes = [placed_on(router, request()) for _ in range(4)]
    assert Counter(homes[:2]) == Counter(homes[2:]) == Counter(["a", "c"])


def test_round_robin_goes_round_in_each_model_by_itself() -> None:
    router = make_router(ROOMY, "round-robin")
    for name, model in (("a1", MODEL), ("a2", MODEL), ("b1", OTHER_MODEL), ("b2", OTHER_MODEL)):
        join(router, name, model=model, max_num_seqs=50)
    homes = Counter(placed_on(router, request(model=m)) for m in (MODEL, OTHER_MODEL) * 6)
    assert homes == {"a1": 3, "a2": 3, "b1": 3, "b2": 3}


@pytest.mark.parametrize("policy", ["round-robin", "least-requests"])
def test_several_tenants_in_the_queue_do_not_upset_the_turns(policy: PolicyName) -> None:
    router = make_router(ROOMY, policy)
    for n in range(12):
        admitted(router, request(tenant=f"tenant-{n % 2}"))
    for name in ("a", "b"):
        join(router, name, max_num_seqs=50)
    homes = Counter(each.flight.replica_id for each in router.placements(0.0))
    assert homes == {"a": 6, "b": 6}


def test_power_of_two_never_takes_the_fullest_of_three() -> None:
    router = router_of("a", "b", "c", policy="power-of-two", max_num_seqs=500)
    occupy(router, "c", ["low"] * 100)
    homes = Counter(placed_on(router, request()) for _ in range(60))
    assert homes["c"] == 0
    assert min(homes["a"], homes["b"]) >= 15


def test_power_of_two_looks_at_two_only_and_at_each_pair_alike() -> None:
    names = "abcdefgh"
    router = router_of(*names, policy="power-of-two", max_num_seqs=5000, kv_tokens=10**9)
    occupy(router, "a", ["low"] * 20)
    occupy(router, "b", ["low"] * 10)
    homes: Counter[str | None] = Counter()
    for n in range(700):
        each = request(request_id=f"q{n}", max_tokens=1)
        homes[placed_on(router, each)] += 1
        router.on_finished(each.request_id, 0.0, complete=True)
    assert homes["a"] == 0  # it loses every pair
    assert homes["b"] == pytest.approx(700 / 28, rel=0.5)  # it wins one pair of 28: that with a
    assert all(70 <= homes[name] <= 145 for name in "cdefgh")


def test_prefix_affinity_prefers_the_cache_to_the_fewest_requests() -> None:
    router = router_of("a", "b", policy="prefix-affinity", max_num_seqs=64, kv_tokens=10**7)
    home = placed_on(router, conversation("c", 5))
    occupy(router, str(home), ["high"] * 20)
    assert placed_on(router, conversation("c", 6)) == home  # 83 % of it
    router.on_load(str(home), load_of((0, 0, 20), ours=(0, 0, 0)), 0.0)
    assert placed_on(router, conversation("c", 9)) != home  # 67 % of it


def test_prefix_affinity_leaves_a_saturated_replica() -> None:
    router = router_of("a", "b", policy="prefix-affinity", max_num_seqs=64, kv_tokens=10**7)
    home = placed_on(router, conversation("c", 5))
    assert placed_on(router, conversation("c", 5)) == home
    replica = router.fleet.get(str(home))
    assert replica is not None
    while replica.awaiting_prefill <= PrefixAffinity.SATURATED_TOKENS:
        assert placed_on(router, conversation("c", 5)) == home
        replica.add(Flight(request(prompt_tokens=5000), replica, 0.0, 10.0), 5000, 0.0)
    assert placed_on(router, conversation("c", 5)) != home


@settings(max_examples=60, deadline=None)
@given(
    policy=st.sampled_from(POLICIES),
    seats=st.lists(st.integers(0, 5), min_size=1, max_size=5),
    count=st.integers(1, 25),
)
def test_every_policy_fills_every_seat_and_no_more(
    policy: PolicyName, seats: list[int], count: int
) -> None:
    router = make_router(ROOMY, policy)
    for n, seat in enumerate(seats):
        join(router, f"r{n}", max_num_seqs=seat, kv_tokens=10**9)
    homes = [placed_on(router, request(max_tokens=1)) for _ in range(count)]
    taken = sum(home is not None for home in homes)
    assert taken == min(count, sum(seats))
    for replica in router.fleet:
        assert replica.in_flight <= replica.traits.max_num_seqs


# ------------------------------------------------------------------ many replicas at once


def test_many_replicas_are_judged_as_a_few_are_to_the_last_bit() -> None:
    rng = random.Random(0)
    seen: Counter[Verdict] = Counter()
    for _ in range(40):
        router = router_of()
        names = [f"n{number:02d}" for number in range(MANY)]
        strict = frozenset({TIERS[0]}) if rng.random() < 0.5 else frozenset(TIERS)
        for name in names:
            tiers = strict if rng.random() < 0.3 else frozenset(TIERS)
            join(router, name, tiers=tiers, lends_to=frozenset(TIERS), max_num_seqs=200)
            counts = [rng.choice((0, 1, 20, 60)) for _ in TIERS]
            load = load_of(
                (counts[0], counts[1], counts[2]),
                kv_use=rng.choice((0.1, 0.99)),
                step_s=rng.choice((0.004, 0.01, 0.03)),
            )
            router.on_load(name, load, 0.0)
        policy = router.policy
        assert isinstance(policy, EffortPolicy)
        for late_s in (0.0, 0.0, 0.9, 5.0):
            each = request(rng.choice(TIERS), rng.choice((100, 20_000)), ahead=rng.random() < 0.2)
            each.predicted, each.arrived_s = rng.choice((50.0, 9000.0)), -late_s
            cached = dict.fromkeys(rng.sample(names, rng.choice((0, 5))), 64)
            homes = {name: rng.randrange(3) for name in names[: rng.choice((0, MANY - 2))]}
            full = router.fleet.get(rng.choice(names))
            assert full is not None
            full.refuse()
            columns = router.fleet.columns(MODEL, each.tier)
            few, best = policy._look(columns.replicas, each, homes, cached, 0.0)
            many, best_of_many = policy._look_at_many(columns, each, homes, cached, 0.0)
            assert (list(many), best_of_many) == (few, best)
            assert many[2:5] == few[2:5]
            seen.update(verdict for _, _, verdict in few)
    assert seen.keys() == set(Verdict)


def test_columns_follow_every_change_of_a_replica() -> None:
    router = router_of(*(f"n{number:02d}" for number in range(MANY)))
    columns = router.fleet.columns(MODEL, "low")
    found = [placed(router, request("low", 5000)) for _ in range(3)]
    flights = [each.flight for each in found if each is not None]
    router.on_first_token(flights[0])
    router.on_outgrown(flights[1])
    router.on_finished(flights[2].request.request_id, 1.0, complete=True)
    router.on_load(flights[1].replica_id, load_of((3, 0, 0), kv_use=0.5), 1.0)
    flights[0].replica.refuse()
    assert router.fleet.columns(MODEL, "low") is columns
    fresh = Columns(columns.replicas)
    for name in ("next_step_s", "floor_step_s", "crowding_s", "in_flight", "awaiting_prefill",
                 "kv_left", "seats", "tiers_here"):  # fmt: skip
        assert getattr(columns, name).tolist() == getattr(fresh, name).tolist(), name
    router.on_replica_lost("n00", 2.0)
    assert len(router.fleet.columns(MODEL, "low").replicas) == MANY - 1


# ------------------------------------------------------------------ what found no room


@pytest.mark.parametrize("seed", range(8))
def test_what_found_no_room_is_judged_as_if_nothing_were_remembered(seed: int) -> None:
    rng = random.Random(seed)
    router = router_of("a", "b", "c", max_num_seqs=6, kv_tokens=60_000)
    policy, running, seen = router.policy, list[str](), Counter[bool]()
    assert isinstance(policy, EffortPolicy)
    for step in range(400):
        now = 0.05 * step
        each = request(rng.choice(TIERS), rng.choice((100, 9000)), ahead=rng.random() < 0.2)
        each.predicted = rng.choice((50.0, 9000.0))
        remembered = policy.choose(each, router.fleet, now)
        policy._no_room.clear()
        anew = policy.choose(each, router.fleet, now)
        assert (remembered and remembered.replica) is (anew and anew.replica)
        seen[remembered is None] += 1
        router.admit(each, now)
        running += [found.flight.request.request_id for found in router.placements(now)]
        name = rng.choice("abc")
        what = rng.random()
        if what < 0.5 and running:
            router.on_finished(running.pop(rng.randrange(len(running))), now, complete=True)
        elif what < 0.8:
            counts = [rng.choice((0, 1, 3)) for _ in TIERS]
            load = load_of((counts[0], counts[1], counts[2]), kv_use=rng.choice((0.1, 0.9)))
            router.on_load(name, load, now)
        elif what < 0.9:
            replica = router.fleet.get(name)
            assert replica is not None
            replica.refuse(refusing=not replica.refusing)
        elif what < 0.92:
            lost = router.on_replica_lost(name, now)
            gone = {flight.request.request_id for flight in lost.failed}
            gone |= {each.request_id for each in lost.retried}
            running = [each for each in running if each not in gone]
            join(router, name, max_num_seqs=6, kv_tokens=60_000)
    assert min(seen[True], seen[False]) > 40


def test_only_replicas_that_have_changed_are_looked_at_again_for_what_found_no_room() -> None:
    router = router_of("a", "b", "c", max_num_seqs=1)
    found = [placed(router, request("low")) for _ in "abcd"]
    flights = {each.flight.replica_id: each.flight for each in found if each is not None}
    assert flights.keys() == set("abc")
    for name in "abc":
        router.on_load(name, load_of((1, 0, 0), ours=(1, 0, 0)), 0.0)
    assert router.placements(0.0) == []
    policy, looked = router.policy, list[list[str]]()
    assert isinstance(policy, EffortPolicy)
    look = policy._look

    def noting(replicas: Sequence[Replica], *rest: Any) -> Any:
        looked.append(sorted(each.replica_id for each in replicas))
        return look(replicas, *rest)

    policy._look = noting  # type: ignore[assignment, method-assign]
    assert router.placements(0.1) == []
    assert looked == []
    router.on_load("b", load_of((1, 0, 0), ours=(1, 0, 0)), 0.1)
    assert router.placements(0.1) == []
    assert looked == [["b"]]
    assert router.placements(0.1) == []
    assert looked == [["b"]]
    router.on_finished(flights["c"].request.request_id, 0.2, complete=True)
    assert [each.flight.replica_id for each in router.placements(0.2)] == ["c"]
    assert looked[1:] == [["c"], ["a", "b", "c"]]
    for name in "ab":
        router.on_load(name, load_of((1, 0, 0), ours=(1, 0, 0)), 0.3)
    router.admit(request("low"), 0.3)
    assert router.placements(0.3) == []
    assert looked[3:] == [["a", "b", "c"]], "most have changed, so all are looked at"
