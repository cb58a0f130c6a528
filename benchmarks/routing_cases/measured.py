"""What one run says about a policy: who kept the objectives, and why the others did not."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from autoscaling.simulator.result import RunResult
from autoscaling.simulator.scenario import Scenario
from autoscaling.simulator.summary import keeps
from autoscaling.simulator.work import Outcome
from cluster.config import TIERS, Tier
from deployments.router.capacity import Slo


class Miss(StrEnum):
    """Why a request missed its objectives; the first that applies."""

    TURNED_AWAY = "turned away"
    UNFINISHED = "did not finish"
    LATE = "first token late"
    SLOW = "tokens slow"


@dataclass(frozen=True, slots=True)
class OfTier:
    """The measured requests of a tier: how many, how many kept the objectives, why others not, and
    the tokens written for those."""

    requests: int
    kept: int
    missed: dict[Miss, int]
    wasted_tokens: dict[Miss, int]

    @property
    def attainment(self) -> float:
        return self.kept / self.requests


@dataclass(frozen=True, slots=True)
class Measured:
    """One run. Tiers without a request are left out.

    ``wasted_share`` of the tokens went to requests that missed; ``hit_rate`` is the part of the
    placed prompts' tokens found in prefix caches.
    """

    tiers: dict[Tier, OfTier]
    window_s: float
    wasted_share: float
    hit_rate: float
    wall_s: float

    @property
    def worst(self) -> float:
        """Attainment of the tier that fares worst; 0 when nobody came."""
        return min((each.attainment for each in self.tiers.values()), default=0.0)

    @property
    def goodput_per_s(self) -> float:
        """Requests a second that kept all their objectives."""
        return sum(each.kept for each in self.tiers.values()) / self.window_s

    @property
    def offered_per_s(self) -> float:
        return sum(each.requests for each in self.tiers.values()) / self.window_s


def measure(result: RunResult, scenario: Scenario) -> Measured:
    """The figures of one run. Clients ask once in these scenarios: attempts are requests."""
    start_s, end_s = scenario.measured_s
    counted = [each for each in result.outcomes if start_s <= each.arrival.at_s < end_s]
    tiers: dict[Tier, OfTier] = {}
    for tier in TIERS:
        own = [each for each in counted if each.arrival.tier == tier]
        slo = scenario.slo(tier)
        if own:
            tiers[tier] = _of_tier(own, slo)
    tokens = sum(each.tokens for each in counted)
    wasted = sum(sum(each.wasted_tokens.values()) for each in tiers.values())
    placed = [each for each in counted if each.replica]
    prompts = sum(each.arrival.prompt_tokens for each in placed)
    return Measured(
        tiers,
        end_s - start_s,
        wasted / tokens if tokens else 0.0,
        sum(each.cached_tokens for each in placed) / prompts if prompts else 0.0,
        result.wall_s,
    )


def _of_tier(outcomes: Sequence[Outcome], slo: Slo) -> OfTier:
    missed, wasted = dict.fromkeys(Miss, 0), dict.fromkeys(Miss, 0)
    for outcome in outcomes:
        if not keeps(outcome, slo):
            miss = why(outcome, slo)
            missed[miss] += 1
            wasted[miss] += outcome.tokens
    return OfTier(len(outcomes), len(outcomes) - sum(missed.values()), missed, wasted)


def why(outcome: Outcome, slo: Slo) -> Miss:
    if outcome.status in ("refused", "expired"):
        return Miss.TURNED_AWAY
    if outcome.status != "finished":
        return Miss.UNFINISHED
    return Miss.SLOW if outcome.ttft_s <= slo.ttft_s else Miss.LATE


def what_bounds(runs: Iterable[Measured]) -> str:
    """In words: the tier that fares worst over these runs, and what most of its misses are."""
    runs = list(runs)
    shares: dict[Tier, float] = {}
    for tier in TIERS:
        own = [run.tiers[tier] for run in runs if tier in run.tiers]
        if own:
            shares[tier] = sum(each.kept for each in own) / sum(each.requests for each in own)
    if not shares:
        return "nobody came"
    worst = min(shares, key=lambda tier: shares[tier])
    total = dict.fromkeys(Miss, 0)
    for run in runs:
        if worst in run.tiers:
            for miss, count in run.tiers[worst].missed.items():
                total[miss] += count
    missed = sum(total.values())
    if not missed:
        return "nothing misses"
    most = max(total, key=lambda miss: total[miss])
    return f"{worst} {100 * shares[worst]:.1f} %: {total[most] / missed:.0%} {most}"


def what_wastes(runs: Iterable[Measured]) -> str:
    """In words: of which tier most tokens were wasted, and by which kind of miss."""
    total: dict[tuple[Tier, Miss], int] = {}
    for run in runs:
        for tier, own in run.tiers.items():
            for miss, tokens in own.wasted_tokens.items():
                total[tier, miss] = total.get((tier, miss), 0) + tokens
    if not any(total.values()):
        return "nothing is wasted"
    tier, miss = max(total, key=lambda each: total[each])
    return f"{total[tier, miss] / sum(total.values()):.0%} of the waste: {tier}, {miss}"
