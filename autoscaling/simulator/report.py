"""A report of many runs as one HTML page that needs nothing else: no script, no other file."""

from collections.abc import Iterable, Sequence
from html import escape

import yaml

from autoscaling.simulator.batch import Run
from autoscaling.simulator.compare import Interval
from autoscaling.simulator.plots import all_plots
from autoscaling.simulator.scenario import Scenario
from autoscaling.simulator.tables import (
    Section,
    goodput_ratios,
    number,
    policies_of,
    sections,
    values,
    written,
)

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem;
  color: #1c1c1e; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .22rem .7rem; text-align: right; border-bottom: 1px solid #e3e3e6;
  white-space: nowrap; }
th:first-child { text-align: left; font-weight: 400; } thead th { font-weight: 600; }
figure { margin: 1rem 0; } figure svg { max-width: 100%; height: auto; }
figcaption { font-weight: 600; }
pre { background: #f5f5f7; padding: 1rem; overflow-x: auto; font-size: .8rem; }
"""

# Says to the browser what the page promises.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def report(scenario: Scenario, runs: Sequence[Run]) -> str:
    """The page. `runs` are those of `batch.run_all`: every policy on every seed."""
    seeds = list(dict.fromkeys(run.seed for run in runs))
    start_s, end_s = scenario.measured_s
    parts = [
        f"<h1>Simulation of {escape(scenario.name)}</h1>",
        f"<p>{_fleet(scenario)}. Figures are of requests that first came between {start_s:g} and "
        f"{end_s:g} s, as means over {len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'}"
        f"{'' if len(seeds) == 1 else ' ± the half-width of the 95 % interval'}; every policy met "
        "the same arrivals.</p>",
        *_against_first(runs),
        *(_table(section, policies_of(runs)) for section in sections(runs)),
        *_tenants(runs),
        *(
            f"<figure><figcaption>{escape(caption)}</figcaption>{svg}</figure>"
            for caption, svg in all_plots(scenario, runs)
        ),
        _settings(scenario),
    ]
    return _page(scenario.name, parts)


def _page(title: str, parts: Iterable[str]) -> str:
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _fleet(scenario: Scenario) -> str:
    pools = [
        f"{pool.replicas} × {pool.gpu} TP{pool.tensor_parallel_size} ({pool.name})"
        for pool in scenario.fleet.pools
    ]
    gateways = scenario.gateways.number
    return escape(
        f"{', '.join(pools)}; {gateways} {'gateway' if gateways == 1 else 'gateways'}, load "
        f"reports {scenario.gateways.report_age_s:g} s late"
    )


def _table(section: Section, policies: Sequence[str]) -> str:
    rows = [
        (row.title, [written(cell, row.unit) for cell in row.cells])
        for row in section.rows
        # Rows of zeros say nothing that their absence does not.
        if row.unit != "count" or any(cell.mean for cell in row.cells)
    ]
    return f"<h2>{escape(section.title.capitalize())}</h2>\n{_grid('', policies, rows)}"


def _against_first(runs: Sequence[Run]) -> list[str]:
    first, *others = policies_of(runs)
    if not others:
        return []
    found = goodput_ratios(runs)
    rows = [(policy, [_ratio(found[policy])]) for policy in others]
    return [
        "<h2>Goodput, paired by seed</h2>",
        _grid("policy", [f"times that of {first}"], rows),
    ]


def _ratio(found: Interval) -> str:
    text = number(found.mean, "index")
    return text if found.n < 2 else f"{text} ± {number(found.half_width, 'index')}"


def _tenants(runs: Sequence[Run]) -> list[str]:
    names = sorted({name for run in runs for name in run.summary.tenants})
    if len(names) < 2:
        return []
    policies = policies_of(runs)
    rows = []
    for name in names:
        cells = []
        for policy in policies:
            found = values(
                [run for run in runs if name in run.summary.tenants],
                policy,
                lambda summary, name=name: summary.tenants[name].attainment,  # type: ignore[misc]
            )
            mean = sum(found.values()) / len(found) if found else float("nan")
            cells.append(f"{number(mean, 'share')} %")
        rows.append((name or "(nameless)", cells))
    return ["<h2>Within SLO, by tenant</h2>", _grid("tenant", policies, rows)]


def _grid(corner: str, columns: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    lines = "\n".join(
        f"<tr><th>{escape(title)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for title, cells in rows
    )
    return (
        f'<div class="wide"><table><thead><tr><th>{escape(corner)}</th>{head}</tr></thead>\n'
        f"<tbody>\n{lines}\n</tbody></table></div>"
    )


def _settings(scenario: Scenario) -> str:
    text = yaml.safe_dump(scenario.model_dump(mode="json"), sort_keys=False)
    return (
        "<h2>The scenario</h2>\n<details><summary>All settings, defaults written out</summary>"
        f"<pre>{escape(text)}</pre></details>"
    )
