"""Quotas and usage of the requests that pass a gateway, from their admission to their last token.

A generation is *reserved* once its prompt is tokenised, with the length that the router predicts,
and *settled* with what it wrote when it ends, however that comes about. A request's usage is put
down when it is done and none of its generations runs any more.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping

from cluster.config import Tier, TierFactors
from cluster.errors import TriremeError
from cluster.metrics import Metrics
from cluster.quotas.ledger import Change
from cluster.quotas.limiter import Limiter, given_back
from cluster.quotas.reservation import Reservation
from cluster.quotas.subjects import Subjects
from cluster.quotas.told import error_of, headers_of
from cluster.quotas.work import (
    Refused,
    Verdict,
    Work,
    is_behind,
    used_share,
)
from cluster.usage.prices import Prices
from cluster.usage.queue import UsageQueue
from deployments.gateway.context import RequestContext
from deployments.gateway.gpu_time import GpuTime
from deployments.gateway.lengths import Lengths
from deployments.gateway.meter import Generation, Meter, generation_of, record_of, too_long
from deployments.gateway.refusals import Refusals
from deployments.gateway.streams import Stream
from deployments.gateway.tenant_metrics import TenantMetrics
from deployments.router.fleet import Fleet
from deployments.router.predict import LengthPredictor

CHOOSE_S = 60.0
"""Between choices of the tenants whose figures are told by name."""

Then = Callable[[TriremeError | None], None]


class Metering:
    """``limiter`` None: no quotas; ``queue`` None: no usage. ``gpus`` are those of a replica of
    each pool. ``now`` arguments are on the event loop's clock; ``clock`` gives unix seconds
    for what is written down, ``steady`` seconds of a clock that is never set."""

    def __init__(
        self,
        limiter: Limiter | None,
        queue: UsageQueue | None,
        prices: Prices,
        weights: TierFactors,
        predictor: LengthPredictor,
        metrics: Metrics,
        gpus: Mapping[str, int],
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limiter = limiter
        self.queue = queue
        self._prices = prices
        self._weights = weights
        self._lengths = Lengths(predictor, steady)
        self._gpus = gpus
        self._clock = clock
        self._steady = steady
        self._gpu_time = GpuTime()
        self._subjects = Subjects()
        self._refusals = Refusals()
        self._asking: dict[str, Generation] = {}
        self._none_open: asyncio.Event | None = None
        self.open_requests = 0
        """Requests that were admitted and are not settled."""
        self._refused = metrics.counter("trireme_quota_refusals")
        self._behind = metrics.counter("trireme_quota_demotions")
        self._tenants = TenantMetrics(metrics)
        self._choose_at = steady() + CHOOSE_S
        self._queued = metrics.counter("trireme_usage_records").labels("queued")

    # -------------------------------------------------------------- admission

    def check(self, context: RequestContext) -> None:
        """At the door: raises the refusal of a subject that was refused just now."""
        subjects = self._subjects.of(context.caller, context.tier)[0]
        known = self._refusals.find(subjects, self._steady())
        if known is not None:
            refused, context.rate_limits = known
            self._refused.labels(context.tier, refused.kind).inc()
            raise error_of(refused)

    def admit(
        self,
        context: RequestContext,
        request_id: str,
        prompt: str,
        prompt_tokens: int,
        max_tokens: int,
        then: Then,
    ) -> None:
        """Reserve for one generation, then tell ``then``: now, or when Redis has answered.

        ``prompt`` names its prompt: the generations of one prompt pay for it once."""
        meter = self._meter(context)
        share = prompt_tokens if prompt not in meter.cached else 0
        meter.cached.setdefault(prompt, 0)
        generation = meter.open[request_id] = Generation(prompt, share)
        if self.limiter is None or not meter.subjects:
            then(None)
            return
        predicted = self._lengths.most(context, prompt_tokens, max_tokens)
        work = self._work(context, share, predicted, 0, requests=0 if meter.counted else 1)
        refused = too_long(meter.subjects, share)
        if refused is not None:
            self._refuse(context, meter, request_id, refused, then)
            return
        meter.counted = True
        self._asking[request_id] = generation

        def decided(verdict: Verdict) -> None:
            self._asking.pop(request_id, None)
            self._decided(context, meter, request_id, work, verdict, then)

        self.limiter.ask(meter.subjects, work, decided)

    def abort(self, request_ids: list[str]) -> None:
        """Nobody wants these any more; some may not be admitted yet."""
        for request_id in request_ids:
            generation = self._asking.get(request_id)
            if generation is not None:
                generation.aborted = True

    def _meter(self, context: RequestContext) -> Meter:
        meter: Meter | None = context.meter
        if meter is None:
            meter = context.meter = Meter(*self._subjects.of(context.caller, context.tier))
            self.open_requests += 1
        return meter

    def _decided(
        self,
        context: RequestContext,
        meter: Meter,
        request_id: str,
        work: Work,
        verdict: Verdict,
        then: Then,
    ) -> None:
        assert self.limiter is not None
        context.rate_limits = headers_of(meter.subjects, verdict)
        if context.caller is not None:
            share = used_share(meter.subjects, verdict.uses, f"tenant:{context.caller.tenant}")
            self._tenants.used(context.caller.tenant, share)
        if verdict.refused is not None:
            if work.requests:
                meter.counted = False
            self._refuse(context, meter, request_id, verdict.refused, then)
            return
        if work.requests:
            meter.slot = verdict.slot
        generation = meter.open.get(request_id)
        if generation is None or generation.aborted:
            meter.open.pop(request_id, None)
            back = given_back(work._replace(requests=0), verdict.slot)
            self.limiter.change(meter.names, back)
            self._finish(context, meter)
            return
        generation.reservation = Reservation(meter.names, verdict.slot, work._replace(requests=0))
        pairs = zip(meter.subjects, verdict.uses, strict=True)
        if not context.behind and any(is_behind(each, uses) for each, uses in pairs):
            context.behind = True
            self._behind.labels(context.tier).inc()
        then(None)

    def _refuse(
        self, context: RequestContext, meter: Meter, request_id: str, refused: Refused, then: Then
    ) -> None:
        generation = meter.open.pop(request_id, None)
        self._refused.labels(context.tier, refused.kind).inc()
        self._refusals.remember(refused, context.rate_limits, self._steady())
        if generation is None or generation.aborted:
            self._finish(context, meter)
        else:
            then(error_of(refused))

    def _work(
        self,
        context: RequestContext,
        prompt_tokens: int,
        output_tokens: float,
        cached_tokens: int,
        requests: int = 0,
    ) -> Work:
        tier: Tier = context.tier
        tokens = prompt_tokens + round(output_tokens)
        cost = self._prices.cost(context.model, tier, prompt_tokens, output_tokens, cached_tokens)
        return Work(requests, tokens, tokens * self._weights.of(tier), cost)

    # -------------------------------------------------------------- a generation's life

    def begun(self, stream: Stream, cached_tokens: int | None) -> None:
        """Its first token on a replica."""
        generation, flight = generation_of(stream), stream.flight
        if generation is None or flight is None:
            return
        if not stream.emitted:
            generation.cached_tokens = cached_tokens or 0
        replica, request = flight.replica, stream.request
        prompt_s = self._gpu_time.prompt_s(replica, request.prompt_tokens, cached_tokens or 0)
        generation.gpu_s += prompt_s * self._gpus.get(replica.traits.pool, 1)
        generation.share_from = self._gpu_time.share_s(replica)

    def resumed(self, stream: Stream, cached_tokens: int | None, *, paid: bool) -> None:
        """It was begun elsewhere. ``paid``: what it had until then, prompt and all, is counted
        there."""
        generation = generation_of(stream)
        if generation is not None and paid:
            generation.prompt_tokens = 0
        elif generation is not None:
            generation.cached_tokens = cached_tokens or 0

    def left(self, stream: Stream) -> None:
        """It leaves its replica, for another one or for good."""
        generation, flight = generation_of(stream), stream.flight
        if generation is None or flight is None or generation.share_from is None:
            return
        share_s = self._gpu_time.share_s(flight.replica) - generation.share_from
        generation.gpu_s += share_s * self._gpus.get(flight.replica.traits.pool, 1)
        generation.share_from = None

    def outgrown(self, stream: Stream) -> None:
        """It has written more than was predicted: reserve what it is expected to need now."""
        generation, flight = generation_of(stream), stream.flight
        if self.limiter is None or generation is None or generation.reservation is None:
            return
        expected = stream.request.written + (0.0 if flight is None else flight.predicted)
        work = self._work(stream.context, generation.prompt_tokens, expected, 0)
        self.limiter.change(generation.reservation.names, generation.reservation.grown(work))

    def ended(self, stream: Stream) -> None:
        """It is over, whatever the reason."""
        self.left(stream)
        context, meter = stream.context, stream.context.meter
        if meter is None:
            return
        generation = meter.open.pop(stream.request.request_id, None)
        if generation is None:
            return
        prompt_tokens = generation.prompt_tokens if stream.placements else 0
        analysis, final = stream.counted
        meter.prompt_tokens += prompt_tokens
        meter.cached[generation.prompt] = generation.cached_tokens
        meter.analysis_tokens += analysis
        meter.final_tokens += final
        meter.gpu_s += generation.gpu_s
        self._settle(context, generation, prompt_tokens, analysis + final)
        self._finish(context, meter)

    def dropped(self, context: RequestContext, request_id: str) -> None:
        """An admitted generation that never became a stream, if it is one."""
        meter: Meter | None = context.meter
        generation = None if meter is None else meter.open.pop(request_id, None)
        if meter is not None and generation is not None:
            self._settle(context, generation, 0, 0)
            self._finish(context, meter)

    def _settle(
        self, context: RequestContext, generation: Generation, prompt_tokens: int, output: int
    ) -> None:
        if self.limiter is not None and generation.reservation is not None:
            cached = min(prompt_tokens, generation.cached_tokens)
            work = self._work(context, prompt_tokens, output, cached)
            change = generation.reservation.settled(work)
            self.limiter.change(generation.reservation.names, change)

    def observe(self, fleet: Fleet) -> None:
        """Look at all replicas; called some 20 times a second."""
        self._gpu_time.look(fleet)
        now = self._steady()
        if now >= self._choose_at:
            self._choose_at = now + CHOOSE_S
            self._tenants.choose()

    # -------------------------------------------------------------- a request's end

    def done(self, context: RequestContext, outcome: str, now: float) -> None:
        """The response is complete, or nobody reads it."""
        meter: Meter | None = context.meter
        if meter is not None and meter.done is None:
            meter.done = outcome, now - context.received_s
            self._finish(context, meter)

    def _finish(self, context: RequestContext, meter: Meter) -> None:
        if meter.done is None or meter.open:
            return
        self.open_requests -= 1
        context.meter = None
        if self._none_open is not None and not self.open_requests:
            self._none_open.set()
        if self.limiter is not None and meter.slot is not None:
            self.limiter.change(meter.names, Change(meter.slot, concurrent=-1))
        if meter.slot is None and meter.subjects:
            return  # it was refused
        record = record_of(context, meter, self._prices, self._clock())
        if context.caller is not None:
            self._tenants.done(
                record.tenant,
                record.tier_served,
                record.outcome,
                (
                    record.prompt_tokens,
                    record.cached_tokens,
                    record.analysis_tokens,
                    record.final_tokens,
                ),
                record.cost,
            )
        if self.queue is not None:
            self.queue.put(record)
            self._queued.inc()

    async def settled(self, wait_s: float) -> None:
        """Wait until no request is open, at most so long."""
        if self.open_requests:
            self._none_open = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._none_open.wait(), wait_s)
