"""What callers ask of files and batches."""

import functools
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from cluster.batches.batches import Batches
from cluster.batches.files import Files, InUse, NewFile, NotThere, Page, TooMany
from cluster.batches.folder import Folder, Writer
from cluster.batches.tables import MAX_TENANT
from cluster.batches.views import Owner
from cluster.config import BatchConfig
from cluster.errors import InvalidRequest, Overloaded, UnknownObject
from cluster.tenants.caller import Caller
from cluster.tenants.store import Store
from deployments.gateway.batches.threads import Threads

DAY_S = 86_400.0
AT_ONCE = 4
MAX_WAITING = 64
MAX_UPLOADS = 8
"""Of a gateway at a time."""

UPLOAD_PAUSE_S = 5.0
CONTENT_BYTES = 1 << 20
"""Of a file that is read, in memory at a time."""

T = TypeVar("T")


class Upload:
    """A file that is being sent. ``done`` or ``discard`` must be called."""

    def __init__(self, desk: "BatchDesk", tenant: str, writer: Writer, file_id: str) -> None:
        self._desk = desk
        self._tenant = tenant
        self._writer = writer
        self._id = file_id

    async def write(self, data: bytes) -> None:
        await self._desk.ask(lambda: self._writer.write(data))

    async def done(self, filename: str, purpose: str, expires_s: float | None) -> dict[str, Any]:
        """OpenAI's file object."""
        retain_s = self._desk.retain_s
        keep_s = retain_s if expires_s is None else min(expires_s, retain_s)

        def close() -> dict[str, Any]:
            self._writer.close()
            file = NewFile(self._id, self._tenant, purpose, filename, self._writer.size_bytes)
            return self._desk.files.add(file, keep_s)

        return await self._desk.ask(close)

    async def discard(self) -> None:
        await self._desk.ask(self._writer.discard)


class BatchDesk:
    """Answers the door. A tenant is empty where callers are not told apart.

    Everything raises ``StoreAway`` where the store or the folder does not answer in time, and
    ``UnknownObject`` for what is not there, or is another tenant's.
    """

    def __init__(
        self, store: Store, folder: Folder, config: BatchConfig, prepare: Callable[[], None]
    ) -> None:
        self.config = config
        self.retain_s = config.retain_days * DAY_S
        self.files = Files(store.engine)
        self._batches = Batches(store.engine)
        self._folder = folder
        self._threads = Threads("batches", AT_ONCE, MAX_WAITING, prepare)
        self._uploads = 0
        self.changed: Callable[[], None] = lambda: None
        """Called when there is something new to do; other gateways find it a little later."""

    def stop(self) -> None:
        self._threads.stop()

    async def ask(self, call: Callable[[], T]) -> T:
        return await self._threads.run(call, self.config.max_wait_s)

    # -------------------------------------------------------------- files

    async def begin_upload(self, caller: Caller | None) -> Upload:
        """Raises ``InvalidRequest`` where the tenant has no room, ``Overloaded`` where we have."""
        tenant, config = tenant_of(caller), self.config
        if self._uploads >= MAX_UPLOADS:
            raise Overloaded(
                "Too many files are being sent at the moment.", retry_after_s=UPLOAD_PAUSE_S
            )
        self._uploads += 1
        try:
            await self.ask(
                lambda: self.files.check_room(tenant, config.max_files, config.max_bytes)
            )
            file_id = f"file-{uuid.uuid4().hex}"
            writer = await self.ask(lambda: self._folder.create(file_id))
        except BaseException as error:
            self._uploads -= 1
            if isinstance(error, TooMany):
                raise InvalidRequest(
                    f"You already have {error}, which is the most. Delete some.",
                    code="file_limit_exceeded",
                ) from error
            raise
        return Upload(self, tenant, writer, file_id)

    def end_upload(self) -> None:
        """After every ``begin_upload`` that returned."""
        self._uploads -= 1

    async def file(self, caller: Caller | None, file_id: str) -> dict[str, Any]:
        tenant = tenant_of(caller)
        return await self._found("file", file_id, lambda: self.files.get(tenant, file_id))

    async def file_page(
        self, caller: Caller | None, page: Page, purpose: str | None
    ) -> tuple[list[dict[str, Any]], bool]:
        tenant = tenant_of(caller)
        return await self._listed(page, lambda: self.files.page(tenant, page, purpose))

    async def delete_file(self, caller: Caller | None, file_id: str) -> None:
        """Raises ``InvalidRequest`` while a batch reads it."""
        tenant = tenant_of(caller)

        def delete() -> None:
            self.files.delete(tenant, file_id)
            self._folder.delete(file_id)

        try:
            await self._found("file", file_id, delete)
        except InUse as error:
            raise InvalidRequest(
                "A batch that is not over reads this file.", param="file_id", code="file_in_use"
            ) from error

    async def contents(self, file_id: str, size_bytes: int) -> AsyncIterator[bytes]:
        """Of a file that ``file`` has found."""
        for start in range(0, size_bytes, CONTENT_BYTES):
            end = min(size_bytes, start + CONTENT_BYTES)
            yield await self.ask(functools.partial(self._folder.read, file_id, start, end))

    # -------------------------------------------------------------- batches

    async def create(
        self, caller: Caller | None, endpoint: str, input_file_id: str, meta: dict[str, str]
    ) -> dict[str, Any]:
        """OpenAI's batch object. Raises ``InvalidRequest``."""
        owner, most = owner_of_caller(caller), self.config.max_open_batches
        batch_id = f"batch_{uuid.uuid4().hex}"

        def create() -> dict[str, Any]:
            made = self._batches.create(batch_id, owner, endpoint, input_file_id, meta, most)
            return made.shown

        try:
            made = await self.ask(create)
        except NotThere as error:
            raise InvalidRequest(
                "There is no such input file with the purpose `batch`.",
                param="input_file_id",
                code="invalid_input_file",
            ) from error
        except TooMany as error:
            raise InvalidRequest(
                f"You already have {error}, which is the most. Wait for one to end.",
                code="batch_limit_exceeded",
            ) from error
        self.changed()
        return made

    async def batch(self, caller: Caller | None, batch_id: str) -> dict[str, Any]:
        tenant = tenant_of(caller)
        found = await self._found("batch", batch_id, lambda: self._batches.get(tenant, batch_id))
        return found.shown

    async def batch_page(
        self, caller: Caller | None, page: Page
    ) -> tuple[list[dict[str, Any]], bool]:
        tenant = tenant_of(caller)
        batches, more = await self._listed(page, lambda: self._batches.page(tenant, page))
        return [each.shown for each in batches], more

    async def cancel(self, caller: Caller | None, batch_id: str) -> dict[str, Any]:
        """Raises ``InvalidRequest`` for a batch that ends or has ended."""
        tenant = tenant_of(caller)
        batch, cancelled = await self._found(
            "batch", batch_id, lambda: self._batches.cancel(tenant, batch_id)
        )
        if not cancelled:
            raise InvalidRequest(
                f"The batch is {batch.shown['status']}: it cannot be cancelled any more.",
                code="not_cancellable",
            )
        self.changed()
        return batch.shown

    async def _found(self, kind: str, wanted: str, call: Callable[[], T]) -> T:
        try:
            return await self.ask(call)
        except NotThere as error:
            raise UnknownObject(kind, wanted) from error

    async def _listed(self, page: Page, call: Callable[[], T]) -> T:
        try:
            return await self.ask(call)
        except NotThere as error:
            raise InvalidRequest("There is nothing of that id.", param="after") from error


def tenant_of(caller: Caller | None) -> str:
    """Whose files and batches they are. Raises ``InvalidRequest`` for a name too long to store."""
    tenant = "" if caller is None else caller.tenant
    if len(tenant) > MAX_TENANT:
        raise InvalidRequest("The name of this tenant is too long for files.")
    return tenant


def owner_of_caller(caller: Caller | None) -> Owner:
    """Whose rights a new batch has."""
    if caller is None:
        return Owner()
    models = None if caller.models is None else tuple(sorted(caller.models))
    return Owner(tenant_of(caller), caller.key_id, tuple(sorted(caller.tiers)), models)
