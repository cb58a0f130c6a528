"""One gateway on a socket for all clients."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.tiny_model import make_tiny_model
from tests.conformance.served import Served, live_cluster, running_already

ROOT = Path(__file__).resolve().parents[2]
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


@pytest.fixture(scope="session")
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """What clients are tried against. With ``TRIREME_TEST_CLIENTS_LIVE`` a whole cluster of real
    engines, which takes minutes and 10 GB."""
    if os.environ.get("TRIREME_TEST_CLIENTS_LIVE"):
        home = request.getfixturevalue("tmp_path_factory").mktemp("clients")
        with live_cluster(home) as cluster:
            yield cluster
    else:
        yield running_already(request.getfixturevalue("gateway"))
