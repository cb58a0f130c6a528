"""Run on Kubernetes: what the chart's pods call, and what people ask about a cluster."""

import os
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.console import tell

POLL_S = 2.0
GONE_AFTER = 3
"""Times in a row that the listener must be away: one missed answer is no end."""


def check(
    file: Annotated[Path, typer.Argument(help="The chart's `config`, complete (YAML).")],
) -> None:
    """Check the configuration that a cluster is about to get, as it will read it."""
    from cluster.cli.check import engine_arg_faults
    from cluster.defaults import unpinned
    from cluster.loading import load

    config = load(file, {})
    faults = engine_arg_faults(config)
    doubts = unpinned(config)
    if config.access.mode == "keys":
        faults, doubts = [*faults, *doubts], []
    for fault in faults:
        tell(f"error: {fault}")
    for doubt in doubts:
        tell(f"warning: {doubt}")
    if faults:
        raise typer.Exit(2)
    print("config: no faults")


def leave(
    within_s: Annotated[float, typer.Option(help="Seconds until the pod is ended.")],
) -> None:
    """Hand this pod's work to others; returns when nothing of Trireme runs here any more.

    The chart's pods run it before they end (preStop), whoever ends them: a node that is drained, an
    upgrade, or a spot machine that is taken away. It never fails: a pod has to end in any case.
    """
    from cluster.ops import ADDRESS_VARIABLE
    from deployments.compat.nodes import drain

    host, _, port = os.environ[ADDRESS_VARIABLE].rpartition(" ")
    ends = time.monotonic() + within_s
    gcs = os.environ.get("RAY_ADDRESS") or f"{os.environ['FQ_RAY_IP']}:6379"
    try:
        told = drain(gcs, host, within_s, "its pod is ending")
    except Exception as error:
        tell(f"Ray's head was not told: {type(error).__name__}: {error}")
        return
    away = 0
    while told and away < GONE_AFTER and time.monotonic() + POLL_S < ends:
        time.sleep(POLL_S)
        away = 0 if _answers(f"http://{host}:{port}/status") else away + 1


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=POLL_S):
            return True
    except urllib.error.URLError as error:
        # Slow is not gone.
        return not isinstance(error.reason, ConnectionRefusedError)
    except OSError:
        return True
