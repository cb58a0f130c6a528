"""Conversations that go on at whatever gateway: two doors over one store, vLLM's app behind."""

import asyncio
import json
import logging
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from openai_harmony import HarmonyEncodingName, load_harmony_encoding
from sqlalchemy import event

from cluster.config import ResponsesConfig
from cluster.tenants.store import open_store
from deployments.gateway.stored_responses import StoredResponses
from tests.cluster.tenants.making import fresh_store, sqlite_url
from tests.conformance.openai_schema import faults
from tests.deployments.gateway.access_world import Callers
from tests.deployments.gateway.contract.door_world import (
    HELLO,
    MODEL,
    RESPONSES,
    Script,
    World,
)
from tests.deployments.gateway.contract.test_door import error_of
from tests.deployments.gateway.contract.test_openai_shape import cut_after, events

pytestmark = pytest.mark.asyncio(loop_scope="session")

PATH = "/v1/responses"
FLAT = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}
CALLS = (
    "<|channel|>analysis<|message|>I need f.<|end|><|start|>assistant<|channel|>commentary "
    'to=functions.f <|constrain|>json<|message|>{"city":"Oslo"}<|call|>'
)


class OneGateway:
    """A door of its own over the world's front-end and a store."""

    def __init__(self, world: World, folder: Path, callers: Callers | None, **config: Any) -> None:
        self.store = open_store(sqlite_url(folder))
        settings = ResponsesConfig.model_validate({"enabled": True, **config})
        self.told: list[str] = []
        self.stored = StoredResponses(self.store, settings, told=self.told.append)
        self.stored.start()
        door = world.make_door(
            access=None if callers is None else callers.identity, stored=self.stored
        )
        transport = httpx.ASGITransport(door, raise_app_exceptions=True)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://gateway")

    async def ask(self, path: str = PATH, key: str = "", **fields: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return await self.http.post(path, json={**RESPONSES, **fields}, headers=headers)

    async def answered(self, **fields: Any) -> dict[str, Any]:
        """The response, of a stream its last event's."""
        answer = await self.ask(**fields)
        assert answer.status_code == 200, answer.text
        if not fields.get("stream"):
            return dict(answer.json())
        happened = events(answer.text)
        assert [fault for each in happened for fault in faults("ResponseStreamEvent", each)] == []
        return dict(happened[-1]["response"])

    def close(self) -> None:
        self.stored.stop()


class Gateways:
    """As many as a test opens, over one store."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.folder = folder
        self.opened: list[OneGateway] = []
        fresh_store(sqlite_url(folder)).close()

    def open(self, callers: Callers | None = None, **config: Any) -> OneGateway:
        self.opened.append(OneGateway(self.world, self.folder, callers, **config))
        return self.opened[-1]

    def prompt(self) -> list[int]:
        """The newest."""
        return list(self.world.core.requests[-1].prompt_token_ids or ())

    def rows(self) -> int:
        with sqlite3.connect(self.folder / "store.sqlite") as connection:
            return int(connection.execute("SELECT count(*) FROM responses").fetchone()[0])


@pytest_asyncio.fixture(loop_scope="session")
async def gateways(world: World, tmp_path: Path) -> AsyncIterator[Gateways]:
    made = Gateways(world, tmp_path)
    yield made
    for each in made.opened:
        each.close()


def say(text: str) -> Script:
    encoding = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
    tokens = encoding.encode(text, allowed_special="all")

    async def script(core: Any, request: Any, context: Any) -> None:
        context.settled = True
        for index, token in enumerate(tokens):
            await core.say(request, token, last=index == len(tokens) - 1)

    return script


# ------------------------------------------------------------------ a conversation


@pytest.mark.parametrize("stream", [False, True])
async def test_a_conversation_goes_on_at_another_gateway(gateways: Gateways, stream: bool) -> None:
    first = gateways.open()
    one = await first.answered(input="Good morning", instructions="Be brief.", stream=stream)
    assert (one["store"], one["previous_response_id"]) == (True, None)
    assert faults("Response", one) == []
    first.close()  # it is gone before the next turn

    second = gateways.open()
    two = await second.answered(input="And now?", previous_response_id=one["id"], stream=stream)
    assert (two["store"], two["previous_response_id"]) == (True, one["id"])
    third = await second.answered(input="Bye", previous_response_id=two["id"], stream=stream)
    told = gateways.prompt()

    # As if the client had sent all of it, with what it was answered; old instructions are no part.
    talk = [{"role": "user", "content": "Good morning"}, *one["output"]]
    talk += [{"role": "user", "content": "And now?"}, *two["output"]]
    talk += [{"role": "user", "content": "Bye"}]
    await second.answered(input=talk, store=False)
    assert told == gateways.prompt()
    assert len({one["id"], two["id"], third["id"]}) == 3


async def test_a_tool_is_called_and_answered_over_two_turns(gateways: Gateways) -> None:
    gateways.world.core.script = say(CALLS)
    one = await gateways.open().answered(input="Weather?", tools=[FLAT])
    assert [item["type"] for item in one["output"]] == ["reasoning", "function_call"]
    call = one["output"][1]
    gateways.world.core.reset()
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
    two = await gateways.open().answered(
        input=[output], tools=[FLAT], previous_response_id=one["id"]
    )
    told = gateways.prompt()
    assert two["output"][-1]["content"][0]["text"]
    talk = [{"role": "user", "content": "Weather?"}, *one["output"], output]
    await gateways.open().answered(input=talk, tools=[FLAT], store=False)
    assert told == gateways.prompt()
    encoding = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
    text = encoding.decode(told)
    assert "to=functions.f" in text
    assert "I need f." in text  # what it thought before the call belongs to it
    assert "rain" in text


async def test_an_answer_that_met_its_cap_can_be_gone_on_from(gateways: Gateways) -> None:
    gateways.world.core.script = cut_after(len(HELLO) - 1)
    gateway = gateways.open()
    for stream in (False, True):
        one = await gateway.answered(stream=stream)
        assert (one["status"], one["store"]) == ("incomplete", True)
        gateways.world.core.reset()
        await gateway.answered(previous_response_id=one["id"])
        gateways.world.core.script = cut_after(len(HELLO) - 1)


async def test_openais_client_keeps_a_conversation(gateways: Gateways) -> None:
    gateway = gateways.open()
    http: Any = gateway.http  # another make of the client that it names, and just as good
    client = AsyncOpenAI(
        api_key="none", base_url="http://gateway/v1", http_client=http, max_retries=0
    )
    one = await client.responses.create(model=MODEL, input="Good morning")
    two = await client.responses.create(
        model=MODEL, input="And now?", previous_response_id=one.id, store=True
    )
    found = await client.responses.retrieve(two.id)
    assert found.model_dump() == two.model_dump()
    assert found.previous_response_id == one.id
    items = await client.responses.input_items.list(two.id)
    assert [item.type for item in items.data] == ["message"]
    await client.responses.delete(one.id)
    with pytest.raises(Exception, match="not found") as raised:
        await client.responses.retrieve(one.id)
    assert type(raised.value).__name__ == "NotFoundError"
    async with client.responses.stream(model=MODEL, input="hi") as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_response()
    assert (await client.responses.retrieve(final.id)).output_text == final.output_text


# ------------------------------------------------------------------ what was kept


async def test_a_response_is_read_listed_and_deleted_anywhere(gateways: Gateways) -> None:
    first, second = gateways.open(), gateways.open()
    items = [{"role": "user", "content": f"number {n}"} for n in range(3)]
    made = await first.answered(input=items)
    where = f"{PATH}/{made['id']}"
    assert (await second.http.get(where)).json() == made
    page = (await second.http.get(f"{where}/input_items?limit=2&order=asc")).json()
    assert [each["content"][0]["text"] for each in page["data"]] == ["number 0", "number 1"]
    assert (page["object"], page["has_more"]) == ("list", True)
    rest = (await second.http.get(f"{where}/input_items?order=asc&after={page['last_id']}")).json()
    assert [each["content"][0]["text"] for each in rest["data"]] == ["number 2"]
    assert not rest["has_more"]
    newest = (await second.http.get(f"{where}/input_items")).json()["data"]
    assert [each["id"] for each in newest] == [
        each["id"] for each in reversed([*page["data"], *rest["data"]])
    ]
    for query in ("limit=0", "limit=1000", "limit=x", "order=up", "after=msg_9"):
        error_of(await second.http.get(f"{where}/input_items?{query}"), 400)
    assert error_of(await second.http.get(f"{where}?stream=true"), 400)["param"] == "stream"
    cancelled = error_of(await second.http.post(f"{where}/cancel"), 400)
    assert cancelled["code"] == "not_cancellable"
    assert (await first.http.delete(where)).json() == {
        "id": made["id"], "object": "response", "deleted": True,
    }  # fmt: skip
    for method in ("GET", "DELETE"):
        assert "not found" in error_of(await second.http.request(method, where), 404)["message"]
    error_of(await second.http.get(f"{where}/input_items"), 404)
    error_of(await second.http.post(f"{where}/cancel"), 404)
    assert gateways.rows() == 0


async def test_a_response_is_its_tenants_only(gateways: Gateways) -> None:
    callers = Callers(gateways.folder)
    ours, theirs = callers.key(tenant="acme").key.text, callers.key(tenant="other").key.text
    gateway = gateways.open(callers)
    made = (await gateway.ask(key=ours)).json()
    assert made["store"] is True
    where = f"{PATH}/{made['id']}"
    for method, path in (
        ("GET", where), ("DELETE", where), ("GET", f"{where}/input_items"),
        ("POST", f"{where}/cancel"),
    ):  # fmt: skip
        headers = {"authorization": f"Bearer {theirs}"}
        error_of(await gateway.http.request(method, path, headers=headers), 404)
        error_of(await gateway.http.request(method, path), 401)
    before = len(gateways.world.core.requests)
    refused = await gateway.ask(key=theirs, previous_response_id=made["id"])
    unknown = await gateway.ask(key=theirs, previous_response_id="resp_none")
    code = "previous_response_not_found"
    assert error_of(refused, 400)["code"] == error_of(unknown, 400)["code"] == code
    assert len(gateways.world.core.requests) == before
    assert (await gateway.ask(key=ours, previous_response_id=made["id"])).status_code == 200
    usage = callers.key(tenant="acme", scopes=["usage"]).key.text
    error_of(await gateway.http.get(where, headers={"authorization": f"Bearer {usage}"}), 403)
    callers.close()


# ------------------------------------------------------------------ what is not kept


async def test_where_it_is_off_nothing_is_kept_and_that_is_told(world: World) -> None:
    made = (await world.post(PATH, {**RESPONSES, "store": True})).json()
    assert made["store"] is False
    error = error_of(await world.post(PATH, {**RESPONSES, "previous_response_id": made["id"]}), 400)
    assert (error["code"], error["param"]) == (
        "previous_response_not_found", "previous_response_id",
    )  # fmt: skip
    assert "not stored here" in error["message"]
    for method, below in (
        ("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel"),
    ):  # fmt: skip
        answer = await world.http.request(method, f"{PATH}/{made['id']}{below}")
        assert "not stored here" in error_of(answer, 404)["message"]


async def test_only_what_the_request_and_the_policy_allow_is_kept(gateways: Gateways) -> None:
    on = gateways.open()
    assert (await on.answered(store=False))["store"] is False
    explicit = gateways.open(store_by_default=False)
    assert (await explicit.answered())["store"] is False
    nobody = gateways.open(tenants={"": {"enabled": False}})
    refused = await nobody.answered(store=True)
    assert refused["store"] is False
    error_of(await nobody.ask(previous_response_id=refused["id"]), 400)
    error_of(await nobody.http.get(f"{PATH}/{refused['id']}"), 404)
    assert gateways.rows() == 0
    assert (await explicit.answered(store=True))["store"] is True
    assert gateways.rows() == 1
    error_of(await on.ask(store="yes"), 400)


async def test_a_request_that_fails_or_ends_early_leaves_nothing(gateways: Gateways) -> None:
    gateway = gateways.open()
    error_of(await gateway.ask(model="none"), 404)
    error_of(await gateway.ask(input=[{"type": "item_reference", "id": "x"}]), 400)
    await gateway.answered(store=False)
    assert gateways.rows() == 0


@pytest.mark.parametrize(
    "given", ["", "resp_", "x", "resp_a\u0000b", "resp_" + "a" * 500, 7, [], {"a": 1}, True]
)
async def test_an_id_that_is_none_is_refused(gateways: Gateways, given: Any) -> None:
    error = error_of(await gateways.open().ask(previous_response_id=given), 400)
    assert error["param"] == "previous_response_id"
    assert len(error["message"]) <= 300


async def test_a_conversation_is_bounded(gateways: Gateways) -> None:
    gateway = gateways.open(max_turns=2, max_conversation_bytes=4096)
    one = await gateway.answered()
    two = await gateway.answered(previous_response_id=one["id"])
    three = await gateway.answered(previous_response_id=two["id"])
    error = error_of(await gateway.ask(previous_response_id=three["id"]), 400)
    assert (error["code"], "2 turns" in error["message"]) == ("conversation_too_long", True)
    long = await gateway.answered(input="so it is " * 500)
    error = error_of(await gateway.ask(previous_response_id=long["id"]), 400)
    assert (error["code"], "4096 bytes" in error["message"]) == ("conversation_too_long", True)


async def test_checks_are_of_the_whole_conversation(gateways: Gateways) -> None:
    gateway = gateways.open()
    one = await gateway.answered(input=[{"role": "user", "content": "a"}] * 1000)
    error = error_of(
        await gateway.ask(
            input=[{"role": "user", "content": "a"}] * 30, previous_response_id=one["id"]
        ),
        400,
    )
    assert error["code"] == "array_above_max_length"


# ------------------------------------------------------------------ a store that is away


class Stalled:
    """The store takes a statement and does not answer until it is released."""

    def __init__(self, gateway: OneGateway, verb: str) -> None:
        self.go_on = threading.Event()
        self.reached = threading.Event()
        self._verb = verb
        event.listen(gateway.store.engine, "before_cursor_execute", self._wait)

    def _wait(self, connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith(self._verb):
            self.reached.set()
            self.go_on.wait(30)


async def test_a_store_that_hangs_is_not_waited_for(gateways: Gateways) -> None:
    gateway, other = gateways.open(max_wait_s=0.2), gateways.open()
    made = await gateway.answered()
    stalled = Stalled(gateway, "INSERT INTO responses")
    before = time.monotonic()
    for stream in (False, True):
        late = await gateway.answered(stream=stream)
        assert late["store"] is False
    assert time.monotonic() - before < 5
    # What was told holds: the writes that come through later are taken back.
    stalled.go_on.set()
    until = time.monotonic() + 10
    while gateway.stored._pending and time.monotonic() < until:
        await asyncio.sleep(0.01)
    assert gateway.stored._pending == 0
    assert gateway.told == ["kept", "not_kept", "not_kept"]
    assert gateways.rows() == 1

    stalled = Stalled(gateway, "WITH RECURSIVE")
    refused = await gateway.ask(previous_response_id=made["id"])
    assert error_of(refused, 503)["code"] == "store_unavailable"
    assert refused.headers["retry-after"] == "5"
    assert (await gateway.answered(store=False))["store"] is False
    assert (await other.answered(previous_response_id=made["id"]))["store"] is True
    stalled.go_on.set()


async def test_a_store_that_fails_is_told_without_a_word_of_content(
    gateways: Gateways, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = gateways.open()
    made = await gateway.answered()
    with sqlite3.connect(gateways.folder / "store.sqlite") as connection:
        connection.execute("ALTER TABLE responses RENAME TO gone")
    caplog.set_level(logging.DEBUG)
    answer = await gateway.answered(input="my secret is xyzzy")
    assert (answer["status"], answer["store"]) == ("completed", False)
    for path in ("", "/input_items"):
        error_of(await gateway.http.get(f"{PATH}/{made['id']}{path}"), 503)
    error_of(await gateway.http.delete(f"{PATH}/{made['id']}"), 503)
    error_of(await gateway.ask(previous_response_id=made["id"]), 503)
    assert "the store of responses does not answer" in caplog.text
    assert "xyzzy" not in caplog.text
    assert "xyzzy" not in json.dumps([str(record.__dict__) for record in caplog.records])


async def test_the_end_is_told_after_the_response_is_stored(gateways: Gateways) -> None:
    gateway = gateways.open()
    await gateway.answered()  # the schema is there
    stalled = Stalled(gateway, "INSERT INTO responses")
    asked = asyncio.create_task(gateway.answered(stream=True))
    await asyncio.to_thread(stalled.reached.wait, 10)
    await asyncio.sleep(0.1)
    assert not asked.done()
    stalled.go_on.set()
    assert (await asked)["store"] is True
    assert gateways.rows() == 2
