"""Terraform prepared once, and AWS's stand-in, for all tests of this folder."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from cluster.local_ray import free_ports
from tests.terraform.lifecycle import Life, credentials, live, mocked
from tests.terraform.toolbox import (
    EXAMPLES,
    FIGURES,
    STAND_IN,
    Missing,
    Terraform,
    or_skip,
    prepared,
    running_provider,
    tool,
)

MOTO = "moto[server]==5.2.5"


@pytest.fixture(scope="session")
def terraform(tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    """Ready to plan; skips where terraform or its provider is missing."""
    try:
        return prepared(tmp_path_factory.mktemp("terraform"))
    except Missing as error:
        return or_skip(error)


@pytest.fixture(scope="session")
def account(terraform: Terraform, aws: str) -> Iterator[dict[str, str]]:
    """The environment for commands that speak to the stand-in, one after the other."""
    with running_provider(terraform, **credentials(aws)) as environment:
        yield environment


@pytest.fixture(scope="session")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of an empty AWS account."""
    with _empty_account(tmp_path_factory.mktemp("moto") / "log") as url:
        yield url


@contextlib.contextmanager
def _empty_account(log: Path) -> Iterator[str]:
    """moto, in a process of its own."""
    try:
        python = tool("moto", MOTO) / "python"
    except Missing as error:
        or_skip(error)
    (port,) = free_ports(1)
    script = Path(__file__).with_name("aws_stand_in.py")
    with log.open("wb") as out:
        server = subprocess.Popen(
            [str(python), str(script), str(port)],
            env={**os.environ, "MOTO_IAM_LOAD_MANAGED_POLICIES": "true"},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _await(url, server, log)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=20)


@pytest.fixture(scope="session", autouse=True)
def begun(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Life]]]:
    """The examples' lives in the stand-in, begun before the first test if they are asked for.

    They last minutes, most of which the provider waits (for a database, a minute after each call),
    so that they go on beside the other tests. Each has an account of its own: to moto all clusters
    of one account are the same issuer of identities.
    """
    wanted = any("life" in getattr(item, "fixturenames", ()) for item in request.session.items)
    if not (STAND_IN and wanted):
        yield {}
        return
    terraform: Terraform = request.getfixturevalue("terraform")
    with contextlib.ExitStack() as accounts, ThreadPoolExecutor(len(EXAMPLES)) as pool:
        logs = tmp_path_factory.mktemp("accounts")
        yield {
            example: pool.submit(
                live, terraform, accounts.enter_context(_empty_account(logs / example)), example
            )
            for example in EXAMPLES
        }
        pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="session")
def lives(begun: dict[str, Future[Life]]) -> dict[str, Life]:
    """Every example's whole life in the stand-in, once it is over."""
    return {example: future.result() for example, future in begun.items()}


@pytest.fixture(scope="session")
def mocked_lives(terraform: Terraform, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Life]:
    """Every example's whole life with a mocked provider, where nothing of it is left out."""
    # A copy of its own: the lives in the stand-in stand beside it.
    home = tmp_path_factory.mktemp("mocked")
    shutil.copytree(
        terraform.home, home, dirs_exist_ok=True, ignore=shutil.ignore_patterns("providers")
    )
    apart = replace(terraform, home=home)
    with running_provider(apart) as environment:
        return {example: mocked(apart, environment, example) for example in EXAMPLES}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures that the tests counted, at the end of the run."""
    if FIGURES:
        terminalreporter.section("terraform in figures")
        for line in FIGURES:
            terminalreporter.write_line(line)


def _await(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            if httpx.get(f"{url}/moto-api/data.json", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(f"moto did not start: {log.read_text()[-3000:]}")
