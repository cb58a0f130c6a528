"""Whose fault the end of an engine's process is."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deployments.engine.death import UNTOLD, came_from_outside, exit_code, oom_kills


@pytest.mark.parametrize("code", [-signal.SIGKILL, -signal.SIGTERM])
def test_a_process_that_was_killed_tells_nothing_of_its_requests(code: int) -> None:
    assert came_from_outside([code], 3, 3)
    assert came_from_outside([None, code], 0, 0)


@pytest.mark.parametrize(
    ("codes", "before", "after", "why"),
    [
        ([-signal.SIGSEGV], 0, 0, "it crashed"),
        ([1], 0, 0, "it raised an exception"),
        ([-signal.SIGKILL, -signal.SIGABRT], 0, 0, "one crashed, and the other was ended for it"),
        ([None], 0, 0, "it has said that it dies, and still runs"),
        ([], 0, 0, "nothing is known of it"),
        ([-signal.SIGKILL], 0, 1, "the kernel was out of memory"),
        ([-signal.SIGKILL], None, None, "the kernel does not tell"),
    ],
)
def test_all_else_speaks_against_what_ran_there(
    codes: list[int | None], before: int | None, after: int | None, why: str
) -> None:
    assert not came_from_outside(codes, before, after), why


def test_the_kernels_count_is_read(tmp_path: Path) -> None:
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("pgfault 12\noom_kill 4\nthp_fault_alloc 0\n")
    assert oom_kills(vmstat) == 4
    vmstat.write_text("pgfault 12\n")
    assert oom_kills(vmstat) is None
    assert oom_kills(tmp_path / "none") is None


SLEEPS = "import sys, time; print(flush=True); time.sleep(60)"
HOLDS = f"import mmap; held = mmap.mmap(-1, 1 << 29); held[::4096] = bytes(1 << 17); {SLEEPS}"


@pytest.mark.parametrize("ended_by", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_the_end_of_a_process_is_seen_before_it_has_freed_what_it_held(
    ended_by: signal.Signals,
) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLDS], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    assert exit_code(process.pid) is None
    os.kill(process.pid, ended_by)
    ends = time.monotonic() + 10.0
    while exit_code(process.pid) is None and time.monotonic() < ends:
        time.sleep(0.001)
    assert exit_code(process.pid) == -ended_by
    assert process.wait(timeout=30.0) == -ended_by


def test_a_process_that_is_only_stopped_has_not_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", SLEEPS], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        assert " T " in Path(f"/proc/{process.pid}/stat").read_text()
        assert exit_code(process.pid) is None
        os.kill(process.pid, signal.SIGCONT)
        assert exit_code(process.pid) is None
    finally:
        process.kill()
        process.wait(timeout=30.0)


@pytest.mark.parametrize("code", [0, 3])
def test_a_process_that_ends_by_itself_has_its_own_code(code: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays in the kernel's table
    assert exit_code(process.pid) == (code or UNTOLD)
    process.wait(timeout=30.0)
    assert exit_code(process.pid) == UNTOLD, "it is not there any more"


def test_where_the_kernel_has_no_table_nothing_is_said(tmp_path: Path) -> None:
    assert exit_code(os.getpid(), tmp_path) is None


def test_a_name_with_brackets_is_read(tmp_path: Path) -> None:
    fields = ["S", *["0"] * 49]
    for pid in ("self", "7"):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "stat").write_text(f"7 (VLLM) S (3) {' '.join(fields)}")
    assert exit_code(7, tmp_path) is None
    fields[6] = str(0x400)  # a signal ends it, and its core is being dumped
    (tmp_path / "7" / "stat").write_text(f"7 (VLLM) S (3) {' '.join(fields)}")
    assert exit_code(7, tmp_path) == UNTOLD
