"""A plan as one HTML page with plots, in the style of the simulator's report."""

import math
from collections.abc import Mapping, Sequence
from html import escape

import matplotlib
from matplotlib.figure import Figure

from autoscaling.planner import Load, Option
from autoscaling.simulator.plots import _svg
from autoscaling.simulator.report import _page
from cluster.config import TIERS, Tier
from deployments.router.capacity import Slo

SHOWN = 6
"""So many options, the cheapest ones, are drawn."""

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def report(load: Load, slos: Mapping[Tier, Slo], options: Sequence[Option]) -> str:
    """The page; it needs nothing else."""
    tiers = [tier for tier in TIERS if tier in load.demands]
    body = "\n".join(
        [
            f"<h1>A cluster for {load.per_s:.3g} requests a second</h1>",
            f"<p>{escape(_asked(load, slos, tiers))}</p>",
            _table(tiers, options),
            *(
                f"<figure><figcaption>{tier} effort: latency by load</figcaption>"
                f"{_plot(tier, slos[tier], load, options[:SHOWN])}</figure>"
                for tier in tiers
            ),
            "<p>Means by the capacity model; times are others' measurements of gpt-oss-120b. A "
            "star marks batches larger than any that was measured. Vertical lines: the planned "
            "rate (black) and where each option stops holding.</p>",
        ]
    )
    return _page("Plan", [body])


def _asked(load: Load, slos: Mapping[Tier, Slo], tiers: Sequence[Tier]) -> str:
    return "; ".join(
        f"{tier}: {load.demands[tier].per_s:.3g}/s of {load.demands[tier].prompt_tokens:.0f} "
        f"prompt and {load.demands[tier].output_tokens:.0f} output tokens, within "
        f"{slos[tier].ttft_s:g} s and {1000 * slos[tier].tpot_s:g} ms a token"
        for tier in tiers
    )


def _table(tiers: Sequence[Tier], options: Sequence[Option]) -> str:
    head = ["option", "GPUs", "GPU-hours a day", "cost a day", "in use", "holds up to, /s"]
    head += [f"{tier}: first token, per token" for tier in tiers]
    rows = []
    for option in options:
        mark = " *" if option.extrapolated else ""
        cells = [
            f"{option.replicas} × {option.gpu} TP {option.tp}{mark}",
            str(option.gpus),
            f"{option.gpu_hours_a_day:.0f}",
            f"{option.cost_a_day:.2f}",
            f"{option.at.use:.0%}",
            f"{option.knee_per_s:.3g}",
        ]
        for tier in tiers:
            latency = option.at.latency[tier]
            cells.append(f"{latency.ttft_s:.2f} s, {1000 * latency.tpot_s:.1f} ms")
        rows.append(
            f"<tr><th>{escape(cells[0])}</th>"
            + "".join(f"<td>{escape(cell)}</td>" for cell in cells[1:])
            + "</tr>"
        )
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    return (
        f'<div class="wide"><table><thead><tr>{titles}</tr></thead>\n<tbody>'
        + "\n".join(rows)
        + "</tbody></table></div>"
    )


def _plot(tier: Tier, slo: Slo, load: Load, options: Sequence[Option]) -> str:
    with matplotlib.rc_context({"font.size": 8.5}):
        figure = Figure((9.6, 2.9), layout="constrained")
        first, pace = figure.subplots(1, 2)
        for colour, option in zip(_COLOURS, options, strict=False):
            known = [
                point
                for point in option.curve
                if tier in point.latency and math.isfinite(point.latency[tier].tpot_s)
            ]
            at = [point.per_s for point in known]
            label = f"{option.replicas} × {option.gpu} TP {option.tp}"
            first.plot(at, [p.latency[tier].ttft_s for p in known], color=colour, label=label)
            pace.plot(at, [1000 * p.latency[tier].tpot_s for p in known], color=colour)
            for axes in (first, pace):
                axes.axvline(option.knee_per_s, color=colour, linewidth=0.7, linestyle=":")
        for axes, limit, name in (
            (first, slo.ttft_s, "first token, s"),
            (pace, 1000 * slo.tpot_s, "per token, ms"),
        ):
            axes.axhline(limit, color="#777777", linewidth=0.8, linestyle="--")
            axes.axvline(load.per_s, color="#000000", linewidth=0.8)
            axes.set_xlabel("requests a second")
            axes.set_ylabel(name)
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.25)
        first.legend(fontsize=7, frameon=False)
        return _svg(figure, f"plan-{tier}")
