"""``trireme explain``: what the present configuration can hold, and what to expect of it."""

import os
from typing import TYPE_CHECKING

from cluster.cli.config import FileArgument, chosen_file

if TYPE_CHECKING:
    from rich.table import Table

    from cluster.config import ModelConfig, PoolConfig, TriremeConfig

USES = (0.25, 0.5, 0.75, 1.0)
PIPED_COLUMNS = 140
PROMPT_TOKENS = 1000.0
"""Prompts are assumed to be so long; outputs are the tiers' priors."""


def explain(file: FileArgument = None) -> None:
    """Print each pool's KV cache, concurrency and expected latencies by load."""
    from rich.console import Console

    from cluster.defaults import default_config
    from cluster.hardware import detect
    from cluster.loading import load

    config = load(chosen_file(file), os.environ, fallback=lambda: default_config(detect()))
    console = Console()
    console = console if console.is_terminal else Console(width=PIPED_COLUMNS)
    for model, pool in config.pools():
        console.print(_pool(config, model, pool))
    console.print(
        f"Prompts of {PROMPT_TOKENS:g} tokens and outputs of the tiers' priors are assumed; one "
        "tier alone on a replica.\nTimes are those of others' measurements of gpt-oss-120b (see "
        "cluster/steptime.py), batches above 64 extrapolated."
    )


def _pool(config: "TriremeConfig", model: "ModelConfig", pool: "PoolConfig") -> "Table":
    from rich.table import Table

    from autoscaling.autoscaler import replica_kind
    from autoscaling.planner import batch_at, first_token_s
    from autoscaling.sizing import Sizing
    from cluster.config import TIERS
    from deployments.router.capacity import Demand, Slo, step_at

    kind = replica_kind(model, pool)
    gpu = pool.gpu_type or (
        pool.simulated.gpu if pool.engine == "simulated" else "as on H200: no gpu_type is given"
    )
    table = Table(
        title=f"{model.name}, pool {pool.name}: {pool.replicas} × TP {pool.tensor_parallel_size} "
        f"({gpu}), {kind.kv_tokens:,} KV tokens a replica",
        title_justify="left",
    )
    for index, column in enumerate(
        ("tier", "KV holds", "runs at once", "req/s", *(f"{use:.0%} load" for use in USES))
    ):
        table.add_column(column, justify="left" if index == 0 else "right")
    for tier in TIERS:
        settings = config.tiers.of(tier)
        slo = Slo(settings.slo.ttft_s, settings.slo.tpot_ms / 1000.0)
        demand = Demand(1.0, PROMPT_TOKENS, settings.prior_output_tokens_mean)
        sizing = Sizing(kind, dict.fromkeys(TIERS, slo))
        each = sizing.of(tier, demand.prompt_tokens, demand.output_tokens)
        held = int(kind.kv_tokens / (demand.prompt_tokens + demand.output_tokens))
        cells = []
        for use in USES:
            batch = batch_at(sizing, tier, demand, use)
            first_s = first_token_s(kind, demand, batch)
            pace_ms = 1000.0 * step_at(kind.steps, batch, demand)
            cells.append(f"{first_s:.2f} s, {pace_ms:.1f} ms")
        table.add_row(tier, str(held), str(each.batch), f"{each.per_s:.2f}", *cells)
    table.caption = "first token, then time per token"
    return table
