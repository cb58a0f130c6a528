"""Every rule in Prometheus's own checker: what fires, what does not, and that both are tested."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.telemetry.rules import alerts, rule_files
from tests.observability.prometheus_tools import program
from tests.observability.rule_cases import CASES, Series

ALERTS = {alert.name: alert for alert in alerts()}


def test_every_alert_has_both_cases() -> None:
    assert CASES.keys() == ALERTS.keys()
    assert all(case.fires != case.quiet for case in CASES.values())


def written(folder: Path) -> list[str]:
    for name, content in rule_files().items():
        (folder / name).write_text(yaml.safe_dump(content))
    return list(rule_files())


def promtool(folder: Path, *args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [program("promtool"), *args],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_all_rules_pass_the_checker(tmp_path: Path) -> None:
    done = promtool(tmp_path, "check", "rules", *written(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr


def group(name: str, series: Series, *, fires: bool) -> dict[str, Any]:
    case = CASES[name]
    return {
        "name": f"{name} {'fires' if fires else 'is quiet'}",
        "interval": f"{case.step_min}m",
        "input_series": [{"series": each, "values": values} for each, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) by (severity)',
                "eval_time": f"{case.at}m",
                "exp_samples": [{"labels": f'{{severity="{ALERTS[name].severity}"}}', "value": 1}]
                if fires
                else [],
            }
        ],
    }


@pytest.mark.parametrize("name", CASES)
def test_an_alert_fires_when_it_should_and_not_otherwise(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    tests = {
        "rule_files": written(tmp_path),
        "evaluation_interval": f"{case.step_min}m",
        # Else promtool takes them in any order, and an alert may look at a record before it is
        # made: the one before is older than Prometheus looks back where steps are ten minutes.
        "group_eval_order": [
            each["name"] for content in rule_files().values() for each in content["groups"]
        ],
        "tests": [
            group(name, case.fires, fires=True),
            group(name, case.quiet, fires=False),
        ],
    }
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    done = promtool(tmp_path, "test", "rules", "tests.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
