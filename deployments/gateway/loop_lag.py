"""A watchdog of the event loop: how late it gets to what is due.

Everything of a gateway shares one loop, so whatever holds it up holds all streams up. A turn that
comes late by more than a few milliseconds names a fault, or a gateway with too much to do.
"""

import asyncio
import contextlib

from prometheus_client import Histogram

INTERVAL_S = 0.05
"""A hold-up of 100 ms cannot fall between two looks; a look costs some 20 µs."""


class LoopLag:
    """Measures the running loop from ``start`` to ``stop``; each look goes into ``histogram``.

    ``worst_s`` is the longest lag so far, in seconds.
    """

    def __init__(self, histogram: Histogram) -> None:
        self.worst_s = 0.0
        self._histogram = histogram
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + INTERVAL_S
            await asyncio.sleep(INTERVAL_S)
            late_s = max(0.0, loop.time() - due_s)
            self.worst_s = max(self.worst_s, late_s)
            self._histogram.observe(late_s)
