"""The processes of one cluster: marked so that each can be found, and ended so that none stays.

Ray and vLLM start processes of their own, in sessions of their own, and rename them. Three traces
lead to all of them: an environment variable that children inherit, files open in the cluster's run
folder, and descent from a process already found.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

MARKER = "TRIREME_CLUSTER"
"""Environment variable that holds the id of the cluster a process belongs to."""

_PR_SET_CHILD_SUBREAPER = 36
SHARED_MEMORY = Path("/dev/shm")

# What Python's multiprocessing, vLLM and NCCL name their segments; each name is used once.
_SEGMENT_PREFIXES = ("psm_", "sem.mp-", "vllm_", "nccl-")

_POLL_S = 0.05
_KILL_ROUNDS = 40


def become_subreaper() -> bool:
    """Make orphans of our children our own children, so that they cannot get lost.

    Returns whether the system knows how (Linux does).
    """
    if not sys.platform.startswith("linux"):
        return False
    refused: int = ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    return refused == 0


def members(cluster_id: str, run_dir: Path) -> list[psutil.Process]:
    """Every living process of the cluster, apart from the caller."""
    me = os.getpid()
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        if process.pid != me and _carries(process, cluster_id, run_dir):
            found[process.pid] = process
    for process in [*found.values(), psutil.Process(me)]:
        with contextlib.suppress(psutil.Error):
            # Only a supervisor that adopted the cluster's orphans has children besides.
            if process.pid == me and os.environ.get(MARKER) != cluster_id:
                continue
            for child in process.children(recursive=True):
                found.setdefault(child.pid, child)
    return [process for process in found.values() if _lives(process)]


def _carries(process: psutil.Process, cluster_id: str, run_dir: Path) -> bool:
    try:
        if process.environ().get(MARKER) == cluster_id:
            return True
    except (psutil.Error, OSError):
        return False  # another user's, or gone
    # A process that set its own title may have written it over its environment.
    prefix = f"{run_dir}{os.sep}"
    with contextlib.suppress(OSError), os.scandir(f"/proc/{process.pid}/fd") as descriptors:
        for descriptor in descriptors:
            with contextlib.suppress(OSError):
                if os.readlink(descriptor.path).startswith(prefix):
                    return True
    return False


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def end_all(find: Callable[[], list[psutil.Process]], grace_s: float) -> int:
    """End whatever ``find`` lists: SIGTERM, and after ``grace_s`` SIGKILL, until nothing is left.

    Shared memory that they held goes with them. Returns how many could not be ended.
    """
    # Once found stays found: the end of its parent may take away the trace that led to a process.
    known: dict[int, psutil.Process] = {}
    segments: set[Path] = set()

    def left() -> list[psutil.Process]:
        reap_orphans()
        for process in find():
            if known.setdefault(process.pid, process) is process:
                segments.update(_segments(process))
        return [process for process in known.values() if _lives(process)]

    for process in left():
        _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while left() and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    # A process may have forked while it was being looked for, so look again.
    for _ in range(_KILL_ROUNDS):
        stubborn = left()
        if not stubborn:
            break
        for process in stubborn:
            _signal(process, signal.SIGKILL)
        time.sleep(_POLL_S)
    remaining = len(left())
    if remaining == 0:
        # A killed process leaves its shared memory behind, 160 MB for each vLLM engine.
        for segment in segments:
            segment.unlink(missing_ok=True)
    return remaining


def _segments(process: psutil.Process) -> set[Path]:
    """The segments of shared memory that the process has mapped."""
    try:
        maps = Path(f"/proc/{process.pid}/maps").read_text(errors="replace")
    except OSError:
        return set()
    return {
        SHARED_MEMORY / name
        for line in maps.splitlines()
        for _, at, name in [line.partition(f" {SHARED_MEMORY}{os.sep}")]
        if at and name.startswith(_SEGMENT_PREFIXES) and not name.endswith(" (deleted)")
    }


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.Error):
        process.send_signal(number)


def reap_orphans(keep: frozenset[int] = frozenset()) -> None:
    """Collect adopted children that have ended; ``keep`` names those whose parent code waits."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error, OSError):
            if child.pid not in keep and child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, os.WNOHANG)
