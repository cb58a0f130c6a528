"""The report stands alone: no script, nothing fetched, nothing of the input as markup."""

import json
import math
import re
from html.parser import HTMLParser

import pytest

from autoscaling.simulator.batch import Run, run_all
from autoscaling.simulator.report import report
from autoscaling.simulator.scenario import Scenario
from autoscaling.simulator.tables import as_json, goodput_ratios, sections, written
from tests.autoscaling.making import scenario
from tests.autoscaling.queue_world import run

WORLD = scenario(
    {
        "open_loop": [
            {"arrivals": {"rate_per_s": 3}, "tenants": [{"name": "a"}, {"name": "b"}]},
        ]
    },
    duration_s=60.0,
    fleet={"pools": [{"replicas": 12}]},
    tiers={tier: {"slo": {"ttft_s": 2.0}} for tier in ("low", "medium", "high")},
)


class Page(HTMLParser):
    """The tags of a page in order, and whether they close as they opened."""

    VOID = frozenset({"meta", "path", "use", "rect", "line", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    return run_all(WORLD, ["fifo", "lifo"], [1, 2, 3], jobs=1, runner=run)


@pytest.fixture(scope="module")
def page(runs: list[Run]) -> str:
    return report(WORLD, runs)


def test_the_page_is_whole_and_fetches_nothing(page: str) -> None:
    found = Page(page)
    assert found.open == []
    names = {tag for tag, _ in found.tags}
    assert not names & {"script", "link", "iframe", "img", "object", "image", "base"}
    assert "://" not in page
    for _, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on")]
        target = attributes.get("href") or attributes.get("xlink:href") or "#"
        assert target.startswith("#")
    assert all(url.startswith("#") for url in re.findall(r"url\((.)", page))


def test_every_id_is_there_once_and_every_reference_leads_to_one(page: str) -> None:
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    references = re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', page)
    assert references
    assert {one or two for one, two in references} <= set(ids)


def test_it_shows_both_policies_all_tiers_tenants_and_four_plots(page: str) -> None:
    assert page.count("<svg") == 4
    for text in ("fifo", "lifo", "Low effort", "High effort", "Within SLO, by tenant", "GPU-hours"):
        assert text in page
    # The slow reader's tables: means with intervals.
    assert re.search(r"<td>[\d.]+ ± [\d.]+ %</td>", page)


def test_names_are_text_and_never_markup(runs: list[Run]) -> None:
    evil = "<script>alert($1)</script>"
    mine = [Run(evil, each.seed, each.summary) for each in runs if each.policy == "fifo"]
    text = report(WORLD, mine)
    assert "<script" not in text
    assert "&lt;script&gt;alert($1)" in text


def test_a_single_run_and_a_run_without_requests_have_reports_too(runs: list[Run]) -> None:
    assert " ± " not in report(WORLD, runs[:1])
    empty = Scenario.model_validate(
        {
            "duration_s": 10,
            "warmup_s": 0,
            "workload": {"open_loop": [{"arrivals": {"rate_per_s": 1e-9}}]},
        }
    )
    assert "<svg" in report(empty, run_all(empty, ["fifo"], [1], jobs=1, runner=run))


def test_the_same_runs_make_the_same_page(runs: list[Run], page: str) -> None:
    assert report(WORLD, runs) == page


def test_json_holds_every_figure_and_no_nan(runs: list[Run]) -> None:
    text = json.dumps(as_json(WORLD.model_dump(mode="json"), runs), allow_nan=False)
    tree = json.loads(text)["policies"]["lifo"]
    assert tree["seeds"] == [1, 2, 3]
    assert tree["figures"].keys() == {"all", "low", "medium", "high"}
    goodput = tree["figures"]["all"]["goodput_per_s"]
    assert goodput["mean"] > 0
    assert goodput["half_width"] > 0


def test_tables_agree_with_the_runs(runs: list[Run]) -> None:
    overall = sections(runs)[0]
    row = next(row for row in overall.rows if row.name == "goodput_per_s")
    fifo = [each.summary.overall.goodput_per_s for each in runs if each.policy == "fifo"]
    assert row.cells[0].mean == pytest.approx(sum(fifo) / 3)
    lifo = [each.summary.overall.goodput_per_s for each in runs if each.policy == "lifo"]
    expected = sum(two / one for one, two in zip(fifo, lifo, strict=True)) / 3
    assert goodput_ratios(runs)["lifo"].mean == pytest.approx(expected)


def test_numbers_are_written_with_their_unit(runs: list[Run]) -> None:
    row = next(row for row in sections(runs)[0].rows if row.name == "requests")
    assert re.fullmatch(r"[\d,.]+ ± [\d,.]+", written(row.cells[0], row.unit))
    assert written(type(row.cells[0])(0.01234, math.nan, 1), "ms") == "12.3 ms"
    assert written(type(row.cells[0])(0.9876, 0.0012, 5), "share") == "98.8 ± 0.1 %"
    assert written(type(row.cells[0])(math.nan, math.nan, 0), "s") == "–"
