"""Event ids, and the rest of a stream for who comes back with one."""

import itertools
import json
import secrets
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import StreamDiffers
from deployments.gateway.context import RequestContext
from deployments.gateway.contract.asgi import Message
from deployments.gateway.contract.resumable import ResumableSend
from deployments.gateway.resume import NONCE_BYTES, OURS, Resume, Shown, read_event_id
from tests.deployments.gateway.contract.door_world import (
    CHAT,
    MODEL,
    ROUTES,
    Script,
    ScriptedCore,
    World,
)
from tests.deployments.gateway.contract.test_chunks import (
    ANSWER,
    CALL,
    ENCODING,
    PREAMBLE,
    TOOL,
    say,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")

NONCE = bytes(range(NONCE_BYTES))
KEEP_S = 60.0
PATH = "/v1/chat/completions"

Piece = tuple[str, str]
"""The name of a text and some more of it; `call0` is the first tool call's arguments."""

PIECES: list[Piece] = [
    *(("reasoning", each) for each in ("The ", "user ", "asks — ", "wait", ".", " Hm", "m.")),
    *(("content", each) for each in ("Hé", "llo", ", 世界", "!", " 👋🏽 ", "Bye", ".")),
    *(("call0", each) for each in ("", '{"a"', ': "', "b", '"}')),
    *(("call1", each) for each in ("", "{", "}")),
]


def events_of(
    texts: Iterable[list[Piece]], created: int = 7, usage: bool = True
) -> Iterator[dict[str, Any]]:
    """Chunks as vLLM writes them; each of ``texts`` is one event's."""

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {"id": "chatcmpl-r", "created": created, "choices": [choice]}

    yield chunk({"role": "assistant", "content": ""})
    named: set[str] = set()
    for pieces in texts:
        delta: dict[str, Any] = {}
        for name, text in pieces:
            if name.startswith("call"):
                index = int(name[4:])
                call: dict[str, Any] = {"index": index, "function": {"arguments": text}}
                if name not in named:
                    call |= {"id": f"call_{secrets.token_hex(4)}", "type": "function"}
                    call["function"]["name"] = "f"
                    named.add(name)
                delta.setdefault("tool_calls", []).append(call)
            else:
                delta[name] = delta.get(name, "") + text
        yield chunk(delta)
    yield chunk({}, "stop")
    if usage:
        yield {"id": "chatcmpl-r", "created": created, "choices": [], "usage": {"total": 3}}


def merged(pieces: list[Piece], cuts: Iterable[int]) -> list[list[Piece]]:
    """The same text in other events: a busy front-end merges some."""
    bounds = [0, *sorted(set(cuts)), len(pieces)]
    made = [pieces[a:b] for a, b in itertools.pairwise(bounds) if a < b]
    # vLLM gives each tool call once in an event.
    return [_joined(each) for each in made]


def _joined(pieces: list[Piece]) -> list[Piece]:
    texts: dict[str, str] = {}
    for name, text in pieces:
        texts[name] = texts.get(name, "") + text
    return list(texts.items())


@dataclass
class Client:
    """Joins what it gets, as one stream."""

    texts: dict[str, str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    finishes: list[str] = field(default_factory=list)
    usages: int = 0
    roles: int = 0
    made: set[tuple[str, int]] = field(default_factory=set)
    done: bool = False
    last_id: str = field(default="", compare=False)
    error: dict[str, Any] | None = None

    def get(self, event: str) -> None:
        lines = dict(line.split(": ", 1) for line in event.split("\n"))
        self.last_id = lines.get("id", self.last_id)
        if lines["data"] == "[DONE]":
            self.done = True
            return
        chunk = json.loads(lines["data"])
        if "error" in chunk:
            self.error = chunk["error"]
            return
        self.made.add((chunk["id"], chunk["created"]))
        self.usages += not chunk["choices"]
        for choice in chunk["choices"]:
            delta = choice["delta"]
            self.roles += "role" in delta
            for call in delta.get("tool_calls") or ():
                self._add(f"call{call['index']}", call["function"]["arguments"])
                if "id" in call:
                    self.calls.append(call["function"]["name"])
            for name in ("content", "reasoning"):
                self._add(name, delta.get(name) or "")
            if choice["finish_reason"]:
                self.finishes.append(choice["finish_reason"])

    def _add(self, name: str, text: str) -> None:
        if text:
            self.texts[name] = self.texts.get(name, "") + text

    def assert_whole(self) -> None:
        assert self.texts == dict(_joined(PIECES))
        assert self.calls == ["f", "f"]
        assert (self.finishes, self.usages, self.roles) == (["stop"], 1, 1)
        assert self.made == {("chatcmpl-r", 7)}


def joined(events: Iterable[str]) -> Client:
    client = Client()
    for event in events:
        client.get(event)
    return client


async def sent(
    chunks: Iterable[dict[str, Any]], shown: Shown | None
) -> tuple[list[str], RequestContext]:
    """The events that a client gets of these chunks."""
    events: list[str] = []

    async def send(message: Message) -> None:
        events.extend(filter(None, message["body"].decode().split("\n\n")))

    context = RequestContext("r", MODEL, "high", None, 0.0)
    through = ResumableSend(send, context, Resume(NONCE, KEEP_S, shown))
    for chunk in chunks:
        body = b"data: " + msgspec.json.encode(chunk) + b"\n\n"
        await through({"type": "http.response.body", "body": body, "more_body": True})
    return events, context


CUTS = st.sets(st.integers(0, len(PIECES)))


@given(first=CUTS, second=CUTS, third=CUTS, at=st.integers(1, 40), later=st.integers(0, 40))
async def test_joined_parts_are_the_whole_however_the_text_is_cut_into_events(
    first: set[int], second: set[int], third: set[int], at: int, later: int
) -> None:
    client = Client()
    events, _ = await sent(events_of(merged(PIECES, first)), None)
    for event in events[:at]:
        client.get(event)
    for cuts, upto, created in ((second, later, 8), (third, None, 9)):
        shown = read_event_id(client.last_id.encode())
        events, context = await sent(events_of(merged(PIECES, cuts), created), shown)
        assert context.failure is None
        for event in events[:upto]:
            client.get(event)
    client.assert_whole()


async def test_another_text_is_never_joined_to_what_the_client_has() -> None:
    client = Client()
    events, _ = await sent(events_of([[piece] for piece in PIECES]), None)
    for event in events[:10]:
        client.get(event)
    shown = read_event_id(client.last_id.encode())
    for at, name in ((0, "reasoning"), (7, "content")):
        others = list(PIECES)
        assert others[at][0] == name
        others[at] = name, others[at][1].swapcase()
        events, context = await sent(events_of([[piece] for piece in others]), shown)
        assert isinstance(context.failure, StreamDiffers)
        assert events == []
    events, context = await sent(events_of([[piece] for piece in PIECES[:3]]), shown)
    assert isinstance(context.failure, StreamDiffers)  # it is shorter
    assert events == []


# ------------------------------------------------------------------ at the door

STREAM = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
ASK = {"x-trireme-resumable": "1"}


def http_of(world: World, **changes: Any) -> httpx.AsyncClient:
    door = world.make_door(**{"resume_s": KEEP_S, **changes})
    return httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://gateway")


def events_in(response: httpx.Response) -> list[str]:
    return [event for event in response.text.split("\n\n") if event]


def ids_in(events: list[str]) -> list[str]:
    return [line[4:] for event in events for line in event.split("\n") if line.startswith("id: ")]


REPLIES: dict[str, tuple[str, dict[str, Any]]] = {
    "answer": (ANSWER, {}),
    "call": (CALL, {"tools": [TOOL]}),
    "preamble": (PREAMBLE, {"tools": [TOOL]}),
    "no reasoning shown": (ANSWER, {"include_reasoning": False}),
    "stop string": (ANSWER, {"stop": ["é» "]}),
}


def slowly(text: str) -> Script:
    """A token at a time, so that each makes an event of its own."""
    tokens = ENCODING.encode(text, allowed_special="all")

    async def script(core: ScriptedCore, request: Any, context: RequestContext) -> None:
        context.settled = True
        for position, token in enumerate(tokens, start=1):
            await core.say(request, token, last=position == len(tokens))

    return script


@pytest.mark.parametrize("name", REPLIES)
async def test_after_every_event_the_rest_is_what_would_have_come(world: World, name: str) -> None:
    """Also when vLLM's front-end is given more at once, and makes fewer events of it."""
    text, fields = REPLIES[name]
    body = {**STREAM, **fields}
    async with http_of(world) as http:
        world.core.script = slowly(text)
        response = await http.post(PATH, json=body, headers=ASK)
        assert response.headers["x-trireme-resumable"] == "1"
        events = events_in(response)
        ids = ids_in(events)
        assert len(ids) == len(events) - 1 >= 2
        whole = joined(events)
        assert whole.texts
        assert (len(whole.finishes), whole.usages, whole.roles, whole.done) == (1, 1, 1, True)
        for at, last_id in enumerate(ids):
            world.core.script = say(text, at_once=(1, 3, 100)[at % 3])
            again = await http.post(PATH, json=body, headers={"last-event-id": last_id})
            assert again.status_code == 200, again.text
            assert again.headers["x-request-id"] == response.headers["x-request-id"]
            assert joined([*events[: at + 1], *events_in(again)]) == whole


async def test_all_chunks_name_one_request_whoever_gave_it_its_id(world: World) -> None:
    """HAProxy gives each request one, so the second time it is another."""
    given = "8d3fa6a2-0c0e-4f0e-9d1c-3f1f2a0b9c7d"
    async with http_of(world) as http:
        first = await http.post(PATH, json=STREAM, headers={**ASK, "x-request-id": given})
        last_id = ids_in(events_in(first))[0]
        back = {"last-event-id": last_id, "x-request-id": str(uuid.uuid4())}
        again = await http.post(PATH, json=STREAM, headers=back)
        assert again.headers["x-request-id"] == first.headers["x-request-id"] == given
        assert joined([*events_in(first), *events_in(again)]).made == joined(events_in(first)).made
        mine = await http.post(PATH, json=STREAM, headers={**ASK, "x-request-id": "mine"})
        back = {"last-event-id": ids_in(events_in(mine))[0], "x-request-id": "mine, again"}
        again = await http.post(PATH, json=STREAM, headers=back)
        assert again.status_code == 200


async def test_nothing_changes_unless_both_the_operator_and_the_client_want_it(
    world: World,
) -> None:
    for resume_s, headers in ((0.0, ASK), (KEEP_S, {}), (KEEP_S, {"x-trireme-resumable": "0"})):
        async with http_of(world, resume_s=resume_s) as http:
            response = await http.post(PATH, json=STREAM, headers=headers)
            assert "x-trireme-resumable" not in response.headers
            assert ids_in(events_in(response)) == []
            assert world.core.contexts[-1].resume is None
    async with http_of(world, resume_s=0.0) as http:
        response = await http.post(PATH, json=STREAM, headers={"last-event-id": "whatever"})
        assert response.status_code == 200
        assert "Hello" in response.text


async def test_what_cannot_be_resumed_has_no_ids_and_says_so_to_who_comes_back(
    world: World,
) -> None:
    last_id = Shown(NONCE, OURS, 1, 7, 0, {}).event_id().decode()
    unfit = [
        (PATH, CHAT),
        (PATH, {**STREAM, "n": 2}),
        (PATH, {**STREAM, "logprobs": True}),
        *((path, {**body, "stream": True}) for path, body in ROUTES.items() if path != PATH),
    ]
    async with http_of(world) as http:
        for path, body in unfit:
            response = await http.post(path, json=body, headers=ASK)
            assert response.status_code == 200, response.text
            assert "x-trireme-resumable" not in response.headers
            assert ids_in(events_in(response)) == []
            back = await http.post(path, json=body, headers={"last-event-id": last_id})
            assert back.status_code == 400
            assert "Last-Event-ID" in back.json()["error"]["message"]
        back = await http.post(PATH, json=STREAM, headers={"last-event-id": "5"})
        assert (back.status_code, back.json()["error"]["code"]) == (400, "invalid_last_event_id")


async def test_another_text_ends_a_resumed_stream_with_an_error(world: World) -> None:
    last_id = Shown(NONCE, OURS, 1, 7, 0, {"reasoning": (4, 12345)}).event_id().decode()
    async with http_of(world) as http:
        response = await http.post(PATH, json=STREAM, headers={"last-event-id": last_id})
    client = joined(events_in(response))
    assert client.error is not None
    assert client.error["code"] == "stream_differs"
    assert client.texts == {}


async def test_a_resumed_stream_stays_at_the_tier_that_served_it(world: World) -> None:
    """What it goes on with is a reply to a prompt of that tier."""
    body = {**STREAM, "reasoning_effort": "high"}
    serves = [{}, {"high": "low"}]
    for before, after in (serves, serves[::-1]):

        def tier_to_serve(model: str, tier: Any) -> Any:
            return world.served_instead.get(tier, tier)

        async with http_of(world, tier_to_serve=tier_to_serve) as http:
            world.served_instead = dict(before)  # type: ignore[arg-type]
            response = await http.post(PATH, json=body, headers=ASK)
            served = world.core.rendered_effort()
            world.served_instead = dict(after)  # type: ignore[arg-type]
            last_id = ids_in(events_in(response))[2]
            again = await http.post(PATH, json=body, headers={"last-event-id": last_id})
            assert world.core.rendered_effort() == served == before.get("high", "high")
            assert again.headers["x-trireme-tier"] == served
            # Who asks for less cannot get more by an id.
            low = {**STREAM, "reasoning_effort": "low"}
            await http.post(PATH, json=low, headers={"last-event-id": last_id})
            assert world.core.rendered_effort() == "low"
