"""Bringing a cluster up on this machine, watching over it, and taking all of it down again."""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty
from types import FrameType

import httpx

from cluster.config import TriremeConfig
from cluster.endpoint import API_KEY_VARIABLE, EndpointError, chat, curl_line, expires, name_in
from cluster.endpoint import client as http_client
from cluster.failures import engine_error, start_failure
from cluster.front import Certificate, FrontError, read_pair
from cluster.hardware import Hardware
from cluster.head import Job, Report
from cluster.head_process import HeadProcess
from cluster.interpreter import command, with_rooms
from cluster.local_ray import (
    clean_environment,
    free_ports,
    haproxy_is_here,
    local_environment,
    port_is_free,
    serve_environment,
)
from cluster.processes import MARKER, become_subreaper, end_all, members, reap_orphans
from cluster.progress import Progress
from cluster.run_state import ClusterRecord, FleetView, Phase, RunState

TICK_S = 0.2
"""How often waiting looks around."""

RAY_TIMEOUT_S = 180.0
GATEWAY_TIMEOUT_S = 120.0
FIRST_ANSWER_TIMEOUT_S = 180.0

HEAD_STOP_S = 15.0
GRACE_S = 5.0
"""Between asking the cluster's processes to go and ending them."""

VIEW_PERIOD_S = 2.0
"""How old the view on disk may get."""


class Refused(Exception):
    """The cluster cannot be started as asked; nothing was started. ``str()`` is one line."""


class Failed(Exception):
    """The cluster did not come up, or broke for good. ``str()`` is a few lines."""


class _Stop(BaseException):
    """Somebody wants the cluster to end."""


@dataclass(frozen=True)
class Plan:
    """What to bring up. ``source`` says where the configuration came from."""

    config: TriremeConfig
    hardware: Hardware
    source: str


def endpoint_url(config: TriremeConfig) -> str:
    """Where clients on this machine reach the gateways."""
    host = config.gateway.host
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http{'s' if config.gateway.tls else ''}://{host}:{config.gateway.port}"


def up(plan: Plan, record: ClusterRecord, progress: Progress) -> int:
    """Bring the cluster up and stay until it ends. Returns the exit code of the command.

    A cluster of that name that is already up is fine: 0. Raises ``Refused``.
    """
    with record.claimed() as mine:
        if not mine:
            progress.say(already_up(record))
            return 0
        if clear_stale(record):
            progress.say("cleaned up after a cluster that had been killed")
        check_certificate(plan.config)
        return Supervisor(with_port(plan), record, progress).run()


def already_up(record: ClusterRecord) -> str:
    state = record.read()
    if state is None or state.phase != "ready":
        return f"cluster {record.name} is already on its way up or down"
    return f"cluster {record.name} is already up at {state.url} (since {state.started_at})"


def with_port(plan: Plan) -> Plan:
    """The plan with a port that can be listened on. Raises ``Refused`` if its own is taken."""
    gateway = plan.config.gateway
    if gateway.port == 0:
        gateway = gateway.model_copy(update={"port": free_ports(1)[0]})
        config = plan.config.model_copy(update={"gateway": gateway})
        return Plan(config, plan.hardware, plan.source)
    if plan.config.ray.address is None and not port_is_free(gateway.host, gateway.port):
        raise Refused(
            f"port {gateway.port} on {gateway.host} is in use; "
            "free it, or choose another with --port"
        )
    return plan


def check_certificate(config: TriremeConfig) -> None:
    """Raises ``Refused`` if callers could not be served by TLS as configured."""
    tls = config.gateway.tls
    if tls is None:
        return
    try:
        with tempfile.TemporaryDirectory() as folder:
            read_pair(Certificate(tls.cert_file, tls.key_file), Path(folder) / "pair.pem")
        name_in(tls.cert_file, "")
        end = expires(tls.cert_file)
        if end < datetime.now(UTC):
            raise ValueError(f"{tls.cert_file} ended at {end:%Y-%m-%d %H:%M} UTC; renew it")
    except (FrontError, ValueError) as error:
        raise Refused(f"gateway.tls: {error}") from error
    if not haproxy_is_here():
        raise Refused("gateway.tls: there is no HAProxy here; install ray[serve] on Linux")


def clear_stale(record: ClusterRecord) -> bool:
    """End what a killed supervisor left behind. Call it only when no supervisor lives."""
    state = record.read()
    if state is None:
        return False
    run_dir = Path(state.run_dir)
    end_all(lambda: members(state.cluster_id, run_dir), GRACE_S)
    shutil.rmtree(run_dir, ignore_errors=True)
    record.clear()
    return True


class Supervisor:
    """One cluster from start to end. It never talks to Ray itself: the head process does."""

    def __init__(self, plan: Plan, record: ClusterRecord, progress: Progress) -> None:
        self._plan = plan
        self._config = plan.config
        self._record = record
        self._progress = progress
        self._id = secrets.token_hex(8)
        self._url = endpoint_url(plan.config)
        tls = plan.config.gateway.tls
        self._cert_file = "" if tls is None else tls.cert_file
        # Now, as later the certificate may be on the way of being renewed.
        self._curl_line = curl_line(
            self._url,
            plan.config.models[0].name,
            keys=plan.config.access.mode == "keys",
            cert_file=self._cert_file,
        )
        self._started = datetime.now(UTC)
        self._head: HeadProcess | None = None
        self._view: FleetView | None = None
        self._view_written = 0.0
        self._ready = False
        # Sockets live below it, whose paths must stay under 108 bytes.
        short = tempfile.gettempdir() if len(tempfile.gettempdir()) <= 16 else "/tmp"
        self._run_dir = Path(tempfile.mkdtemp(prefix="trireme-", dir=short))

    def run(self) -> int:
        """Returns 0 when asked to end, 1 when the cluster failed."""
        os.environ[MARKER] = self._id
        become_subreaper()
        failure = ""
        try:
            with _stop_signals():
                self._note("starting")
                self._bring_up()
                self._announce()
                self._note("ready")
                self._ready = True
                self._watch()
        except _Stop:
            pass
        except Failed as error:
            failure = str(error)
        finally:
            with _no_signals():
                notes = self._take_down(failure)
        failure = "\n".join(filter(None, [failure, *notes]))
        if failure:
            with contextlib.suppress(OSError):
                print(f"error: {failure}", file=sys.stderr, flush=True)
            return 1
        self._progress.say(f"cluster {self._config.name} is down")
        return 0

    def _note(self, phase: Phase) -> None:
        self._record.write(
            RunState(
                name=self._config.name,
                cluster_id=self._id,
                phase=phase,
                supervisor_pid=os.getpid(),
                run_dir=str(self._run_dir),
                url=self._url,
                started_at=self._started.strftime("%Y-%m-%dT%H:%M:%SZ"),
                config=self._plan.source,
                cert_file=self._cert_file,
            )
        )

    # ------------------------------------------------------------------ up

    def _bring_up(self) -> None:
        environ = self._environ()
        with self._progress.phase("weights"):
            self._prepare_weights(environ)
        with self._progress.phase("ray"):
            self._start_head(environ)
            self._wait_for_ray()
        with self._progress.phase("engines"):
            self._wait_for_engines()
        with self._progress.phase("first answer"):
            self._first_answer()

    def _environ(self) -> dict[str, str]:
        environ = clean_environment(os.environ) | serve_environment(self._config)
        if self._config.ray.address is None:
            environ |= local_environment(self._run_dir, self._config.gateway)
        return with_rooms(environ) | {MARKER: self._id}

    def _prepare_weights(self, environ: Mapping[str, str]) -> None:
        self._progress.news(", ".join(model.source for model in self._config.models))
        with (
            (self._run_dir / "weights.log").open("w+") as log,
            (self._run_dir / "weights.out").open("w+") as out,
            subprocess.Popen(
                command("cluster.weights"),
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=log,
                env=environ,
                start_new_session=True,
                text=True,
            ) as child,
        ):
            assert child.stdin is not None
            child.stdin.write(self._config.model_dump_json())
            child.stdin.close()
            try:
                while child.poll() is None:
                    self._progress.tick()
                    time.sleep(TICK_S)
            finally:
                child.kill()
            log.seek(0)
            out.seek(0)
            if child.returncode != 0:
                lines = log.read().strip().splitlines()
                raise Failed(f"weights: {lines[-1] if lines else 'the process was killed'}")
            self._progress.news(" · ".join(out.read().splitlines()))

    def _start_head(self, environ: Mapping[str, str]) -> None:
        date = self._config.gateway.system_start_date or self._started.date().isoformat()
        job = Job(
            self._config.model_dump_json(),
            self._plan.hardware,
            secrets.token_hex(32),
            date,
            self._config.ray.temp_dir or str(self._run_dir / "ray"),
        )
        self._head = HeadProcess(job, environ, self._run_dir / "head.log")

    def _next_report(self) -> Report | None:
        """News from the head, or None after a tick without. Raises ``Failed``."""
        self._progress.tick()
        assert self._head is not None
        try:
            report = self._head.reports.get(timeout=TICK_S)
        except Empty:
            return None
        if report is None:
            raise Failed("the head process was killed")
        if report.error:
            raise Failed(report.error)
        if report.view is not None:
            self._see(report.view)
        return report

    def _see(self, view: FleetView) -> None:
        news = self._view is None or (
            (view.application, view.deployments, view.replicas)
            != (self._view.application, self._view.deployments, self._view.replicas)
        )
        self._view = view
        if news or view.taken_at - self._view_written > VIEW_PERIOD_S:
            self._record.write_view(view)
            self._view_written = view.taken_at
        if view.application == "DEPLOY_FAILED":
            raise Failed(start_failure(view))

    def _wait_for_ray(self) -> None:
        where = self._config.ray.address or "on this machine"
        self._progress.news(where)
        for _ in _until(RAY_TIMEOUT_S, "Ray did not start"):
            report = self._next_report()
            if report is not None and report.ray:
                self._progress.news(report.ray)
                return

    def _wait_for_engines(self) -> None:
        longest_s = max(pool.startup_timeout_s for _, pool in self._config.pools())
        for _ in _until(longest_s + GATEWAY_TIMEOUT_S, "the engines did not get ready"):
            self._next_report()
            if self._view is not None:
                self._progress.news(counts(self._view))
                if self._view.application == "RUNNING":
                    return

    def _first_answer(self) -> None:
        with http_client(self._url, self._cert_file) as http:
            for _ in _until(FIRST_ANSWER_TIMEOUT_S, "the gateway did not get ready"):
                self._next_report()
                with contextlib.suppress(httpx.HTTPError):
                    if http.get("/ready").status_code == 200:
                        break
        if self._config.access.mode == "keys" and not os.environ.get(API_KEY_VARIABLE):
            self._progress.news(f"not asked for: there is no API key in {API_KEY_VARIABLE}")
            return
        talk = chat(
            self._url,
            self._config.models[0].name,
            "low",
            [{"role": "user", "content": "Say hello."}],
            self._cert_file,
        )
        try:
            for _ in talk:
                self._progress.tick()
        except EndpointError as error:
            raise Failed(f"the first answer failed: {error}") from error
        answer = talk.answer
        tokens = answer.usage.get("completion_tokens", 0)
        if answer.first_token_s is None:
            raise Failed("the first answer was empty")
        self._progress.news(f"{tokens} tokens, the first after {answer.first_token_s:.2f} s")

    def _announce(self) -> None:
        say = self._progress.say
        ops = sorted(replica.ops_url for replica in self._view.replicas) if self._view else []
        say()
        say(f"endpoint  {self._url}/v1")
        if self._config.access.mode == "keys":
            say("keys      ./trireme tenants create NAME, then ./trireme keys create NAME")
        say(f"try       {self._curl_line}")
        if self._cert_file:
            say(f"tls       {self._cert_file}")
        say("chat      ./trireme chat")
        say(f"metrics   {self._url}/metrics (one gateway), and of each process:")
        for url in ops[:8]:
            say(f"          {url}/metrics")
        if len(ops) > 8:
            say(f"          … {len(ops) - 8} more: ./trireme status")
        say("stop      Ctrl-C, or ./trireme down")
        say()

    # ------------------------------------------------------------------ while up

    def _watch(self) -> None:
        kept = frozenset({self._head.pid} if self._head is not None else ())
        heard_s = looked_s = time.monotonic()
        while True:
            now = time.monotonic()
            if self._next_report() is not None:
                heard_s = now
            elif now - heard_s > RAY_TIMEOUT_S:
                raise Failed("Ray Serve no longer answers")
            if now - looked_s > VIEW_PERIOD_S:
                looked_s = now
                reap_orphans(kept)

    # ------------------------------------------------------------------ down

    def _take_down(self, failure: str) -> list[str]:
        """Ends every process and removes the run folder. Returns what there is to say of it."""
        notes = []
        with contextlib.suppress(OSError):
            self._note("stopping")
        if self._head is not None:
            self._progress.say("stopping …")
            self._head.stop(HEAD_STOP_S if self._ready and not failure else 0)
        left = end_all(lambda: members(self._id, self._run_dir), GRACE_S)
        if left:
            notes.append(f"{left} processes could not be ended")
        if failure and self._head is not None:
            kept = self._keep_logs()
            notes += [*filter(None, [engine_error(kept)]), f"logs: {kept}"]
        shutil.rmtree(self._run_dir, ignore_errors=True)
        self._record.clear()
        return notes

    def _keep_logs(self) -> Path:
        """What went wrong may stand only in the logs of a process that is gone."""
        kept = self._record.failed_logs_path
        shutil.rmtree(kept, ignore_errors=True)
        temp_dir = Path(self._config.ray.temp_dir or self._run_dir / "ray")
        with contextlib.suppress(OSError, shutil.Error):
            shutil.copytree(
                temp_dir / "session_latest" / "logs",
                kept,
                symlinks=True,
                ignore=shutil.ignore_patterns("*.sock"),
            )
        with contextlib.suppress(OSError):
            kept.mkdir(mode=0o700, exist_ok=True)
            kept.chmod(0o700)
            shutil.copy(self._run_dir / "head.log", kept)
        return kept


def counts(view: FleetView) -> str:
    """How many replicas of each deployment run, such as ``engine-main 1/2 · gateway 1/1``."""
    return " · ".join(f"{each.name} {each.running}/{each.wanted}" for each in view.deployments)


def _until(timeout_s: float, what: str) -> Iterator[None]:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        yield
    raise Failed(f"{what} within {timeout_s:.0f} s")


@contextlib.contextmanager
def _stop_signals() -> Iterator[None]:
    """Inside, Ctrl-C, SIGTERM and a closed terminal raise ``_Stop``, once."""

    def stop(number: int, frame: FrameType | None) -> None:
        _ignore()
        raise _Stop

    for each in _STOPPING:
        # Whoever started us with a signal ignored (nohup, a job in the background) means it.
        if signal.getsignal(each) != signal.SIG_IGN:
            signal.signal(each, stop)
    yield


@contextlib.contextmanager
def _no_signals() -> Iterator[None]:
    _ignore()
    yield
    for each in _STOPPING:
        signal.signal(each, signal.SIG_DFL)


def _ignore() -> None:
    for each in _STOPPING:
        signal.signal(each, signal.SIG_IGN)


_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
