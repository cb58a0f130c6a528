"""Dashboards, rules and the document are what the generators make, and name what exists."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.telemetry.boards import boards
from cluster.telemetry.document import document
from cluster.telemetry.names import exported, read_by, rows, unknown_in
from cluster.telemetry.panels import filled
from cluster.telemetry.rules import alerts, recordings

ROOT = Path(__file__).resolve().parents[2]
BOARDS = boards()
PANELS = [(board, panel) for board in BOARDS for panel in board.panels()]

every_alert = pytest.mark.parametrize("alert", list(alerts()), ids=lambda alert: alert.name)
every_panel = pytest.mark.parametrize(
    ("board", "panel"), PANELS, ids=[f"{board.uid}: {panel.title}" for board, panel in PANELS]
)


def test_committed_files_are_what_the_generators_make() -> None:
    pytest.importorskip("grafana_foundation_sdk")
    from cluster.telemetry.generate import files

    made = files()
    old = [path for path, text in made.items() if (ROOT / path).read_text() != text]
    assert not old, "run ./trireme metrics --write"
    kept = {
        str(path.relative_to(ROOT))
        for folder in ("rules", "dashboards")
        for path in (ROOT / "helm" / "trireme" / folder).iterdir()
    }
    assert kept == {path for path in made if path.startswith("helm/")}


def test_the_document_has_every_metric_and_each_of_its_labels() -> None:
    lines = {
        match[1]: line
        for line in document().splitlines()
        if (match := re.match(r"\| `(\w+)`", line))
    }
    for row in rows().values():
        name = row.name + ("_total" if row.kind == "counter" else "")
        assert row.help in lines[name]
        assert all(f"`{label}`" in lines[name] for label in row.labels)


@every_alert
def test_an_alert_reads_only_what_exists_and_says_what_to_do(alert: Any) -> None:
    assert unknown_in(alert.expr) == set()
    assert read_by(alert.expr)
    page = (ROOT / alert.runbook).read_text()
    titles = re.findall(r"^#+ (.*)$", page, re.M)
    assert titles == [alert.name, "What it means", "How to check", "What to do"]
    assert alert.summary.endswith((".", "{{ $labels.instance }})."))


def test_every_runbook_belongs_to_an_alert() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "runbooks").iterdir()}
    assert pages == {alert.name for alert in alerts()}


@pytest.mark.parametrize("recording", list(recordings()), ids=lambda recording: recording.name)
def test_a_recording_reads_only_what_exists(recording: Any) -> None:
    assert unknown_in(recording.expr) == set()


@every_panel
def test_a_panel_reads_only_what_exists_and_says_what_to_do(board: Any, panel: Any) -> None:
    assert panel.queries
    for query in panel.queries:
        assert read_by(query.expr)
        assert unknown_in(query.expr) == set()
        assert "$" not in filled(query.expr)
    assert len(panel.description) > 40
    assert panel.description.endswith(".")
    for page in re.findall(r"runbooks/(\w+)\.md", panel.description):
        assert page in {alert.name for alert in alerts()}
    assert panel.link in {"", *(each.uid for each in BOARDS)}


def test_a_name_that_nobody_exports_is_noticed() -> None:
    assert unknown_in("sum(rate(trireme_no_such_total[5m]))") == {"trireme_no_such_total"}
    assert unknown_in("trireme_requests") == {"trireme_requests"}  # it is exported as _total
    assert unknown_in('up{job="trireme_x"} == 0') == set()


def test_every_metric_is_on_some_dashboard() -> None:
    recorded = {each.name: each.expr for each in recordings()}
    seen: set[str] = set()
    for _, panel in PANELS:
        for query in panel.queries:
            names = read_by(query.expr)
            for name in list(names):
                names |= read_by(recorded.get(name, ""))
            seen |= names
    shown = {row.name for name, row in exported().items() if name in seen}
    assert shown == set(rows())


def test_dashboards_have_no_overlaps_and_their_own_addresses() -> None:
    folder = ROOT / "helm" / "trireme" / "dashboards"
    uids = []
    for path in sorted(folder.iterdir()):
        board = json.loads(path.read_text())
        uids.append(board["uid"])
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            spot = panel["gridPos"]
            assert spot["x"] + spot["w"] <= 24
            cells = {
                (x, y)
                for x in range(spot["x"], spot["x"] + spot["w"])
                for y in range(spot["y"], spot["y"] + spot["h"])
            }
            assert not cells & taken, (path.name, panel["title"])
            taken |= cells
    assert len(set(uids)) == len(uids) == len(BOARDS)


def test_events_on_dashboards_read_only_what_exists() -> None:
    pytest.importorskip("grafana_foundation_sdk")
    from cluster.telemetry.grafana import EVENTS, VARIABLES

    for query in (*EVENTS.values(), *VARIABLES.values()):
        assert unknown_in(query) == set()


def test_rule_files_are_yaml_with_the_rules() -> None:
    text = (ROOT / "helm" / "trireme" / "rules" / "alerts.yaml").read_text()
    (group,) = yaml.safe_load(text)["groups"]
    assert [rule["alert"] for rule in group["rules"]] == [alert.name for alert in alerts()]
