"""Every process of a cluster is found, by whichever trace it has left, and ended."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.processes import MARKER, SHARED_MEMORY, end_all, members

STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('x', flush=True)"
SLEEP = "import time; time.sleep(60)"


@pytest.fixture
def cluster_id() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def run_dir(tmp_path: Path, cluster_id: str) -> Iterator[Path]:
    yield tmp_path
    end_all(lambda: members(cluster_id, tmp_path), 0.0)


def start(code: str, *, cluster_id: str | None = None, out: Path | None = None) -> int:
    environ = {k: v for k, v in os.environ.items() if k != MARKER}
    if cluster_id is not None:
        environ[MARKER] = cluster_id
    with (out or Path(os.devnull)).open("w") as stdout:
        child = subprocess.Popen(
            [sys.executable, "-S", "-c", code], env=environ, stdout=stdout, start_new_session=True
        )
    return child.pid


def pids(cluster_id: str, run_dir: Path) -> set[int]:
    return {process.pid for process in members(cluster_id, run_dir)}


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def eventually(condition: object, timeout_s: float = 10.0) -> bool:
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_a_process_with_the_clusters_mark_is_a_member(cluster_id: str, run_dir: Path) -> None:
    ours = start(SLEEP, cluster_id=cluster_id)
    other = start(SLEEP, cluster_id="another")
    try:
        assert eventually(lambda: pids(cluster_id, run_dir) == {ours})
    finally:
        os.kill(other, signal.SIGKILL)


def test_a_process_that_lost_its_mark_is_known_by_its_open_files(
    cluster_id: str, run_dir: Path
) -> None:
    ours = start(SLEEP, out=run_dir / "log")

    assert pids(cluster_id, run_dir) == {ours}


def test_what_a_member_started_is_a_member_even_without_mark(
    cluster_id: str, run_dir: Path
) -> None:
    spawn = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEP!r}], env={{}})"
    parent = start(spawn, cluster_id=cluster_id)

    assert eventually(lambda: len(pids(cluster_id, run_dir)) == 2)
    assert parent in pids(cluster_id, run_dir)


def test_a_daemon_that_left_its_parent_is_still_found(cluster_id: str, run_dir: Path) -> None:
    leave = f"import os, time\nif os.fork() == 0:\n os.setsid(); {SLEEP.split('; ')[1]}"
    leave = leave.replace("time.sleep", "__import__('time').sleep")
    parent = start(leave, cluster_id=cluster_id)
    os.waitpid(parent, 0)

    found = pids(cluster_id, run_dir)

    assert len(found) == 1
    assert parent not in found


def test_the_caller_is_no_member(cluster_id: str, run_dir: Path) -> None:
    script = (
        "import os, pathlib; from cluster.processes import members; "
        f"print([p.pid for p in members({cluster_id!r}, pathlib.Path('/nowhere'))])"
    )
    environ = {**os.environ, MARKER: cluster_id}
    answer = subprocess.run(
        [sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_processes_that_ignore_sigterm_are_killed_after_the_grace(
    cluster_id: str, run_dir: Path
) -> None:
    pid = start(f"{STUBBORN}; time.sleep(60)", cluster_id=cluster_id, out=run_dir / "ready")
    assert eventually(lambda: (run_dir / "ready").read_text() == "x\n")
    started = time.monotonic()

    left = end_all(lambda: members(cluster_id, run_dir), 0.3)

    assert left == 0
    assert time.monotonic() - started >= 0.3
    assert not lives(pid)


def test_a_child_whose_marked_parent_ends_first_is_ended_too(
    cluster_id: str, run_dir: Path
) -> None:
    child = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); "
    spawn = (
        "import subprocess, sys; "
        f"subprocess.Popen([sys.executable, '-c', {child + 'time.sleep(60)'!r}], env={{}}); "
        "__import__('time').sleep(60)"
    )
    start(spawn, cluster_id=cluster_id, out=run_dir.parent / "elsewhere")
    assert eventually(lambda: (run_dir.parent / "elsewhere").read_text() == "1\n")
    both = pids(cluster_id, run_dir)
    assert len(both) == 2

    assert end_all(lambda: members(cluster_id, run_dir), 0.5) == 0

    assert not any(lives(pid) for pid in both)


def test_a_subreaper_adopts_the_orphans_of_its_children() -> None:
    script = """
import os, subprocess, sys, time
from cluster.processes import become_subreaper
assert become_subreaper()
orphan = "import os, time; time.sleep(0.5); print(os.getppid(), flush=True)"
parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', {orphan!r}])"
subprocess.run([sys.executable, "-S", "-c", parent])
print(os.getpid(), flush=True)
time.sleep(2)
"""
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    me, adopted_by = answer.stdout.split()
    assert adopted_by == me


def test_shared_memory_goes_with_the_processes_that_held_it(cluster_id: str, run_dir: Path) -> None:
    hold = (
        "from multiprocessing import resource_tracker\n"
        "resource_tracker.register = lambda *_: None\n"
        "from multiprocessing.shared_memory import SharedMemory\n"
        "held = SharedMemory(create=True, size=4096); print(held.name, flush=True)\n"
        "import time; time.sleep(60)"
    )
    start(hold, cluster_id=cluster_id, out=run_dir / "name")
    assert eventually(lambda: (run_dir / "name").read_text().endswith("\n"))
    segment = SHARED_MEMORY / (run_dir / "name").read_text().strip()
    assert segment.exists()

    assert end_all(lambda: members(cluster_id, run_dir), 0.0) == 0

    assert not segment.exists()
