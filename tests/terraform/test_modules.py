"""Each module's own tests: what is planned, and what is refused, against a mocked AWS."""

import json
import re
from collections.abc import Iterator

import pytest

from tests.terraform.toolbox import (
    EXAMPLES,
    MODULES,
    ROOT,
    TESTED_MODULES,
    Terraform,
    note,
    running_provider,
)

RUN = re.compile(r'^run "(\w+)"', re.MULTILINE)
ASSERTION = re.compile(r"^  (?:assert \{|expect_failures =)", re.MULTILINE)


def written_for(module: str) -> str:
    folder = ROOT / "terraform/modules" / module / "tests"
    return "\n".join(file.read_text() for file in sorted(folder.glob("*.hcl")))


def runs_of(module: str) -> list[str]:
    return RUN.findall(written_for(module))


def test_there_are_enough_runs() -> None:
    runs = [run for module in TESTED_MODULES for run in runs_of(module)]
    refusals = [run for run in runs if run.startswith("refuses_")]
    assertions = sum(len(ASSERTION.findall(written_for(module))) for module in TESTED_MODULES)
    note(
        f"terraform test: {len(runs)} runs in {len(TESTED_MODULES)} modules, "
        f"{len(refusals)} of them refusals; {assertions} assertions"
    )
    assert len(runs) >= 60
    assert len(refusals) >= 20
    assert assertions >= len(runs)
    assert TESTED_MODULES == MODULES


@pytest.fixture(scope="module")
def mocked(terraform: Terraform) -> Iterator[dict[str, str]]:
    """A provider that nobody gives an account."""
    with running_provider(terraform) as environment:
        yield environment


@pytest.mark.timeout(600)
@pytest.mark.parametrize("module", TESTED_MODULES)
def test_the_modules_own_tests_pass(
    terraform: Terraform, mocked: dict[str, str], module: str
) -> None:
    done = terraform.run(f"modules/{module}", "test", **mocked)
    passed = re.search(r"Success! (\d+) passed, 0 failed", done.stdout)
    assert passed is not None, done.stdout[-3000:]
    assert int(passed[1]) == len(runs_of(module))


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_are_valid(terraform: Terraform, mocked: dict[str, str], example: str) -> None:
    told = json.loads(terraform.run(f"examples/{example}", "validate", "-json", **mocked).stdout)
    assert told["valid"]
    assert told["diagnostics"] == []
