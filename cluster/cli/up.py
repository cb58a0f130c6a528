"""``trireme up``: from a configuration to a first answer."""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.config import chosen_file, described
from cluster.cli.console import Fault, state_folder

if TYPE_CHECKING:
    from cluster.config import EngineKind, TriremeConfig
    from cluster.hardware import Hardware
    from cluster.launch import Plan
    from cluster.run_state import ClusterRecord


class Engine(StrEnum):
    vllm = "vllm"
    simulated = "simulated"


def up(
    config: Annotated[
        Path | None,
        typer.Option(help="Configuration file; ./trireme.yaml where there is one."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the cluster.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = None,
    replicas: Annotated[int | None, typer.Option(min=1, max=4096, help="Engine replicas.")] = None,
    engine: Annotated[
        Engine | None, typer.Option(help="Real engines, or replicas that only keep time.")
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return once the first answer has come.")
    ] = False,
) -> None:
    """Start a cluster here and wait for its first answer. Ctrl-C takes everything down."""
    from rich.console import Console

    from cluster import background
    from cluster.interpreter import command
    from cluster.launch import Refused, already_up, with_port
    from cluster.launch import up as bring_up
    from cluster.progress import Progress

    progress = Progress(Console())
    overrides = Overrides(name, port, replicas, engine.value if engine else None)
    file = chosen_file(config)
    try:
        if not detach:
            with progress.phase("environment"):
                plan = overrides.plan(file)
                progress.news(f"{found(plan.hardware)}; {plan.source}")
            raise typer.Exit(bring_up(plan, record_of(plan), progress))
        plan = overrides.plan(file)
        record = record_of(plan)
        if record.is_held():
            progress.say(already_up(record))
            return
        # Found out here, so that a wrong port is told at once and with its own exit code.
        with_port(plan)
    except Refused as error:
        raise Fault(str(error)) from error
    again = [each for each in sys.argv[1:] if each != "--detach"]
    raise typer.Exit(background.start(command("cluster.cli", *again), record, progress.say))


class Overrides:
    """Options of the command line, which count more than the file and the environment."""

    def __init__(
        self, name: str | None, port: int | None, replicas: int | None, engine: "EngineKind | None"
    ) -> None:
        self._name = name
        self._port = port
        self._replicas = replicas
        self._engine = engine

    def plan(self, file: Path | None) -> "Plan":
        """What to start. Raises ``ConfigError`` and ``Fault``."""
        from cluster.defaults import check_against, default_config
        from cluster.errors import ConfigError
        from cluster.hardware import detect
        from cluster.launch import Plan
        from cluster.loading import load

        hardware = detect()

        def fallback() -> "TriremeConfig":
            return default_config(hardware, engine=self._engine, replicas=self._replicas)

        config = load(file, os.environ, fallback=fallback)
        settings = self._settings(config)
        if settings:
            config = load(file, os.environ | settings, fallback=fallback)
        faults = check_against(config, hardware)
        if faults:
            raise ConfigError(faults)
        return Plan(config, hardware, described(file))

    def _settings(self, config: "TriremeConfig") -> dict[str, str]:
        """What the options change in ``config``, as settings of the environment."""
        settings: dict[str, str] = {}
        if self._name is not None and self._name != config.name:
            settings["TRIREME_NAME"] = self._name
        if self._port is not None and self._port != config.gateway.port:
            settings["TRIREME_GATEWAY__PORT"] = str(self._port)
        pools = [
            (f"TRIREME_MODELS__{i}__POOLS__{j}__", pool)
            for i, model in enumerate(config.models)
            for j, pool in enumerate(model.pools)
        ]
        for prefix, pool in pools:
            if self._engine is not None and self._engine != pool.engine:
                settings[f"{prefix}ENGINE"] = self._engine
        if self._replicas is not None and any(p.replicas != self._replicas for _, p in pools):
            if len(pools) > 1:
                raise Fault(f"--replicas: there are {len(pools)} pools; set replicas in the file")
            settings[f"{pools[0][0]}REPLICAS"] = str(self._replicas)
        return settings


def record_of(plan: "Plan") -> "ClusterRecord":
    from cluster.run_state import ClusterRecord

    return ClusterRecord(state_folder(), plan.config.name)


def found(hardware: "Hardware") -> str:
    """The machine in a few words."""
    memory = f"{hardware.memory_bytes / 2**30:.0f} GiB"
    if not hardware.gpus:
        return f"{hardware.cpus} CPUs, {memory}, no GPU"
    kinds = sorted({gpu.name for gpu in hardware.gpus})
    return f"{hardware.cpus} CPUs, {memory}, {len(hardware.gpus)} GPUs ({', '.join(kinds)})"
