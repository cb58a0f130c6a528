"""The helm and kubectl of this machine, run to their end."""

import shutil
import subprocess

LONGEST_S = 60.0


class ToolMissing(Exception):
    """The program is not here; ``str()`` is one line with what to do."""


class ToolFailed(Exception):
    """The program said no; ``str()`` is what it said."""


def found(program: str, what_for: str) -> str:
    """Where a program is: a path, or a name on PATH. Raises ToolMissing."""
    path = shutil.which(program)
    if path is None:
        raise ToolMissing(f"{program} is not here: {what_for}")
    return path


def answer(*command: str) -> str:
    """What a program prints. Raises ToolFailed, also if it takes longer than a minute."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=LONGEST_S
        )
    except subprocess.TimeoutExpired:
        raise ToolFailed(f"no answer within {LONGEST_S:.0f} s") from None
    if done.returncode != 0:
        raise ToolFailed(done.stderr.strip() or f"exit code {done.returncode}")
    return done.stdout
