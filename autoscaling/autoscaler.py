"""The autoscaler of one cluster: takes accounts, decides for every model, says what is wanted.

Driven from outside with the time, like the policy; how accounts come and sizes go is others'
business (`autoscaling/deployment.py`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from autoscaling.coldstart import ColdStarts, Start
from autoscaling.decision import Decision
from autoscaling.policy import Policy, PolicySettings, PoolPlan
from autoscaling.signals import Ledger, Signals
from autoscaling.sizing import ReplicaKind
from cluster.accounts import GatewayAccount
from cluster.config import (
    TIERS,
    AutoscalingConfig,
    ModelConfig,
    PoolConfig,
    Tier,
    TriremeConfig,
)
from cluster.facts import facts_for, gpu_bytes_of, kv_bytes_per_token, kv_pool_bytes
from cluster.pool_steps import REFERENCE_GPU, step_model_of
from cluster.schedule import parse_rule
from deployments.router.capacity import Slo

PRIOR_PROMPT_TOKENS = 1000.0

ASSUMED_KV_TOKENS = 1_000_000
"""Where the GPU is not known: about what gpt-oss-120b leaves on one H200."""


@dataclass(frozen=True, slots=True)
class Resize:
    """A pool and the replicas that it should have."""

    model: str
    pool: str
    wanted: int


@dataclass(slots=True)
class _Model:
    ledger: Ledger
    policy: Policy
    signals: Signals | None = None
    decision: Decision | None = None


class Autoscaler:
    """Only models with a pool that has ``scaling`` are resized; the rest is left alone."""

    def __init__(self, config: TriremeConfig) -> None:
        self._config = config
        self._stale_s = config.autoscaling.stale_after_s
        slos = {
            tier: Slo(config.tiers.of(tier).slo.ttft_s, config.tiers.of(tier).slo.tpot_ms / 1000.0)
            for tier in TIERS
        }
        self.models: dict[str, _Model] = {}
        self.starts: dict[str, ColdStarts] = {}
        self._ready: dict[str, int] = {}
        for model in config.models:
            if any(pool.scaling is not None for pool in model.pools):
                self.models[model.name] = self._model(model, slos)
                self.starts.update({pool.name: ColdStarts() for pool in model.pools})

    def _model(self, model: ModelConfig, slos: Mapping[Tier, Slo]) -> _Model:
        tiers = self._config.tiers
        ledger = Ledger(
            model.name,
            [pool.name for pool in model.pools],
            {tier: (slos[tier].ttft_s, slos[tier].tpot_s) for tier in TIERS},
            {
                tier: (PRIOR_PROMPT_TOKENS, tiers.of(tier).prior_output_tokens_mean)
                for tier in TIERS
            },
            self._stale_s,
        )
        plans = [pool_plan(model, pool) for pool in model.pools]
        return _Model(ledger, Policy(plans, slos, settings_of(self._config.autoscaling)))

    def restore(self, sizes: Mapping[str, int]) -> None:
        """Sizes by pool that an autoscaler before this one had asked for."""
        for model in self.models.values():
            model.policy.restore(sizes)

    # -------------------------------------------------------------- what comes in

    def take(self, account: GatewayAccount, now: float) -> None:
        for model in self.models.values():
            model.ledger.take(account, now)

    def gateways(self, names: Iterable[str], gone: Iterable[str]) -> None:
        """``gone`` gateways are no longer listed by Serve; ``names`` are."""
        kept = frozenset(names)
        for name in gone:
            if name not in kept:
                for model in self.models.values():
                    model.ledger.forget(name)

    def listed(self, pool: str, replicas: Iterable[str], now: float) -> dict[str, float]:
        """The pool's ready replicas. Returns the new ones with the time they were asked for."""
        found = list(replicas)
        self._ready[pool] = len(found)
        starts = self.starts.get(pool)
        return {} if starts is None else starts.listed(found, now)

    def started(self, pool: str, start: Start) -> None:
        if pool in self.starts:
            self.starts[pool].note(start)

    # -------------------------------------------------------------- deciding

    def decide(self, now: float, clock: datetime) -> list[Resize]:
        """What every pool that may be resized should have, wanted or not."""
        resizes = []
        for name, model in self.models.items():
            resizes += self._decide(name, model, now, clock)
        return resizes

    def _decide(self, name: str, model: _Model, now: float, clock: datetime) -> list[Resize]:
        before = {} if model.decision is None else {w.pool: w for w in model.decision.pools}
        starting = {
            pool: max(0, wanted.wanted - self._ready.get(pool, wanted.ready))
            for pool, wanted in before.items()
        }
        cold = {pool: self.starts[pool].expected_s for pool in self._pools(name)}
        model.signals = model.ledger.signals(now, starting=starting, cold_start_s=cold)
        model.decision = model.policy.decide(model.signals, clock)
        for wanted in model.decision.pools:
            more = wanted.wanted - wanted.before
            starts = self.starts[wanted.pool]
            if more:
                starts.asked(more, now)
            starts.awaited(max(0, wanted.wanted - self._ready.get(wanted.pool, wanted.ready)))
        return [
            Resize(name, wanted.pool, wanted.wanted)
            for wanted in model.decision.pools
            if self._resizable(wanted.pool)
        ]

    def _pools(self, model: str) -> list[str]:
        return [pool.name for each, pool in self._config.pools() if each.name == model]

    def _resizable(self, pool: str) -> bool:
        return any(p.name == pool and p.scaling is not None for _, p in self._config.pools())

    def starting(self, pool: str) -> int:
        """Wanted by the last decision, and not ready."""
        for model in self.models.values():
            if model.decision is not None:
                for wanted in model.decision.pools:
                    if wanted.pool == pool:
                        return max(0, wanted.wanted - self._ready.get(pool, 0))
        return 0

    def log(self) -> list[dict[str, object]]:
        """The last decisions of all models, the newest first."""
        found = [decision for model in self.models.values() for decision in model.policy.decisions]
        return [each.as_dict() for each in sorted(found, key=lambda each: each.at_s, reverse=True)]


def settings_of(config: AutoscalingConfig) -> PolicySettings:
    return PolicySettings(
        target=config.target,
        forecast=config.forecast,
        hold_s=config.hold_s,
        reversals_per_h=config.reversals_per_h,
        interval_s=config.interval_s,
        idle_s=config.idle_s,
    )


def pool_plan(model: ModelConfig, pool: PoolConfig) -> PoolPlan:
    """The pool as the policy knows it; one without ``scaling`` has one size."""
    scaling = pool.scaling
    return PoolPlan(
        pool.name,
        replica_kind(model, pool),
        frozenset(pool.tiers),
        frozenset(pool.lends_to),
        at_least=pool.replicas if scaling is None else scaling.min_replicas,
        at_most=pool.replicas if scaling is None else scaling.max_replicas,
        cold_start_s=300.0 if scaling is None else scaling.cold_start_s,
        gpu_cost=1.0 if scaling is None else scaling.gpu_cost_per_h,
        rules=() if scaling is None else tuple(parse_rule(text) for text in scaling.schedules),
    )


def replica_kind(model: ModelConfig, pool: PoolConfig) -> ReplicaKind:
    """What is known of a replica before one runs. Where the GPU was not measured, the shape of an
    H200's step times is taken, and the pace that replicas report corrects its scale."""
    tp = pool.tensor_parallel_size
    return ReplicaKind(step_model_of(pool), pool.max_num_seqs, _kv_tokens(model, pool), tp)


def _kv_tokens(model: ModelConfig, pool: PoolConfig) -> int:
    if pool.engine == "simulated":
        return pool.simulated.kv_tokens
    facts, memory_bytes = facts_for(model.source), gpu_bytes_of(pool.gpu_type or REFERENCE_GPU)
    if facts is None or memory_bytes is None:
        return ASSUMED_KV_TOKENS
    tp = pool.tensor_parallel_size
    free_bytes = kv_pool_bytes(
        facts, memory_bytes, tp, pool.gpu_memory_utilization, pool.max_num_batched_tokens
    )
    return max(16, free_bytes // kv_bytes_per_token(facts, tp=tp))
