"""What must not get in does not: a corpus of bad requests over real HTTP; no engine hears of it.

Behind the door stands vLLM's own application over an engine core that keeps what it is given; in
front of it, the HTTP server that Ray Serve runs in a gateway.
"""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio
import uvicorn

from deployments.gateway.contract.constraints import check_constraints
from deployments.gateway.contract.door import Door
from deployments.gateway.contract.limits import Limits
from deployments.gateway.contract.routes import ROUTES
from deployments.router.tiers import served_names
from tests.deployments.gateway.contract.corpus.bodies import CHAT_PATH, refused
from tests.deployments.gateway.contract.corpus.defused import DEFUSED
from tests.deployments.gateway.contract.corpus.vllm_routes import VLLM_ROUTES
from tests.deployments.gateway.contract.corpus.wire import BODIES, BODY, WIRE, post
from tests.deployments.gateway.contract.door_world import CHAT, MAX_MODEL_LEN, MODEL, World

pytestmark = pytest.mark.asyncio(loop_scope="session")

BODY_S = 0.5
"""In which a body must be here, in this test."""
ANSWER_S = 5.0

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


@dataclass
class Served:
    """A door on a socket."""

    world: World
    port: int
    http: httpx.AsyncClient

    async def raw(self, *pieces: bytes, pause_s: float = 0.0) -> bytes:
        """What comes back for the bytes of ``pieces``, up to the end of the first answer or of the
        connection. Raises ``TimeoutError`` if neither comes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        answer = b""
        try:
            async with asyncio.timeout(ANSWER_S):
                sending = asyncio.create_task(_send(writer, pieces, pause_s))
                with contextlib.suppress(ConnectionResetError):
                    while not _whole(answer) and (piece := await reader.read(65_536)):
                        answer += piece
                sending.cancel()
        finally:
            writer.close()
        return answer


async def _send(writer: asyncio.StreamWriter, pieces: tuple[bytes, ...], pause_s: float) -> None:
    # The server may hang up long before all is sent.
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)


def _whole(answer: bytes) -> bool:
    head, blank, body = answer.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return bool(blank) and length is not None and len(body) >= int(length[1])


@asynccontextmanager
async def _listening(world: World) -> AsyncIterator[Served]:
    door = Door(
        {MODEL: world.app},
        served_names({MODEL: ("tiny",)}),
        default_tier="medium",
        limits=Limits(1_000_000, max_unbroken_run_chars=4000, body_s=BODY_S),
        max_model_len={MODEL: MAX_MODEL_LEN},
        ready=lambda: True,
        metrics=world._metrics,
        clock=asyncio.get_running_loop().time,
        on_done=lambda context, status: world.done.append((context, status)),
    )
    # The parser that Ray's images have; without it, uvicorn would take a slower one.
    config = uvicorn.Config(
        door, port=0, lifespan="off", log_level="critical", access_log=False, http="httptools"
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30
        ) as http:
            yield Served(world, port, http)
    finally:
        server.should_exit = True
        await serving


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def listening(front: World) -> AsyncIterator[Served]:
    async with _listening(front) as served:
        yield served


@pytest.fixture
def served(listening: Served) -> Served:
    listening.world.reset()
    return listening


def assert_refused(status: int, text: str) -> None:
    """With an error of OpenAI's (or Anthropic's) shape that tells nothing of the server."""
    assert 400 <= status < 500, text
    told = json.loads(text)
    error = told["error"]
    if told.get("type") != "error":
        assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert len(error["message"]) <= 400
    for inside in ("Traceback", "site-packages", "vllm/", 'File "'):
        assert inside not in text


@pytest.mark.parametrize(("path", "body"), [b for _, b in refused()], ids=[n for n, _ in refused()])
async def test_a_bad_body_is_refused_and_no_engine_hears_of_it(
    served: Served, path: str, body: dict[str, Any]
) -> None:
    began = time.thread_time()
    response = await served.http.post(path, json=body)
    assert_refused(response.status_code, response.text)
    assert served.world.core.requests == []
    # Nor does it hold up those who ask for something else. The check itself, not the client.
    assert time.thread_time() - began < 1.0


@pytest.mark.parametrize("data", WIRE.values(), ids=list(WIRE))
async def test_bytes_that_no_client_sends_reach_no_engine(served: Served, data: bytes) -> None:
    answer = await served.raw(data)
    assert served.world.core.requests == []
    # What the HTTP server cannot read it refuses in its own words.
    assert re.match(rb"HTTP/1\.1 4\d\d ", answer), answer[:200]
    head, _, text = answer.partition(b"\r\n\r\n")
    if b"application/json" in head:
        assert_refused(int(head[9:12]), text.decode())
    else:
        # The last: of a web socket that is closed before it is open.
        assert text in (b"Invalid HTTP request received.", b"")
    # And the server lives.
    assert (await served.http.get("/health")).status_code == 200


@pytest.mark.parametrize("data", BODIES.values(), ids=list(BODIES))
async def test_what_is_wrong_in_a_body_is_told_in_openais_words(
    served: Served, data: bytes
) -> None:
    head, _, text = (await served.raw(data)).partition(b"\r\n\r\n")
    assert_refused(int(head[9:12]), text.decode())


async def test_the_same_bytes_without_the_fault_are_served(served: Served) -> None:
    assert (await served.raw(post())).startswith(b"HTTP/1.1 200 ")
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    chunked = post(b"transfer-encoding: chunked", body=chunks, length=False)
    assert (await served.raw(chunked)).startswith(b"HTTP/1.1 200 ")
    assert len(served.world.core.requests) == 2


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param((post()[:-10],), id="that stops"),
        pytest.param(tuple(bytes([each]) for each in post()), id="a byte at a time"),
        pytest.param(
            (post(b"transfer-encoding: chunked", body=b"1\r\n{\r\n", length=False),),
            id="in chunks that stop",
        ),
    ],
)
async def test_a_slow_body_is_refused_in_time(served: Served, pieces: tuple[bytes, ...]) -> None:
    head = post().index(b"\r\n\r\n") + 4
    if len(pieces) > 1:
        pieces = (post()[:head], *pieces[head:])
    began = time.monotonic()
    answer = await served.raw(*pieces, pause_s=0.1)
    assert BODY_S <= time.monotonic() - began < BODY_S + 2.0
    assert answer.startswith(b"HTTP/1.1 408 "), answer
    assert b"connection: close" in answer.lower()
    assert_refused(408, answer.partition(b"\r\n\r\n")[2].decode())
    assert served.world.core.requests == []


@pytest.mark.parametrize(("path", "body"), DEFUSED.values(), ids=list(DEFUSED))
async def test_what_would_steer_the_engine_is_left_out_and_named(
    served: Served, path: str, body: dict[str, Any]
) -> None:
    assert (await served.http.post(CHAT_PATH, json=CHAT)).status_code == 200
    response = await served.http.post(path, json=body)
    assert response.status_code == 200
    (field,) = body.keys() - CHAT.keys()
    assert response.headers["x-trireme-ignored"] == field
    plain, steered = served.world.core.requests
    for same in ("prompt_token_ids", "priority", "cache_salt", "data_parallel_rank"):
        assert getattr(steered, same) == getattr(plain, same)
    assert steered.sampling_params.extra_args == plain.sampling_params.extra_args
    assert "passwd" not in steered.request_id


@pytest.mark.parametrize(
    "header",
    [
        {"x-data-parallel-rank": "7"},
        {"x-session-id": "somebody"},
        {"x-vllm-priority": "-100"},
        {"x-request-id": "a b\tc"},
        {"x-forwarded-for": "127.0.0.1", "x-forwarded-host": "localhost"},
        {"x-trireme-tier": "low", "x-trireme-replica": "r", "x-tenant": "root"},
    ],
    ids=lambda header: next(iter(header)),
)
async def test_headers_of_a_caller_steer_nothing(served: Served, header: dict[str, str]) -> None:
    body = {**CHAT, "reasoning_effort": "high"}
    response = await served.http.post(CHAT_PATH, json=body, headers=header)
    assert response.status_code == 200
    assert response.headers["x-trireme-tier"] == "high"
    assert response.headers["x-trireme-replica"] == "replica-7"
    (request,) = served.world.core.requests
    assert (request.priority, request.data_parallel_rank) == (0, None)
    assert re.fullmatch(r"[A-Za-z0-9._:-]+", response.headers["x-request-id"])
    (context, _), *_ = served.world.done
    assert context.tier == "high"
    assert context.caller is None


DATE = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,6})?(Z|[+-]\d{2}:\d{2})$"
ADDRESS = {
    "type": "object",
    "properties": {
        "street": {"type": "string", "maxLength": 200},
        "codes": {"type": "array", "items": {"type": "string", "pattern": r"^[0-9]{5}$"}},
        "since": {"type": "string", "pattern": DATE},
        "next": {"$ref": "#/$defs/address"},
        "kind": {"enum": ["home", "work", {"$ref": "http://is.a.value/"}]},
    },
    "required": ["street"],
    "$defs": {"address": {"$ref": "#"}},
}


@pytest.mark.parametrize(
    "constraint",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"schema": ADDRESS}}},
        {"response_format": {"type": "json_object"}},
        {"text": {"format": {"type": "json_schema", "schema": ADDRESS}}},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": ADDRESS}}]},
        {"structured_outputs": {"regex": r"(\w+\s*)+[.!?]"}},
        {"structured_outputs": {"regex": r"[a-f0-9]{8}(-[a-f0-9]{4}){3}-[a-f0-9]{12}"}},
        {"structured_outputs": {"regex": r"[^\]{}()*+?|]{2,}\{\(\[(?:a|b)?"}},
        {"structured_outputs": {"choice": ["yes", "no"], "disable_any_whitespace": True}},
        {"structured_outputs": {"json": json.dumps(ADDRESS)}},
    ],
)
async def test_what_people_ask_for_is_not_refused(constraint: dict[str, Any]) -> None:
    check_constraints(constraint)


async def test_every_route_of_vllms_application_is_known_and_none_answers_unlisted(
    served: Served,
) -> None:
    app: Any = served.world.app
    own = {
        (method, route.path)
        for route in app.routes
        for method in getattr(route, "methods", None) or ("GET",)
        if method != "HEAD"
    }
    assert own - set(VLLM_ROUTES) == set()
    for method, path in VLLM_ROUTES:
        if path in ROUTES and method in ROUTES[path].methods:
            continue
        response = await served.http.request(method, path, json={})
        assert response.status_code == (405 if path in ROUTES else 404), path
        assert_refused(response.status_code, response.text)
