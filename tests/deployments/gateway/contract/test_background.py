"""Responses in the background: OpenAI's client unchanged, real store, doors and runners."""

import asyncio
import json
import logging
import re
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI, OpenAI
from sqlalchemy import update

from cluster.config import ResponsesConfig
from cluster.conversations.tables import BackgroundRow
from cluster.errors import InternalError, NoReplica, Overloaded
from cluster.tenants.store import open_store
from deployments.gateway.background.events import events_of
from deployments.gateway.background.later import queued_response
from deployments.gateway.background.runner import BackgroundRunner
from deployments.gateway.context import RequestContext
from deployments.gateway.stored_responses import StoredResponses
from tests.cluster.tenants.making import ANNE, fresh_store, sqlite_url
from tests.conformance.openai_schema import faults
from tests.deployments.gateway.access_world import Callers
from tests.deployments.gateway.contract.door_world import (
    HELLO,
    MODEL,
    RESPONSES,
    World,
    fail_after,
    never_answer,
    say_hello,
)
from tests.deployments.gateway.contract.test_door import error_of
from tests.deployments.gateway.contract.test_openai_shape import cut_after

pytestmark = pytest.mark.asyncio(loop_scope="session")

PATH = "/v1/responses"
DOC = Path(__file__).resolve().parents[4] / "docs" / "api.md"
OPEN = ("queued", "in_progress")
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}


class OneGateway:
    """A door of its own over the world's front-end, and a runner, over a shared store."""

    def __init__(
        self, world: World, folder: Path, callers: Callers | None, config: dict[str, Any]
    ) -> None:
        self.store = open_store(sqlite_url(folder))
        background = {"lease_s": 60, **config.pop("background", {})}
        settings = ResponsesConfig.model_validate(
            {"enabled": True, "background": background, **config}
        )
        self.told: list[str] = []
        self.done: list[tuple[RequestContext, int]] = []
        self.stored = StoredResponses(self.store, settings, told=self.told.append)
        self.door = world.make_door(
            access=None if callers is None else callers.identity,
            stored=self.stored,
            on_done=lambda context, status: self.done.append((context, status)),
        )
        again = None if callers is None else callers.identity.again
        self.runner = BackgroundRunner(self.stored, "gateway", self.door, again)
        transport = httpx.ASGITransport(self.door, raise_app_exceptions=True)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://gateway")

    def client(self, key: str = "none") -> AsyncOpenAI:
        http: Any = self.http  # another make of the client that it names, and just as good
        return AsyncOpenAI(
            api_key=key, base_url="http://gateway/v1", http_client=http, max_retries=0
        )

    async def ask(self, key: str = "", **fields: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        body = {**RESPONSES, "background": True, **fields}
        return await self.http.post(PATH, json=body, headers=headers)

    async def begun(self, **fields: Any) -> dict[str, Any]:
        answer = await self.ask(**fields)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def status(self, response_id: str) -> str:
        answer = await self.http.get(f"{PATH}/{response_id}")
        assert answer.status_code == 200, answer.text
        return str(answer.json()["status"])

    async def becomes(self, response_id: str, *wanted: str, wait_s: float = 60.0) -> str:
        async with asyncio.timeout(wait_s):
            while (found := await self.status(response_id)) not in wanted:
                await asyncio.sleep(0.02)
        return found

    async def over(self, response_id: str) -> dict[str, Any]:
        await self.becomes(response_id, "completed", "incomplete", "failed", "cancelled")
        return dict((await self.http.get(f"{PATH}/{response_id}")).json())

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
        self.stored.stop()


class Gateways:
    """As many as a test opens, over one store."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.folder = folder
        self.opened: list[OneGateway] = []
        fresh_store(sqlite_url(folder)).close()

    def open(self, callers: Callers | None = None, run: bool = True, **config: Any) -> OneGateway:
        self.opened.append(OneGateway(self.world, self.folder, callers, config))
        if run:
            self.opened[-1].runner.start()
        return self.opened[-1]

    def rows(self, table: str = "responses") -> int:
        with sqlite3.connect(self.folder / "store.sqlite") as connection:
            return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    async def stopped(self, requests: int) -> None:
        """The engine was told to stop so many."""
        async with asyncio.timeout(60):
            while len(self.world.core.aborted) < requests:
                await asyncio.sleep(0.02)


@pytest_asyncio.fixture(loop_scope="session")
async def gateways(world: World, tmp_path: Path) -> AsyncIterator[Gateways]:
    made = Gateways(world, tmp_path)
    yield made
    for each in made.opened:
        await each.close()


# ------------------------------------------------------------------ the whole life


async def test_openais_client_leaves_a_response_and_comes_back_for_it(gateways: Gateways) -> None:
    gateway = gateways.open(run=False)
    client = gateway.client()
    begun = await client.responses.create(
        model=MODEL, input="Good morning", background=True, metadata={"job": "nightly"}
    )
    assert (begun.status, begun.background, begun.output) == ("queued", True, [])
    assert (await client.responses.retrieve(begun.id)).status == "queued"
    items = await client.responses.input_items.list(begun.id)
    assert [item.type for item in items.data] == ["message"]
    gateway.runner.start()
    found = begun
    async with asyncio.timeout(60):
        while found.status in OPEN:
            found = await client.responses.retrieve(begun.id)
            await asyncio.sleep(0.02)
    assert (found.status, found.background, found.id) == ("completed", True, begun.id)
    assert (found.output_text, found.metadata) == ("Hello there", {"job": "nightly"})
    assert (found.created_at, found.usage is not None) == (begun.created_at, True)
    assert (gateways.rows(), gateways.rows("background_responses")) == (1, 0)
    # A conversation goes on from it like from any other.
    again = await client.responses.create(
        model=MODEL, input="And now?", previous_response_id=begun.id
    )
    assert again.previous_response_id == begun.id
    assert gateway.told == ["kept", "kept"]
    await client.responses.delete(begun.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(begun.id)


@pytest.mark.parametrize(
    ("example", "said"), [(0, "completed Hello there\n"), (1, "Hello there\n")]
)
async def test_the_documented_examples_do_what_they_say(
    gateways: Gateways, capsys: pytest.CaptureFixture[str], example: int, said: str
) -> None:
    gateway, loop = gateways.open(), asyncio.get_running_loop()

    class Bridge(httpx.BaseTransport):
        """From a thread with the client that blocks to the door on this loop."""

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            asked = gateway.http.request(
                request.method, request.url, content=request.content, headers=request.headers
            )
            answer = asyncio.run_coroutine_threadsafe(asked, loop).result(60)
            return httpx.Response(
                answer.status_code, headers=answer.headers, content=answer.content
            )

    http: Any = httpx.Client(transport=Bridge())
    client = OpenAI(api_key="none", base_url="http://gateway/v1", http_client=http, max_retries=0)
    examples = re.findall(r"```python\n(.*?)```", DOC.read_text(), re.S)
    assert len(examples) == 2
    code = examples[example].replace("gpt-oss-120b", MODEL).replace("sleep(2)", "sleep(0.05)")
    assert code.count(MODEL) == 1
    await asyncio.to_thread(exec, code, {"client": client})
    assert capsys.readouterr().out == said
    assert gateways.world.core.rendered_effort() == "high"


async def test_openais_client_cancels_a_response(gateways: Gateways) -> None:
    gateways.world.core.script = never_answer
    gateway = gateways.open()
    client = gateway.client()
    begun = await client.responses.create(model=MODEL, input="hi", background=True)
    await gateways.world.core.arrived.wait()
    await gateway.becomes(begun.id, "in_progress")
    for _ in range(2):  # also one that is cancelled
        cancelled = await client.responses.cancel(begun.id)
        assert (cancelled.status, cancelled.id, cancelled.output) == ("cancelled", begun.id, [])
    await gateways.stopped(1)
    assert await gateway.status(begun.id) == "cancelled"
    assert [status for _, status in gateway.done] == [499]
    gateways.world.core.script = say_hello
    done = await client.responses.create(model=MODEL, input="hi")
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
        await client.responses.cancel(done.id)
    over = await client.responses.create(model=MODEL, input="hi", background=True)
    await gateway.over(over.id)
    assert (await client.responses.cancel(over.id)).status == "completed"
    with pytest.raises(openai.NotFoundError):
        await client.responses.cancel("resp_none")


async def test_what_is_answered_is_openais(gateways: Gateways) -> None:
    gateway = gateways.open(run=False)
    fields: dict[str, Any] = {
        "model": "tiny", "reasoning": {"effort": "xhigh"}, "service_tier": "auto", "tools": [TOOL],
        "instructions": "Be brief.", "max_output_tokens": 40, "user": "u", "top_p": 0.5,
    }  # fmt: skip
    answer = await gateway.ask(**fields)
    queued = answer.json()
    assert faults("Response", queued) == []
    assert (answer.headers["x-trireme-tier"], bool(answer.headers["x-request-id"])) == (
        "high",
        True,
    )
    assert (queued["model"], queued["reasoning"]["effort"]) == (MODEL, "xhigh")
    assert gateway.done == []  # counted when it runs
    cancelled = await gateway.begun()
    assert faults("Response", await _posted(gateway, cancelled["id"])) == []
    gateway.runner.start()
    completed = await gateway.over(queued["id"])
    assert faults("Response", completed) == []
    assert completed["status"] == "completed"
    assert gateways.world.core.rendered_effort() == "high"
    changed = {name for name in queued if queued[name] != completed.get(name)}
    assert changed <= {"status", "completed_at", "output", "temperature", "tools"}
    assert [(context.tier, status) for context, status in gateway.done] == [("high", 200)]
    # In its turn among all others, not in spare time as a line of a batch.
    context = gateways.world.core.contexts[-1]
    assert (context.spare, context.behind) == (False, False)


async def _posted(gateway: OneGateway, response_id: str) -> Any:
    answer = await gateway.http.post(f"{PATH}/{response_id}/cancel")
    assert answer.status_code == 200
    return answer.json()


async def test_a_conversation_goes_on_in_the_background(gateways: Gateways) -> None:
    gateway = gateways.open()
    one = await gateway.over((await gateway.begun(input="Good morning"))["id"])
    gateways.world.core.script = never_answer
    open_one = await gateway.begun()
    error = error_of(await gateway.ask(previous_response_id=open_one["id"]), 400)
    assert "not over" in error["message"]
    async with asyncio.timeout(60):
        while len(gateways.world.core.requests) < 2:
            await asyncio.sleep(0.02)
    await _posted(gateway, open_one["id"])
    await gateways.stopped(1)
    gateways.world.core.reset()
    two = await gateway.over((await gateway.begun(previous_response_id=one["id"]))["id"])
    assert (two["status"], two["previous_response_id"]) == ("completed", one["id"])
    told = list(gateways.world.core.requests[-1].prompt_token_ids)
    talk = [{"role": "user", "content": "Good morning"}, *one["output"]]
    answer = await gateway.ask(
        input=[*talk, {"role": "user", "content": "hi"}], background=False, store=False
    )
    assert answer.json()["background"] is False
    assert told == list(gateways.world.core.requests[-1].prompt_token_ids)


async def test_an_answer_that_met_its_cap_is_incomplete(gateways: Gateways) -> None:
    gateways.world.core.script = cut_after(len(HELLO) - 1)
    gateway = gateways.open()
    found = await gateway.over((await gateway.begun())["id"])
    assert (found["status"], found["incomplete_details"]) == (
        "incomplete", {"reason": "max_output_tokens"},
    )  # fmt: skip


# ------------------------------------------------------------------ what goes wrong


async def test_a_request_that_cannot_be_answered_fails_with_its_reason(gateways: Gateways) -> None:
    gateway = gateways.open()
    wrong = await gateway.begun(input=[{"type": "item_reference", "id": "x"}])
    found = await gateway.over(wrong["id"])
    assert (found["status"], found["error"]["code"]) == ("failed", "invalid_prompt")
    assert faults("Response", found) == []
    gateways.world.core.script = fail_after(0, InternalError())
    broken = await gateway.begun()
    found = await gateway.over(broken["id"])
    assert (found["status"], found["error"]["code"]) == ("failed", "server_error")
    assert gateways.rows("background_responses") == 0
    assert (await _posted(gateway, broken["id"]))["status"] == "failed"


@pytest.mark.parametrize("error", [NoReplica(MODEL), Overloaded("full", retry_after_s=0.1)])
async def test_one_that_finds_no_room_is_tried_again(gateways: Gateways, error: Any) -> None:
    gateways.world.core.script = fail_after(0, error)
    gateway = gateways.open()
    begun = await gateway.begun()
    await gateways.world.core.arrived.wait()
    assert await gateway.status(begun["id"]) in OPEN
    gateways.world.core.script = say_hello
    assert (await gateway.over(begun["id"]))["status"] == "completed"


async def test_one_that_found_no_room_in_time_fails(gateways: Gateways) -> None:
    gateway = gateways.open(run=False)
    begun = await gateway.begun()
    with gateway.store.engine.begin() as connection:
        connection.execute(update(BackgroundRow).values(created_at=time.time() - 90_000))
    gateway.runner.start()
    found = await gateway.over(begun["id"])
    assert (found["status"], found["error"]["code"]) == ("failed", "server_error")
    assert gateways.world.core.requests == []


async def test_one_that_ends_its_gateways_fails(gateways: Gateways) -> None:
    gateway = gateways.open(run=False)
    begun = await gateway.begun()
    with gateway.store.engine.begin() as connection:
        connection.execute(update(BackgroundRow).values(attempts=3))
    gateway.runner.start()
    assert (await gateway.over(begun["id"]))["status"] == "failed"
    assert gateways.world.core.requests == []


# ------------------------------------------------------------------ told as a stream


class Listener:
    """A client on a connection of its own, which it can close."""

    def __init__(self, gateway: OneGateway, path: str, query: str = "", body: Any = None) -> None:
        self.events: list[dict[str, Any]] = []
        self.head: dict[bytes, bytes] = {}
        self.whole = False
        self._left = asyncio.Event()
        self._body = [] if body is None else [json.dumps(body).encode()]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1",
            "method": "POST" if self._body else "GET", "path": path, "root_path": "",
            "raw_path": path.encode(), "query_string": query.encode(), "scheme": "http",
            "headers": [(b"content-type", b"application/json")] if self._body else [],
        }  # fmt: skip
        self.task = asyncio.create_task(gateway.door(scope, self._receive, self._send))

    async def _receive(self) -> Any:
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.head = dict(message["headers"])
        elif message["body"]:
            name, data = message["body"].decode().rstrip("\n").split("\n")
            self.events.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {self.events[-1]['type']}"
        self.whole = self.whole or message.get("more_body") is False

    async def heard(self, events: int) -> list[str]:
        async with asyncio.timeout(60):
            while len(self.events) < events and not self.task.done():
                await asyncio.sleep(0.02)
        return [event["type"].removeprefix("response.") for event in self.events]

    async def leave(self) -> None:
        self._left.set()
        await asyncio.wait_for(self.task, 60)

    async def end(self) -> list[str]:
        await asyncio.wait_for(self.task, 60)
        assert self.whole
        return await self.heard(0)


def listen(gateway: OneGateway, **fields: Any) -> Listener:
    body = {**RESPONSES, "background": True, "stream": True, **fields}
    return Listener(gateway, PATH, body=body)


def listen_again(gateway: OneGateway, response_id: str, after: int | None = None) -> Listener:
    query = "stream=true" if after is None else f"stream=true&starting_after={after}"
    return Listener(gateway, f"{PATH}/{response_id}", query)


BEGUN = ["created", "queued", "in_progress"]
PART = ["content_part.added", "{}.delta", "{}.done", "content_part.done"]


def item(kind: str, parts: bool = True) -> list[str]:
    inner = PART if parts else PART[1:3]
    return ["output_item.added", *(each.format(kind) for each in inner), "output_item.done"]


async def test_openais_client_hears_of_a_response_in_the_background(gateways: Gateways) -> None:
    client = gateways.open().client()
    stream = await client.responses.create(
        model=MODEL, input="hi", background=True, stream=True, reasoning={"effort": "high"}
    )
    events = [event async for event in stream]
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds == [*BEGUN, *item("reasoning_text"), *item("output_text"), "completed"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    final: Any = events[-1]
    assert final.response.output_text == "Hello there"
    assert final.response == await client.responses.retrieve(final.response.id)
    for after in (0, 2, 7, len(events) - 2, len(events) - 1, 99):
        again = await client.responses.retrieve(
            final.response.id, stream=True, starting_after=after
        )
        rest = [event async for event in again]
        assert [event.sequence_number for event in rest] == list(range(after + 1, len(events)))
        # What it repeats of the request before it is over is as it was asked, later as vLLM says.
        assert rest[max(0, 2 - after) :] == events[max(3, after + 1) :]


async def test_each_event_is_openais(gateways: Gateways) -> None:
    gateway = gateways.open()
    listener = listen(gateway, model="tiny-high", tools=[TOOL], stream_options={})
    await listener.end()
    assert [faults("ResponseStreamEvent", event) for event in listener.events] == (
        [[]] * len(listener.events)
    )
    assert listener.head[b"content-type"].startswith(b"text/event-stream")
    assert (listener.head[b"cache-control"], listener.head[b"x-trireme-tier"]) == (
        b"no-cache", b"high",
    )  # fmt: skip
    again = listen_again(gateway, listener.events[0]["response"]["id"])
    await again.end()
    assert again.events[len(BEGUN) :] == listener.events[len(BEGUN) :]
    assert faults("ResponseStreamEvent", again.events[0]) == []


async def test_who_leaves_hears_the_rest_at_another_gateway(gateways: Gateways) -> None:
    go_on = asyncio.Event()

    async def slow(core: Any, request: Any, context: Any) -> None:
        await go_on.wait()
        await say_hello(core, request, context)

    gateways.world.core.script = slow
    first, second = gateways.open(), gateways.open(run=False)
    listener = listen(first)
    assert await listener.heard(3) == BEGUN
    await listener.leave()
    assert not gateways.world.core.aborted
    response_id = listener.events[0]["response"]["id"]
    again = listen_again(second, response_id, after=1)
    assert await again.heard(1) == ["in_progress"]
    go_on.set()
    assert (await again.end())[-1] == "completed"
    assert [event["sequence_number"] for event in again.events] == (
        list(range(2, len(again.events) + 2))
    )
    assert await second.status(response_id) == "completed"


async def test_a_second_attempt_is_no_second_stream(gateways: Gateways) -> None:
    gateways.world.core.script = never_answer
    first = gateways.open(background={"lease_s": 1.5})
    second = gateways.open(run=False)
    listener = listen(first)
    assert await listener.heard(3) == BEGUN
    again = listen_again(second, listener.events[0]["response"]["id"])
    await first.die()
    gateways.world.core.script = say_hello
    second.runner.start()
    kinds = await again.end()
    assert (kinds.count("in_progress"), kinds[-1]) == (1, "completed")
    assert await listener.end() == kinds


@pytest.mark.parametrize("how", ["cancel", "delete", "fail"])
async def test_a_stream_tells_how_else_it_ended(gateways: Gateways, how: str) -> None:
    gateways.world.core.script = never_answer
    gateway = gateways.open()
    wrong = [{"type": "item_reference", "id": "x"}]
    listener = listen(gateway, **({"input": wrong} if how == "fail" else {}))
    await listener.heard(3)
    where = f"{PATH}/{listener.events[0]['response']['id']}"
    if how == "cancel":
        await gateway.http.post(f"{where}/cancel")
    elif how == "delete":
        await gateway.http.delete(where)
    await listener.end()
    last = listener.events[-1]
    assert faults("ResponseStreamEvent", last) == []
    assert last["sequence_number"] == 3
    if how == "fail":
        assert (last["type"], last["response"]["error"]["code"]) == (
            "response.failed", "invalid_prompt",
        )  # fmt: skip
    else:
        assert (last["type"], last["code"]) == (
            "error", {"cancel": "response_cancelled", "delete": None}[how],
        )  # fmt: skip


async def test_calls_and_long_texts_are_told_in_openais_events() -> None:
    call = {
        "type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f",
        "arguments": '{"a": 1}', "status": "completed",
    }  # fmt: skip
    part = {"type": "output_text", "text": "é" * 4500, "annotations": [], "logprobs": []}
    message = {
        "type": "message", "id": "msg_1", "role": "assistant", "status": "incomplete",
        "content": [part],
    }  # fmt: skip
    response = queued_response("resp_1", 1.0, {"model": MODEL}, None, "low", "default")
    over = {**response, "status": "incomplete", "output": [call, message]}
    over["incomplete_details"] = {"reason": "max_output_tokens"}
    events = events_of(over)
    assert [faults("ResponseStreamEvent", event) for event in events] == [[]] * len(events)
    kinds = [event["type"].removeprefix("response.") for event in events]
    said = item("output_text")
    said[2:3] *= 3
    assert kinds == [*BEGUN, *item("function_call_arguments", False), *said, "incomplete"]
    deltas = [event["delta"] for event in events if event["type"].endswith("output_text.delta")]
    assert "".join(deltas) == part["text"]


async def test_only_what_was_in_the_background_is_streamed_again(gateways: Gateways) -> None:
    gateway = gateways.open()
    begun, synchronous = await gateway.begun(), await gateway.begun(background=False)
    where = f"{PATH}/{synchronous['id']}?stream=true"
    assert error_of(await gateway.http.get(where), 400)["param"] == "stream"
    for wrong in ("-1", "x", "1" * 10):
        where = f"{PATH}/{begun['id']}?stream=true&starting_after={wrong}"
        assert error_of(await gateway.http.get(where), 400)["param"] == "starting_after"


# ------------------------------------------------------------------ several gateways


async def test_a_response_outlives_its_gateway(gateways: Gateways) -> None:
    gateways.world.core.script = never_answer
    first = gateways.open(background={"lease_s": 1.5})
    made = [(await first.begun())["id"] for _ in range(3)]
    for response_id in made:
        await first.becomes(response_id, "in_progress")
    await first.die()
    gateways.world.core.script = say_hello
    second = gateways.open()
    for response_id in made:
        assert (await second.over(response_id))["status"] == "completed"
    assert (gateways.rows(), gateways.rows("background_responses")) == (3, 0)
    assert second.told == ["kept"] * 3


async def test_one_that_is_slow_and_was_taken_over_does_not_answer_too(gateways: Gateways) -> None:
    go_on = asyncio.Event()

    async def slow(core: Any, request: Any, context: Any) -> None:
        await go_on.wait()
        await say_hello(core, request, context)

    gateways.world.core.script = slow
    first = gateways.open(background={"lease_s": 1.5})
    begun = await first.begun()
    await gateways.world.core.arrived.wait()
    task = first.runner._loop_task
    assert task is not None
    task.cancel()  # it renews nothing, and still answers
    gateways.world.core.script = say_hello
    second = gateways.open()
    done = await second.over(begun["id"])
    go_on.set()
    async with asyncio.timeout(60):
        while not first.runner._over:
            await asyncio.sleep(0.02)
    await first.runner._write_down()
    assert (first.told, second.told) == ([], ["kept"])
    assert await second.over(begun["id"]) == done


async def test_a_gateway_that_stops_gives_back_what_it_has_begun(gateways: Gateways) -> None:
    gateways.world.core.script = never_answer
    first = gateways.open(background={"lease_s": 600})
    begun = await first.begun()
    await gateways.world.core.arrived.wait()
    await first.becomes(begun["id"], "in_progress")
    await first.runner.stop()
    gateways.world.core.script = say_hello
    second = gateways.open()
    assert (await second.over(begun["id"]))["status"] == "completed"
    await gateways.stopped(1)


@pytest.mark.parametrize("how", ["cancel", "delete"])
async def test_what_ends_at_another_gateway_leaves_the_engine(gateways: Gateways, how: str) -> None:
    gateways.world.core.script = never_answer
    first, second = gateways.open(), gateways.open(run=False)
    begun = await first.begun()
    await gateways.world.core.arrived.wait()
    await first.becomes(begun["id"], "in_progress")
    if how == "cancel":
        assert (await _posted(second, begun["id"]))["status"] == "cancelled"
    else:
        assert (await second.http.delete(f"{PATH}/{begun['id']}")).json()["deleted"] is True
        error_of(await second.http.get(f"{PATH}/{begun['id']}"), 404)
    await gateways.stopped(1)
    assert first.told == []


async def test_only_so_many_are_answered_at_a_time(gateways: Gateways) -> None:
    go_on = asyncio.Event()

    async def blocked(core: Any, request: Any, context: Any) -> None:
        await go_on.wait()
        await say_hello(core, request, context)

    gateways.world.core.script = blocked
    gateway = gateways.open(background={"max_concurrent": 2})
    made = [(await gateway.begun())["id"] for _ in range(5)]
    async with asyncio.timeout(60):
        while len(gateways.world.core.requests) < 2:
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.3)
    assert len(gateways.world.core.requests) == 2
    assert sorted([await gateway.status(each) for each in made]) == (
        ["in_progress"] * 2 + ["queued"] * 3
    )
    go_on.set()
    for response_id in made:
        assert (await gateway.over(response_id))["status"] == "completed"
    assert len(gateways.world.core.requests) == 5


# ------------------------------------------------------------------ tenants, and what is refused


async def test_a_response_is_its_tenants_and_has_its_rights(gateways: Gateways) -> None:
    callers = Callers(gateways.folder)
    ours, theirs = callers.key(tenant="acme"), callers.key(tenant="other").key.text
    gateway = gateways.open(callers, run=False)
    made = [(await gateway.begun(key=ours.key.text))["id"] for _ in range(2)]
    for response_id in made:
        for method, below in (("GET", ""), ("POST", "/cancel"), ("DELETE", "")):
            path = f"{PATH}/{response_id}{below}"
            headers = {"authorization": f"Bearer {theirs}"}
            error_of(await gateway.http.request(method, path, headers=headers), 404)
            error_of(await gateway.http.request(method, path), 401)
    client = gateway.client(ours.key.text)
    gateway.runner.start()
    async with asyncio.timeout(60):
        while (await client.responses.retrieve(made[0])).status in OPEN:
            await asyncio.sleep(0.02)
    context = gateways.world.core.contexts[0]
    assert context.caller is not None
    assert (context.caller.tenant, context.caller.key_id) == ("acme", ours.key.id)
    assert context.cache_salt
    callers.close()


async def test_a_key_that_is_revoked_runs_nothing_more(gateways: Gateways) -> None:
    callers = Callers(gateways.folder)
    key, other = callers.key(tenant="acme"), callers.key(tenant="acme").key.text
    gateway = gateways.open(callers, run=False)
    begun = await gateway.begun(key=key.key.text)
    callers.book.revoke_key(key.key.id, ANNE)
    callers.directory.refresh()
    gateway.runner.start()
    client = gateway.client(other)
    async with asyncio.timeout(60):
        while (found := await client.responses.retrieve(begun["id"])).status in OPEN:
            await asyncio.sleep(0.02)
    assert found.status == "failed"
    assert found.error is not None
    assert "good no more" in found.error.message
    assert gateways.world.core.requests == []
    callers.close()


async def test_what_cannot_be_in_the_background_is_refused(gateways: Gateways) -> None:
    gateway = gateways.open(run=False, background={"max_open": 2})
    for fields, param in (
        ({"stream": "yes"}, "stream"),
        ({"store": False}, "background"),
        ({"background": "yes"}, "background"),
        ({"background": 1}, "background"),
        ({"input": None}, "input"),
        ({"model": 7}, "model"),
        ({"max_output_tokens": -1}, "max_output_tokens"),
    ):
        assert error_of(await gateway.ask(**fields), 400)["param"] == param
    error_of(await gateway.ask(model="none"), 404)
    assert gateways.rows("background_responses") == 0
    for _ in range(2):
        await gateway.begun()
    full = await gateway.ask()
    assert error_of(full, 429)["code"] == "rate_limit_exceeded"
    assert full.headers["retry-after"] == "10"
    assert gateways.rows("background_responses") == 2


async def test_where_nothing_is_kept_nothing_is_in_the_background(gateways: Gateways) -> None:
    refused = await gateways.world.post(PATH, {**RESPONSES, "background": True})
    assert error_of(refused, 400)["code"] == "unsupported_parameter"
    nobody = gateways.open(tenants={"": {"enabled": False}})
    error = error_of(await nobody.ask(store=True), 400)
    assert (error["code"], error["param"]) == ("unsupported_parameter", "background")
    explicit = gateways.open(store_by_default=False)
    error_of(await explicit.ask(), 400)
    assert (await explicit.over((await explicit.begun(store=True))["id"]))["status"] == "completed"


async def test_what_was_asked_before_a_tenant_was_turned_off_is_not_run(
    gateways: Gateways,
) -> None:
    on = gateways.open(run=False)
    await on.begun()
    off = gateways.open(run=False, tenants={"": {"enabled": False}})
    await off.runner._take_some()
    assert (off.runner._running, gateways.world.core.requests) == ({}, [])


async def test_a_store_that_is_away_refuses_and_tells_no_content(
    gateways: Gateways, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = gateways.open(run=False)
    await gateway.begun()
    with sqlite3.connect(gateways.folder / "store.sqlite") as connection:
        connection.execute("ALTER TABLE background_responses RENAME TO gone")
    caplog.set_level(logging.DEBUG)
    assert error_of(await gateway.ask(input="my secret is xyzzy"), 503)["code"] == (
        "store_unavailable"
    )
    gateway.runner.start()
    await asyncio.sleep(0.2)
    with sqlite3.connect(gateways.folder / "store.sqlite") as connection:
        connection.execute("ALTER TABLE gone RENAME TO background_responses")
    later = await gateway.begun()
    assert (await gateway.over(later["id"]))["status"] == "completed"
    assert "xyzzy" not in str([record.__dict__ for record in caplog.records])
