"""Checkov's policies over all modules as the examples call them."""

import json
import os
import subprocess
from typing import Any

import pytest
import yaml

from tests.terraform.toolbox import EXAMPLES, ROOT, Missing, note, or_skip, tool

CHECKOV = "checkov==3.3.30"


@pytest.mark.timeout(600)
def test_no_policy_is_broken_outside_the_explained_list() -> None:
    try:
        checkov = tool("checkov", CHECKOV) / "checkov"
    except Missing as error:
        or_skip(error)
    skips: dict[str, dict[str, str]] = yaml.safe_load(
        (ROOT / "tests/terraform/checkov-skips.yaml").read_text()
    )
    passed = 0
    open_findings = []
    used = set()
    for example in EXAMPLES:
        report = scan(str(checkov), example)
        # A file that Checkov cannot read has no findings either.
        assert report["summary"]["parsing_errors"] == 0
        passed += report["summary"]["passed"]
        skipped = 0
        for finding in report["results"]["failed_checks"]:
            check = finding["check_id"]
            places = [place for place in ("all", example) if check in skips.get(place, {})]
            if places:
                used.add((places[0], check))
                skipped += 1
            else:
                where = f"{check} {finding['resource']} ({finding['file_path']})"
                open_findings.append(f"{example}: {where}: {finding['check_name']}")
        summary = report["summary"]
        note(
            f"{example}, Checkov: {summary['passed']} checks of {summary['resource_count']} "
            f"resources passed, {summary['failed'] - skipped} open, {skipped} skipped as explained"
        )
    assert not open_findings, "\n".join(open_findings)
    assert passed > 300
    listed = {(place, check) for place, checks in skips.items() for check in checks}
    assert used == listed, f"not needed any more: {listed - used}"


def scan(checkov: str, example: str) -> dict[str, Any]:
    done = subprocess.run(
        [
            checkov, "--directory", f"terraform/examples/{example}", "--framework", "terraform",
            "--skip-download", "--quiet", "--output", "json",
            "--var-file", f"terraform/examples/{example}/terraform.tfvars.example",
        ],
        cwd=ROOT,
        env={**os.environ, "LOG_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stdout[-2000:] + done.stderr[-2000:]
    report: dict[str, Any] = json.loads(done.stdout)
    return report
