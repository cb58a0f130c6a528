"""Threads for calls that block: never the event loop's own time, and never for long."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from cluster.errors import StoreAway
from cluster.tenants.store import StoreError

log = logging.getLogger("trireme.gateway")

T = TypeVar("T")


class Threads:
    """``at_once`` calls at a time; ``most`` more may wait. ``prepare`` comes before each."""

    def __init__(self, name: str, at_once: int, most: int, prepare: Callable[[], None]) -> None:
        self._name = name
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix=name)
        self._most = at_once + most
        self._prepare = prepare
        self._pending = 0

    async def run(self, call: Callable[[], T], wait_s: float | None = None) -> T:
        """Raises ``StoreAway`` where the store or the folder does not answer, or not in time, and
        else what ``call`` raises."""
        if self._pending >= self._most:
            raise StoreAway

        def prepared() -> T:
            self._prepare()
            return call()

        self._pending += 1
        work = asyncio.get_running_loop().run_in_executor(self._pool, prepared)
        work.add_done_callback(self._over)
        try:
            async with asyncio.timeout(wait_s):
                return await asyncio.shield(work)
        except (StoreError, OSError) as error:
            # Not the driver's words: they repeat the statement, values and all.
            log.warning("the store of %s does not answer: %s", self._name, type(error).__name__)
            raise StoreAway from None

    def _over(self, work: "asyncio.Future[Any]") -> None:
        self._pending -= 1
        if not work.cancelled():
            work.exception()  # nobody may be waiting for it any more

    def stop(self) -> None:
        """What hangs is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
