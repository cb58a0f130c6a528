"""How a process of ours starts another one: the same Python, the same rooms, from any folder."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""Where the rooms (``cluster``, ``deployments``, ``autoscaling``) lie."""


def command(module: str, *arguments: str) -> list[str]:
    """Runs ``module``; whatever else is called ``cluster`` in the current folder is not meant."""
    return [sys.executable, "-P", "-m", module, *arguments]


def with_rooms(environ: Mapping[str, str]) -> dict[str, str]:
    """``environ``, in which Python finds the rooms; Ray's workers inherit it."""
    paths = [str(ROOT), *filter(None, [environ.get("PYTHONPATH")])]
    return {**environ, "PYTHONPATH": os.pathsep.join(paths)}
