"""What the opt-in content log keeps, what it takes out, and that there is none otherwise."""

import asyncio
import json
import stat
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from cluster.config import ContentLogConfig, TriremeConfig
from cluster.metrics import GATEWAY_METRICS, Metrics
from cluster.tenants.caller import Caller
from deployments.gateway.content_log.answers import StreamedAnswer
from deployments.gateway.content_log.files import DayFiles
from deployments.gateway.content_log.log import ContentLog, make_content_log
from deployments.gateway.content_log.redact import Redactor, TooSlow
from deployments.gateway.context import RequestContext
from deployments.gateway.contract.door import Door
from deployments.gateway.contract.limits import Limits
from deployments.router.tiers import served_names
from tests.deployments.gateway.contract.door_world import (
    CHAT,
    COMPLETION,
    MAX_MODEL_LEN,
    MESSAGES,
    MODEL,
    RESPONSES,
    World,
    never_end,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")

SECRET = "sk-proj-A1b2C3d4E5f6G7h8"
CANARY = "canary71c9"

SLOW, TRAP = r"^(?:x|xx)+$", "x" * 3000 + "!"
"""A pattern, and a text for which it would take for ever."""


class Clock:
    """The date, as the test wants it."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


class Kept:
    """A content log and what it has written."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.counts: Counter[str] = Counter()
        self.clock = Clock()
        config = ContentLogConfig.model_validate({"enabled": True, **settings})
        files = DayFiles(folder, "gateway/1", config.retain_days)
        self.log = ContentLog(config, files, self._count, self.clock)

    def _count(self, outcome: str) -> None:
        self.counts[outcome] += 1

    async def records(self, count: int) -> list[dict[str, Any]]:
        """All that is there once so many are done."""
        async with asyncio.timeout(20):
            while sum(self.counts.values()) < count:
                await asyncio.sleep(0.005)
        paths = sorted(self.folder.glob("*.jsonl"))
        return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


@contextmanager
def running(folder: Path, **settings: Any) -> Iterator[Kept]:
    kept = Kept(folder, **settings)
    kept.log.start()
    try:
        yield kept
    finally:
        kept.log.stop()


@asynccontextmanager
async def logged(
    world: World, log: ContentLog, caller: Caller | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """The real door over vLLM's real front-end, with the log over it."""

    def done(context: RequestContext, status: int) -> None:
        context.caller = caller
        log.done(context, status)

    door = Door(
        {MODEL: world.app},
        served_names({MODEL: ("tiny",)}),
        default_tier="medium",
        limits=Limits(1_000_000, 4000),
        max_model_len={MODEL: MAX_MODEL_LEN},
        ready=lambda: True,
        metrics=no_metrics,
        clock=asyncio.get_running_loop().time,
        on_done=done,
    )
    transport = httpx.ASGITransport(log.over(door))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        yield http


async def no_metrics() -> tuple[bytes, str]:
    return b"", "text/plain"


def saying(*tokens: int) -> Callable[..., Any]:
    async def script(core: Any, request: Any, context: RequestContext) -> None:
        context.settled = True
        for token in tokens:
            await core.say(request, token, last=token == tokens[-1])

    return script


# ------------------------------------------------------------------ through the door


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_and_its_answer_are_kept_on_every_route(
    world: World, tmp_path: Path, stream: bool
) -> None:
    routes = {"chat/completions": CHAT, "responses": RESPONSES, "messages": MESSAGES}
    with running(tmp_path / "log") as kept:
        async with logged(world, kept.log) as http:
            for path, body in routes.items():
                asked = {**body, "user": f"{CANARY} {SECRET}", "stream": stream}
                found = await http.post(f"/v1/{path}", json=asked)
                assert found.status_code == 200, found.text
        records = await kept.records(3)
    assert [record["route"] for record in records] == ["chat", "responses", "messages"]
    for record, body in zip(records, routes.values(), strict=True):
        assert record["request"] == {
            **body,
            "user": f"{CANARY} [redacted: key]",
            "stream": stream,
        }
        assert (record["model"], record["tier"], record["status"]) == (MODEL, "medium", 200)
        assert record["at"] == "2026-03-01T12:00:00.000+00:00"
        if stream:
            texts = {key: text for part in record["answer"] for key, text in part.items()}
            assert (texts["text"].strip(), texts["reasoning"]) == ("Hello there", "The user")
        else:
            assert "Hello there" in json.dumps(record["answer"])
    assert kept.counts == {"written": 3}


async def test_a_completion_is_kept_and_a_choice_has_its_own_text(
    world: World, tmp_path: Path
) -> None:
    world.core.script = saying(13225, 1354, 200002)
    with running(tmp_path / "log") as kept:
        async with logged(world, kept.log) as http:
            await http.post("/v1/completions", json={**COMPLETION, "n": 2, "stream": True})
        [record] = await kept.records(1)
    assert [part["index"] for part in record["answer"]] == [0, 1]
    assert {part["text"] for part in record["answer"]} == {"Hello there"}


async def test_what_the_door_refuses_is_not_kept(world: World, tmp_path: Path) -> None:
    with running(tmp_path / "log") as kept:
        async with logged(world, kept.log) as http:
            for body in (b"{", b'{"model": "none"}', b'{"model": "tiny", "messages": []}'):
                sent = await http.post(
                    "/v1/chat/completions",
                    content=body,
                    headers={"content-type": "application/json"},
                )
                assert sent.status_code in (400, 404)
            await http.get("/v1/models")
            await http.post("/v1/chat/completions", json=CHAT)
        records = await kept.records(1)
    assert len(records) == 1


async def test_a_client_that_leaves_is_kept_with_what_it_was_sent(
    world: World, tmp_path: Path
) -> None:
    world.core.script = never_end
    body = json.dumps({**CHAT, "stream": True}).encode()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json"), (b"host", b"gateway")],
        "client": ("127.0.0.1", 1),
        "server": ("gateway", 80),
    }
    asked = [{"type": "http.request", "body": body, "more_body": False}]
    enough = asyncio.Event()

    async def receive() -> Any:
        if asked:
            return asked.pop()
        await enough.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if b" there" in message.get("body", b""):
            enough.set()

    with running(tmp_path / "log") as kept:
        async with logged(world, kept.log) as http:
            app = http._transport.app  # type: ignore[attr-defined]
            async with asyncio.timeout(10):
                await app(scope, receive, send)
        [record] = await kept.records(1)
    assert record["status"] == 499
    assert record["answer"][0]["text"].startswith("Hello there")


async def test_only_the_tenants_that_are_named_are_kept(world: World, tmp_path: Path) -> None:
    with running(tmp_path / "log", tenants=["research"]) as kept:
        for tenant in ("sales", "research"):
            async with logged(world, kept.log, Caller(tenant, "k1")) as http:
                await http.post("/v1/chat/completions", json=CHAT)
        async with logged(world, kept.log) as http:
            await http.post("/v1/chat/completions", json=CHAT)
        records = await kept.records(1)
    assert [(record["tenant"], record["key"]) for record in records] == [("research", "k1")]
    assert kept.counts == {"written": 1}


async def test_a_long_stream_is_taken_in_parts_and_cut_where_it_is_too_long(
    world: World, tmp_path: Path
) -> None:
    world.core.script = saying(*[200005, 17196, 200008], *[13225] * 2000, 200002)
    with running(tmp_path / "log", max_bytes_per_record=4096) as kept:
        async with logged(world, kept.log) as http:
            streamed = {**CHAT, "stream": True}
            found = await http.post("/v1/chat/completions", json=streamed, timeout=60)
        [record] = await kept.records(1)
    assert len(found.content) > 2 * 65_536
    assert "answer" not in record
    text = record["answer_cut"][0]["text"]
    assert text == ("Hello" * 2000)[: len(text)]
    assert 3000 < len(text) <= 4096


async def test_a_full_queue_drops_records_and_holds_nobody_up(world: World, tmp_path: Path) -> None:
    kept = Kept(tmp_path / "log", max_queue_bytes=1 << 20)  # its thread is not running yet
    long = {**CHAT, "metadata": {"note": "a word " * 60_000}}
    async with logged(world, kept.log) as http:
        for _ in range(5):
            found = await http.post("/v1/chat/completions", json=long, timeout=20)
            assert found.status_code == 200
    assert kept.counts == {"dropped": 3}
    kept.log.start()
    kept.log.stop()
    assert kept.counts == {"dropped": 3, "written": 2}


async def test_without_the_setting_there_is_no_log(world: World, tmp_path: Path) -> None:
    metrics = Metrics(GATEWAY_METRICS)
    environ = {"TRIREME_HOME": str(tmp_path)}
    assert make_content_log(TriremeConfig(), "g", metrics, environ) is None
    config = TriremeConfig.model_validate({"content_log": {"enabled": True}})
    made = make_content_log(config, "g", metrics, environ)
    assert made is not None
    made.start()
    async with logged(world, made) as http:
        await http.post("/v1/chat/completions", json={**CHAT, "user": CANARY})
    made.stop()
    [path] = (tmp_path / "state" / "content-log").iterdir()
    assert CANARY in path.read_text()


# ------------------------------------------------------------------ files


async def test_files_are_of_a_day_for_their_owner_only_and_old_ones_go(
    world: World, tmp_path: Path
) -> None:
    folder = tmp_path / "log"
    folder.mkdir(mode=0o755)
    for name in ("2026-02-27.other.jsonl", "2026-02-26.other.jsonl", "2026-02-01.notes.txt"):
        (folder / name).write_text("{}\n")
    with running(folder, retain_days=2) as kept:
        async with logged(world, kept.log) as http:
            await http.post("/v1/chat/completions", json=CHAT)
            await kept.records(1)
            names = {path.name for path in folder.iterdir()}
            today = "2026-03-01.gateway_1.jsonl"
            assert names == {today, "2026-02-27.other.jsonl", "2026-02-01.notes.txt"}
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert stat.S_IMODE((folder / today).stat().st_mode) == 0o600
            kept.clock.now += timedelta(days=3)
            await http.post("/v1/chat/completions", json=CHAT)
            await kept.records(2)
    names = {path.name for path in folder.iterdir()}
    assert names == {"2026-03-04.gateway_1.jsonl", "2026-02-01.notes.txt"}


async def test_a_folder_that_cannot_be_written_fails_records_and_no_request(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "log").write_text("a file")
    with running(tmp_path / "log") as kept:
        async with logged(world, kept.log) as http:
            for _ in range(2):
                found = await http.post("/v1/chat/completions", json={**CHAT, "user": CANARY})
                assert found.status_code == 200
        async with asyncio.timeout(10):
            while kept.counts["failed"] < 2:
                await asyncio.sleep(0.005)
    told = [record for record in caplog.records if "content log" in record.getMessage()]
    assert len(told) == 1
    assert CANARY not in caplog.text


# ------------------------------------------------------------------ redaction


@pytest.fixture
def redactor() -> Redactor:
    return Redactor([r"\bPX-\d{4}\b"], limit_s=5.0)


@pytest.mark.parametrize(
    ("secret", "name"),
    [
        ("jo.hn+x@mail.example.co.uk", ": e-mail"),
        ("mül.ler@bücher.example", ": e-mail"),
        ("sk-proj-A1b2C3d4E5f6G7h8", ": key"),
        ("sk-trireme-abcdefghijkl-" + "Z" * 43, ": key"),
        ("AKIAIOSFODNN7EXAMPLE", ": key"),
        ("Bearer abc.def-ghi_jkl", ": bearer token"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl", ": token"),
        ("4111 1111 1111 1111", ": number"),
        ("4111-1111-1111-1111", ": number"),
        ("378282246310005", ": number"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END", ": private key"),
        ("PX-1234", ""),
    ],
)
async def test_secrets_are_taken_out(redactor: Redactor, secret: str, name: str) -> None:
    assert redactor.text(f"It is {secret}, I think.") == f"It is [redacted{name}], I think."
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in secret)
    kept = redactor.json(f'{{"a": [1,\r\n "It is {escaped}, I think."]}}'.encode())
    assert "\n" not in kept
    assert json.loads(kept) == {"a": [1, f"It is [redacted{name}], I think."]}


@pytest.mark.parametrize(
    "text",
    [
        "3.14159265358979323846 and 12345678",
        "user@host and a@b",
        "a risk-free task-oriented word",
        "on 2026-11-22 at 10:38:00",
    ],
)
async def test_what_is_no_secret_stays(redactor: Redactor, text: str) -> None:
    assert redactor.text(text) == text


async def test_numbers_of_json_are_redacted_and_it_stays_json(redactor: Redactor) -> None:
    kept = redactor.json(b'{"card":4111111111111111,"n":[1,2,3],"pi":3.14159265358979}')
    expected = {"card": "[redacted: number]", "n": [1, 2, 3], "pi": 3.14159265358979}
    assert json.loads(kept) == expected


async def test_a_string_that_is_cut_off_is_left_out_at_once(redactor: Redactor) -> None:
    assert redactor.json(b'{"a": "one", "b": "two \\" thr') == '{"a": "one", "b": '
    began = time.monotonic()
    assert redactor.json(b'{"a": "' + b'\\"' * 200_000) == '{"a": '
    assert redactor.json(b'{"a": "' + b"x" * 200_000 + b"\\") == '{"a": '
    assert time.monotonic() - began < 2.0


async def test_a_pattern_that_takes_for_ever_withholds_the_text(
    world: World, tmp_path: Path
) -> None:
    slow = Redactor([SLOW], limit_s=0.1)
    with pytest.raises(TooSlow):
        slow.text(TRAP)
    with running(tmp_path / "log", redact=[SLOW]) as kept:
        async with logged(world, kept.log) as http:
            await http.post("/v1/chat/completions", json={**CHAT, "user": TRAP})
            await http.post("/v1/chat/completions", json=CHAT)
        record, after = await kept.records(2)
    assert record["withheld"] is True
    assert "request" not in record
    assert TRAP not in json.dumps(record)
    assert after["request"] == CHAT
    assert kept.counts == {"withheld": 1, "written": 1}


@pytest.mark.parametrize("pattern", ["(", "[a", "x*", ""])
async def test_a_pattern_that_is_none_or_matches_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(ValidationError):
        ContentLogConfig(redact=[pattern])


async def test_naming_tenants_needs_callers_that_are_told_apart() -> None:
    with pytest.raises(ValidationError, match="callers are not told apart"):
        TriremeConfig.model_validate({"content_log": {"enabled": True, "tenants": ["a"]}})


# ------------------------------------------------------------------ answers


async def test_a_secret_in_several_pieces_of_a_stream_is_found(redactor: Redactor) -> None:
    answer = StreamedAnswer(1000)
    for piece in ("mail jo", "hn@exam", "ple.com now"):
        chunk = {"choices": [{"index": 0, "delta": {"content": piece}}]}
        data = f"data: {json.dumps(chunk)}\n\n".encode()
        answer.feed(data[:20])
        answer.feed(data[20:])
    answer.feed(b"data: [DONE]\n\n")
    [(_, kind, text)] = answer.texts()
    assert kind == "text"
    assert redactor.text(text) == "mail [redacted: e-mail] now"


async def test_tool_calls_are_kept_with_their_names() -> None:
    answer = StreamedAnswer(1000)
    for function in (
        {"name": "find", "arguments": ""},
        {"arguments": '{"a"'},
        {"arguments": ":1}"},
    ):
        chunk = {"choices": [{"index": 0, "delta": {"tool_calls": [{"function": function}]}}]}
        answer.feed(f"data: {json.dumps(chunk)}\n\n".encode())
    assert answer.texts() == [(0, "calls", 'find{"a":1}')]
