"""What a crash of one of vLLM's processes looks like from outside."""

import faulthandler
import multiprocessing
import os
import signal
import time

import pytest

from deployments.compat import crash

CONTEXT = multiprocessing.get_context("spawn")


def be_a_worker(ready: "multiprocessing.synchronize.Event", times: int) -> None:
    """As vLLM's: with tvm_ffi, and one hook for the worker and one for the core."""
    import tvm_ffi  # noqa: F401

    for _ in range(times):
        crash.end_at_once()
    ready.set()
    time.sleep(60)


def crashes(hooks: int) -> None:
    ready = CONTEXT.Event()
    worker = CONTEXT.Process(target=be_a_worker, args=(ready, hooks), daemon=True)
    worker.start()
    assert ready.wait(120.0)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSEGV)
    worker.join(60.0)
    assert worker.exitcode == -signal.SIGSEGV


def test_tvm_ffi_still_takes_the_signal_over(capfd: pytest.CaptureFixture[str]) -> None:
    """Else there is no need of ``crash`` any more."""
    crashes(hooks=0)
    assert "Segfault encountered" in capfd.readouterr().err


@pytest.mark.parametrize("times", [1, 2])
def test_it_names_the_python_lines(times: int, capfd: pytest.CaptureFixture[str]) -> None:
    crashes(hooks=times)
    said = capfd.readouterr().err
    assert "Segmentation fault" in said
    assert "in be_a_worker" in said
    assert "Segfault encountered" not in said


def test_our_own_processes_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGSEGV), faulthandler.is_enabled()
    crash.end_at_once()
    assert (signal.getsignal(signal.SIGSEGV), faulthandler.is_enabled()) == before
