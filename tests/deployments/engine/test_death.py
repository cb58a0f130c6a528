"""Whose fault the end of an engine's process is."""

import signal
from pathlib import Path

import pytest

from deployments.engine.death import came_from_outside, oom_kills


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
