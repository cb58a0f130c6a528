"""`trireme simulate`: one line for bad input, tables and files for a run."""

import json
from pathlib import Path

import pytest

from cluster.cli.app import run

SMALL = """\
name: small
duration_s: 20
warmup_s: 2
fleet: {pools: [{replicas: 2, gpu: H200, tensor_parallel_size: 2}]}
workload: {open_loop: [{arrivals: {rate_per_s: 2}}]}
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["absent.yaml"], "there is no scenario absent.yaml: name a YAML file, or one of"),
        (["."], "there is no scenario ."),
        (["small.yaml", "--seed", "1", "--seeds", "2"], "--seed and --seeds do not go together"),
        (["small.yaml", "--seeds", "0"], "--seeds': Input should be greater than or equal to 1"),
        (["small.yaml", "--seed", "one"], "--seed': Input should be a valid integer"),
        (["small.yaml", "--out", "nowhere/report.html"], "nowhere/report.html cannot be written"),
        (["small.yaml", "--json", "."], ". cannot be written"),
        (["small.yaml", "--policy", "guesswork"], "there is no policy guesswork: write one of"),
        ([], "Missing argument"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    args: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["simulate", *args]) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    assert told in line
    assert printed.out == ""


def test_every_fault_of_a_scenario_is_told_with_its_path(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("small.yaml").write_text(
        SMALL + "tiers: {low: {slo: {ttft_s: 0}}}\nfaults: [{at_s: 1, kind: fire}]\n"
    )
    assert run(["simulate", "small.yaml"]) == 2
    slo, fault = sorted(capsys.readouterr().err.splitlines(), reverse=True)
    assert slo == "error: tiers.low.slo.ttft_s: 0 does not fit here; write a number above 0"
    assert fault.startswith("error: faults[0].kind: 'fire' does not fit here; write one of crash")


def test_a_run_prints_a_table_and_writes_a_report_and_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from autoscaling.simulator.world import POLICIES

    first, second, *_ = POLICIES
    asked = ["--policy", first, "--policy", second, "--seeds", "2", "--jobs", "1"]
    files = ["--out", "report.html", "--json", "figures.json"]

    assert run(["simulate", "small.yaml", *asked, *files]) == 0

    printed = capsys.readouterr()
    for text in (first, second, "within SLO", "first token", "all tiers", "high effort", "±"):
        assert text in printed.out
    assert "</html>" in Path("report.html").read_text()
    policies = json.loads(Path("figures.json").read_text())["policies"]
    assert policies.keys() == {first, second}
    requests = [tree["figures"]["all"]["requests"]["mean"] for tree in policies.values()]
    assert requests[0] == requests[1] > 0


def test_the_same_seed_prints_the_same_table(capsys: pytest.CaptureFixture[str]) -> None:
    tables = []
    for _ in range(2):
        assert run(["simulate", "small.yaml", "--seed", "7"]) == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1]
    assert run(["simulate", "small.yaml", "--seed", "8"]) == 0
    assert capsys.readouterr().out != tables[0]
