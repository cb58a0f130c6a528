"""The fleet as one engine: admits, places and follows every generation of this gateway.

It drives the pure router with the clock and the channel. Everything runs on one event loop; no
method here waits, so a generation's state never changes halfway through one.

A generation outlives its replica. Each attempt has a number of its own on the channel, so whatever
an earlier replica still sends for it is nobody's, and the next replica is told the tokens so far.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable

from cluster.config import FailoverConfig
from cluster.errors import (
    InvalidRequest,
    NoReplica,
    Overloaded,
    PoisonRequest,
    ReplicaLost,
    TriremeError,
)
from deployments.engine.channel.client import EngineGone, EngineLink, LinkSettings
from deployments.engine.channel.frames import (
    ABORTED,
    ERROR,
    LENGTH,
    REPETITION,
    STOP,
    Output,
    Poison,
    Refused,
    Sampling,
    Step,
    Welcome,
)
from deployments.gateway.context import RequestContext
from deployments.gateway.gauges import FleetMetrics
from deployments.gateway.links import Links, Member
from deployments.gateway.metering import Metering
from deployments.gateway.quarantine import Quarantine, fingerprint
from deployments.gateway.resume import journal_name
from deployments.gateway.returning import Returning
from deployments.gateway.runaway import RunawayGuard
from deployments.gateway.streams import AnswerWatch, FrontEnd, Stream
from deployments.router import (
    Lost,
    Placed,
    Refusal,
    Replica,
    Request,
    Router,
    Why,
)
from deployments.router.draining import Drains
from deployments.router.prefixes import block_hashes
from deployments.router.recovery import ACQUITTED_TOKENS
from deployments.router.watch import Watch, WatchLimits

log = logging.getLogger("trireme.gateway")

TICK_S = 0.05
"""How often queued requests and replicas are looked at when no frame makes a reason to."""

BROKEN = (ERROR, ABORTED)
"""How an engine ends a request that it could not serve; one that we abort gets no answer."""


def watch_limits(failover: FailoverConfig) -> WatchLimits:
    """The watch's part of the settings."""
    return WatchLimits(
        failover.hang_steps,
        failover.hang_min_s,
        failover.hang_first_s,
        failover.hang_max_s,
        failover.slow_factor,
        failover.slow_after_s,
        failover.eject_s,
        failover.max_ejected_share,
    )


MET = {
    Why.FULL: "found no place in",
    Why.WAITED: "waited too long in",
    Why.DISPLACED: "made room for another tenant's in",
}


class FleetClient:
    """``members`` come through ``update_members``; front-ends call ``submit`` and ``abort``."""

    def __init__(
        self,
        router: Router,
        settings: LinkSettings,
        metrics: FleetMetrics,
        failover: FailoverConfig | None = None,
        guard: RunawayGuard | None = None,
    ) -> None:
        failover = failover or FailoverConfig()
        self.router = router
        self.settings = settings
        self.metrics = metrics
        self.guard = guard or RunawayGuard()
        self.quarantine = Quarantine(failover.quarantine_s)
        self.metering: Metering | None = None
        self._watch = Watch(watch_limits(failover))
        self._drains = Drains(failover.drain_finish_s)
        self._probes: dict[str, int] = {}
        """Of replicas that hang, the number of a stream that was left there: by it they show that
        they make steps again."""
        self._links = Links(router, settings, self)
        self._streams: dict[str, Stream] = {}
        self._by_number: dict[int, Stream] = {}
        self._returning = Returning(self)
        self._numbers = itertools.count(1)
        self._ticker: asyncio.Task[None] | None = None

    # -------------------------------------------------------------- life

    def start(self) -> None:
        self._ticker = asyncio.create_task(self._tick())

    async def stop(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
        for stream in list(self._streams.values()):
            if stream.link is not None:
                stream.link.abort([stream.number])
            self._fail(stream, NoReplica("This gateway is being stopped."))
        self._returning.stop()
        await self._links.close()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                self._look_after_replicas()
                self._expire()
                self._dispatch()
                self._links.retire(self._now())
                self.metrics.observe_fleet(self.router)
                self.metrics.observe_recovery(self.router)
                self.metrics.observe_news(self._links.news_ages_s(self._now()))
                if self.metering is not None:
                    self.metering.observe(self.router.fleet)
            except Exception:
                # The ticker must outlive any one bad round; streams go on without it.
                log.exception("a round of the fleet's ticker failed")

    def update_members(self, members: Iterable[Member]) -> None:
        """The replicas that exist now. New ones are connected to, gone ones are let go of."""
        self._links.update(members, self._now())

    # -------------------------------------------------------------- front-end -> fleet

    def submit(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        sampling: Sampling,
        encoded: bytes,
        context: RequestContext,
        front_end: FrontEnd,
        variant: Callable[[], bytes] = bytes,
    ) -> None:
        """Admit one generation. A refusal comes back through ``front_end.fail``.

        ``sampling`` and ``encoded`` name a seed if tokens are drawn at all, so that another replica
        can go on with the same ones. ``variant`` tells requests with the same prompt apart."""
        model, tier, now = context.model, context.tier, self._now()
        request = Request(
            request_id,
            model,
            tier,
            len(prompt_token_ids),
            sampling.max_tokens,
            tenant="" if context.caller is None else context.caller.tenant,
            tools=context.tools,
            # Near its limits it goes behind others, and so not ahead of any.
            ahead=context.ahead and not context.behind,
            behind=context.behind,
            spare=context.spare,
            blocks=block_hashes(prompt_token_ids, context.cache_salt),
        )
        stream = Stream(
            request,
            next(self._numbers),
            prompt_token_ids,
            sampling,
            encoded,
            context,
            front_end,
            variant,
            watch=AnswerWatch(self.guard.max_analysis_tokens.get(tier)),
        )
        if self.quarantine and self._print_of(stream) in self.quarantine:
            self.metrics.quarantine_refused(stream)
            front_end.fail(stream, PoisonRequest())
            return
        if context.resume is not None:
            secret, tenant = self.settings.secret, request.tenant
            stream.journal = journal_name(secret, context.resume, tenant, self._print_of(stream))
            if context.resume.shown is not None:
                self._returning.take_up(stream)
                return
        refusal = self.router.admit(request, now)
        if refusal is not None:
            self.metrics.refused(stream, refusal)
            front_end.fail(stream, _error_of(refusal))
            return
        self._streams[request_id] = stream
        self._dispatch()

    def _print_of(self, stream: Stream) -> str:
        return fingerprint(
            self.settings.secret, stream.request.model, stream.prompt_token_ids, stream.variant()
        )

    def adopt(self, stream: Stream) -> None:
        """Take in a stream that another gateway began. It goes on before all that is queued."""
        self._streams[stream.request.request_id] = stream
        self.router.adopt(stream.request, stream.recalled, self._now())
        self._dispatch()

    def abort(self, request_ids: Iterable[str]) -> None:
        """The front-end has no more use for these (client gone, or a stop string was met)."""
        for request_id in request_ids:
            self._returning.abort(request_id)
            stream = self._streams.get(request_id)
            if stream is not None:
                if stream.link is not None:
                    stream.link.abort([stream.number])
                self._end(stream, complete=False)
        self._dispatch()

    # -------------------------------------------------------------- placing

    def _dispatch(self) -> None:
        if not self.router.waiting:
            return
        now = self._now()
        with self.metrics.deciding():
            placements = self.router.placements(now)
        for placed in placements:
            self._send(placed)

    def _send(self, placed: Placed) -> None:
        flight = placed.flight
        request = flight.request
        stream = self._streams[request.request_id]
        link = self._links[flight.replica_id]
        stream.context.replica_id = flight.replica_id
        stream.context.decision = placed.decision
        self.metrics.placed(stream, placed)
        number = next(self._numbers) if stream.placements else stream.number
        stream.flight, stream.link = flight, link
        self._by_number[number] = stream
        priority = self.router.priority(request)
        link.submit(stream.submission(number, priority, on_trial=flight.on_trial))

    def _withdraw(self, stream: Stream, *, abort: bool = True) -> int:
        """The stream has left its replica; what still comes from there is nobody's. Returns the
        number under which it was known there."""
        number = stream.number
        self._by_number.pop(number, None)
        if abort and stream.link is not None:
            stream.link.abort([number])
        if self.metering is not None:
            self.metering.left(stream)
        stream.link = stream.flight = None
        return number

    def _expire(self) -> None:
        for waiting, refusal in self.router.expired(self._now()):
            stream = self._streams[waiting.request.request_id]
            if stream.emitted:
                self._fail(stream, ReplicaLost("No replica could go on with this request."))
            else:
                self.metrics.refused(stream, refusal)
                self._fail(stream, _error_of(refusal))

    # -------------------------------------------------------------- fleet -> front-end

    def on_up(self, link: EngineLink, welcome: Welcome) -> None:
        member = self._links.join(link, welcome, self._now())
        if member is None:
            return  # left the directory while the link was being made
        log.info("replica %s of pool %s is up", link.endpoint.replica_id, member.pool)
        for poison in self.quarantine.standing(self._now()):
            link.warn(poison)
        self._dispatch()

    def on_step(self, link: EngineLink, step: Step) -> None:
        """The hot path: runs once a frame, its loop once a token."""
        now = self._now()
        ended: list[tuple[Stream, int]] = []
        batches: dict[FrontEnd, list[tuple[Stream, Output]]] = {}
        for output in step.outputs:
            stream = self._by_number.get(output.stream)
            if stream is None or stream.link is not link:
                continue  # aborted or moved, while these tokens were on their way
            finish = output.finish
            if finish is not None:
                if finish == REPETITION:
                    finish = self._looped(stream, output)
                ended.append((stream, finish))
                if finish in BROKEN:
                    continue
                stream.context.settled = True
            tokens, flight = output.tokens, stream.flight
            if tokens and flight is not None:
                before = flight.emitted
                flight.emitted = before + len(tokens)
                if not before:
                    self._begun(stream, output, now)
                elif flight.emitted > flight.predicted:
                    self.router.on_outgrown(flight)
                    if self.metering is not None:
                        self.metering.outgrown(stream)
                if flight.request.deaths and flight.emitted >= ACQUITTED_TOKENS:
                    self.router.on_acquitted(flight)
                if stream.note(tokens, now) and finish is None:
                    ended.append((stream, self._cut(stream, output)))
            batch = batches.get(stream.front_end)
            if batch is None:
                batch = batches[stream.front_end] = []
            batch.append((stream, output))
        for front_end, batch in batches.items():
            front_end.deliver(batch)
        for stream, finish in ended:
            if finish in BROKEN:
                lost = self.router.on_flight_lost(stream.request.request_id, now)
                self._go_on(lost, "failed")
            else:
                # One that its token limit has cut says nothing of how long replies are.
                self._end(stream, complete=finish == STOP)
        # The report is of after the step: those that ended in it are no longer in it.
        load = self._links.load(link, step.load, step.yours)
        self.router.on_load(link.endpoint.replica_id, load, now)
        if ended:
            self._dispatch()

    def _begun(self, stream: Stream, output: Output, now: float) -> None:
        """The first tokens of an attempt have come."""
        assert stream.flight is not None
        self.router.on_first_token(stream.flight)
        if self.metering is not None:
            self.metering.begun(stream, output.cached_tokens)
        if stream.emitted:
            exact = self._links.is_exact(stream.flight.replica_id)
            self.metrics.resumed(stream, now, exact=exact)
            return
        stream.context.settled = True
        stream.first_token_s = now
        self.metrics.first_token(stream, output)

    def _cut(self, stream: Stream, output: Output) -> int:
        """It thinks for too long: these are its last tokens, as if a limit had been reached."""
        assert stream.link is not None
        stream.link.abort([stream.number])
        self.metrics.runaway(stream, "analysis")
        output.finish = LENGTH
        return LENGTH

    def _looped(self, stream: Stream, output: Output) -> int:
        """Its engine saw a loop. Only who has asked for that reads `repetition`: no client of
        OpenAI's knows such an end."""
        self.metrics.runaway(stream, "repetition")
        if stream.context.guarded:
            output.finish, output.stop_reason = LENGTH, None
        return LENGTH

    def on_refused(self, link: EngineLink, refused: Refused) -> None:
        stream = self._by_number.get(refused.stream)
        if stream is None or stream.link is not link:
            return
        if not refused.retryable:
            begun = "The replica that took this request over cannot go on with it."
            error = ReplicaLost(begun) if stream.emitted else InvalidRequest(refused.message)
            self._fail(stream, error)
            return
        if self.router.on_refused(stream.request.request_id, self._now()) is None:
            self._fail(stream, NoReplica())
            return
        self.metrics.retried(stream, "refused")
        self._withdraw(stream, abort=False)
        self._dispatch()

    def on_down(self, link: EngineLink, error: Exception | None) -> None:
        replica_id = link.endpoint.replica_id
        if not self._links.holds(link):
            return  # closed by us
        died = isinstance(error, EngineGone)
        tried = self._tried(replica_id, error)
        lost = self.router.on_replica_lost(replica_id, self._now(), died=died, tried=tried)
        self._watch.forget(replica_id)
        self._probes.pop(replica_id, None)
        self.metrics.reconnects.inc()
        if lost.retried or lost.failed or lost.poisoned:
            log.warning("replica %s lost: %s; %s", replica_id, error, _told(lost))
        self._go_on(lost, "died" if died else "replica_lost")
        self._dispatch()

    # -------------------------------------------------------------- faults

    def _tried(self, replica_id: str, error: Exception | None) -> str:
        """The request of ours that the replica was trying when it died, as it says itself.

        A process that vanished says nothing, and may not have heard of ours: that convicts only
        what has lost two engines before."""
        replica = self.router.fleet.get(replica_id)
        if not isinstance(error, EngineGone) or replica is None:
            return ""
        if error.trial is not None:
            stream = self._by_number.get(error.trial)
            return "" if stream is None else stream.request.request_id
        flight = replica.flights.get(replica.trial or "")
        return flight.request.request_id if flight and flight.request.deaths > 1 else ""

    def _go_on(self, lost: Lost, cause: str, *, keep_one: bool = False) -> None:
        """What lost its replica waits for another one. ``keep_one``: one is left there as a probe.

        Frees what the old replica still does for them."""
        for request in lost.retried:
            stream = self._streams[request.request_id]
            self.metrics.retried(stream, cause)
            if keep_one and stream.flight is not None:
                self._probes[stream.flight.replica_id] = stream.number
            self._withdraw(stream, abort=not keep_one)
            keep_one = False
        for flight in (*lost.failed, *lost.poisoned):
            stream = self._streams[flight.request.request_id]
            if stream.link is not None:
                stream.link.abort([stream.number])
        for flight in lost.failed:
            self._fail(self._streams[flight.request.request_id], ReplicaLost())
        for flight in lost.poisoned:
            stream, request = self._streams[flight.request.request_id], flight.request
            self._put_into_quarantine(stream)
            log.error("request %s is quarantined: two engines died with it", request.request_id)
            self._fail(stream, PoisonRequest())

    def _put_into_quarantine(self, stream: Stream) -> None:
        request = stream.request
        poison = Poison(
            self._print_of(stream),
            request.model,
            request.tier,
            stream.context.request_id,
            self.quarantine.ttl_s,
        )
        self.quarantine.add(poison, self._now())
        for link in self._links:
            link.warn(poison)
        self.metrics.quarantined(stream)

    def on_poison(self, poison: Poison) -> None:
        """Another gateway has found out what engines die of."""
        if self.quarantine.add(poison, self._now()):
            log.warning("request %s is in quarantine, says another gateway", poison.request_id)

    def _look_after_replicas(self) -> None:
        """Put aside what hangs or is slow, and lead requests away from replicas that are left."""
        now = self._now()
        self.quarantine.expire(now)
        found = self._watch.look(self.router.fleet, now)
        for replica in found.hung:
            lost = self.router.on_replica_hung(replica.replica_id, now)
            log.warning("replica %s makes no steps; %s", replica.replica_id, _told(lost))
            self.metrics.ejected(replica, "hung")
            self._go_on(lost, "hung", keep_one=True)
        for replica in found.slow:
            log.warning("replica %s is slow and put aside", replica.replica_id)
            self.metrics.ejected(replica, "slow")
            self.router.fleet.shun(replica, shunned=True)
        for replica in found.well:
            log.info("replica %s is tried again", replica.replica_id)
            self.router.fleet.shun(replica, shunned=False)
            probe = self._probes.pop(replica.replica_id, None)
            if probe is not None:
                self._links[replica.replica_id].abort([probe])
        left = [each for each in self.router.fleet if each.load.draining or each.shunned]
        self._drains.keep({replica.replica_id for replica in left})
        for replica in left:
            if replica.flights:
                self._lead_away(replica, "drained" if replica.load.draining else "slow")

    def _lead_away(self, replica: Replica, cause: str) -> None:
        now = self._now()
        for flight in self._drains.to_move(replica, now):
            stream = self._streams[flight.request.request_id]
            placed = self.router.move(flight.request.request_id, now)
            if placed is None:
                return  # there is no room, or the budget is used up: later
            self.metrics.retried(stream, cause)
            self._withdraw(stream)
            self._send(placed)

    # -------------------------------------------------------------- ends

    def _end(self, stream: Stream, *, complete: bool) -> None:
        request_id = stream.request.request_id
        del self._streams[request_id]
        self._by_number.pop(stream.number, None)
        self.router.on_finished(request_id, self._now(), complete=complete)
        self.metrics.ended(stream)
        if self.metering is not None:
            self.metering.ended(stream)

    def _fail(self, stream: Stream, error: TriremeError) -> None:
        if stream.request.request_id in self._streams:
            self._end(stream, complete=False)
            stream.front_end.fail(stream, error)

    # -------------------------------------------------------------- views

    @property
    def streams(self) -> int:
        """Generations queued or running for this gateway's clients."""
        return len(self._streams)

    def links_of(self, model: str) -> list[EngineLink]:
        """The connections to the replicas of ``model``."""
        return self._links.of_model(model)

    def is_up(self, replica_id: str) -> bool:
        """Whether there is a connection to the replica."""
        return self._links.is_up(replica_id)

    def aside(self, replica_id: str) -> str:
        """Why a replica gets nothing: ``hung``, ``slow``, or nothing."""
        return self._watch.aside(replica_id)

    def ready_for(self, model: str) -> bool:
        """Whether some replica of ``model`` is connected and takes requests."""
        return any(
            replica.traits.model == model and not replica.load.draining and not replica.shunned
            for replica in self.router.fleet
        )

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _error_of(refusal: Refusal) -> TriremeError:
    if refusal.no_replica:
        return NoReplica(retry_after_s=refusal.retry_after_s)
    return Overloaded(
        f"The request {MET[refusal.why]} the queue for tier '{refusal.tier}' "
        f"({refusal.queued} wait). Try again in {refusal.retry_after_s:.0f} s.",
        retry_after_s=refusal.retry_after_s,
    )


def _told(lost: Lost) -> str:
    return (
        f"{len(lost.retried)} generations go on elsewhere, {len(lost.failed)} failed, "
        f"{len(lost.poisoned)} are quarantined"
    )
