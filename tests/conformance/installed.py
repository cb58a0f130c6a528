"""Places where the libraries of other makers are installed, each once."""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

INSTALL_S = 300

_SETTING = re.compile(r"[a-z:]*\.([a-z-]+)='(.*)'")


def python_with(request: pytest.FixtureRequest, *packages: str) -> Path:
    """A Python of its own with ``packages``; skips if they cannot be installed."""
    name = hashlib.sha256(" ".join((sys.version, *packages)).encode()).hexdigest()[:16]
    home = _folder(request) / name
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        if importlib.util.find_spec("uv") is None:
            pytest.skip("uv is missing here: run ./trireme test, which installs it")
        shutil.rmtree(home, ignore_errors=True)
        uv = [sys.executable, "-m", "uv"]
        environ = {**uv_settings(), **os.environ}
        _installed([*uv, "venv", "-q", "-p", sys.executable, str(home)], environ)
        install = [*uv, "pip", "install", "-q", "--python", str(python), *packages]
        _installed(install, environ)
        (home / "ready").touch()
    return python


def node_with(request: pytest.FixtureRequest, *packages: str) -> Path:
    """A folder in which node finds ``packages``; skips if there is no node, or no such package."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node is not installed")
    home = _folder(request) / "-".join(packages).replace("/", "_")
    if not (home / "ready").exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        # Where nothing can be had, npm would go on trying for minutes.
        options = ["--no-audit", "--no-fund", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
        _installed(["npm", "install", *options, "--prefix", str(home), *packages], os.environ)
        (home / "ready").touch()
    return home


def uv_settings() -> dict[str, str]:
    """pip's settings, which uv does not read and this machine may need, as uv's environment; the
    same as in ``./trireme``."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    found: dict[str, str] = {}
    for line in listed.stdout.splitlines():
        if setting := _SETTING.fullmatch(line):
            found[setting[1]] = setting[2].replace("\\n", " ").strip()
    settings = {
        "UV_DEFAULT_INDEX": found.get("index-url", ""),
        "UV_INDEX": found.get("extra-index-url", ""),
        "UV_INDEX_STRATEGY": "unsafe-best-match" if found.get("extra-index-url") else "",
        "UV_FIND_LINKS": found.get("find-links", "").replace(" ", ","),
        "SSL_CERT_FILE": found.get("cert", ""),
        "UV_HTTP_TIMEOUT": "180",
    }
    return {name: value for name, value in settings.items() if value}


def _folder(request: pytest.FixtureRequest) -> Path:
    cache = request.config.cache
    assert cache is not None
    return cache.mkdir("clients")


def _installed(command: list[str], environ: Mapping[str, str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_S, env=environ
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"not installed in {INSTALL_S} s: {' '.join(command[-3:])}")
    if done.returncode:
        pytest.skip(f"cannot be installed: {' '.join(command[-3:])}: {done.stderr[-300:]}")
