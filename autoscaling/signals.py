"""What the autoscaling policy decides on: a model's demand by tier, its pools, and how well both
are known.

``Ledger`` makes it from the gateways' accounts. A gateway that is silent for too long is left out,
and the picture then says so: ``partial`` while others speak, ``stale`` when none does, ``missing``
when none ever did. Whoever decides must not take a picture that is not ``fresh`` for less load.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from cluster.accounts import GatewayAccount, ReplicaAccount, TierAccount
from cluster.config import TIERS, Tier

Freshness = Literal["fresh", "partial", "stale", "missing"]

STALE_AFTER_S = 10.0
"""A gateway that has told nothing for so long counts for nothing (it is asked every 2 s or so)."""

FORGET_AFTER_S = 300.0
"""A gateway gone for so long is taken to be gone for good; until then the picture is partial."""

LENGTH_MEMORY = 500.0
"""Requests over which mean lengths fade."""

BURST_WINDOWS = 64
"""Intervals between accounts over which burstiness is measured."""

MAX_GATEWAYS = 1024


@dataclass(frozen=True, slots=True)
class TierSignals:
    """Demand of one tier of a model, over all gateways.

    ``arrivals_per_s`` is over the last interval alone; ``dispersion`` is the variance of the
    arrivals in an interval over their mean (1: Poisson). ``backlog_tokens`` is predicted output not
    yet written, queued and running. Attainments are shares of the interval's requests, NaN of none.
    Slacks are 1 − (moving mean over objective): below 0 the tier is late.
    """

    tier: Tier
    arrivals_per_s: float
    prompt_tokens: float
    output_tokens: float
    running: float = 0.0
    queued: float = 0.0
    backlog_tokens: float = 0.0
    oldest_wait_s: float = 0.0
    dispersion: float = 1.0
    ttft_attained: float = math.nan
    tpot_attained: float = math.nan
    ttft_slack: float = math.nan
    tpot_slack: float = math.nan
    refused_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class PoolSignals:
    """One pool. ``starting`` were asked for and are not ready, ``asleep`` hold no GPU work.

    ``tokens_per_s`` is what its replicas write, ``cold_start_s`` the time from asking to ready as
    measured (NaN until one was), ``pace`` the mean of its replicas' step time over the step
    model's.
    """

    name: str
    ready: int
    starting: int = 0
    draining: int = 0
    asleep: int = 0
    kv_use: float = 0.0
    kv_reserved: float = 0.0
    tokens_per_s: float = 0.0
    pace: float = 1.0
    cold_start_s: float = math.nan
    max_num_seqs: int = 0
    kv_tokens: int = 0

    @property
    def owned(self) -> int:
        """Replicas that are, or will be, awake."""
        return self.ready + self.starting


@dataclass(frozen=True, slots=True)
class Signals:
    """The picture of one model at ``at_s``; ``interval_s`` is how long its rates were taken."""

    model: str
    at_s: float
    interval_s: float
    freshness: Freshness
    tiers: Mapping[Tier, TierSignals] = field(default_factory=dict)
    pools: Mapping[str, PoolSignals] = field(default_factory=dict)

    def backlog_s(self) -> float:
        """Seconds that the pools need for all that is queued or running, at their pace now.

        0 without a backlog; infinite when there is one and nothing is being written.
        """
        backlog = sum(each.backlog_tokens for each in self.tiers.values())
        rate = sum(each.tokens_per_s for each in self.pools.values())
        if backlog <= 0.0:
            return 0.0
        return backlog / rate if rate > 0.0 else math.inf


@dataclass(slots=True)
class _Gateway:
    """The last account of a gateway, and what its counts had grown to before."""

    account: GatewayAccount
    at_s: float
    grown: dict[tuple[str, Tier], dict[str, float]] = field(default_factory=dict)
    """What came since the last picture."""


_GROWING = (
    "arrived", "refused", "placed", "prompt_tokens", "expected_tokens", "answered",
    "first_in_time", "ended", "paced_in_time",
)  # fmt: skip


@dataclass(slots=True)
class _Lengths:
    """Fading means of a tier's prompts and outputs, in tokens."""

    weight: float = 0.0
    prompt: float = 0.0
    output: float = 0.0

    def add(self, placed: float, prompt_tokens: float, expected_tokens: float) -> None:
        fade = math.exp(-placed / LENGTH_MEMORY)
        self.weight = self.weight * fade + placed
        self.prompt = self.prompt * fade + prompt_tokens
        self.output = self.output * fade + expected_tokens


class Ledger:
    """Adds up the accounts of gateways that share nothing.

    ``take`` whatever comes, whenever it comes; ``signals`` closes an interval. ``objectives`` are
    (time to first token, time per output token) in seconds by tier; ``priors`` the mean prompt and
    output tokens to assume of a tier that nobody has asked for.
    """

    def __init__(
        self,
        model: str,
        pools: Iterable[str],
        objectives: Mapping[Tier, tuple[float, float]],
        priors: Mapping[Tier, tuple[float, float]],
        stale_after_s: float = STALE_AFTER_S,
    ) -> None:
        self._model = model
        self._pools = tuple(pools)
        self._objectives = objectives
        self._priors = priors
        self._stale_after_s = stale_after_s
        self._gateways: dict[str, _Gateway] = {}
        self._lengths = {tier: _Lengths() for tier in TIERS}
        self._counts: dict[Tier, deque[float]] = {
            tier: deque(maxlen=BURST_WINDOWS) for tier in TIERS
        }
        self._closed_s: float | None = None

    def take(self, account: GatewayAccount, now: float) -> None:
        """An account has come. Its first one only tells from where to count."""
        known = self._gateways.get(account.gateway)
        if known is None:
            if len(self._gateways) < MAX_GATEWAYS:
                self._gateways[account.gateway] = _Gateway(account, now)
            return
        before = {(each.model, each.tier): each for each in known.account.tiers}
        for each in account.tiers:
            self._grow(known, each, before.get((each.model, each.tier)))
        known.account, known.at_s = account, now

    @staticmethod
    def _grow(known: _Gateway, now: TierAccount, before: TierAccount | None) -> None:
        grown = known.grown.setdefault((now.model, now.tier), dict.fromkeys(_GROWING, 0.0))
        for name in _GROWING:
            last = 0.0 if before is None else float(getattr(before, name))
            # A gateway that was restarted under its old name counts from 0 again.
            count = float(getattr(now, name))
            grown[name] += count - last if count >= last else count

    def forget(self, gateway: str) -> None:
        """The gateway is known to be gone (Serve lists it no more)."""
        self._gateways.pop(gateway, None)

    def signals(self, now: float, starting: Mapping[str, int] | None = None,
                asleep: Mapping[str, int] | None = None,
                cold_start_s: Mapping[str, float] | None = None) -> Signals:  # fmt: skip
        """The picture now. Replicas that are not ready are known to whoever asked for them."""
        for name in [n for n, g in self._gateways.items() if now - g.at_s > FORGET_AFTER_S]:
            del self._gateways[name]
        fresh = [g for g in self._gateways.values() if now - g.at_s <= self._stale_after_s]
        interval_s = 0.0 if self._closed_s is None else now - self._closed_s
        self._closed_s = now
        tiers = {tier: self._tier(tier, fresh, interval_s) for tier in TIERS}
        pools = self._pool_signals(fresh, starting or {}, asleep or {}, cold_start_s or {})
        for gateway in fresh:
            gateway.grown.clear()
        return Signals(self._model, now, interval_s, self._freshness(fresh), tiers, pools)

    def _freshness(self, fresh: list[_Gateway]) -> Freshness:
        if not self._gateways:
            return "missing"
        if not fresh:
            return "stale"
        return "fresh" if len(fresh) == len(self._gateways) else "partial"

    def _tier(self, tier: Tier, fresh: list[_Gateway], interval_s: float) -> TierSignals:
        grown = dict.fromkeys(_GROWING, 0.0)
        accounts: list[TierAccount] = []
        for gateway in fresh:
            for name, value in gateway.grown.get((self._model, tier), {}).items():
                grown[name] += value
            accounts += [
                each
                for each in gateway.account.tiers
                if each.model == self._model and each.tier == tier
            ]
        lengths = self._lengths[tier]
        lengths.add(grown["placed"], grown["prompt_tokens"], grown["expected_tokens"])
        prompt, output = self._priors[tier]
        if lengths.weight >= 1.0:
            prompt, output = lengths.prompt / lengths.weight, lengths.output / lengths.weight
        if interval_s > 0.0:
            self._counts[tier].append(grown["arrived"])
        ttft_s, tpot_s = self._objectives[tier]
        return TierSignals(
            tier,
            arrivals_per_s=grown["arrived"] / interval_s if interval_s else 0.0,
            prompt_tokens=prompt,
            output_tokens=max(1.0, output),
            running=sum(each.running for each in accounts),
            queued=sum(each.queued for each in accounts),
            backlog_tokens=sum(each.queued_tokens + each.running_tokens for each in accounts),
            oldest_wait_s=max((each.oldest_wait_s for each in accounts), default=0.0),
            dispersion=dispersion(self._counts[tier]),
            ttft_attained=_share(grown["first_in_time"], grown["answered"] + grown["refused"]),
            tpot_attained=_share(grown["paced_in_time"], grown["ended"]),
            ttft_slack=_slack((each.first_s for each in accounts), ttft_s),
            tpot_slack=_slack((each.pace_s for each in accounts), tpot_s),
            refused_per_s=grown["refused"] / interval_s if interval_s else 0.0,
        )

    def _pool_signals(
        self,
        fresh: list[_Gateway],
        starting: Mapping[str, int],
        asleep: Mapping[str, int],
        cold_start_s: Mapping[str, float],
    ) -> dict[str, PoolSignals]:
        # Each gateway sees every replica; the one that sees most of its load knows it best.
        replicas: dict[str, ReplicaAccount] = {}
        for gateway in fresh:
            for each in gateway.account.replicas:
                seen = replicas.get(each.replica_id)
                if seen is None or each.in_flight >= seen.in_flight:
                    replicas[each.replica_id] = each
        return {
            pool: _pool(
                pool,
                [each for each in replicas.values() if each.pool == pool],
                starting.get(pool, 0),
                asleep.get(pool, 0),
                cold_start_s.get(pool, math.nan),
            )
            for pool in self._pools
        }


def _pool(
    name: str, replicas: list[ReplicaAccount], starting: int, asleep: int, cold_start_s: float
) -> PoolSignals:
    ready = [each for each in replicas if not each.draining]
    running = [each for each in ready if each.in_flight > 0.0 and each.step_s > 0.0]
    return PoolSignals(
        name,
        ready=len(ready),
        starting=starting,
        draining=len(replicas) - len(ready),
        asleep=asleep,
        kv_use=_mean(each.kv_use for each in ready),
        kv_reserved=_mean(each.kv_reserved for each in ready),
        tokens_per_s=sum(each.in_flight / each.step_s for each in running),
        pace=_mean(each.pace for each in ready) or 1.0,
        cold_start_s=cold_start_s,
        max_num_seqs=min((each.max_num_seqs for each in ready), default=0),
        kv_tokens=min((each.kv_tokens for each in ready), default=0),
    )


def dispersion(counts: Iterable[float]) -> float:
    """Variance over mean of arrivals per interval; 1 of fewer than 8 intervals, or of none."""
    found = list(counts)
    mean = sum(found) / len(found) if found else 0.0
    if len(found) < 8 or mean <= 0.0:
        return 1.0
    return sum((each - mean) ** 2 for each in found) / (len(found) - 1) / mean


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0


def _slack(values: Iterable[float], objective_s: float) -> float:
    """Of gateways that have seen a request of the tier; NaN when none has."""
    found = [each for each in values if each > 0.0]
    return 1.0 - _mean(found) / objective_s if found else math.nan


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0.0 else math.nan
