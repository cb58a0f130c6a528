"""Whether an engine's process is ending, and whose fault it is: what it was running, or somebody
outside.

Whoever waits for a process hears of its end when all that it held has been freed. That takes a
second or more for an engine (a GPU's context, a core dump), in which it looks like one that hangs.
The kernel's table shows at once what the process was ended with.

A process that was killed by a signal from elsewhere (an operator, a scheduler, a fault that was put
in) says nothing about its requests. SIGKILL also comes from the kernel when memory runs out, and
that may well be a request's doing: Linux counts those kills.
"""

import signal
from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")
VMSTAT = PROC / "vmstat"

FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM)
"""Exit codes, as ``multiprocessing`` tells them. A crash has another signal, or a code."""


UNTOLD = 1
"""Stands for the exit code of a process that has vanished, or that we may not read."""

_ENDING = 0x4 | 0x400
"""Linux's PF_EXITING and PF_SIGNALED: it frees what it held, or a signal has just ended it."""


def exit_code(pid: int, proc: Path = PROC) -> int | None:
    """How the process has ended or is about to, in ``multiprocessing``'s terms; None: it runs.

    Fields 3, 9 and 52 of proc_pid_stat(5): state, flags and wait status. None where there is no
    such table."""
    try:
        stat = (proc / str(pid) / "stat").read_text()
    except OSError:
        return UNTOLD if proc.joinpath("self", "stat").exists() else None
    fields = stat.rpartition(")")[2].split()  # the name before may hold anything
    state, flags, status = fields[0], int(fields[6]), int(fields[49])
    if state not in "ZX" and not flags & _ENDING:
        return None  # its status may name a signal all the same: one that has only stopped it
    ended_by = status & 0x7F
    return -ended_by if ended_by else status >> 8 or UNTOLD


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
