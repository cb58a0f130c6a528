"""The head process as its supervisor sees it: told what to bring up, it reports, and ends itself
when its stdin closes."""

import contextlib
import os
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue

import msgspec

from cluster.head import Job, Report
from cluster.interpreter import command


class HeadProcess:
    """``reports`` are its news; None is the last, when it is gone."""

    def __init__(self, job: Job, environ: Mapping[str, str], log_file: Path) -> None:
        self.reports: SimpleQueue[Report | None] = SimpleQueue()
        read_end, write_end = os.pipe()
        with log_file.open("w") as log:
            self._process = subprocess.Popen(
                command("cluster.head", str(write_end)),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[write_end],
                env=environ,
                start_new_session=True,
            )
        os.close(write_end)
        threading.Thread(target=self._listen, args=(read_end,), daemon=True).start()
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(job) + b"\n")
        self._process.stdin.flush()

    def _listen(self, read_end: int) -> None:
        """Until its end: a head that cannot report would stop."""
        with os.fdopen(read_end, "rb") as lines:
            for line in lines:
                self.reports.put(msgspec.json.decode(line, type=Report))
        self.reports.put(None)

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self, wait_s: float) -> None:
        """Tell it to take everything down, and wait for that at most so long."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(wait_s)

    def wait(self) -> None:
        """Until it is gone."""
        self._process.wait()
