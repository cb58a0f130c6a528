"""The gateway's metrics, with label sets looked up once and not per token."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from cluster.config import TIERS, Tier, TiersConfig
from cluster.metrics import GATEWAY_METRICS, UNKNOWN_MODEL, Metrics
from deployments.engine.channel.frames import Output
from deployments.engine.channel.gauges import TrafficMetrics
from deployments.gateway.account import Account
from deployments.gateway.context import Figures, RequestContext
from deployments.gateway.streams import Stream
from deployments.gateway.traces import RequestTraces
from deployments.router import Placed, Refusal, Replica, Router
from deployments.router.shadow import ShadowCount

COVERAGE_ROUNDS = 20
"""Every how many rounds of the fleet's ticker the predictor's coverage is worked out again: it
moves with requests that end, not with steps."""


SERVED = {"ok": True, "refused": False, "failed": False}
"""Outcomes that the objective `served` counts: the others are the client's doing."""


OBJECTIVES = ("served", "ttft", "tpot")


class Objective:
    """How often an objective was kept and missed, for Prometheus and for who asks here."""

    __slots__ = ("_kept", "_missed", "kept", "missed")

    def __init__(self, counter: Counter, model: str, tier: Tier, objective: str) -> None:
        self.kept = self.missed = 0
        self._kept = counter.labels(model, tier, objective, "kept")
        self._missed = counter.labels(model, tier, objective, "missed")

    def note(self, kept: bool) -> None:
        if kept:
            self.kept += 1
            self._kept.inc()
        else:
            self.missed += 1
            self._missed.inc()


@dataclass(frozen=True)
class _TierMetrics:
    """The children of every (model, tier) metric, and the tier's objectives in seconds."""

    ttft_s: float
    tpot_s: float
    objectives: dict[str, "Objective"]
    drain: Gauge
    in_flight: Gauge
    queue_length: Gauge
    queue_wait: Histogram
    first_token: Histogram
    first_answer: Histogram
    token_interval: Histogram
    prompt: Counter
    cached: Counter
    analysis: Counter
    final: Counter


class FleetMetrics:
    """Books what happens to generations; ``models`` and pools are those of the configuration."""

    def __init__(
        self,
        models: tuple[str, ...],
        pools: tuple[tuple[str, str], ...],
        tiers: TiersConfig | None = None,
        traces: RequestTraces | None = None,
    ) -> None:
        self.traces = traces
        self.metrics = Metrics(GATEWAY_METRICS)
        self.metrics.begin(models, pools)
        self._slos = tiers or TiersConfig()
        self._tell_objectives()
        self._refused = self.metrics.counter("trireme_refused_generations")
        self._browned_out = self.metrics.counter("trireme_browned_out_requests")
        self._traffic = TrafficMetrics(self.metrics)
        self._news = {
            (model, pool): self.metrics.gauge("trireme_load_news_age_seconds").labels(model, pool)
            for model, pool in pools
        }
        self.account: Account | None = None
        self.reconnects = self.metrics.counter("trireme_channel_reconnects")
        self._placements = self.metrics.counter("trireme_placements")
        self._shadow = self.metrics.counter("trireme_shadow_decisions")
        self._shadow_seen = ShadowCount()
        self._rounds = 0
        self._decisions = self.metrics.histogram("trireme_router_decision_seconds")
        self._requests = self.metrics.counter("trireme_requests")
        self._retries = self.metrics.counter("trireme_retried_generations")
        self._failovers = self.metrics.counter("trireme_failovers")
        self._resumptions = self.metrics.counter("trireme_stream_resumptions")
        self._stalls = self.metrics.histogram("trireme_failover_stall_seconds")
        self._ejections = self.metrics.counter("trireme_ejections")
        self._recovering = self.metrics.gauge("trireme_recovering_requests")
        self._quarantined = self.metrics.counter("trireme_quarantined_requests")
        self._runaways = self.metrics.counter("trireme_runaway_generations")
        self._quarantine_refusals = self.metrics.counter("trireme_quarantine_refusals")
        self._ejected = {
            (model, pool): self.metrics.gauge("trireme_ejected_replicas").labels(model, pool)
            for model, pool in pools
        }
        self._replicas = {
            (model, pool): self.metrics.gauge("trireme_replicas").labels(model, pool)
            for model, pool in pools
        }
        self._tiers = {
            (model, tier): self._children(model, tier) for model in models for tier in TIERS
        }

    def _children(self, model: str, tier: Tier) -> _TierMetrics:
        gauge, counter, histogram = (
            self.metrics.gauge,
            self.metrics.counter,
            self.metrics.histogram,
        )
        tokens = counter("trireme_output_tokens")
        objectives = counter("trireme_objectives")
        slo = self._slos.of(tier).slo
        return _TierMetrics(
            slo.ttft_s,
            slo.tpot_ms / 1000.0,
            {each: Objective(objectives, model, tier, each) for each in OBJECTIVES},
            gauge("trireme_queue_drain_seconds").labels(model, tier),
            gauge("trireme_requests_in_flight").labels(model, tier),
            gauge("trireme_queue_length").labels(model, tier),
            histogram("trireme_queue_wait_seconds").labels(model, tier),
            histogram("trireme_time_to_first_token_seconds").labels(model, tier),
            histogram("trireme_time_to_first_answer_token_seconds").labels(model, tier),
            histogram("trireme_time_per_output_token_seconds").labels(model, tier),
            counter("trireme_prompt_tokens").labels(model, tier),
            counter("trireme_cached_prompt_tokens").labels(model, tier),
            tokens.labels(model, tier, "analysis"),
            tokens.labels(model, tier, "final"),
        )

    def _tell_objectives(self) -> None:
        for tier in TIERS:
            slo = self._slos.of(tier).slo
            objective = self.metrics.gauge("trireme_objective_seconds")
            objective.labels(tier, "ttft").set(slo.ttft_s)
            objective.labels(tier, "tpot").set(slo.tpot_ms / 1000.0)
            self.metrics.gauge("trireme_objective_share_ratio").labels(tier).set(slo.share)

    def _of(self, stream: Stream) -> _TierMetrics:
        return self._tiers[stream.request.model, stream.request.tier]

    @contextmanager
    def deciding(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._decisions.observe(time.perf_counter() - started)

    def placed(self, stream: Stream, placed: Placed) -> None:
        tier = self._of(stream)
        tier.in_flight.inc()
        verdict = placed.decision.choice.verdict.name.lower()
        self._placements.labels(stream.request.model, stream.request.tier, verdict).inc()
        if stream.placements == 0:  # else it goes on, and all this was told before
            tier.queue_wait.observe(placed.waited_s)
            tier.prompt.inc(stream.request.prompt_tokens)
        figures = _figures(stream.context)
        figures.placements += 1
        if stream.placements == 0:
            figures.prompt_tokens += stream.request.prompt_tokens
            figures.waited_s = max(figures.waited_s, placed.waited_s)
        if self.traces is not None:
            self.traces.placed(stream, placed)
        if self.account is not None:
            self.account.placed(stream.request)

    def retried(self, stream: Stream, cause: str) -> None:
        """The stream has left its replica and is queued again."""
        self._of(stream).in_flight.dec()
        self._retries.labels(stream.request.model, stream.request.tier, cause).inc()
        if self.traces is not None:
            self.traces.left(stream, cause)

    def resumed(self, stream: Stream, now: float, *, exact: bool) -> None:
        """A stream that its client has read from writes on, on another replica."""
        model, tier = stream.request.model, stream.request.tier
        self._failovers.labels(model, tier, "exact" if exact else "equivalent").inc()
        self._stalls.labels(model, tier).observe(
            now - stream.last_token_s, self._exemplar(stream.context)
        )
        _figures(stream.context).failovers += 1
        if self.traces is not None:
            self.traces.resumed(stream, exact=exact)

    def taken_up(self, stream: Stream, outcome: str) -> None:
        """Its client has come back for the rest of it."""
        self._resumptions.labels(stream.request.model, stream.request.tier, outcome).inc()

    def ejected(self, replica: Replica, cause: str) -> None:
        """A replica is put aside."""
        self._ejections.labels(replica.traits.model, replica.traits.pool, cause).inc()

    def quarantined(self, stream: Stream) -> None:
        self._quarantined.labels(stream.request.model, stream.request.tier).inc()

    def runaway(self, stream: Stream, cause: str) -> None:
        self._runaways.labels(stream.request.model, stream.request.tier, cause).inc()

    def quarantine_refused(self, stream: Stream) -> None:
        self._quarantine_refusals.labels(stream.request.model, stream.request.tier).inc()

    def observe_recovery(self, router: Router) -> None:
        """Refresh what is a state and not an event, of faults."""
        self._recovering.labels("waiting").set(router.recovery.held)
        self._recovering.labels("going").set(router.recovery.going)
        counts = dict.fromkeys(self._ejected, 0)
        for replica in router.fleet:
            key = replica.traits.model, replica.traits.pool
            counts[key] = counts.get(key, 0) + replica.shunned
        for key, gauge in self._ejected.items():
            gauge.set(counts[key])

    def first_token(self, stream: Stream, output: Output) -> None:
        tier, context = self._of(stream), stream.context
        took_s = stream.first_token_s - context.received_s
        tier.first_token.observe(took_s, self._exemplar(context))
        if not context.spare:
            tier.objectives["ttft"].note(took_s <= tier.ttft_s)
        account = self._account_of(context)
        if account is not None:
            account.first_token(stream.request.model, stream.request.tier, took_s)
        figures = _figures(context)
        if figures.first_token_s is None:
            figures.first_token_s = took_s
        if output.cached_tokens:
            tier.cached.inc(output.cached_tokens)
            figures.cached_tokens += output.cached_tokens
        if self.traces is not None:
            self.traces.first_token(stream)

    def ended(self, stream: Stream) -> None:
        tier = self._of(stream)
        if stream.flight is not None:
            tier.in_flight.dec()
        if self.traces is not None:
            self.traces.ended(stream)
        if stream.tokens == 0:
            waited_s = asyncio.get_running_loop().time() - stream.context.received_s
            # Its client gave up, or it was refused, too late.
            if waited_s > tier.ttft_s and not stream.context.spare:
                tier.objectives["ttft"].note(False)
            return
        analysis, final = stream.counted
        tier.analysis.inc(analysis)
        tier.final.inc(final)
        figures = _figures(stream.context)
        figures.output_tokens += analysis + final
        figures.analysis_tokens += analysis
        if stream.answer_s is not None:
            took_s = stream.answer_s - stream.context.received_s
            tier.first_answer.observe(took_s, self._exemplar(stream.context))
            if figures.answer_s is None:
                figures.answer_s = took_s
        if stream.tokens > 1 and not stream.recalled:
            took_s = stream.last_token_s - stream.first_token_s
            interval_s = took_s / (stream.tokens - 1)
            tier.token_interval.observe(interval_s)
            if not stream.context.spare:
                tier.objectives["tpot"].note(interval_s <= tier.tpot_s)
            account = self._account_of(stream.context)
            if account is not None:
                account.ended(stream.request.model, stream.request.tier, interval_s)

    def observe_fleet(self, router: Router) -> None:
        """Refresh what is a state and not an event."""
        for (model, tier), children in self._tiers.items():
            children.queue_length.set(router.queues[model].length(tier))
        counts = dict.fromkeys(self._replicas, 0)
        for replica in router.fleet:
            key = replica.traits.model, replica.traits.pool
            counts[key] = counts.get(key, 0) + 1
        for key, gauge in self._replicas.items():
            gauge.set(counts[key])
        if router.shadow is not None:
            self._observe_shadow(router.shadow.count)
        if self._rounds % COVERAGE_ROUNDS == 0:
            self._observe_coverage(router)
            now = asyncio.get_running_loop().time()
            for (model, tier), children in self._tiers.items():
                children.drain.set(router.drain_s(model, tier, now))
            self._traffic.observe()
        self._rounds += 1

    def _observe_shadow(self, count: ShadowCount) -> None:
        seen, self._shadow_seen = self._shadow_seen, replace(count)
        differing = count.differing - seen.differing
        self._shadow.labels("other").inc(differing)
        self._shadow.labels("same").inc(count.decisions - seen.decisions - differing)
        self.metrics.gauge("trireme_shadow_gain_seconds").set(count.regret_s)

    def _observe_coverage(self, router: Router) -> None:
        gauge = self.metrics.gauge("trireme_prediction_coverage_ratio")
        for tier in TIERS:
            for level, share in router.predictor.calibration.coverage(tier).items():
                gauge.labels(tier, str(level)).set(share)

    def observe_news(self, ages_s: Mapping[tuple[str, str], float]) -> None:
        """Refresh how old the oldest load report of each pool is."""
        for key, gauge in self._news.items():
            gauge.set(ages_s.get(key, 0.0))

    def objectives(self) -> list[dict[str, Any]]:
        """How often each objective was kept and missed since the start, for operators."""
        return [
            {
                "model": model,
                "tier": tier,
                "objective": name,
                "kept": objective.kept,
                "missed": objective.missed,
            }
            for (model, tier), children in self._tiers.items()
            for name, objective in children.objectives.items()
        ]

    def refused(self, stream: Stream, refusal: Refusal) -> None:
        """The router refused a generation."""
        reason = "no_replica" if refusal.no_replica else refusal.why.name.lower()
        self._refused.labels(stream.request.model, stream.request.tier, reason).inc()

    def request_done(self, context: RequestContext, outcome: str) -> None:
        """A request has ended; ``outcome`` is one of ``trireme_requests``."""
        model, tier = context.model or UNKNOWN_MODEL, context.tier
        self._requests.labels(model, tier, outcome).inc()
        kept = SERVED.get(outcome)
        if kept is not None and context.model and not context.spare:
            self._tiers[model, tier].objectives["served"].note(kept)
        if context.asked_tier is not None:
            self._browned_out.labels(model, context.asked_tier, tier).inc()
        account = self._account_of(context)
        if outcome == "refused" and account is not None:
            account.refused(model, tier)

    def _account_of(self, context: RequestContext) -> Account | None:
        """What the autoscaler is told of the request: nothing, where it belongs to a batch."""
        return None if context.spare else self.account

    def _exemplar(self, context: RequestContext) -> dict[str, str] | None:
        """The trace of a request, as its measurements point to it."""
        return None if self.traces is None else self.traces.exemplar(context)


def _figures(context: RequestContext) -> Figures:
    if context.figures is None:
        context.figures = Figures()
    return context.figures
