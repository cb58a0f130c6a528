"""Clients that come back for a stream which another gateway began, and how theirs go on here."""

import asyncio
import logging
from collections.abc import Iterable
from typing import Protocol

from cluster.errors import InternalError, NoReplica, StreamGone
from deployments.engine.channel.client import EngineLink
from deployments.engine.channel.frames import LENGTH, REPETITION
from deployments.gateway.gauges import FleetMetrics
from deployments.gateway.metering import Metering
from deployments.gateway.resumption import Found, recall
from deployments.gateway.streams import Stream

log = logging.getLogger("trireme.gateway")


class Fleet(Protocol):
    """What a stream that comes back needs of the fleet."""

    metrics: FleetMetrics
    metering: Metering | None

    def links_of(self, model: str) -> Iterable[EngineLink]:
        """The connections to the replicas of ``model``."""

    def adopt(self, stream: Stream) -> None:
        """Take it in as one that has lost its replica: it goes on before all that is queued."""


class Returning:
    """Such streams, while it is found out what they have written. ``streams.journal`` is set."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._open: dict[str, tuple[Stream, asyncio.Task[None]]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def take_up(self, stream: Stream) -> None:
        task = asyncio.create_task(self._resume(stream))
        self._open[stream.request.request_id] = stream, task

    def abort(self, request_id: str) -> None:
        """Its client has left again."""
        stream, task = self._open.pop(request_id, (None, None))
        if stream is not None and task is not None:
            task.cancel()
            self._over(stream)

    def stop(self) -> None:
        left, self._open = list(self._open.values()), {}
        for stream, task in left:
            task.cancel()
            stream.front_end.fail(stream, NoReplica("This gateway is being stopped."))

    async def _resume(self, stream: Stream) -> None:
        """Give the front-end what was written elsewhere, and go on from there."""
        try:
            found = await recall(self._fleet.links_of(stream.request.model), stream.journal)
            if found is None:
                self._fleet.metrics.taken_up(stream, "gone")
                stream.front_end.fail(stream, StreamGone())
            else:
                await self._replay(stream, found)
        except Exception as error:
            log.exception("a stream could not be resumed")
            stream.front_end.fail(stream, InternalError(str(error)))
        finally:
            self._open.pop(stream.request.request_id, None)

    async def _replay(self, stream: Stream, found: Found) -> None:
        context, now = stream.context, asyncio.get_running_loop().time()
        stream.placements = 1  # elsewhere
        stream.recalled = len(found.tokens)
        stream.paid = stream.recalled if found.lives else 0
        finish = found.finish
        if found.tokens and stream.note(found.tokens, now) and finish is None:
            finish = LENGTH  # where it may not think any longer, it was cut there too
        stream.answer_s = None
        if self._fleet.metering is not None:
            self._fleet.metering.resumed(stream, found.cached_tokens, paid=found.lives)
        context.settled = True
        for outputs in found.outputs(stream.number, finish):
            if outputs[-1].finish == REPETITION and context.guarded:
                outputs[-1].finish, outputs[-1].stop_reason = LENGTH, None
            stream.front_end.deliver([(stream, output) for output in outputs])
            await asyncio.sleep(0)
        if finish is None:
            self._fleet.metrics.taken_up(stream, "continued")
            self._fleet.adopt(stream)
        else:
            self._fleet.metrics.taken_up(stream, "complete")
            self._over(stream)

    def _over(self, stream: Stream) -> None:
        """It ends before a replica of ours had anything to do with it."""
        self._fleet.metrics.ended(stream)
        if self._fleet.metering is not None:
            self._fleet.metering.ended(stream)
