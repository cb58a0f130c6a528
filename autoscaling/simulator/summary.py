"""From the outcomes of one run to figures: per tier, per tenant, and over all."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from autoscaling.simulator.result import RunResult, Sample
from autoscaling.simulator.scenario import Scenario
from autoscaling.simulator.work import Outcome
from cluster.config import TIERS, Tier
from deployments.router.capacity import Slo

CURVE = (*(i / 200 for i in range(1, 200)), 0.999)
"""The shares of requests at which distributions are kept, for plots."""

INPUT_WEIGHT, OUTPUT_WEIGHT = 1.0, 2.0
"""Work of a token when tenants are compared, as in VTC (Sheng et al., OSDI 2024)."""

MAX_SAMPLES = 400
"""So many samples of a run are kept for plots."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution in seconds: three quantiles, and the whole at the shares in `CURVE`.

    Without values the quantiles are NaN and the curve is empty.
    """

    p50: float
    p90: float
    p99: float
    curve: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """What became of requests whose client first asked in the measured window.

    Requests are counted once however often their client asks; ``refused``, ``expired``, ``failed``
    count attempts. Times run from the first attempt, so a retry's wait is in them. ``attainment``
    is the share of requests that finished within their tier's SLO, ``goodput_per_s`` how many of
    them there were a second; ``wasted_share`` of the tokens went to attempts that did not.
    ``prefix_hit_rate`` is the share of placed prompt tokens found in a prefix cache.
    """

    requests: int
    finished: int
    refused: int
    expired: int
    cancelled: int
    failed: int
    unfinished: int
    retries: int
    demoted: int
    ttft: Spread
    ttfa: Spread
    tpot: Spread
    e2e: Spread
    attainment: float
    goodput_per_s: float
    tokens: int
    wasted_share: float
    preemptions: int
    prefix_hit_rate: float


@dataclass(frozen=True, slots=True)
class TenantFigures:
    """A tenant's part: ``work`` is served prompt tokens plus twice the output tokens."""

    requests: int
    attainment: float
    work: float


@dataclass(frozen=True, slots=True)
class Summary:
    """One run in figures. ``jain`` compares the tenants' work: 1 is equal, 1/n is one has all."""

    overall: Figures
    tiers: dict[Tier, Figures]
    tenants: dict[str, TenantFigures]
    jain: float
    gpu_hours: float
    wall_s: float
    series: tuple[Sample, ...]


def summarise(result: RunResult, scenario: Scenario) -> Summary:
    """The figures of a run of `scenario`."""
    start_s, end_s = scenario.measured_s
    counted = [
        outcome
        for outcome in result.outcomes
        if start_s <= outcome.arrival.at_s - outcome.arrival.waited_s < end_s
    ]
    slos = {tier: scenario.slo(tier) for tier in TIERS}
    kept = [outcome for outcome in counted if keeps(outcome, slos[outcome.arrival.tier])]
    window_s = end_s - start_s
    tenants = _tenants(counted, kept)
    return Summary(
        overall=_figures(counted, kept, window_s),
        tiers={
            tier: _figures(_of_tier(counted, tier), _of_tier(kept, tier), window_s)
            for tier in TIERS
        },
        tenants=tenants,
        jain=jain([tenant.work for tenant in tenants.values()]),
        gpu_hours=result.replica_seconds / 3600.0,
        wall_s=result.wall_s,
        series=_thinned(result.series),
    )


def keeps(outcome: Outcome, slo: Slo) -> bool:
    """Whether the request finished and kept every part of `slo`.

    A reply of one token has no time per token, and keeps that part.
    """
    if outcome.status != "finished":
        return False
    waited_s = outcome.arrival.waited_s
    if not outcome.ttft_s + waited_s <= slo.ttft_s:
        return False
    return not outcome.tpot_s > slo.tpot_s


def jain(values: Sequence[float]) -> float:
    """Jain's index of fairness; NaN when nobody has anything."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else math.nan


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the ordered values lie, interpolated; NaN for none."""
    if not ordered:
        return math.nan
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def spread(values: Iterable[float]) -> Spread:
    """The distribution of those `values` that are numbers."""
    ordered = sorted(value for value in values if not math.isnan(value))
    p50, p90, p99 = (quantile(ordered, share) for share in (0.5, 0.9, 0.99))
    curve = tuple(quantile(ordered, share) for share in CURVE) if ordered else ()
    return Spread(p50, p90, p99, curve)


def _of_tier(outcomes: Iterable[Outcome], tier: Tier) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.arrival.tier == tier]


def _figures(counted: Sequence[Outcome], kept: Sequence[Outcome], window_s: float) -> Figures:
    requests = _count(counted, lambda outcome: outcome.arrival.attempt == 0)
    tokens = sum(outcome.tokens for outcome in counted)
    useful = sum(outcome.tokens for outcome in kept)
    placed = [outcome for outcome in counted if outcome.replica]
    prompts = sum(outcome.arrival.prompt_tokens for outcome in placed)
    cached = sum(outcome.cached_tokens for outcome in placed)
    finished = [outcome for outcome in counted if outcome.status == "finished"]
    return Figures(
        requests=requests,
        finished=len(finished),
        refused=_count(counted, lambda outcome: outcome.status == "refused"),
        expired=_count(counted, lambda outcome: outcome.status == "expired"),
        cancelled=_count(counted, lambda outcome: outcome.status == "cancelled"),
        failed=_count(counted, lambda outcome: outcome.status == "failed"),
        unfinished=_count(counted, lambda outcome: outcome.status == "unfinished"),
        retries=len(counted) - requests,
        demoted=_count(finished, lambda outcome: outcome.served_tier != outcome.arrival.tier),
        # First tokens count even where no end came: leaving them out would flatter an overload.
        ttft=spread(outcome.ttft_s + outcome.arrival.waited_s for outcome in counted),
        ttfa=spread(_ttfa_s(outcome) for outcome in counted),
        tpot=spread(outcome.tpot_s for outcome in finished),
        e2e=spread(
            outcome.ended_s - outcome.arrival.at_s + outcome.arrival.waited_s
            for outcome in finished
        ),
        attainment=len(kept) / requests if requests else math.nan,
        goodput_per_s=len(kept) / window_s,
        tokens=tokens,
        wasted_share=1.0 - useful / tokens if tokens else math.nan,
        preemptions=sum(outcome.preemptions for outcome in counted),
        prefix_hit_rate=cached / prompts if prompts else math.nan,
    )


def _ttfa_s(outcome: Outcome) -> float:
    return outcome.first_answer_s - outcome.arrival.at_s + outcome.arrival.waited_s


def _count(outcomes: Iterable[Outcome], test: Callable[[Outcome], bool]) -> int:
    return sum(map(test, outcomes))


def _tenants(counted: Iterable[Outcome], kept: Iterable[Outcome]) -> dict[str, TenantFigures]:
    requests: dict[str, int] = {}
    good: dict[str, int] = {}
    work: dict[str, float] = {}
    for outcome in counted:
        arrival, tenant = outcome.arrival, outcome.arrival.tenant
        requests[tenant] = requests.get(tenant, 0) + (arrival.attempt == 0)
        done = OUTPUT_WEIGHT * outcome.tokens
        if outcome.tokens:
            done += INPUT_WEIGHT * arrival.prompt_tokens
        work[tenant] = work.get(tenant, 0.0) + done
    for outcome in kept:
        good[outcome.arrival.tenant] = good.get(outcome.arrival.tenant, 0) + 1
    return {
        tenant: TenantFigures(
            requests=asked,
            attainment=good.get(tenant, 0) / asked if asked else math.nan,
            work=work[tenant],
        )
        for tenant, asked in sorted(requests.items())
    }


def _thinned(series: Sequence[Sample]) -> tuple[Sample, ...]:
    return tuple(series[:: max(1, math.ceil(len(series) / MAX_SAMPLES))])
