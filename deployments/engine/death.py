"""Whose fault it is that an engine's process ended: what it was running, or somebody outside.

A process that was killed by a signal from elsewhere (an operator, a scheduler, a fault that was put
in) says nothing about its requests. SIGKILL also comes from the kernel when memory runs out, and
that may well be a request's doing: Linux counts those kills.
"""

import signal
from collections.abc import Iterable
from pathlib import Path

VMSTAT = Path("/proc/vmstat")

FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM)
"""Exit codes, as ``multiprocessing`` tells them. A crash has another signal, or a code."""


def oom_kills(vmstat: Path = VMSTAT) -> int | None:
    """Processes that this machine's kernel has killed for want of memory (``oom_kill`` of
    proc_vmstat(5), since Linux 4.13; limits of containers count); None where that is not told."""
    try:
        lines = vmstat.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def came_from_outside(
    exit_codes: Iterable[int | None], kills_before: int | None, kills_after: int | None
) -> bool:
    """Whether nothing that ran there can be to blame. Whatever is not known speaks against it."""
    ended = [code for code in exit_codes if code is not None]
    if not ended or any(code not in FROM_OUTSIDE for code in ended):
        return False
    return kills_before is not None and kills_before == kills_after
