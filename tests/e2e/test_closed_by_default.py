"""A running cluster is closed: what listens, what answers, and what it writes down.

The gateway listens on all interfaces, as it may with keys; nothing else of the cluster may.
"""

import contextlib
import re
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import msgspec
import psutil
import pytest

from cluster.run_state import ClusterRecord, RunState
from deployments.engine.channel.frames import (
    HEADER,
    PROTOCOL_VERSION,
    Hello,
    ProtocolError,
    Submit,
    Welcome,
    decode_from_engine,
    encode,
)
from deployments.gateway.contract.routes import ROUTES
from tests.deployments.engine.channel_world import submission
from tests.deployments.gateway.contract.corpus.bodies import refused
from tests.deployments.gateway.contract.corpus.vllm_routes import VLLM_ROUTES
from tests.deployments.gateway.contract.corpus.wire import WIRE, post
from tests.deployments.gateway.contract.door_world import MODEL
from tests.e2e.running import HTTP, Cluster, cluster, run
from tests.observability.otlp_receiver import Receiver, receiving

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

NAME = "closed"
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")

SERVE_GRPC = re.compile(r"ray::ServeReplica:closed:(gateway|engine-main)")
"""Serve's calls between replicas listen on every interface: Ray 2.60 has no setting for the address
(``Replica._on_initialized`` says ``[::]:0``). They ask for the cluster's token, as tested below."""

READ_ANEW = frozenset(
    {
        # What HAProxy takes and writes anew, without the doubt, before it passes it on.
        *("two equal lengths", "chunks and a length", "a bare line feed in a header"),
        *("a header on two lines", "a version that is none"),
    }
)
QUIET_S = 0.4
"""After which a connection has said what it has to say."""

SPEAKS_HTTP2 = "HTTP/2 without a warning"


@dataclass
class Closed:
    """The cluster, a key that may generate, and who receives its traces."""

    cluster: Cluster
    key: str
    receiver: Receiver
    gateway: str
    """Its page for operators."""

    @property
    def port(self) -> int:
        return int(self.cluster.url.rpartition(":")[2])

    @property
    def state(self) -> RunState:
        state = ClusterRecord(self.cluster.home / "trireme" / "state", NAME).read()
        assert state is not None
        return state

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def post(self, body: dict[str, Any], path: str = "/v1/chat/completions") -> httpx.Response:
        return HTTP.post(f"{self.cluster.url}{path}", json=body, headers=self.headers)

    def placed(self) -> list[str]:
        """The requests that went to engines, as the gateway knows them."""
        return [each["request"] for each in HTTP.get(f"{self.gateway}/decisions").json()]

    def listeners(self) -> list[tuple[str, int, str]]:
        """(address, port, name of the process) of everything that the cluster listens on."""
        found = []
        for process in self.cluster.processes():
            try:
                name = process.name()
                for each in process.net_connections("inet"):
                    if each.status == psutil.CONN_LISTEN:
                        found.append((each.laddr.ip, each.laddr.port, name))
            except psutil.NoSuchProcess:
                continue  # short-lived helpers come and go
        return found


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Closed]:
    home = tmp_path_factory.mktemp("closed")
    pool = {
        "name": "main",
        "engine": "simulated",
        "simulated": {"speed_factor": 20, "output_sigma": 0, "output_tokens_mean": {"low": 60}},
    }
    with receiving() as receiver:
        config: dict[str, Any] = {
            "name": NAME,
            "models": [{"name": MODEL, "source": "tiny", "max_model_len": 8192, "pools": [pool]}],
            "gateway": {"host": "0.0.0.0", "num_cpus": 0.3, "max_body_bytes": 1_000_000},
            "access": {"mode": "keys"},
            "telemetry": {
                "log_level": "debug",
                "tracing": {"endpoint": receiver.url, "share": 1.0},
            },
        }
        with cluster(home, config) as found:
            at = ("--config", str(home / f"{NAME}.yaml"))
            assert run(home, "tenants", "create", "acme", *at, name=NAME).returncode == 0
            made = run(home, "keys", "create", "acme", *at, name=NAME)
            key = re.search(r"sk-trireme-\S+", made.stdout)
            assert key is not None, made.stdout + made.stderr
            (gateway,) = found.status()["gateways"]
            closed = Closed(found, key[0], receiver, gateway["ops_url"])
            began = time.monotonic()
            while closed.post({"model": MODEL, "messages": []}).status_code == 401:
                assert time.monotonic() - began < 10
            yield closed


def ask(closed: Closed, text: str) -> httpx.Response:
    body = {
        "model": MODEL,
        "reasoning_effort": "low",
        "messages": [{"role": "user", "content": text}],
    }
    return closed.post(body)


# ------------------------------------------------------------------ what listens


def test_beyond_loopback_only_the_gateway_listens(closed: Closed) -> None:
    found = closed.listeners()
    wide = [each for each in found if each[0] not in LOOPBACK]
    others = [each for each in wide if each[1] != closed.port]
    print("beyond loopback:", sorted({(address, name) for address, _, name in wide}))
    print(f"on loopback: {len(found) - len(wide)} ports")
    assert any(port == closed.port for _, port, _ in wide)
    assert [each for each in others if not SERVE_GRPC.fullmatch(each[2])] == []
    # One of each replica, and no more.
    names = [name for _, _, name in others]
    assert len(names) == len(set(names))


def test_rays_own_ports_ask_for_the_token(closed: Closed) -> None:
    token = (Path(closed.state.run_dir) / "token").read_text()
    loopback = [(port, name) for address, port, name in closed.listeners() if address in LOOPBACK]
    (gcs,) = {port for port, name in loopback if name == "gcs_server" and called(port, token)}
    assert called(gcs, None) == grpc.StatusCode.UNAUTHENTICATED
    assert called(gcs, "0" * 64) == grpc.StatusCode.UNAUTHENTICATED
    assert called(gcs, token) == grpc.StatusCode.OK

    wide = [port for _, port, name in closed.listeners() if SERVE_GRPC.fullmatch(name)]
    method = "/ray.serve.ASGIService/HandleRequest"
    codes = {port: called(port, None, method) for port in wide}
    assert grpc.StatusCode.OK not in codes.values()
    assert grpc.StatusCode.UNAUTHENTICATED in codes.values()


def called(
    port: int, token: str | None, method: str = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
) -> grpc.StatusCode | None:
    """What a call without a body gets; None where nobody speaks gRPC."""
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    with grpc.insecure_channel(
        f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]
    ) as channel:
        call = channel.unary_unary(method)
        try:
            call(b"", timeout=5, metadata=metadata)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            nobody = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            return None if code in nobody else code
    return grpc.StatusCode.OK


def test_no_port_takes_a_job_or_shows_a_dashboard(closed: Closed) -> None:
    job = {"entrypoint": "touch owned"}
    ports = {port for _, port, _ in closed.listeners()}
    assert 8265 not in ports
    with httpx.Client(trust_env=False, timeout=2) as http:
        for port in ports:
            for method, path in (
                ("GET", "/api/version"),
                ("GET", "/api/jobs/"),
                ("POST", "/api/jobs/"),
                ("POST", "/api/job_agent/jobs/"),
                ("GET", "/log_proxy?url=http://127.0.0.1/"),
                ("PUT", "/api/serve/applications/"),
            ):
                try:
                    answer = http.request(method, f"http://127.0.0.1:{port}{path}", json=job)
                except httpx.HTTPError:
                    continue  # it speaks no HTTP, or says nothing
                # Pages of metrics answer whatever they are asked, with metrics.
                metrics = answer.text.startswith("# HELP")
                assert metrics or answer.status_code >= 400, (port, path, answer.text)


def test_an_engine_hears_nobody_without_the_secret(closed: Closed) -> None:
    ports = {
        port
        for address, port, name in closed.listeners()
        if name.startswith("ray::ServeReplica:closed:engine") and address in LOOPBACK
    }
    assert ports
    before = closed.placed()
    for port in ports:
        for secret in ("", "0" * 64):
            assert not welcomed(port, Hello(PROTOCOL_VERSION, secret, "intruder"))
        assert not welcomed(port, submission(1))
        assert not welcomed(port, None)
    assert closed.placed() == before
    assert ask(closed, "hi").status_code == 200
    logs = b"".join(path.read_bytes() for path in logs_of(closed))
    assert logs.count(b"wrong channel secret") == 2


def welcomed(port: int, message: Hello | Submit | None) -> bool:
    """Whether an engine takes a first frame; without a message, a frame that is too long."""
    with contextlib.closing(socket.create_connection(("127.0.0.1", port), timeout=3)) as connection:
        connection.sendall(HEADER.pack(2**31) if message is None else encode(message))
        try:
            said = connection.recv(1000)
            # Others of the process's ports speak HTTP, or gRPC.
            return isinstance(decode_from_engine(said[HEADER.size :]), Welcome)
        except (TimeoutError, ConnectionResetError, ProtocolError, msgspec.DecodeError):
            return False


def logs_of(closed: Closed) -> list[Path]:
    """What the cluster's processes have written to standard error."""
    return list(Path(closed.state.run_dir).glob("ray/session_2*/logs/worker-*.err"))


# ------------------------------------------------------------------ what answers


def test_of_vllms_routes_only_the_listed_answer(closed: Closed) -> None:
    for method, path in VLLM_ROUTES:
        if path in ROUTES and method in ROUTES[path].methods:
            continue
        for headers in (closed.headers, {}):
            answer = HTTP.request(method, f"{closed.cluster.url}{path}", json={}, headers=headers)
            assert answer.status_code in (404, 405), (method, path)
            assert (answer.status_code == 405) == (path in ROUTES)
            assert answer.json()["error"]["type"] in ("invalid_request_error", "not_found_error")


def test_bad_bodies_are_refused_in_openais_words_and_reach_no_engine(closed: Closed) -> None:
    before = closed.placed()
    for name, (path, body) in refused():
        answer = closed.post(body, path)
        assert 400 <= answer.status_code < 500, (name, answer.text)
        assert answer.json()["error"]["message"], name
    assert closed.placed() == before


def test_bad_bytes_get_one_answer_and_what_was_sent_behind_them_none(closed: Closed) -> None:
    for name, data in WIRE.items():
        before = closed.placed() if name in READ_ANEW else None
        said = spoken(closed.port, with_key(data, closed.key))
        if name == SPEAKS_HTTP2:
            # HAProxy speaks it, so it waits for a request; there was none.
            assert b"HTTP/1.1" not in said
            continue
        assert said.count(b"HTTP/1.1 ") == 1, name
        status = int(said[9:12])
        if before is None:
            assert 400 <= status < 500, (name, said[:300])
        else:
            assert status == 200, (name, said[:300])
            assert len(closed.placed()) == len(before) + 1, name
    served = len(closed.placed())
    assert spoken(closed.port, with_key(post(), closed.key)).startswith(b"HTTP/1.1 200 ")
    assert len(closed.placed()) == served + 1


def with_key(data: bytes, key: str) -> bytes:
    host = b"\r\nhost: gateway\r\n"
    return data.replace(host, host + f"authorization: Bearer {key}\r\n".encode(), 1)


def spoken(port: int, data: bytes) -> bytes:
    """All that comes back until nothing has come for a while."""
    answer = b""
    with contextlib.closing(socket.create_connection(("127.0.0.1", port), timeout=5)) as connection:
        # It may hang up before it has read all.
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(data)
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            while piece := connection.recv(65_536):
                answer += piece
                connection.settimeout(QUIET_S)
    return answer


# ------------------------------------------------------------------ what it writes


def written(closed: Closed) -> list[Path]:
    """Everything that the cluster wrote: its home, and its run folder with Ray's in it."""
    roots = (closed.cluster.home, Path(closed.state.run_dir))
    return [
        path
        for root in roots
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink()
    ]


def test_no_word_of_a_prompt_or_an_answer_is_written_anywhere(closed: Closed) -> None:
    canary = f"canary{secrets.token_hex(8)}"
    first = ask(closed, f"Tell me about {canary}.")
    assert first.status_code == 200
    message = first.json()["choices"][0]["message"]
    said = message["content"].strip()
    assert len(said) > 20
    thought = (message.get("reasoning") or "").strip()[:60]
    # Refused, cut short, too long, with tools, on other routes, and in a header.
    ask(closed, f"{canary} " * 9000)
    ask(closed, canary * 5000)
    body = {"model": MODEL, "messages": [{"role": canary, "content": canary}]}
    assert closed.post(body).status_code == 400
    closed.post({"model": MODEL, "input": canary, "instructions": canary}, "/v1/responses")
    closed.post({"model": MODEL, "prompt": canary, "max_tokens": 5}, "/v1/completions")
    closed.post({"model": MODEL, "prompt": canary}, "/tokenize")
    tool = {"type": "function", "function": {"name": canary, "description": canary}}
    closed.post({"model": MODEL, "messages": [{"role": "user", "content": "x"}], "tools": [tool]})
    leave_early(closed, canary)
    traced = len(closed.receiver.spans)
    began = time.monotonic()
    while len(closed.receiver.spans) == traced and time.monotonic() - began < 15:
        time.sleep(0.2)
    told = [HTTP.get(f"{closed.cluster.url}/metrics").text, *map(repr, closed.receiver.spans)]
    status = closed.cluster.status()
    for each in (*status["gateways"], *status["replicas"]):
        for page in ("/metrics", "/status", "/decisions", "/quarantine", "/account"):
            told.append(HTTP.get(f"{each['ops_url']}{page}").text)
    files = written(closed)
    size = sum(path.stat().st_size for path in files)
    print(f"searched {len(files)} files with {size} bytes, {len(closed.receiver.spans)} spans")
    assert set(logs_of(closed)) <= set(files)
    assert any(b'"request_id"' in path.read_bytes() for path in logs_of(closed))
    assert closed.receiver.spans
    secret = closed.key.rpartition("-")[2]
    for word in (canary, said, thought, secret):
        assert word
        for path in files:
            assert word.encode() not in path.read_bytes(), (word, path)
        assert not [text for text in told if word in text], word


def leave_early(closed: Closed, text: str) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "stream": True}
    with (
        httpx.Client(trust_env=False, timeout=30) as http,
        http.stream(
            "POST", f"{closed.cluster.url}/v1/chat/completions", json=body, headers=closed.headers
        ) as answer,
    ):
        next(answer.iter_lines())
