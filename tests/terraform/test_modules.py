"""Each module's own tests: what is planned, and what is refused, against a mocked AWS."""

import json
import re
from collections.abc import Iterator

import pytest

from tests.terraform.toolbox import (
    EXAMPLES,
    ROOT,
    TESTED_MODULES,
    Terraform,
    running_provider,
)

RUN = re.compile(r'^run "(\w+)"', re.MULTILINE)


def runs_of(module: str) -> list[str]:
    folder = ROOT / "terraform/modules" / module / "tests"
    return [name for file in sorted(folder.glob("*.hcl")) for name in RUN.findall(file.read_text())]


def test_there_are_enough_runs() -> None:
    runs = [run for module in TESTED_MODULES for run in runs_of(module)]
    refusals = [run for run in runs if run.startswith("refuses_")]
    print(f"{len(runs)} runs in {len(TESTED_MODULES)} modules, {len(refusals)} of them refusals")
    assert len(runs) >= 60
    assert len(refusals) >= 20
    assert len(TESTED_MODULES) == 8


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
