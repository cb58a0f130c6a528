"""Plots of many runs, as SVG to stand inside a page."""

import io
import math
import re
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from autoscaling.simulator.batch import Run
from autoscaling.simulator.compare import Interval, interval
from autoscaling.simulator.scenario import Scenario
from autoscaling.simulator.summary import CURVE, Figures, Spread
from autoscaling.simulator.tables import figures_of, policies_of, values
from cluster.config import TIERS, Tier

# Okabe and Ito's colours, which stay apart for people who see fewer of them.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
_STYLES = ("-", "--", "-.", ":")
_WIDTH_INCHES = 9.6


def _distributions(
    runs: Sequence[Run], pick: Callable[[Figures], Spread], limits: dict[Tier, float], title: str
) -> str:
    """The share of requests below a time, for each tier; `limits` are the SLO's, in seconds."""
    tiers = [tier for tier in TIERS if any(pick(run.summary.tiers[tier]).curve for run in runs)]
    if not tiers:
        return ""
    figure = Figure((_WIDTH_INCHES, 2.9), layout="constrained")
    for axes, tier in zip(_row(figure, len(tiers)), tiers, strict=True):
        for policy, look in _looks(runs):
            curve = _mean_curve(runs, policy, tier, pick)
            if curve:
                look.draw(axes, policy, curve, CURVE)
        axes.axvline(limits[tier], color="#777777", linewidth=0.8, linestyle=(0, (1, 2)))
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(0, 1)
        axes.set_title(f"{tier} effort")
        axes.set_xlabel("seconds (dotted: SLO)")
        axes.grid(alpha=0.25)
    figure.axes[0].set_ylabel("share of requests")
    _legend(figure)
    return _svg(figure, title)


def _over_time(runs: Sequence[Run]) -> str:
    """Queues and running requests of each policy's first seed; empty where nothing was sampled."""
    shown = [next(run for run in runs if run.policy == policy) for policy in policies_of(runs)]
    if not any(run.summary.series for run in shown):
        return ""
    figure = Figure((_WIDTH_INCHES, 7.2), layout="constrained")
    panels = [*(f"queued, {tier}" for tier in TIERS), "running", "mean KV use"]
    for index, axes in enumerate(figure.subplots(len(panels), 1, sharex=True)):
        for run, (_, look) in zip(shown, _looks(runs), strict=True):
            series = run.summary.series
            heights = [(*sample.queued, sample.running, sample.kv_use)[index] for sample in series]
            look.draw(axes, run.policy, [sample.at_s for sample in series], heights)
        axes.set_title(panels[index], loc="left")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
    figure.axes[-1].set_xlabel(f"seconds (seed {shown[0].seed})")
    _legend(figure)
    return _svg(figure, "over-time")


def _goodput_bars(runs: Sequence[Run]) -> str:
    """Requests a second within the SLO, over all and by tier, with 95 % intervals."""
    groups: list[Tier | None] = [None, *TIERS]
    figure = Figure((_WIDTH_INCHES, 3.2), layout="constrained")
    axes = figure.subplots()
    looks = _looks(runs)
    width = 0.8 / len(looks)
    for column, (policy, look) in enumerate(looks):
        for place, tier in enumerate(groups):
            found = _goodput(runs, policy, tier)
            error = None if math.isnan(found.half_width) else found.half_width
            axes.bar(
                place - 0.4 + (column + 0.5) * width,
                found.mean,
                width * 0.9,
                yerr=error,
                capsize=3,
                color=look.colour,
                error_kw={"linewidth": 0.9},
                label=policy if place == 0 else None,
            )
    axes.set_xticks(range(len(groups)), [tier or "all" for tier in groups])
    axes.set_ylabel("requests/s within SLO")
    axes.grid(alpha=0.25, axis="y")
    axes.set_axisbelow(True)
    _legend(figure)
    return _svg(figure, "goodput")


def all_plots(scenario: Scenario, runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Captions and SVGs."""
    ttft = {tier: scenario.slo(tier).ttft_s for tier in TIERS}
    tpot = {tier: scenario.slo(tier).tpot_s for tier in TIERS}
    with matplotlib.rc_context({"font.size": 8.5, "axes.titlesize": 9, "text.parse_math": False}):
        found = [
            ("Goodput", _goodput_bars(runs)),
            ("Time to the first token", _distributions(runs, lambda f: f.ttft, ttft, "ttft")),
            ("Time per output token", _distributions(runs, lambda f: f.tpot, tpot, "tpot")),
            ("Over time", _over_time(runs)),
        ]
    return [(caption, svg) for caption, svg in found if svg]


class _Look(NamedTuple):
    colour: str
    style: str

    def draw(self, axes: Axes, label: str, x: Sequence[float], y: Sequence[float]) -> None:
        axes.plot(x, y, label=label, color=self.colour, linestyle=self.style, linewidth=1.3)


def _looks(runs: Sequence[Run]) -> list[tuple[str, _Look]]:
    return [
        (
            policy,
            _Look(_COLOURS[index % len(_COLOURS)], _STYLES[index // len(_COLOURS) % len(_STYLES)]),
        )
        for index, policy in enumerate(policies_of(runs))
    ]


def _goodput(runs: Sequence[Run], policy: str, tier: Tier | None) -> Interval:
    pick = figures_of(tier)
    found = values(runs, policy, lambda summary: pick(summary).goodput_per_s)
    return interval(list(found.values()))


def _mean_curve(
    runs: Sequence[Run], policy: str, tier: Tier, pick: Callable[[Figures], Spread]
) -> list[float]:
    curves = [pick(run.summary.tiers[tier]).curve for run in runs if run.policy == policy]
    return [fmean(column) for column in zip(*filter(None, curves), strict=True)]


def _row(figure: Figure, count: int) -> Sequence[Axes]:
    panels: Sequence[Axes] = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    return panels


def _legend(figure: Figure) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside upper center", ncols=4, fontsize=8, frameon=False
        )


def _svg(figure: Figure, salt: str) -> str:
    """The figure without prologue, metadata or name spaces, none of which a page needs.

    `salt` keeps the ids inside apart from those of the page's other figures, and the same in
    every report.
    """
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"font-family: [^;\"]*", "font-family: sans-serif", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    # Groups' ids ("axes_1") are alike in all figures, and nothing refers to them.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    return svg.replace("xlink:href", "href").strip()
