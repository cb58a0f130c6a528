"""Files and batches through the door: OpenAI's client unchanged, real store, folder and runner."""

import asyncio
import json
import logging
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from sqlalchemy import update

from cluster.batches.files import Files
from cluster.batches.folder import Folder
from cluster.batches.tables import BatchRow, FileRow
from cluster.batches.work import Work
from cluster.config import BatchConfig
from cluster.errors import InternalError, NoReplica
from cluster.tenants.store import open_store
from deployments.gateway.batches.desk import BatchDesk
from deployments.gateway.batches.jobs import Jobs
from deployments.gateway.batches.runner import BatchRunner
from tests.cluster.tenants.making import ANNE, fresh_store, sqlite_url
from tests.conformance.openai_schema import faults
from tests.deployments.gateway.access_world import Callers
from tests.deployments.gateway.contract.door_world import (
    CHAT,
    COMPLETION,
    MODEL,
    RESPONSES,
    World,
    fail_after,
    never_end,
    say_hello,
)
from tests.deployments.gateway.contract.test_door import error_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

ENDPOINT = "/v1/chat/completions"
OVER = ("completed", "failed", "expired", "cancelled")
BODIES = {ENDPOINT: CHAT, "/v1/responses": RESPONSES, "/v1/completions": COMPLETION}


class OneGateway:
    """A door of its own over the world's front-end, and a runner, over a shared store."""

    def __init__(
        self, world: World, folder: Path, url: str, callers: Callers | None, **config: Any
    ) -> None:
        self.world = world
        self.store = open_store(sqlite_url(folder))
        settings = BatchConfig.model_validate({"enabled": True, "lease_s": 1.5, **config})
        contents = Folder(url)
        self.desk = BatchDesk(self.store, contents, settings, lambda: None)
        self.told: Counter[str] = Counter()
        self.has_time = True
        self.door = world.make_door(
            access=None if callers is None else callers.identity, batches=self.desk
        )
        work = Work(self.store.engine, uuid.uuid4().hex, settings.lease_s)
        jobs = Jobs(work, Files(self.store.engine), contents, settings, 1_000_000, lambda: False)
        self.runner = BatchRunner(
            work,
            jobs,
            contents,
            settings,
            lambda: None,
            app=self.door,
            again=None if callers is None else callers.identity.again,
            has_time=lambda: self.has_time,
            told=lambda outcome: self.told.update([outcome]),
        )
        self.desk.changed = self.runner.look_now
        transport = httpx.ASGITransport(self.door, raise_app_exceptions=True)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://gateway")

    def client(self, key: str = "none") -> AsyncOpenAI:
        http: Any = self.http  # another make of the client that it names, and just as good
        return AsyncOpenAI(
            api_key=key, base_url="http://gateway/v1", http_client=http, max_retries=0
        )

    async def die(self) -> None:
        """As a process does: nothing is given back, and nothing is written any more."""
        task = self.runner._loop_task
        assert task is not None
        doomed = [task, *self.runner._running.values()]
        for each in doomed:
            each.cancel()
        await asyncio.gather(*doomed, return_exceptions=True)

    async def close(self) -> None:
        await self.runner.stop()
        self.desk.stop()
        self.store.close()


class Gateways:
    """As many as a test opens, over one store and one folder."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.folder = folder
        self.url = str(folder / "files")
        self.opened: list[OneGateway] = []
        fresh_store(sqlite_url(folder)).close()

    def open(self, callers: Callers | None = None, run: bool = True, **config: Any) -> OneGateway:
        made = OneGateway(self.world, self.folder, self.url, callers, **config)
        self.opened.append(made)
        if run:
            made.runner.start()
        return made


@pytest_asyncio.fixture(loop_scope="session")
async def gateways(world: World, tmp_path: Path) -> AsyncIterator[Gateways]:
    made = Gateways(world, tmp_path)
    yield made
    for each in made.opened:
        await each.close()


def lines(count: int, endpoint: str = ENDPOINT, **body: Any) -> bytes:
    made = (
        {
            "custom_id": f"my-{number}",
            "method": "POST",
            "url": endpoint,
            "body": {**BODIES[endpoint], **body},
        }
        for number in range(count)
    )
    return b"".join(json.dumps(each).encode() + b"\n" for each in made)


async def begin(client: AsyncOpenAI, data: bytes, endpoint: Any = ENDPOINT) -> Any:
    file = await client.files.create(file=("in.jsonl", data), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h"
    )


async def ended(client: AsyncOpenAI, batch_id: str, wait_s: float = 30.0) -> Any:
    async with asyncio.timeout(wait_s):
        while True:
            batch = await client.batches.retrieve(batch_id)
            if batch.status in OVER:
                return batch
            await asyncio.sleep(0.05)


async def contents(client: AsyncOpenAI, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    answer = await client.files.content(file_id)
    return [json.loads(line) for line in answer.text.splitlines()]


# ------------------------------------------------------------------ the whole cycle


@pytest.mark.parametrize("endpoint", list(BODIES))
async def test_openais_client_does_the_whole_cycle(gateways: Gateways, endpoint: Any) -> None:
    client = gateways.open().client()
    data = lines(5, endpoint)
    file = await client.files.create(file=("in.jsonl", data), purpose="batch")
    assert (file.purpose, file.bytes, file.filename) == ("batch", len(data), "in.jsonl")
    assert (await client.files.content(file.id)).content == data
    begun = await client.batches.create(
        input_file_id=file.id,
        endpoint=endpoint,
        completion_window="24h",
        metadata={"job": "nightly"},
    )
    assert begun.status == "validating"

    batch = await ended(client, begun.id)
    assert (batch.status, batch.metadata, batch.model) == ("completed", {"job": "nightly"}, MODEL)
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 5, "completed": 5, "failed": 0}
    assert batch.error_file_id is None
    answers = await contents(client, batch.output_file_id)
    assert [each["custom_id"] for each in answers] == [f"my-{n}" for n in range(5)]
    assert len({each["id"] for each in answers}) == 5
    schema = {"/v1/responses": "Response", ENDPOINT: "CreateChatCompletionResponse"}
    for each in answers:
        assert set(each) == {"id", "custom_id", "response", "error"}
        assert each["error"] is None
        assert each["response"]["status_code"] == 200
        assert each["response"]["request_id"].startswith(each["id"])
        if endpoint in schema:
            assert faults(schema[endpoint], each["response"]["body"]) == []

    listed = [each async for each in client.batches.list()]
    assert [each.id for each in listed] == [batch.id]
    files = [each async for each in client.files.list()]
    assert {each.purpose for each in files} == {"batch", "batch_output"}
    assert batch.output_file_id is not None
    assert (await client.files.delete(batch.output_file_id)).deleted
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(batch.output_file_id)
    with pytest.raises(openai.BadRequestError):
        await client.batches.cancel(batch.id)


async def test_what_is_answered_is_openais(gateways: Gateways) -> None:
    gateway = gateways.open()
    client = gateway.client()
    batch = await begin(client, lines(2))
    await ended(client, batch.id)
    for path, schema in (
        (f"/v1/batches/{batch.id}", "Batch"),
        ("/v1/batches", "ListBatchesResponse"),
        (f"/v1/files/{batch.input_file_id}", "OpenAIFile"),
    ):
        answer = await gateway.http.get(path)
        assert answer.status_code == 200
        assert answer.headers["x-request-id"]
        assert faults(schema, answer.json()) == []


async def test_lines_run_after_everything_else_with_the_lowest_priority(
    gateways: Gateways,
) -> None:
    gateway = gateways.open()
    client = gateway.client()
    batch = await begin(client, lines(3, reasoning_effort="high"))
    await ended(client, batch.id)
    contexts = gateways.world.core.contexts
    assert [(each.spare, each.behind, each.tier) for each in contexts] == [(True, True, "high")] * 3
    await gateway.http.post(ENDPOINT, json=CHAT, headers={"trireme.spare": "1"})
    assert not gateways.world.core.contexts[-1].spare  # no client says so of itself


async def test_nothing_starts_while_others_wait_for_a_replica(gateways: Gateways) -> None:
    gateway = gateways.open()
    gateway.has_time = False
    client = gateway.client()
    batch = await begin(client, lines(3))
    await asyncio.sleep(1.5)
    found = await client.batches.retrieve(batch.id)
    assert (found.status, gateways.world.core.requests) == ("in_progress", [])
    gateway.has_time = True
    assert (await ended(client, batch.id)).status == "completed"


async def test_only_so_many_lines_run_at_a_time(gateways: Gateways) -> None:
    gateway = gateways.open(max_concurrent_lines=3)
    running = most = 0

    async def counted(core: Any, request: Any, context: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        running -= 1
        await say_hello(core, request, context)

    gateways.world.core.script = counted
    client = gateway.client()
    batch = await ended(client, (await begin(client, lines(12))).id)
    assert (batch.status, most) == ("completed", 3)


# ------------------------------------------------------------------ faults of lines


async def test_a_line_that_cannot_be_served_is_in_the_error_file(gateways: Gateways) -> None:
    client = gateways.open().client()
    data = lines(2) + lines(1, model="gpt-6").replace(b"my-0", b"bad-0")
    batch = await ended(client, (await begin(client, data)).id)
    assert batch.request_counts.to_dict() == {"total": 3, "completed": 2, "failed": 1}
    assert len(await contents(client, batch.output_file_id)) == 2
    (bad,) = await contents(client, batch.error_file_id)
    assert (bad["custom_id"], bad["response"]["status_code"], bad["error"]) == ("bad-0", 404, None)
    assert bad["response"]["body"]["error"]["code"] == "model_not_found"


async def test_what_finds_no_room_is_tried_again(gateways: Gateways) -> None:
    world = gateways.world
    seen: Counter[str] = Counter()

    async def once_busy(core: Any, request: Any, context: Any) -> None:
        line = context.request_id.rpartition("_")[0]
        seen[line] += 1
        script = say_hello if seen[line] > 1 else fail_after(0, NoReplica(retry_after_s=1))
        await script(core, request, context)

    world.core.script = once_busy
    gateway = gateways.open()
    client = gateway.client()
    batch = await ended(client, (await begin(client, lines(3))).id)
    assert batch.request_counts.to_dict() == {"total": 3, "completed": 3, "failed": 0}
    assert set(seen.values()) == {2}
    assert gateway.told == {"answered": 3, "put_back": 3}


async def test_a_fault_that_forbids_another_try_is_final(gateways: Gateways) -> None:
    gateways.world.core.script = fail_after(0, InternalError("broken"))
    client = gateways.open().client()
    batch = await ended(client, (await begin(client, lines(1))).id)
    assert (batch.status, batch.output_file_id) == ("completed", None)
    (bad,) = await contents(client, batch.error_file_id)
    assert bad["response"]["status_code"] == 500
    assert len(gateways.world.core.requests) == 1


# ------------------------------------------------------------------ faults of files


@dataclass(frozen=True)
class Bad:
    """An input file, and what is wrong with it: code, line, parameter."""

    data: bytes
    code: str
    line: int | None
    param: str | None = None


GOOD = lines(1)
BAD = {
    "no_json": Bad(GOOD + b"{not json}\n", "invalid_json_line", 2),
    "not_utf8": Bad(b'{"custom_id":"\xff"}\n', "invalid_json_line", 1),
    "no_object": Bad(GOOD + b"[1]\n", "invalid_json_line", 2),
    "body_no_object": Bad(GOOD.replace(json.dumps(CHAT).encode(), b"7"), "invalid_json_line", 1),
    "twice": Bad(GOOD + GOOD, "duplicate_custom_id", 2, "custom_id"),
    "other_url": Bad(lines(1, "/v1/responses"), "mismatched_url", 1, "url"),
    "get": Bad(GOOD.replace(b"POST", b"GET"), "invalid_method", 1, "method"),
    "no_id": Bad(GOOD.replace(b"custom_id", b"id"), "missing_required_parameter", 1, "custom_id"),
    "long_id": Bad(GOOD.replace(b"my-0", b"x" * 600), "invalid_custom_id", 1, "custom_id"),
    "no_body": Bad(GOOD.replace(b'"body"', b'"b"'), "missing_required_parameter", 1, "body"),
    "stream": Bad(lines(1, stream=True), "unsupported_parameter", 1, "body.stream"),
    "too_many": Bad(lines(5), "too_many_requests_in_file", None),
    "blank": Bad(b"\n \n", "empty_file", None),
    "long_line": Bad(GOOD + b'"' + b"x" * 1_000_001, "line_too_large", 2),
}  # fmt: skip


@pytest.mark.parametrize("case", list(BAD))
async def test_an_input_that_cannot_be_used_fails_with_its_faults(
    gateways: Gateways, case: str
) -> None:
    gateway, bad = gateways.open(max_lines=4), BAD[case]
    client = gateway.client()
    batch = await ended(client, (await begin(client, bad.data)).id)
    assert batch.status == "failed"
    assert batch.failed_at is not None
    assert batch.errors is not None
    assert batch.errors.data is not None
    (told,) = batch.errors.data
    assert (told.code, told.line, told.param) == (bad.code, bad.line, bad.param)
    assert gateways.world.core.requests == []
    assert (batch.output_file_id, batch.error_file_id) == (None, None)


async def test_a_file_is_read_to_the_end_whatever_its_ends_of_line(gateways: Gateways) -> None:
    client = gateways.open().client()
    data = b"\r\n".join((b"", b"  " + lines(1).strip(), b"", lines(2).splitlines()[1]))
    batch = await ended(client, (await begin(client, data)).id)
    assert batch.request_counts.to_dict() == {"total": 2, "completed": 2, "failed": 0}


async def test_uploads_have_bounds_and_must_be_forms(gateways: Gateways) -> None:
    gateway = gateways.open(max_file_bytes=2000, max_files=2)
    client, http = gateway.client(), gateway.http
    await client.files.create(file=("a", b"x" * 2000), purpose="batch")
    with pytest.raises(openai.APIStatusError) as large:
        await client.files.create(file=("a", b"x" * 2001), purpose="batch")
    assert (large.value.status_code, large.value.code) == (413, "request_too_large")

    async def unsized() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(100):
            yield b"x" * 1000

    form = {"content-type": "multipart/form-data; boundary=b"}
    answer = await http.post("/v1/files", content=unsized(), headers=form)
    assert error_of(answer, 413)["code"] == "request_too_large"
    with pytest.raises(openai.BadRequestError):
        await client.files.create(file=("a", b"x"), purpose="fine-tune")
    error_of(await http.post("/v1/files", json={}), 415)
    for broken in (b"", b"nothing", b"--b--", b'--b\r\nContent-Disposition: form-data; name="a"'):
        error_of(await http.post("/v1/files", content=broken, headers=form), 400)
    # What was refused left nothing.
    assert len(list((gateways.folder / "files").iterdir())) == 1
    await client.files.create(file=("a", b"x"), purpose="batch")
    with pytest.raises(openai.BadRequestError) as most:
        await client.files.create(file=("a", b"x"), purpose="batch")
    assert most.value.code == "file_limit_exceeded"


async def test_an_order_that_is_wrong_is_refused(gateways: Gateways) -> None:
    gateway = gateways.open(run=False, max_open_batches=1)
    client, http = gateway.client(), gateway.http
    file = await client.files.create(file=("a", lines(1)), purpose="batch")
    good = {"input_file_id": file.id, "endpoint": ENDPOINT, "completion_window": "24h"}
    for field, value in (
        ("input_file_id", None),
        ("input_file_id", "file-0000"),
        ("endpoint", "/v1/embeddings"),
        ("completion_window", "1h"),
        ("metadata", {"a": 1}),
        ("metadata", {"a": "\x00"}),
        ("metadata", {str(number): "" for number in range(17)}),
        ("output_expires_after", {"anchor": "created_at", "seconds": 3600}),
    ):
        error = error_of(await http.post("/v1/batches", json={**good, field: value}), 400)
        assert error["param"] == field
    for query in ("limit=0", "limit=x", "after=batch_1", "order=up"):
        error_of(await http.get(f"/v1/batches?{query}"), 400)
    error_of(await http.get("/v1/batches/batch_1"), 404)
    error_of(await http.post("/v1/batches/batch_1/cancel"), 404)
    assert (await http.post("/v1/batches", json=good)).status_code == 200
    error = error_of(await http.post("/v1/batches", json=good), 400)
    assert error["code"] == "batch_limit_exceeded"
    error = error_of(await http.delete(f"/v1/files/{file.id}"), 400)
    assert error["code"] == "file_in_use"


async def test_without_batches_there_are_no_such_routes(world: World) -> None:
    for method, path in (
        ("GET", "/v1/files"),
        ("POST", "/v1/batches"),
        ("GET", "/v1/batches/batch_1"),
    ):
        answer = await world.http.request(method, path)
        assert error_of(answer, 404)["code"] == "unknown_url"


# ------------------------------------------------------------------ ends


async def test_a_cancelled_batch_keeps_what_was_answered(gateways: Gateways) -> None:
    world = gateways.world
    told = 0

    async def two_then_never(core: Any, request: Any, context: Any) -> None:
        nonlocal told
        told += 1
        await (say_hello if told <= 2 else never_end)(core, request, context)

    world.core.script = two_then_never
    gateway = gateways.open(max_concurrent_lines=4)
    client = gateway.client()
    begun = await begin(client, lines(6))
    async with asyncio.timeout(20):
        while (await client.batches.retrieve(begun.id)).request_counts.completed < 2:  # type: ignore[union-attr]
            await asyncio.sleep(0.05)
    assert (await client.batches.cancel(begun.id)).status == "cancelling"
    batch = await ended(client, begun.id)
    assert (batch.status, batch.cancelled_at is not None) == ("cancelled", True)
    assert len(await contents(client, batch.output_file_id)) == 2
    left = await contents(client, batch.error_file_id)
    assert {each["error"]["code"] for each in left} == {"batch_cancelled"}
    assert len(left) == 4
    assert len(world.core.aborted) >= 2  # engines do not go on with what nobody wants


async def test_a_batch_that_expires_says_what_was_not_done(gateways: Gateways) -> None:
    gateway = gateways.open()
    gateway.has_time = False
    client = gateway.client()
    begun = await begin(client, lines(3))
    async with asyncio.timeout(20):
        while (await client.batches.retrieve(begun.id)).status == "validating":
            await asyncio.sleep(0.02)
    with gateway.store.engine.begin() as connection:
        connection.execute(update(BatchRow).values(expires_at=1.0))
    batch = await ended(client, begun.id)
    assert (batch.status, batch.output_file_id) == ("expired", None)
    left = await contents(client, batch.error_file_id)
    assert [each["custom_id"] for each in left] == ["my-0", "my-1", "my-2"]
    assert {each["error"]["code"] for each in left} == {"batch_expired"}
    assert {each["response"] for each in left} == {None}


async def test_files_that_are_too_old_are_deleted(gateways: Gateways) -> None:
    gateway = gateways.open()
    client = gateway.client()
    file = await client.files.create(file=("a", b"x"), purpose="batch")
    with gateway.store.engine.begin() as connection:
        connection.execute(update(FileRow).values(expires_at=1.0))
    with pytest.raises(openai.NotFoundError):
        await client.files.content(file.id)
    gateway.runner._jobs.sweep()
    assert list((gateways.folder / "files").iterdir()) == []


# ------------------------------------------------------------------ gateways that die


@pytest.mark.timeout(120)
async def test_a_batch_survives_its_gateway_with_each_line_answered_once(
    gateways: Gateways,
) -> None:
    total = 120

    async def slow(core: Any, request: Any, context: Any) -> None:
        await asyncio.sleep(0.2)
        await say_hello(core, request, context)

    gateways.world.core.script = slow
    first = gateways.open(max_concurrent_lines=8)
    second = gateways.open(max_concurrent_lines=8)
    client = second.client()
    begun = await begin(first.client(), lines(total))
    async with asyncio.timeout(30):
        while (
            first.told["answered"] < 4 or second.told["answered"] < 4 or not first.runner._running
        ):
            await asyncio.sleep(0.005)
    await first.die()
    held = len(first.runner._running)
    assert held
    batch = await ended(client, begun.id)
    assert batch.request_counts.to_dict() == {"total": total, "completed": total, "failed": 0}
    answers = await contents(client, batch.output_file_id)
    assert [each["custom_id"] for each in answers] == [f"my-{n}" for n in range(total)]
    assert first.told["answered"] + second.told["answered"] >= total - held
    # What the first one held was asked for again, and nothing else.
    assert len(gateways.world.core.requests) <= total + held


async def test_a_gateway_that_stops_gives_its_lines_back_at_once(gateways: Gateways) -> None:
    gateways.world.core.script = never_end
    first = gateways.open(lease_s=600)
    client = first.client()
    begun = await begin(client, lines(3))
    async with asyncio.timeout(20):
        while len(gateways.world.core.requests) < 3:
            await asyncio.sleep(0.05)
    await first.runner.stop()
    gateways.world.core.reset()
    second = gateways.open(lease_s=600)
    batch = await ended(second.client(), begun.id)
    assert batch.status == "completed"


# ------------------------------------------------------------------ whose they are


async def test_a_batch_has_its_owners_rights_and_nobody_elses_eyes(
    gateways: Gateways, tmp_path: Path
) -> None:
    callers = Callers(tmp_path)
    mine, theirs = callers.key("acme", team="search"), callers.key("other")
    gateway = gateways.open(callers)
    gateway.has_time = False
    client, stranger = gateway.client(mine.key.text), gateway.client(theirs.key.text)
    begun = await begin(client, lines(2))
    for forbidden in (
        stranger.batches.retrieve(begun.id),
        stranger.batches.cancel(begun.id),
        stranger.files.retrieve(begun.input_file_id),
        stranger.files.content(begun.input_file_id),
        stranger.files.delete(begun.input_file_id),
    ):
        with pytest.raises(openai.NotFoundError):
            await forbidden
    assert [each async for each in stranger.batches.list()] == []
    assert [each async for each in stranger.files.list()] == []
    error_of(await gateway.http.get("/v1/batches"), 401)

    gateway.has_time = True
    assert (await ended(client, begun.id)).status == "completed"
    for context in gateways.world.core.contexts:
        assert context.caller is not None
        assert (context.caller.tenant, context.caller.team) == ("acme", "search")
        assert context.cache_salt == callers.identity.cache_salt(context.caller)
    callers.close()


async def test_a_key_that_is_revoked_takes_its_batches_with_it(
    gateways: Gateways, tmp_path: Path
) -> None:
    callers = Callers(tmp_path)
    mine, second = callers.key("acme"), callers.key("acme", tiers=["low"])
    gateway = gateways.open(callers)
    gateway.has_time = False
    client = gateway.client(mine.key.text)
    begun = await begin(client, lines(2))
    narrow = await begin(gateway.client(second.key.text), lines(1, reasoning_effort="high"))
    callers.book.revoke_key(mine.key.id, ANNE)
    callers.directory.refresh()
    gateway.has_time = True
    reader = gateway.client(second.key.text)
    batch = await ended(reader, begun.id)
    failed = await contents(reader, batch.error_file_id)
    assert {each["response"]["status_code"] for each in failed} == {401}
    (refused,) = await contents(reader, (await ended(reader, narrow.id)).error_file_id)
    assert refused["response"]["body"]["error"]["code"] == "tier_not_allowed"
    callers.close()


async def test_no_text_of_a_batch_is_logged(
    gateways: Gateways, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "the-secret-of-the-line"
    with caplog.at_level(logging.DEBUG):
        client = gateways.open().client()
        message = [{"role": "user", "content": secret}]
        await ended(client, (await begin(client, lines(2, messages=message))).id)
        bad = lines(1, messages=message) + f'{{"{secret}'.encode()
        assert (await ended(client, (await begin(client, bad)).id)).status == "failed"
    assert secret not in caplog.text


async def test_files_may_be_in_any_store_that_fsspec_knows(gateways: Gateways) -> None:
    gateways.url = f"memory://{uuid.uuid4().hex}"
    client = gateways.open().client()
    batch = await ended(client, (await begin(client, lines(3))).id)
    assert len(await contents(client, batch.output_file_id)) == 3
