"""The gateway's metrics, with label sets looked up once and not per token."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from prometheus_client import Counter, Gauge, Histogram

from cluster.config import TIERS, Tier
from cluster.metrics import GATEWAY_METRICS, Metrics
from deployments.engine.channel.frames import Output
from deployments.gateway.streams import Stream
from deployments.router import Placed, Router
from deployments.router.shadow import ShadowCount

COVERAGE_ROUNDS = 20
"""Every how many rounds of the fleet's ticker the predictor's coverage is worked out again: it
moves with requests that end, not with steps."""


@dataclass(frozen=True)
class _TierMetrics:
    """The children of every (model, tier) metric."""

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

    def __init__(self, models: tuple[str, ...], pools: tuple[tuple[str, str], ...]) -> None:
        self.metrics = Metrics(GATEWAY_METRICS)
        self.reconnects = self.metrics.counter("trireme_channel_reconnects")
        self._placements = self.metrics.counter("trireme_placements")
        self._shadow = self.metrics.counter("trireme_shadow_decisions")
        self._shadow_seen = ShadowCount()
        self._rounds = 0
        self._decisions = self.metrics.histogram("trireme_router_decision_seconds")
        self._requests = self.metrics.counter("trireme_requests")
        self._retries = self.metrics.counter("trireme_retried_generations")
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
        return _TierMetrics(
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
        tier.queue_wait.observe(placed.waited_s)
        verdict = placed.decision.choice.verdict.name.lower()
        self._placements.labels(stream.request.model, stream.request.tier, verdict).inc()
        tier.prompt.inc(stream.request.prompt_tokens)

    def retried(self, stream: Stream, cause: str) -> None:
        """The stream has left its replica and is queued again."""
        self._of(stream).in_flight.dec()
        self._retries.labels(stream.request.model, stream.request.tier, cause).inc()

    def first_token(self, stream: Stream, output: Output) -> None:
        tier = self._of(stream)
        tier.first_token.observe(stream.first_token_s - stream.context.received_s)
        if output.cached_tokens:
            tier.cached.inc(output.cached_tokens)

    def ended(self, stream: Stream) -> None:
        tier = self._of(stream)
        if stream.flight is not None:
            tier.in_flight.dec()
        if stream.tokens == 0:
            return
        before = stream.tokens_before_answer
        analysis = stream.tokens if before is None else before
        tier.analysis.inc(analysis)
        tier.final.inc(stream.tokens - analysis)
        if stream.answer_s is not None:
            tier.first_answer.observe(stream.answer_s - stream.context.received_s)
        if stream.tokens > 1:
            took_s = stream.last_token_s - stream.first_token_s
            tier.token_interval.observe(took_s / (stream.tokens - 1))

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

    def request_done(self, model: str, tier: Tier, outcome: str) -> None:
        self._requests.labels(model, tier, outcome).inc()
