"""A supervisor in the background, and how to end one."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from cluster.interpreter import with_rooms
from cluster.launch import clear_stale
from cluster.run_state import ClusterRecord

POLL_S = 0.1

STOP_TIMEOUT_S = 60.0
"""Longer than a supervisor takes to end its cluster; after it, the supervisor is killed."""


def start(command: Sequence[str], record: ClusterRecord, say: Callable[[str], None]) -> int:
    """Run ``command`` (an ``up`` in the foreground) detached until its first answer has come.

    What it says goes to its log and, until then, to ``say``. Returns an exit code.
    """
    record.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(record.log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=with_rooms(os.environ),
            start_new_session=True,
        )
    with record.log_path.open(encoding="utf-8", errors="replace") as told:
        try:
            code = _follow(child, record, told.readline, say)
        except KeyboardInterrupt:
            child.send_signal(signal.SIGTERM)
            child.wait()
            code = 130
    return code


def _follow(
    child: "subprocess.Popen[bytes]",
    record: ClusterRecord,
    next_line: Callable[[], str],
    say: Callable[[str], None],
) -> int:
    failing = False
    while True:
        code = child.poll()
        state = record.read()
        ready = state is not None and state.phase == "ready" and state.supervisor_pid == child.pid
        while line := next_line():
            failing = failing or line.startswith("error:")
            if failing:
                print(line, end="", file=sys.stderr)
            else:
                say(line.rstrip("\n"))
        if code is not None:
            return code
        if ready:
            return 0
        time.sleep(POLL_S)


def stop(record: ClusterRecord) -> bool:
    """End the cluster, by asking its supervisor or, if that was killed, by cleaning up after it.

    Returns whether there was anything to end.
    """
    state = record.read()
    if record.is_held():
        if state is not None:
            _end(state.supervisor_pid, signal.SIGTERM)
        if not record.wait_released(STOP_TIMEOUT_S) and state is not None:
            _end(state.supervisor_pid, signal.SIGKILL)
            record.wait_released(STOP_TIMEOUT_S)
    with record.claimed() as mine:
        swept = mine and clear_stale(record)
    return state is not None or swept


def _end(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
