"""One gateway on a socket for all clients, and places where their libraries are installed."""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.tiny_model import make_tiny_model

ROOT = Path(__file__).resolve().parents[2]
INSTALL_S = 300
START_S = 420


@pytest.fixture(scope="session")
def gateway(request: pytest.FixtureRequest) -> Iterator[str]:
    """Its base URL. ``TRIREME_CONFORMANCE_URL`` may name one that runs already."""
    running = os.environ.get("TRIREME_CONFORMANCE_URL")
    if running is not None:
        yield running
        return
    cache = request.config.cache
    assert cache is not None
    directory = make_tiny_model(cache.mkdir("tiny_model") / "model")
    command = [sys.executable, "-m", "tests.conformance.server", str(directory)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "VLLM_TARGET_DEVICE": "cpu"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        too_late = threading.Timer(START_S, process.kill)
        too_late.start()
        url = next((line.strip() for line in process.stdout if line.startswith("http://")), None)
        too_late.cancel()
        # Whatever else it writes must not fill the pipe.
        threading.Thread(target=process.stdout.read, daemon=True).start()
        try:
            assert url is not None, "the gateway did not start"
            yield url
        finally:
            process.kill()


def python_with(request: pytest.FixtureRequest, *packages: str) -> Path:
    """A Python of its own with ``packages``, made once; skips if they cannot be installed."""
    cache = request.config.cache
    assert cache is not None
    name = hashlib.sha256(" ".join((sys.version, *packages)).encode()).hexdigest()[:16]
    home = cache.mkdir("clients") / name
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        shutil.rmtree(home, ignore_errors=True)
        uv = shutil.which("uv")
        if uv is not None:
            steps = [[uv, "venv", "-q", "-p", sys.executable, str(home)]]
            steps += [[uv, "pip", "install", "-q", "--python", str(python), *packages]]
        else:
            steps = [[sys.executable, "-m", "venv", str(home)]]
            steps += [[str(python), "-m", "pip", "install", "-q", *packages]]
        for step in steps:
            _installed(step)
        (home / "ready").touch()
    return python


def node_with(request: pytest.FixtureRequest, *packages: str) -> Path:
    """A folder in which node finds ``packages``; skips if there is no node, or no such package."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node is not installed")
    cache = request.config.cache
    assert cache is not None
    home = cache.mkdir("clients") / "-".join(packages).replace("/", "_")
    if not (home / "ready").exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        _installed(["npm", "install", "--no-audit", "--no-fund", "--prefix", str(home), *packages])
        (home / "ready").touch()
    return home


def _installed(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S)
    except subprocess.TimeoutExpired:
        pytest.skip(f"not installed in {INSTALL_S} s: {' '.join(command[-3:])}")
    if done.returncode:
        pytest.skip(f"cannot be installed: {' '.join(command[-3:])}: {done.stderr[-300:]}")
