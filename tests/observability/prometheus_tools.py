"""Prometheus and its ``promtool`` for tests: what is installed, or fetched on a CI machine."""

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest


@functools.cache
def folder() -> Path | None:
    """Where both programs are; None if they are neither installed nor to be had."""
    found = shutil.which("promtool"), shutil.which("prometheus")
    if all(found):
        return Path(str(found[0])).parent
    if os.environ.get("CI") != "true" or shutil.which("apt-get") is None:
        return None
    kept = Path(tempfile.gettempdir()) / f"trireme-prometheus-{os.getuid()}"
    programs = kept / "usr" / "bin"
    if not (programs / "promtool").is_file():
        kept.mkdir(mode=0o700, exist_ok=True)
        # Unpacked rather than installed: no service starts, and nobody has to be root.
        subprocess.run(["apt-get", "update", "-qq"], check=False, capture_output=True)
        fetched = subprocess.run(
            ["apt-get", "download", "-qq", "prometheus"],
            cwd=kept,
            check=False,
            capture_output=True,
            timeout=300,
        )
        packages = sorted(kept.glob("prometheus_*.deb"))
        if fetched.returncode != 0 or not packages:
            return None
        subprocess.run(["dpkg", "-x", str(packages[-1]), str(kept)], check=True)
    return programs


def program(name: str) -> str:
    """Path of ``promtool`` or ``prometheus``; skips the test where there is none."""
    found = folder()
    if found is None:
        pytest.skip("no Prometheus here (on Debian and Ubuntu: apt install prometheus)")
    return str(found / name)
