"""``trireme test``: what CI checks."""

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import typer

from cluster.cli.console import Fault

ROOT = Path(__file__).resolve().parents[2]
TYPED_ROOMS = ("cluster", "deployments", "autoscaling")


def test(context: typer.Context) -> None:
    """Run the checks of CI: ruff, mypy --strict, and pytest with the arguments given here."""
    if importlib.util.find_spec("pytest") is None:
        raise Fault("the test tools are missing here: run ./trireme test, which installs them", 1)
    rooms = [room for room in TYPED_ROOMS if (ROOT / room).is_dir()]
    steps = {
        "ruff check": ["ruff", "check", "."],
        "ruff format": ["ruff", "format", "--check", "."],
        "mypy": ["mypy", "--strict", *rooms],
        "pytest": ["pytest", *context.args],
    }
    failed = []
    for name, command in steps.items():
        print(f"— {name}", flush=True)
        started = time.monotonic()
        code = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=False).returncode
        print(f"— {name}: {'ok' if code == 0 else f'exit {code}'}", end="")
        print(f", {time.monotonic() - started:.1f} s", flush=True)
        if code != 0:
            failed.append(name)
    if failed:
        raise Fault(f"failed: {', '.join(failed)}", 1)
