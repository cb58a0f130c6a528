"""A gateway's way to the responses that are kept: off its event loop, and never for long."""

import asyncio
import logging
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec

from cluster.batches.files import TooMany
from cluster.config import ResponsesConfig, TriremeConfig
from cluster.conversations.archive import Archive, Kept, NotKept, TooLong
from cluster.conversations.background import Answering, Order, Orders
from cluster.conversations.expiry import Expiry
from cluster.conversations.policy import Policy, may_keep, policy_of
from cluster.conversations.tables import MAX_TENANT
from cluster.errors import InvalidRequest, Overloaded, StoreAway, UnknownResponse, clipped
from cluster.metrics import Metrics
from cluster.tenants.locate import database_url
from cluster.tenants.store import Store, StoreError, open_store
from deployments.gateway.background.later import with_status

log = logging.getLogger("trireme.gateway")

AT_ONCE = 4
MAX_WAITING = 64
"""Calls of the store at a time, and that wait for their turn."""

FULL_PAUSE_S = 10.0
"""Before a tenant that has as many in the background as it may have should ask again."""

_ID = re.compile(r"resp_[A-Za-z0-9_-]{1,120}")
"""What vLLM calls its responses; nothing else is looked for, or kept."""

T = TypeVar("T")


class StoredResponses:
    """What the door asks of the store. ``clock`` is Unix time. ``told`` is called with `kept` or
    `not_kept` for every response that was to be stored.

    A tenant is empty where callers are not told apart. Every read raises ``StoreAway`` after
    ``max_wait_s`` at most.
    """

    def __init__(
        self,
        store: Store,
        config: ResponsesConfig,
        *,
        clock: Callable[[], float] = time.time,
        told: Callable[[str], None] = lambda outcome: None,
    ) -> None:
        self._store = store
        self._config = config
        self._clock = clock
        self.told = told
        self._archive = Archive(store.engine)
        self._orders = Orders(store.engine)
        self.background = config.background
        self.changed: Callable[[], None] = lambda: None
        """Called when there is more, or less, to do in the background."""
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="responses")
        self._pending = 0
        self._migrating = threading.Lock()
        self._migrated = False
        self._expiry = Expiry(store.engine, self._rule, self.prepare)

    def start(self) -> None:
        """Returns at once, whether the store answers or not."""
        self._expiry.start()

    def stop(self) -> None:
        """Blocks a while; a store that hangs is not waited for."""
        self._expiry.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._store.close()

    def answering(self, gateway_id: str) -> Answering:
        """A gateway's part in answering what is in the background. Its calls block."""
        # A gateway that comes again under its name must not take its old leases for its own.
        holder = f"{gateway_id[:64]}:{uuid.uuid4().hex}"
        return Answering(self._store.engine, holder, self.background.lease_s)

    def policy(self, tenant: str) -> Policy | None:
        """None: nothing of the tenant is kept."""
        if not may_keep(self._config, tenant) or len(tenant) > MAX_TENANT:
            return None
        return self._rule(tenant)

    async def conversation(self, tenant: str, response_id: str) -> tuple[list[Any], int]:
        """The items up to and with that response, and their size in bytes.

        Raises ``InvalidRequest`` where it, or one that it goes on from, is not there, or where
        they are too many.
        """
        if _ID.fullmatch(response_id) is None:
            raise _not_found(response_id)
        config = self._config

        def read() -> tuple[list[Any], int]:
            try:
                turns = self._archive.turns(
                    tenant,
                    response_id,
                    self._oldest(tenant),
                    max_turns=config.max_turns,
                    max_bytes=config.max_conversation_bytes,
                )
            except NotKept:
                if self._orders.get(tenant, response_id) is not None:
                    raise _NotOver from None
                raise
            parts = [each for turn in turns for each in turn]
            items = [item for part in parts for item in msgspec.json.decode(part)]
            return items, sum(map(len, parts))

        try:
            return await self._ask(read)
        except NotKept as error:
            raise _not_found(response_id) from error
        except _NotOver as error:
            raise InvalidRequest(
                f"The response '{response_id}' is not over yet: nothing can go on from it.",
                param="previous_response_id",
                code="previous_response_not_found",
            ) from error
        except TooLong as error:
            raise InvalidRequest(
                f"The conversation is too long to go on from: it has {error}.",
                param="previous_response_id",
                code="conversation_too_long",
            ) from error

    async def keep(
        self, tenant: str, previous_id: str | None, items: bytes, response: dict[str, Any]
    ) -> bool:
        """Store a response with the items of its request; returns whether it is now stored.

        What is told holds: a write that came too late to be told of is taken back.
        """
        response_id = response.get("id")
        if not isinstance(response_id, str) or _ID.fullmatch(response_id) is None:
            self.told("not_kept")
            return False
        output = msgspec.json.encode(response["output"])
        rest = msgspec.json.encode({**response, "output": []})
        kept = Kept(tenant, response_id, previous_id, self._clock(), items, output, rest)
        write = _Write(
            lambda: self._archive.put(kept), lambda: self._archive.delete(tenant, response_id)
        )
        done = True
        try:
            await self._ask(write.run)
        except StoreAway:
            done = write.give_up()
        self.told("kept" if done else "not_kept")
        return done

    async def order(self, order: Order) -> None:
        """Have a response made later, at whatever gateway. Raises ``Overloaded`` and
        ``StoreAway``; then nothing is left of it."""
        tenant, most = order.owner.tenant, self._config.background.max_open
        write = _Write(
            lambda: self._orders.add(order, most), lambda: self._orders.delete(tenant, order.id)
        )
        try:
            await self._ask(write.run)
        except TooMany as error:
            raise Overloaded(
                f"You already have {error}, which is the most. Wait for one, or cancel it.",
                retry_after_s=FULL_PAUSE_S,
            ) from error
        except StoreAway:
            if not write.give_up():
                raise
        self.changed()

    async def cancel(self, tenant: str, response_id: str) -> dict[str, Any]:
        """The response, which is over then. Raises ``UnknownResponse``, and ``InvalidRequest`` for
        one that was not in the background."""

        def cancel() -> bool:
            return self._orders.cancel(
                tenant, response_id, lambda shown: with_status(shown, "cancelled")
            )

        if await self._ask(cancel):
            self.told("kept")
            self.changed()
        response = await self.response(tenant, response_id)
        if response.get("background") is not True:
            raise InvalidRequest("Cannot cancel a synchronous response.", code="not_cancellable")
        return response

    async def response(self, tenant: str, response_id: str) -> dict[str, Any]:
        """Raises ``UnknownResponse``."""
        return (await self._read(tenant, response_id))[0]

    async def news(self, tenant: str, before: dict[str, Any]) -> dict[str, Any]:
        """The response as it stands, which was not over ``before``; little work as long as it is
        not. Raises ``UnknownResponse``."""
        response_id: str = before["id"]
        begun = await self._ask(lambda: self._orders.begun(tenant, response_id))
        if begun is None:
            return await self.response(tenant, response_id)
        return {**before, "status": "in_progress"} if begun else before

    async def input_items(self, tenant: str, response_id: str) -> list[Any]:
        """What the request of that response brought. Raises ``UnknownResponse``."""
        items: list[Any] = msgspec.json.decode((await self._read(tenant, response_id))[1])
        return items

    async def delete(self, tenant: str, response_id: str) -> None:
        """Whether it is over or not. Raises ``UnknownResponse``."""

        def delete() -> bool:
            # In the order in which it moves.
            return self._orders.delete(tenant, response_id) or self._archive.delete(
                tenant, response_id
            )

        if not await self._ask(delete):
            raise UnknownResponse(response_id)
        self.changed()

    async def _read(self, tenant: str, response_id: str) -> tuple[dict[str, Any], bytes]:
        """The response, and the items that its request brought."""
        oldest = self._oldest(tenant)

        def read() -> tuple[dict[str, Any], bytes]:
            found = self._orders.get(tenant, response_id)
            if found is not None:
                status = "in_progress" if found.begun else "queued"
                return msgspec.json.decode(with_status(found.shown, status)), found.input
            kept = self._archive.get(tenant, response_id, oldest)
            response = msgspec.json.decode(kept.response)
            response["output"] = msgspec.json.decode(kept.output)
            return response, kept.input

        try:
            return await self._ask(read)
        except NotKept as error:
            raise UnknownResponse(response_id) from error

    def _rule(self, tenant: str) -> Policy:
        return policy_of(self._config, tenant)

    def _oldest(self, tenant: str) -> float:
        return self._clock() - self._rule(tenant).retain_s

    def prepare(self) -> None:
        """Before the first call of the store, in a thread. Raises ``StoreError``."""
        with self._migrating:
            if not self._migrated:
                self._store.migrate()
                self._migrated = True

    async def _ask(self, call: Callable[[], T]) -> T:
        """``call``, in a thread. Raises ``StoreAway``, and what it raises."""
        if self._pending >= AT_ONCE + MAX_WAITING:
            raise StoreAway

        def prepared() -> T:
            self.prepare()
            return call()

        self._pending += 1
        work = asyncio.get_running_loop().run_in_executor(self._threads, prepared)
        work.add_done_callback(self._over)
        try:
            async with asyncio.timeout(self._config.max_wait_s):
                return await asyncio.shield(work)
        except (StoreError, OSError) as error:
            # Not the driver's words: they repeat the statement, and what it was to write.
            log.warning("the store of responses does not answer: %s", type(error).__name__)
            raise StoreAway from None

    def _over(self, work: "asyncio.Future[Any]") -> None:
        self._pending -= 1
        if not work.cancelled():
            work.exception()  # nobody may be waiting for it any more


def _not_found(response_id: str) -> InvalidRequest:
    return InvalidRequest(
        f"Previous response with id '{clipped(response_id)}' not found, or one that it goes on "
        "from was deleted.",
        param="previous_response_id",
        code="previous_response_not_found",
    )


class _NotOver(Exception):
    """It has no answer yet."""


class _Write:
    """One write, of which either it is told that it is done, or it leaves nothing behind."""

    def __init__(self, write: Callable[[], object], take_back: Callable[[], object]) -> None:
        self._write = write
        self._take_back = take_back
        self._lock = threading.Lock()
        self._done = self._given_up = False

    def run(self) -> None:
        """In a thread."""
        if self._given_up:
            return
        self._write()
        with self._lock:
            self._done = not self._given_up
        if self._given_up:
            self._take_back()

    def give_up(self) -> bool:
        """Whether it was done already."""
        with self._lock:
            self._given_up = not self._done
        return self._done


def make_stored_responses(
    config: TriremeConfig, metrics: Metrics, environ: Mapping[str, str] = os.environ
) -> StoredResponses | None:
    """None where nothing is to be kept."""
    if not config.responses.enabled:
        return None
    outcomes = metrics.counter("trireme_stored_responses")
    return StoredResponses(
        open_store(database_url(config.access, environ)),
        config.responses,
        told=lambda outcome: outcomes.labels(outcome).inc(),
    )
