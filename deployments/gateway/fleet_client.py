"""The fleet as one engine: admits, places and follows every generation of this gateway.

It drives the pure router with the clock and the channel. Everything runs on one event loop; no
method here waits, so a generation's state never changes halfway through one.
"""

import asyncio
import itertools
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from cluster.config import Tier
from cluster.errors import InvalidRequest, NoReplica, Overloaded, ReplicaLost, TriremeError
from cluster.steptime import StepModel
from deployments.engine.channel.client import Endpoint, EngineLink, LinkSettings
from deployments.engine.channel.frames import (
    ERROR,
    STOP,
    Load,
    Output,
    Refused,
    Sampling,
    Step,
    Submit,
    Welcome,
)
from deployments.gateway.context import RequestContext
from deployments.gateway.gauges import FleetMetrics
from deployments.gateway.streams import FrontEnd, Stream
from deployments.router import Refusal, RemoteLoad, Request, Router, Traits, Why
from deployments.router.prefixes import block_hashes

log = logging.getLogger("trireme.gateway")

TICK_S = 0.05
"""How often queued requests are looked at when no frame makes a reason to."""

MET = {
    Why.FULL: "found no place in",
    Why.WAITED: "waited too long in",
    Why.DISPLACED: "made room for another tenant's in",
}


@dataclass(frozen=True)
class Member:
    """A replica as the directory (Ray Serve) lists it."""

    endpoint: Endpoint
    model: str
    pool: str
    tiers: frozenset[Tier]
    lends_to: frozenset[Tier]
    steps: StepModel


class FleetClient:
    """``members`` come through ``update_members``; front-ends call ``submit`` and ``abort``."""

    def __init__(self, router: Router, settings: LinkSettings, metrics: FleetMetrics) -> None:
        self.router = router
        self.settings = settings
        self.metrics = metrics
        self._links: dict[str, EngineLink] = {}
        self._members: Mapping[str, Member] = {}
        self._streams: dict[str, Stream] = {}
        self._by_number: dict[int, Stream] = {}
        self._numbers = itertools.count(1)
        self._ticker: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

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
        links, self._links = list(self._links.values()), {}
        for link in links:
            await link.close()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                self._expire()
                self._dispatch()
                self._retire_links()
                self.metrics.observe_fleet(self.router)
            except Exception:
                # The ticker must outlive any one bad round; streams go on without it.
                log.exception("a round of the fleet's ticker failed")

    # -------------------------------------------------------------- the directory

    def update_members(self, members: Iterable[Member]) -> None:
        """The replicas that exist now. New ones are connected to, gone ones are let go of."""
        self._members = {member.endpoint.replica_id: member for member in members}
        for replica_id, member in self._members.items():
            if replica_id not in self._links:
                link = self._links[replica_id] = EngineLink(member.endpoint, self.settings, self)
                link.open()
        for replica in self.router.fleet:
            if replica.traits.replica_id not in self._members:
                leaving = replace(replica.load, draining=True)
                self.router.on_load(replica.traits.replica_id, leaving, self._now())

    def _retire_links(self) -> None:
        """Close links to replicas that have left the directory, once nothing runs on them."""
        for replica_id in [each for each in self._links if each not in self._members]:
            replica = self.router.fleet.get(replica_id)
            if replica is None or not replica.flights:
                closing = asyncio.create_task(self._links.pop(replica_id).close())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
                self.router.on_replica_lost(replica_id, self._now())

    # -------------------------------------------------------------- front-end -> fleet

    def submit(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        sampling: Sampling,
        encoded: bytes,
        context: RequestContext,
        front_end: FrontEnd,
    ) -> None:
        """Admit one generation. A refusal comes back through ``front_end.fail``."""
        model, tier, now = context.model, context.tier, self._now()
        request = Request(
            request_id,
            model,
            tier,
            len(prompt_token_ids),
            sampling.max_tokens,
            tools=context.tools,
            blocks=block_hashes(prompt_token_ids),
        )
        number = next(self._numbers)
        priority = self.router.priority(tier, model)
        submit = Submit(number, prompt_token_ids, sampling, priority, tier, encoded)
        stream = Stream(request, number, submit, context, front_end)
        refusal = self.router.admit(request, now)
        if refusal is not None:
            front_end.fail(stream, _error_of(refusal))
            return
        self._streams[request_id] = stream
        self._by_number[number] = stream
        self._dispatch()

    def abort(self, request_ids: Iterable[str]) -> None:
        """The front-end has no more use for these (client gone, or a stop string was met)."""
        for request_id in request_ids:
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
            flight = placed.flight
            stream = self._streams[flight.request.request_id]
            link = self._links[flight.replica_id]
            stream.flight, stream.link = flight, link
            stream.context.replica_id = flight.replica_id
            stream.context.decision = placed.decision
            self.metrics.placed(stream, placed)
            link.submit(stream.submit)

    def _expire(self) -> None:
        for waiting, refusal in self.router.expired(self._now()):
            self._fail(self._streams[waiting.request.request_id], _error_of(refusal))

    # -------------------------------------------------------------- fleet -> front-end

    def on_up(self, link: EngineLink, welcome: Welcome) -> None:
        replica_id = link.endpoint.replica_id
        member = self._members.get(replica_id)
        if member is None:
            return  # left the directory while the link was being made
        self.router.on_replica_joined(
            Traits(
                replica_id,
                member.model,
                member.pool,
                member.tiers,
                member.lends_to,
                welcome.max_num_seqs,
                welcome.max_model_len,
                welcome.kv_tokens,
                member.steps,
            )
        )
        load = self._remote(link, welcome.load, (0, 0, 0))
        self.router.on_load(replica_id, load, self._now())
        log.info("replica %s of pool %s is up", replica_id, member.pool)
        self._dispatch()

    def on_step(self, link: EngineLink, step: Step) -> None:
        """The hot path: runs once a frame, its loop once a token."""
        now = self._now()
        ended: list[tuple[Stream, int]] = []
        batches: dict[FrontEnd, list[tuple[Stream, Output]]] = {}
        for output in step.outputs:
            stream = self._by_number.get(output.stream)
            if stream is None or stream.link is not link:
                continue  # aborted, while these tokens were on their way
            if stream.note(output.tokens, now):
                assert stream.flight is not None
                stream.context.settled = True
                self.router.on_first_token(stream.flight)
                self.metrics.first_token(stream, output)
            elif stream.flight is not None and stream.tokens > stream.flight.predicted:
                self.router.on_outgrown(stream.flight)
            if output.finish is not None:
                ended.append((stream, output.finish))
                if output.finish == ERROR:
                    continue
                stream.context.settled = True
            batch = batches.get(stream.front_end)
            if batch is None:
                batch = batches[stream.front_end] = []
            batch.append((stream, output))
        for front_end, batch in batches.items():
            front_end.deliver(batch)
        for stream, finish in ended:
            if finish == ERROR:
                self._fail(stream, ReplicaLost("The engine could not finish this request."))
            else:
                # One that its token limit has cut says nothing of how long replies are.
                self._end(stream, complete=finish == STOP)
        # The report is of after the step: those that ended in it are no longer in it.
        load = self._remote(link, step.load, step.yours)
        self.router.on_load(link.endpoint.replica_id, load, now)
        if ended:
            self._dispatch()

    def on_refused(self, link: EngineLink, refused: Refused) -> None:
        stream = self._by_number.get(refused.stream)
        if stream is None or stream.link is not link:
            return
        if not refused.retryable:
            self._fail(stream, InvalidRequest(refused.message))
            return
        if self.router.on_refused(stream.request.request_id, self._now()) is None:
            self._fail(stream, NoReplica())
            return
        stream.link = stream.flight = None
        self.metrics.retried(stream, "refused")
        self._dispatch()

    def on_down(self, link: EngineLink, error: Exception | None) -> None:
        if self._links.get(link.endpoint.replica_id) is not link:
            return  # closed by us
        lost = self.router.on_replica_lost(link.endpoint.replica_id, self._now())
        self.metrics.reconnects.inc()
        for request in lost.retried:
            stream = self._streams[request.request_id]
            stream.link = stream.flight = None
            self.metrics.retried(stream, "replica_lost")
        for flight in lost.failed:
            self._fail(self._streams[flight.request.request_id], ReplicaLost())
        if lost.failed or lost.retried:
            log.warning(
                "replica %s lost (%s): %d generations retried, %d failed",
                link.endpoint.replica_id,
                error,
                len(lost.retried),
                len(lost.failed),
            )
        self._dispatch()

    # -------------------------------------------------------------- ends

    def _end(self, stream: Stream, *, complete: bool) -> None:
        request_id = stream.request.request_id
        del self._streams[request_id]
        del self._by_number[stream.number]
        self.router.on_finished(request_id, self._now(), complete=complete)
        self.metrics.ended(stream)

    def _fail(self, stream: Stream, error: TriremeError) -> None:
        if stream.request.request_id in self._streams:
            self._end(stream, complete=False)
            stream.front_end.fail(stream, error)

    # -------------------------------------------------------------- views

    @property
    def streams(self) -> int:
        """Generations queued or running for this gateway's clients."""
        return len(self._streams)

    def ready_for(self, model: str) -> bool:
        """Whether some replica of ``model`` is connected and takes requests."""
        return any(
            replica.traits.model == model and not replica.load.draining
            for replica in self.router.fleet
        )

    def _remote(self, link: EngineLink, load: Load, ours: tuple[int, int, int]) -> RemoteLoad:
        """A replica that has left the directory gets nothing new, whatever it says itself."""
        draining = load.draining or link.endpoint.replica_id not in self._members
        return RemoteLoad(
            load.running, load.waiting, load.kv_use, load.step_s, draining, load.by_tier, ours
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
