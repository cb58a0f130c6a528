"""What the commands share: how they fail, where they print, and which cluster they mean."""

import os
import sys
from pathlib import Path

from cluster.run_state import ClusterRecord, RunState, recorded, state_dir


class Fault(Exception):
    """The command cannot go on. ``str()`` is one line; ``exit_code`` is 2 for bad input."""

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def tell(text: str) -> None:
    """A line for the person, apart from the command's output."""
    print(text, file=sys.stderr, flush=True)


def state_folder() -> Path:
    return state_dir(os.environ)


def chosen(name: str | None) -> ClusterRecord:
    """The cluster that is meant: by name, else the only one there is. Raises ``Fault``."""
    folder = state_folder()
    names = recorded(folder)
    if name is None:
        if len(names) > 1:
            raise Fault(f"several clusters are up ({', '.join(names)}): choose one with --name")
        name = names[0] if names else "trireme"
    return ClusterRecord(folder, name)


def running(name: str | None) -> RunState | None:
    """The cluster that is meant if it is up, else None."""
    record = chosen(name)
    return record.read() if record.is_held() else None
