"""Soft pools: made when they pay, not otherwise, steady under noise, alike in all gateways."""

import random
from collections.abc import Mapping
from itertools import pairwise

import pytest

from cluster.config import TIERS, Tier
from cluster.steptime import step_model
from deployments.router import Flight, Replica, Slo
from deployments.router.capacity import Demand, plan
from deployments.router.zones import DIVIDE_ABOVE, LEAST_ARRIVALS, MEMORY_S, REPLAN_S, Zones
from tests.deployments.router.router_world import (
    SAME_SLOS,
    SLOS,
    load_of,
    request,
    traits,
)

SEQS, KV = 256, 1_500_000
PROMPT = 500
OUTPUT: Mapping[Tier, int] = {"low": 500, "medium": 1500, "high": 5000}
STEPS = step_model("H200", 1)
LONG_S = 240.0


def replicas_of(count: int) -> list[Replica]:
    return [
        Replica(traits(f"r{n:03}", steps=STEPS, max_num_seqs=SEQS, kv_tokens=KV))
        for n in range(count)
    ]


def demands_at(rates: Mapping[Tier, float]) -> dict[Tier, Demand]:
    return {tier: Demand(rate, PROMPT, OUTPUT[tier]) for tier, rate in rates.items()}


def rates_for(share: float, replicas: int, slos: Mapping[Tier, Slo]) -> dict[Tier, float]:
    """Arrivals of low and high, as many of each token, that fill so much of the fleet if every
    replica serves both."""
    assert STEPS is not None
    mix: dict[Tier, float] = {"low": 0.9, "high": 0.1}
    low, high = 0.0, 10_000.0
    for _ in range(60):
        middle = (low + high) / 2.0
        rates = {tier: part * middle for tier, part in mix.items()}
        if plan(demands_at(rates), slos, STEPS, SEQS, KV, replicas).together < share:
            low = middle
        else:
            high = middle
    return {tier: part * low for tier, part in mix.items()}


class Stream:
    """Arrivals at fixed rates: evenly spaced, or at random times if there is a ``seed``."""

    def __init__(self, zones: Zones, rates: Mapping[Tier, float], seed: int | None = None) -> None:
        self.zones = zones
        self.rates = rates
        self.rng = None if seed is None else random.Random(seed)
        self.left = dict.fromkeys(TIERS, 0.0)

    def second(self, now: float) -> None:
        for tier, rate in self.rates.items():
            if self.rng is None:
                self.left[tier] += rate
            else:
                self.left[tier] += _poisson(self.rng, rate)
            while self.left[tier] >= 1.0:
                self.left[tier] -= 1.0
                self.zones.note(tier, PROMPT, OUTPUT[tier], now)


def _poisson(rng: random.Random, mean: float) -> int:
    count, at = 0, rng.expovariate(mean)
    while at < 1.0:
        count, at = count + 1, at + rng.expovariate(mean)
    return count


def sizes(homes: Mapping[str, int]) -> dict[Tier, int]:
    counts = [list(homes.values()).count(index) for index in range(3)]
    return {tier: count for tier, count in zip(TIERS, counts, strict=True) if count}


def watch(
    stream: Stream, replicas: list[Replica], seconds: float = LONG_S, start_s: float = 100.0
) -> list[Mapping[str, int]]:
    """The homes after every second."""
    seen: list[Mapping[str, int]] = []
    for second in range(int(seconds)):
        now = start_s + second
        stream.second(now)
        seen.append(dict(stream.zones.home_of(replicas, now)))
    return seen


# ------------------------------------------------------------------ when they are made


def test_different_objectives_under_load_divide_the_replicas() -> None:
    replicas = replicas_of(16)
    homes = watch(Stream(Zones(SLOS), rates_for(0.9, 16, SLOS)), replicas)[-1]
    assert set(homes) == {replica.traits.replica_id for replica in replicas}
    assert set(sizes(homes)) == {"low", "high"}
    assert sum(sizes(homes).values()) == 16


def test_each_zone_is_a_run_of_replicas_the_strictest_tier_first() -> None:
    replicas = replicas_of(16)
    homes = watch(Stream(Zones(SLOS), rates_for(0.9, 16, SLOS)), replicas)[-1]
    indices = [homes[replica.traits.replica_id] for replica in replicas]
    assert indices == sorted(indices)


@pytest.mark.parametrize("share", [0.3, 0.7, 0.9, 1.5])
def test_uniform_objectives_never_divide_the_replicas(share: float) -> None:
    stream = Stream(Zones(SAME_SLOS), rates_for(share, 16, SAME_SLOS), seed=1)
    assert not any(watch(stream, replicas_of(16)))


def test_light_load_leaves_every_replica_to_every_tier() -> None:
    stream = Stream(Zones(SLOS), rates_for(0.8 * DIVIDE_ABOVE, 16, SLOS))
    assert not any(watch(stream, replicas_of(16)))


def test_a_handful_of_arrivals_divides_nothing() -> None:
    zones = Zones(SLOS)
    for n in range(int(LEAST_ARRIVALS) - 2):
        zones.note("low", 100_000, 20_000, float(n) / 10)
        assert not zones.home_of(replicas_of(3), 100.0 * n)


def test_one_tier_alone_has_every_replica() -> None:
    rates: dict[Tier, float] = {"low": rates_for(0.9, 8, SLOS)["low"] * 2.0}
    assert not any(watch(Stream(Zones(SLOS), rates), replicas_of(8)))


def test_a_single_replica_is_everybodys() -> None:
    assert not any(watch(Stream(Zones(SLOS), rates_for(1.5, 1, SLOS)), replicas_of(1)))


def test_zones_end_when_the_load_falls() -> None:
    zones, replicas = Zones(SLOS), replicas_of(16)
    busy = Stream(zones, rates_for(0.9, 16, SLOS))
    assert watch(busy, replicas)[-1]
    quiet = Stream(zones, rates_for(0.2, 16, SLOS))
    assert not watch(quiet, replicas, start_s=100.0 + LONG_S)[-1]


def test_zones_end_when_all_was_quiet_for_an_hour() -> None:
    zones, replicas = Zones(SLOS), replicas_of(16)
    assert watch(Stream(zones, rates_for(0.9, 16, SLOS)), replicas)[-1]
    now = 100.0 + LONG_S + 3600.0
    zones.note("low", PROMPT, OUTPUT["low"], now)
    assert not zones.home_of(replicas, now)


def test_zones_move_with_the_mix() -> None:
    zones, replicas = Zones(SLOS), replicas_of(16)
    rates = rates_for(0.9, 16, SLOS)
    before = sizes(watch(Stream(zones, rates), replicas)[-1])
    shifted: dict[Tier, float] = {"low": 0.4 * rates["low"], "high": 2.0 * rates["high"]}
    after = sizes(watch(Stream(zones, shifted), replicas, start_s=100.0 + LONG_S)[-1])
    assert after["high"] > before["high"]
    assert after["low"] < before["low"]


def test_what_is_running_counts_where_lengths_are_not_learned_yet() -> None:
    replicas = replicas_of(16)
    rates = rates_for(0.9, 16, SLOS)
    naive, zones = Zones(SLOS), Zones(SLOS)
    for replica in replicas:
        replica.report(load_of((4, 0, 0)), 100.0)
    short = sizes(watch(Stream(naive, rates), replicas)[-1])
    for replica in replicas:  # more high ones than there would be, were they that short
        replica.report(load_of((4, 0, 10)), 100.0)
    long = sizes(watch(Stream(zones, rates), replicas)[-1])
    assert long["high"] > short["high"]


# ------------------------------------------------------------------ steadiness


@pytest.mark.parametrize("seed", range(4))
def test_noise_does_not_make_the_zones_flap(seed: int) -> None:
    stream = Stream(Zones(SLOS), rates_for(0.85, 32, SLOS), seed)
    seen = [sizes(homes) for homes in watch(stream, replicas_of(32), 900.0)]
    begun = next(second for second, each in enumerate(seen) if each)
    settled = seen[begun:]
    assert all(settled), "made once, they stay"
    changes = sum(one != other for one, other in pairwise(settled[60:]))
    assert changes <= 15  # in 14 minutes


@pytest.mark.parametrize("seed", range(4))
def test_noise_about_the_threshold_does_not_make_and_undo_zones(seed: int) -> None:
    stream = Stream(Zones(SLOS), rates_for(DIVIDE_ABOVE, 32, SLOS), seed)
    divided = [bool(homes) for homes in watch(stream, replicas_of(32), 900.0)]
    turns = sum(one != other for one, other in pairwise(divided))
    assert turns <= 1


def test_they_are_worked_out_again_once_a_second_and_not_for_every_request() -> None:
    zones, replicas = Zones(SLOS), replicas_of(16)
    watch(Stream(zones, rates_for(0.9, 16, SLOS)), replicas)
    now = 100.0 + LONG_S
    zones.home_of(replicas, now)
    found = zones.plan
    zones.home_of(replicas, now + 0.9 * REPLAN_S)
    assert zones.plan is found
    zones.home_of(replicas, now + REPLAN_S)
    assert zones.plan is not found


def test_replicas_that_come_and_go_are_divided_anew() -> None:
    zones, replicas = Zones(SLOS), replicas_of(16)
    stream = Stream(zones, rates_for(0.9, 16, SLOS))
    watch(stream, replicas)
    fewer = watch(stream, replicas[2:], 5.0, 100.0 + LONG_S)[-1]
    assert set(fewer) == {replica.traits.replica_id for replica in replicas[2:]}
    more = watch(stream, replicas, 5.0, 105.0 + LONG_S)[-1]
    assert set(more) == {replica.traits.replica_id for replica in replicas}


@pytest.mark.parametrize("start_s", [0.0, 1.0, 1e6])
def test_the_clock_may_begin_anywhere(start_s: float) -> None:
    rates = rates_for(0.8 * DIVIDE_ABOVE, 16, SLOS)
    assert not any(watch(Stream(Zones(SLOS), rates), replicas_of(16), 60.0, start_s))
    rates = rates_for(0.9, 16, SLOS)
    assert watch(Stream(Zones(SLOS), rates), replicas_of(16), 60.0, start_s)[-1]


def test_the_rate_is_known_before_the_memory_is_full() -> None:
    stream = Stream(Zones(SLOS), rates_for(0.9, 16, SLOS))
    assert watch(stream, replicas_of(16), 0.5 * MEMORY_S)[-1]


# ------------------------------------------------------------------ many gateways


def _run_own_share(replicas: list[Replica], gateways: int) -> None:
    """This gateway has one request in so many of those that run everywhere."""
    for replica in replicas:
        flight = Flight(request(), replica, 0.0, 500.0)
        replica.add(flight, 0, 0.0)
        replica.report(load_of((gateways, 0, 0), ours=(1, 0, 0)), 0.0)


@pytest.mark.parametrize("gateways", [2, 5])
def test_gateways_that_see_the_same_proportions_agree_on_all_but_a_border(gateways: int) -> None:
    # A size that is as good as another stays (so that noise moves nothing), hence the border.
    rates = rates_for(0.9, 16, SLOS)
    whole = watch(Stream(Zones(SLOS), rates), replicas_of(16))[-1]
    share = {tier: rate / gateways for tier, rate in rates.items()}
    for phase in range(gateways):
        replicas = replicas_of(16)
        _run_own_share(replicas, gateways)
        stream = Stream(Zones(SLOS), share)
        stream.left = dict.fromkeys(TIERS, phase / gateways)
        homes = watch(stream, replicas)[-1]
        assert homes.keys() == whole.keys()
        assert sum(homes[each] != whole[each] for each in whole) <= 1


def test_gateways_that_see_their_part_by_chance_divide_nearly_alike() -> None:
    rates = {tier: rate / 2 for tier, rate in rates_for(0.9, 32, SLOS).items()}
    seen = []
    for seed in range(4):
        replicas = replicas_of(32)
        _run_own_share(replicas, 2)
        seen.append(sizes(watch(Stream(Zones(SLOS), rates, seed), replicas)[-1]))
    lows = [each["low"] for each in seen]
    assert max(lows) - min(lows) <= 4
