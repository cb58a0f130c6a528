"""helm and the schemas, had once."""

import pytest

from tests.helm import toolbox
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
