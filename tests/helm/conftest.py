"""helm, the schemas and every render, had once; and what was counted in the end."""

import ast
import inspect
import textwrap
from collections import Counter
from collections.abc import Callable, Generator
from functools import cache
from typing import Any

import pytest

from tests.helm import toolbox
from tests.helm.toggles import TOGGLES
from tests.helm.toolbox import Helm, Missing, Schemas, Tree


@pytest.fixture(scope="session")
def helm() -> Helm:
    """helm 4; skips where it cannot be had, saying why."""
    try:
        return Helm(toolbox.helm_binary("4"))
    except Missing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def helm3() -> Helm:
    """helm 3, which most people have."""
    try:
        return Helm(toolbox.helm_binary("3"))
    except Missing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def schemas() -> Schemas:
    try:
        return toolbox.schemas()
    except Missing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def renders(helm: Helm) -> dict[str, list[Tree]]:
    """The objects of every preset, and of the chart as it comes."""
    made = {preset: helm.objects(preset) for preset in toolbox.PRESETS}
    return {"default": helm.objects(), **made}


@pytest.fixture(scope="session")
def rendered(helm: Helm, renders: dict[str, list[Tree]]) -> dict[str, list[Tree]]:
    """Those, and the objects of every toggle."""
    made = {**renders, **{name: helm.objects(values=values) for name, values in TOGGLES.items()}}
    SEEN["objects"] = sum(map(len, made.values()))
    return made


# ------------------------------------------------------------------------------- what was counted

SEEN: Counter[str] = Counter()
REFUSED = {
    "test_the_schema_refuses": "refused by the schema",
    "test_the_templates_refuse_with_a_remedy": "refused by the templates",
}


@cache
def assertions(function: Callable[..., Any]) -> int:
    """``assert`` statements of a test. One in a loop counts once."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return sum(isinstance(node, ast.Assert) for node in ast.walk(tree))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" or not report.passed:
        SEEN[report.outcome] += 1
    if report.when == "call" and report.passed and isinstance(item, pytest.Function):
        SEEN["assertions"] += assertions(item.function)
        SEEN[REFUSED.get(item.originalname, "")] += 1
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the chart's tests held against what: ``./trireme test tests/helm`` prints it last."""
    if not SEEN:
        return
    terminalreporter.section("helm chart")
    if SEEN["objects"]:
        terminalreporter.write_line(
            f"{SEEN['objects']} objects in {1 + len(toolbox.PRESETS) + len(TOGGLES)} renders: "
            f"{len(toolbox.PRESETS)} presets, {len(TOGGLES)} toggles, the chart as it comes"
        )
    terminalreporter.write_line(
        f"{SEEN['passed']} cases passed, {SEEN['failed']} failed, {SEEN['skipped']} skipped; "
        f"{SEEN['assertions']} assertions in those that passed"
    )
    refused = ", ".join(f"{SEEN[each]} {each}" for each in REFUSED.values())
    terminalreporter.write_line(f"mutations (wrong values): {refused}")
