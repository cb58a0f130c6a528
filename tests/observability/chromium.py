"""A headless Chromium for tests: the one that is installed, or one that a CI machine installs."""

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@functools.cache
def browser() -> str | None:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None and os.environ.get("CI") == "true" and os.getuid() == 0:
        for command in (
            ["apt-get", "update", "-qq"],
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"],
        ):
            subprocess.run(command, check=False, capture_output=True, timeout=400)
        found = shutil.which("chromium")
    return found


def page_after_scripts(url: str, folder: Path, wait_ms: int = 4000) -> tuple[str, str]:
    """The page's HTML once its scripts have run for so long, and what they wrote to the console."""
    program = browser()
    if program is None:
        pytest.skip("no Chromium here (on Debian and Ubuntu: apt install chromium)")
    done = subprocess.run(
        [
            program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            f"--user-data-dir={folder / 'chromium'}",
            "--enable-logging=stderr",
            f"--virtual-time-budget={wait_ms}",
            "--dump-dom",
            url,
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return done.stdout, console
