"""``trireme plan``: how many replicas of which GPUs a load needs."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.console import Fault, tell
from cluster.config import TIERS, Tier, TiersConfig

if TYPE_CHECKING:
    from autoscaling.planner import Load, Option
    from deployments.router.capacity import Slo

PIPED_COLUMNS = 160
WINDOW_S = 60.0
BUSIEST = 0.99
"""A trace is planned for the window that 99 % of its windows do not exceed."""

DEFAULT_MIX = "low=0.5,medium=0.35,high=0.15"


def plan(
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Requests a second at the busiest time.")
    ] = None,
    mix: Annotated[str, typer.Option(help="Shares of the tiers, such as low=0.5,high=0.5.")] = (
        DEFAULT_MIX
    ),
    trace: Annotated[
        Path | None, typer.Option(help="A CSV of requests instead of --rate (see simulate).")
    ] = None,
    prompt: Annotated[float, typer.Option(min=1, help="Mean tokens of a prompt.")] = 1200.0,
    output: Annotated[
        str | None,
        typer.Option(help="Mean output tokens, such as low=400,medium=1500,high=6000."),
    ] = None,
    slo: Annotated[
        list[str] | None,
        typer.Option(help="Objective of a tier, such as low=1s/15ms; give it again for others."),
    ] = None,
    gpu: Annotated[
        str, typer.Option(help="GPUs to consider, such as h100,h200,b200.")
    ] = "h100,h200,b200",
    max_num_seqs: Annotated[
        int,
        typer.Option(
            min=1, max=8192, help="Requests that a replica runs at once; more than 64 is guesswork."
        ),
    ] = 64,
    cost: Annotated[
        str | None, typer.Option(help="Cost of a GPU-hour, such as h100=2.5,b200=5.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write a report here, as HTML.")] = None,
) -> None:
    """Size a cluster: replicas, latencies, GPU-hours, and where it stops holding."""
    from autoscaling.planner import UnknownGpu, options

    if (rate is None) == (trace is None):
        raise Fault("give either --rate or --trace")
    if out is not None and not out.absolute().parent.is_dir():
        raise Fault(f"{out} cannot be written: name a file in a folder that exists")
    shares = _numbers("--mix", mix)
    lengths = {tier: TiersConfig().of(tier).prior_output_tokens_mean for tier in TIERS}
    lengths |= _numbers("--output", output) if output else {}
    slos = _slos(slo or [])
    load = _traced(trace, shares, lengths) if trace else _load(rate or 0.0, shares, prompt, lengths)
    try:
        found = options(
            load,
            slos,
            gpu.split(","),
            max_num_seqs=max_num_seqs,
            gpu_cost_per_h=_costs(cost) if cost else None,
        )
    except UnknownGpu as error:
        raise Fault(str(error)) from error
    if not found:
        raise Fault("no measured replica keeps these objectives, not even for one request", 1)
    _show(load, slos, found, priced=cost is not None)
    if out is not None:
        from autoscaling.plan_report import report

        out.write_text(report(load, slos, found), encoding="utf-8")
        tell(f"wrote {out}")


# ------------------------------------------------------------------ what was asked


def _numbers(option: str, text: str) -> dict[Tier, float]:
    """``low=1,high=2`` as numbers above 0."""
    found: dict[Tier, float] = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        tier = next((tier for tier in TIERS if tier == name.strip()), None)
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if tier is None or not (math.isfinite(number) and number >= 0):
            raise Fault(
                f"{option}: '{part[:40]}' does not fit: write low=0.5,medium=0.35,high=0.15"
            )
        found[tier] = number
    if not any(found.values()):
        raise Fault(f"{option}: give at least one tier more than 0")
    return found


def _slos(asked: Sequence[str]) -> "dict[Tier, Slo]":
    from deployments.router.capacity import Slo

    tiers = TiersConfig()
    found = {
        tier: Slo(tiers.of(tier).slo.ttft_s, tiers.of(tier).slo.tpot_ms / 1000.0) for tier in TIERS
    }
    for text in asked:
        name, _, value = text.partition("=")
        first, _, pace = value.partition("/")
        tier = next((tier for tier in TIERS if tier == name.strip()), None)
        try:
            ttft_s = float(first.strip().removesuffix("s"))
            tpot_s = float(pace.strip().removesuffix("ms")) / 1000.0
        except ValueError:
            tier = None
        if tier is None or ttft_s <= 0 or tpot_s <= 0:
            raise Fault(f"--slo: '{text[:40]}' does not fit: write a tier's as low=1s/15ms")
        found[tier] = Slo(ttft_s, tpot_s)
    return found


def _costs(text: str) -> dict[str, float]:
    from autoscaling.planner import UnknownGpu, gpu_named

    found = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            found[gpu_named(name)] = float(value)
        except UnknownGpu as error:
            raise Fault(f"--cost: {error}") from error
        except ValueError as error:
            raise Fault(f"--cost: '{part[:40]}' does not fit: write h200=3.5") from error
    return found


def _load(
    rate: float, shares: Mapping[Tier, float], prompt: float, lengths: Mapping[Tier, float]
) -> "Load":
    from autoscaling.planner import Load
    from autoscaling.sizing import demands_at

    return Load(demands_at(rate, shares, prompt, lengths))


def _traced(file: Path, shares: Mapping[Tier, float], lengths: Mapping[Tier, float]) -> "Load":
    """The busiest minutes of a trace; rows that name no tier are split by ``shares``."""
    from autoscaling.planner import Load
    from autoscaling.simulator.workloads.trace import read_trace
    from deployments.router.capacity import Demand

    if not file.is_file():
        raise Fault(f"there is no file {file}")
    whole = sum(shares.values())
    windows: Counter[int] = Counter()
    sums = {tier: [0.0, 0.0, 0.0] for tier in TIERS}
    last_s = 0.0
    for row in read_trace(file, skips_too_long=True):
        windows[int(row.at_s // WINDOW_S)] += 1
        last_s = row.at_s
        parts = {row.tier: 1.0} if row.tier else {t: w / whole for t, w in shares.items()}
        for tier, part in parts.items():
            each = sums[tier]
            each[0] += part
            each[1] += part * row.prompt_tokens
            each[2] += part * (row.output_tokens if row.tier else lengths[tier])
    if not windows:
        raise Fault(f"{file} holds no request")
    counts = sorted(windows[index] for index in range(int(last_s // WINDOW_S) + 1))
    busiest = counts[min(len(counts) - 1, int(BUSIEST * len(counts)))]
    rate = busiest / min(WINDOW_S, max(1.0, last_s))
    total = sum(each[0] for each in sums.values())
    tell(f"{total:.0f} requests in {last_s / 3600.0:.2f} h; planned for {rate:.2f} a second")
    return Load(
        {
            tier: Demand(rate * each[0] / total, each[1] / each[0], max(1.0, each[2] / each[0]))
            for tier, each in sums.items()
            if each[0] > 0
        }
    )


# ------------------------------------------------------------------ what is told


def _show(
    load: "Load", slos: "Mapping[Tier, Slo]", found: "Sequence[Option]", *, priced: bool
) -> None:
    from rich.console import Console
    from rich.table import Table

    tiers = [tier for tier in TIERS if tier in load.demands]
    table = Table(
        title=f"{load.per_s:.3g} requests a second: "
        + ", ".join(f"{tier} {load.demands[tier].per_s / load.per_s:.0%}" for tier in tiers),
        title_justify="left",
    )
    columns = ["replicas", "GPUs", "GPU-hours a day"] + (["cost a day"] if priced else [])
    columns += ["in use", "holds up to"]
    columns += [
        f"{tier} (≤ {slos[tier].ttft_s:g} s, {1000 * slos[tier].tpot_s:g} ms)" for tier in tiers
    ]
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for option in found:
        cells = [f"{option.replicas} × {option.gpu} TP {option.tp}", str(option.gpus)]
        cells += [f"{option.gpu_hours_a_day:.0f}"]
        cells += [f"{option.cost_a_day:.2f}"] if priced else []
        mark = "*" if option.extrapolated else ""
        cells += [f"{option.at.use:.0%}{mark}", f"{option.knee_per_s:.3g}/s"]
        for tier in tiers:
            latency = option.at.latency[tier]
            cells.append(f"{latency.ttft_s:.2f} s, {1000 * latency.tpot_s:.1f} ms")
        table.add_row(*cells)
    console = Console()
    (console if console.is_terminal else Console(width=PIPED_COLUMNS)).print(table)
    if any(option.extrapolated for option in found):
        print("* batches larger than any that was measured, which real replicas may not sustain.")
    if found:
        first = found[0]
        words = f"--gpu {first.gpu.lower()} --tp {first.tp} --replicas {first.replicas}"
        print(f"The first one's machines on AWS: trireme cloud plan {words}")
