"""The loop of whoever works through what lies in the store."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from cluster.errors import StoreAway

log = logging.getLogger("trireme.gateway")


async def in_rounds(
    work: Callable[[], Awaitable[None]],
    wake: asyncio.Event,
    pause_s: Callable[[], float],
    what: str,
) -> None:
    """Does ``work`` for ever: after each round it waits for ``pause_s``, or until ``wake``."""
    while True:
        try:
            await work()
        except StoreAway:
            pass  # told by the threads
        except Exception:
            # Must outlive any one bad round.
            log.exception("a round of %s failed", what)
        try:
            async with asyncio.timeout(pause_s()):
                await wake.wait()
        except TimeoutError:
            pass
        wake.clear()
