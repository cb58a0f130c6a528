"""`trireme up` as a person runs it, on simulated engines: up, used, down, and nothing left."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from cluster.local_ray import free_ports
from cluster.processes import members
from cluster.run_state import ClusterRecord, RunState

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Shell:
    """A person's shell: a home of its own, and the command line."""

    home: Path
    port: int

    @property
    def environ(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("TRIREME_", "RAY_"))}
        return clean | {
            "HOME": str(self.home),
            "TRIREME_HOME": str(self.home / "trireme"),
            "PYTHONPATH": str(ROOT),
        }

    @property
    def record(self) -> ClusterRecord:
        return ClusterRecord(self.home / "trireme" / "state", "trireme")

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "cluster.cli", *args]

    def run(self, *args: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(*args),
            env=self.environ,
            cwd=self.home,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )

    def start(self, *args: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.command(*args),
            env=self.environ,
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared, so that the tiny model's files are made once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def shell(home: Path) -> Iterator[Shell]:
    shell = Shell(home, free_ports(1)[0])
    yield shell
    shell.run("down")


def of_cluster(state: RunState) -> list[psutil.Process]:
    return members(state.cluster_id, Path(state.run_dir))


def listeners(processes: list[psutil.Process]) -> dict[int, tuple[str, str]]:
    """Port → (address, name of the process) of everything that `processes` listen on."""
    found = {}
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # short-lived helpers come and go
            name = process.name()
            for each in process.net_connections("inet"):
                if each.status == psutil.CONN_LISTEN:
                    found[each.laddr.port] = (each.laddr.ip, name)
    return found


def assert_nothing_left(state: RunState, ports: set[int]) -> None:
    assert of_cluster(state) == []
    assert not Path(state.run_dir).exists()
    held = {
        each.laddr.port
        for each in psutil.net_connections("inet")
        if each.status == psutil.CONN_LISTEN and each.laddr
    }
    assert held.isdisjoint(ports)


def wait_for_line(process: "subprocess.Popen[str]", word: str) -> None:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith(word):
            return
    pytest.fail(f"no {word!r} in: {''.join(seen)}")


def test_a_cluster_in_the_background_from_up_to_down(shell: Shell) -> None:
    up = shell.run("up", "--engine", "simulated", "--port", str(shell.port), "--detach")
    assert up.returncode == 0, up.stdout + up.stderr
    for phase in ("environment", "weights", "ray", "engines", "first answer"):
        assert any(line.startswith(phase) and " s " in line for line in up.stdout.splitlines())
    assert "\x1b" not in up.stdout

    state = shell.record.read()
    assert state is not None
    listening = listeners(of_cluster(state))
    assert listening[shell.port][0] == "127.0.0.1"
    wide = {name for address, name in listening.values() if not address.endswith("127.0.0.1")}
    # Serve's calls between replicas, behind the cluster's token; Ray has no setting for it.
    assert wide <= {"ray::ServeReplica:trireme:gateway", "ray::ServeReplica:trireme:engine-main"}

    look_at_status(shell)
    ask(shell, up.stdout)

    again = shell.run("up", "--engine", "simulated")
    assert again.returncode == 0
    assert f"already up at http://127.0.0.1:{shell.port}" in again.stdout

    started = time.monotonic()
    down = shell.run("down")
    assert (down.returncode, down.stdout) == (0, "cluster trireme is down\n")
    assert time.monotonic() - started < 30
    assert_nothing_left(state, set(listening))
    assert shell.run("status").returncode == 1


def look_at_status(shell: Shell) -> None:
    started = time.monotonic()
    answer = shell.run("status", "--json")
    assert answer.returncode == 0
    assert time.monotonic() - started < 10
    status = json.loads(answer.stdout)
    assert status["endpoint"] == f"http://127.0.0.1:{shell.port}/v1"
    assert [each["healthy"] for each in status["replicas"]] == [True, True]
    assert {each["pool"] for each in status["replicas"]} == {"main"}
    assert [each["ready"] for each in status["gateways"]] == [True]
    assert [each["tier"] for each in status["tiers"]] == ["low", "medium", "high"]
    assert all(each["queued"] == 0 for each in status["tiers"])
    table = shell.run("status").stdout
    assert "\x1b" not in table
    assert all(each["replica"] in table for each in status["replicas"])


def ask(shell: Shell, told: str) -> None:
    chat = shell.run("chat", "Say hello.", "--tier", "low")
    assert chat.returncode == 0, chat.stderr
    assert chat.stdout.strip()
    assert "tier low · replica " in chat.stderr

    piped = shell.run("chat", stdin="Say hello.\n")
    assert piped.returncode == 0
    assert "tier medium" in piped.stderr
    assert "\x1b" not in piped.stdout + piped.stderr

    unknown = shell.run("chat", "hi", "--model", "gpt-5")
    assert unknown.returncode == 1
    assert len(unknown.stderr.splitlines()) == 1

    (curl,) = [line.split(maxsplit=1)[1] for line in told.splitlines() if "curl -N" in line]
    pasted = subprocess.run(curl, shell=True, capture_output=True, text=True, check=True)
    assert pasted.stdout.rstrip().endswith("data: [DONE]")


def test_ctrl_c_in_the_foreground_takes_everything_down(shell: Shell) -> None:
    process = shell.start("up", "--engine", "simulated", "--port", str(shell.port))
    wait_for_line(process, "engines")
    state = shell.record.read()
    assert state is not None
    ports = set(listeners(of_cluster(state)))
    assert ports

    process.send_signal(signal.SIGINT)

    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert out.endswith("cluster trireme is down\n")
    assert_nothing_left(state, ports)


def test_after_kill_9_of_the_supervisor_down_leaves_nothing_either(shell: Shell) -> None:
    process = shell.start("up", "--engine", "simulated", "--port", str(shell.port))
    wait_for_line(process, "engines")
    state = shell.record.read()
    assert state is not None
    ports = set(listeners(of_cluster(state)))

    process.kill()
    process.communicate()
    down = shell.run("down")

    assert (down.returncode, down.stdout) == (0, "cluster trireme is down\n")
    assert_nothing_left(state, ports)


def test_a_ray_that_dies_ends_the_cluster_with_a_reason(shell: Shell) -> None:
    process = shell.start("up", "--engine", "simulated", "--port", str(shell.port))
    wait_for_line(process, "engines")
    state = shell.record.read()
    assert state is not None
    ports = set(listeners(of_cluster(state)))
    (raylet,) = [each for each in of_cluster(state) if each.name() == "raylet"]

    raylet.kill()

    out, _ = process.communicate(timeout=120)
    assert process.returncode == 1, out
    assert "error: Ray's raylet ended unexpectedly" in out
    assert_nothing_left(state, ports)
