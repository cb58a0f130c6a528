"""``trireme config check``: every fault with its place and remedy."""

import contextlib
import io
import logging
import os
from collections.abc import Iterator

import typer

from cluster.cli.config import FileArgument, chosen_file, described
from cluster.cli.console import tell
from cluster.config import TriremeConfig
from cluster.errors import Fault


def check(file: FileArgument = None) -> None:
    """Check a configuration; prints every fault and what to write instead."""
    from cluster.defaults import check_against, default_config, unpinned
    from cluster.hardware import detect
    from cluster.loading import load

    path = chosen_file(file)
    hardware = detect()
    config = load(path, os.environ, fallback=lambda: default_config(hardware))
    faults = [*check_against(config, hardware), *engine_arg_faults(config)]
    for fault in faults:
        tell(f"error: {fault}")
    if config.access.mode != "keys":
        for doubt in unpinned(config):
            tell(f"warning: {doubt}")
    if faults:
        raise typer.Exit(2)
    print(f"{described(path)}: no faults")


def engine_arg_faults(config: TriremeConfig) -> list[Fault]:
    """What vLLM's own parser refuses in the pools' ``engine_args``."""
    given = [
        (f"models[{i}].pools[{j}].engine_args", pool.engine_args)
        for i, model in enumerate(config.models)
        for j, pool in enumerate(model.pools)
        if pool.engine_args
    ]
    if not given:
        return []
    with _quiet():
        # Seconds of imports that a configuration without engine_args is spared.
        from deployments.compat.vllm import bad_engine_args

        return [
            Fault(f"{path}.{name}", problem, "see vLLM's engine arguments")
            for path, args in given
            for name, problem in bad_engine_args(args)
        ]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """vLLM logs while it is imported, which is no answer to the question asked."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_TARGET_DEVICE", "cpu")
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
