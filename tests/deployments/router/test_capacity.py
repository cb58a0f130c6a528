"""The fluid model: what a replica can serve within its objectives, and how to divide replicas."""

import math
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config import TIERS, Tier
from cluster.steptime import StepModel, step_model
from deployments.router import Slo
from deployments.router.capacity import (
    LENGTH_BIAS,
    Capacity,
    Demand,
    capacity,
    mixed,
    plan,
    staffed,
    step_at,
)
from tests.deployments.router.router_world import SAME_SLOS, SLOS, STEPS

SEQS, KV = 256, 1_500_000


def _measured(gpu: str, tp: int) -> StepModel:
    found = step_model(gpu, tp)
    assert found is not None
    return found


MODELS = [STEPS, _measured("H200", 1), _measured("H100", 4), _measured("B200", 8)]

models = st.sampled_from(MODELS)
rates = st.floats(0.01, 50.0)
prompts = st.floats(1.0, 20_000.0)
outputs = st.floats(1.0, 20_000.0)
demands = st.builds(Demand, rates, prompts, outputs)
objectives_s = st.floats(0.001, 0.2)


# ------------------------------------------------------------------ one replica


@settings(max_examples=200, deadline=None)
@given(models, demands, objectives_s, st.integers(1, 512), st.integers(100, 3_000_000))
def test_the_batch_is_the_largest_that_keeps_the_objective_and_fits(
    steps: StepModel, demand: Demand, tpot_s: float, seqs: int, kv_tokens: int
) -> None:
    found = capacity(steps, demand, tpot_s, seqs, kv_tokens)
    context = demand.prompt_tokens + LENGTH_BIAS * demand.output_tokens
    assert 1 <= found.batch <= max(1, seqs)
    assert found.batch == 1 or found.batch * context <= kv_tokens
    assert found.batch == 1 or step_at(steps, found.batch, demand) <= tpot_s
    more = found.batch + 1
    if more <= seqs and more * context <= kv_tokens:
        assert step_at(steps, more, demand) > tpot_s
    took_s = demand.output_tokens * step_at(steps, found.batch, demand)
    assert found.per_s * took_s == pytest.approx(found.batch)


@settings(max_examples=200, deadline=None)
@given(models, demands, objectives_s, objectives_s)
def test_a_looser_objective_never_lowers_the_capacity(
    steps: StepModel, demand: Demand, one_s: float, other_s: float
) -> None:
    tight, loose = sorted((one_s, other_s))
    first, second = (capacity(steps, demand, each, SEQS, KV) for each in (tight, loose))
    assert first.batch <= second.batch
    assert first.per_s <= second.per_s * (1 + 1e-9)


@settings(max_examples=200, deadline=None)
@given(models, demands, objectives_s, st.floats(1.0, 10.0), st.floats(1.0, 10.0))
def test_longer_prompts_and_replies_never_raise_the_capacity(
    steps: StepModel, demand: Demand, tpot_s: float, more_prompt: float, more_output: float
) -> None:
    longer = Demand(demand.per_s, demand.prompt_tokens * more_prompt, demand.output_tokens)
    plain = capacity(steps, demand, tpot_s, SEQS, KV)
    assert capacity(steps, longer, tpot_s, SEQS, KV).per_s <= plain.per_s * (1 + 1e-9)
    longer = Demand(demand.per_s, demand.prompt_tokens, demand.output_tokens * more_output)
    # Batches are whole: one more request may just fit where prompts come more rarely.
    wordy = capacity(steps, longer, tpot_s, SEQS, KV)
    assert wordy.per_s <= plain.per_s * (1 + 1 / plain.batch)


def test_the_capacity_is_that_of_the_step_model_where_prompts_cost_nothing() -> None:
    steps = StepModel(base_s=0.004, seq_s=0.0002)
    found = capacity(steps, Demand(1.0, 100.0, 500.0), 0.010, SEQS, KV)
    assert found.batch == 30
    assert found.per_s == pytest.approx(30 / (500 * 0.010))


def test_an_objective_that_no_batch_keeps_leaves_one_request() -> None:
    found = capacity(STEPS, Demand(1.0, 100.0, 500.0), 0.001, SEQS, KV)
    assert found.batch == 1
    assert found.per_s > 0.0


# ------------------------------------------------------------------ how many replicas


@settings(max_examples=200, deadline=None)
@given(demands, st.floats(1.0, 10.0), st.floats(0.1, 100.0), st.integers(1, 500))
def test_more_demand_wants_more_replicas_but_less_than_in_proportion(
    demand: Demand, factor: float, per_s: float, batch: int
) -> None:
    each = Capacity(per_s, batch)
    more = Demand(demand.per_s * factor, demand.prompt_tokens, demand.output_tokens)
    assert staffed(demand, each) <= staffed(more, each) * (1 + 1e-9)
    assert staffed(more, each) <= factor * staffed(demand, each) * (1 + 1e-9)


def test_fluctuations_cost_a_small_batch_more() -> None:
    demand = Demand(10.0, 100.0, 100.0)
    assert staffed(demand, Capacity(10.0, 4)) > staffed(demand, Capacity(10.0, 100)) > 1.0


@settings(max_examples=200, deadline=None)
@given(st.lists(demands, min_size=1, max_size=4))
def test_a_mixture_has_the_tokens_of_its_parts(parts: list[Demand]) -> None:
    whole = mixed(parts)
    assert whole.per_s == pytest.approx(sum(each.per_s for each in parts))
    for name in ("prompt_tokens", "output_tokens"):
        tokens = sum(each.per_s * getattr(each, name) for each in parts)
        assert whole.per_s * getattr(whole, name) == pytest.approx(tokens)


# ------------------------------------------------------------------ the plan


def partitions(replicas: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Every way to give each of the parts at least one replica, and all of them away."""
    if parts == 1:
        yield (replicas,)
        return
    for first in range(1, replicas - parts + 2):
        for rest in partitions(replicas - first, parts - 1):
            yield (first, *rest)


by_tier = st.dictionaries(st.sampled_from(TIERS), demands, min_size=2, max_size=3)
slos = st.fixed_dictionaries(
    {tier: st.builds(Slo, st.floats(0.1, 5.0), objectives_s) for tier in TIERS}
)


@settings(max_examples=300, deadline=None)
@given(by_tier, slos, models, st.integers(1, 11))
def test_no_division_of_a_small_fleet_is_better_than_the_planned_one(
    wanted: dict[Tier, Demand], objectives: dict[Tier, Slo], steps: StepModel, replicas: int
) -> None:
    found = plan(wanted, objectives, steps, SEQS, KV, replicas)
    if replicas < len(wanted):
        assert not found.zones
        return
    assert set(found.zones) == set(found.needs) == set(wanted)
    assert sum(found.zones.values()) == replicas
    needs = [found.needs[tier] for tier in found.zones]
    best = min(
        max(need / count for need, count in zip(needs, counts, strict=True))
        for counts in partitions(replicas, len(needs))
    )
    shares = [found.needs[tier] / found.zones[tier] for tier in found.zones]
    assert found.busiest == max(shares) == pytest.approx(best)


@settings(max_examples=100, deadline=None)
@given(by_tier, slos, models, st.integers(3, 11))
def test_another_replica_never_makes_the_busiest_zone_busier(
    wanted: dict[Tier, Demand], objectives: dict[Tier, Slo], steps: StepModel, replicas: int
) -> None:
    fewer, more = (plan(wanted, objectives, steps, SEQS, KV, n) for n in (replicas, replicas + 1))
    assert more.busiest <= fewer.busiest * (1 + 1e-9)
    assert more.together < fewer.together


def test_one_tier_alone_is_not_divided() -> None:
    found = plan({"low": Demand(5.0, 100.0, 500.0)}, SLOS, STEPS, SEQS, KV, 8)
    assert not found.zones
    assert found.busiest == found.together


def test_tiers_without_arrivals_get_no_zone() -> None:
    wanted: dict[Tier, Demand] = {
        "low": Demand(5.0, 100.0, 500.0),
        "medium": Demand(0.0, 100.0, 500.0),
        "high": Demand(1.0, 100.0, 5000.0),
    }
    assert set(plan(wanted, SLOS, STEPS, SEQS, KV, 8).zones) == {"low", "high"}


def test_equal_objectives_gain_nothing_by_zones_and_different_ones_do() -> None:
    steps = MODELS[1]
    wanted: dict[Tier, Demand] = {
        "low": Demand(8.0, 1000.0, 1000.0),
        "high": Demand(2.0, 1000.0, 8000.0),
    }
    same = plan(wanted, SAME_SLOS, steps, SEQS, KV, 16)
    apart = plan(wanted, SLOS, steps, SEQS, KV, 16)
    assert same.busiest > same.together
    assert apart.busiest < apart.together
    assert math.isfinite(apart.together)
