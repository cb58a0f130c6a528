"""The bill of materials names all that is installed, in CycloneDX's form."""

import importlib.metadata
import json
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from cluster.cli.app import run
from cluster.sbom import bill, installed


def test_it_names_every_installed_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sbom"]) == 0
    text = capsys.readouterr().out
    found = json.loads(text)
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    assert found["metadata"]["component"]["name"] == "trireme"
    named = {each["name"]: each["version"] for each in found["components"]}
    for name in ("ray", "pydantic", "msgspec"):
        assert named[name] == importlib.metadata.version(name)
    assert len(named) == len(list(installed()))
    purls = {each["purl"] for each in found["components"]}
    assert f"pkg:pypi/ray@{named['ray']}" in purls
    needs = {each["ref"]: each.get("dependsOn", []) for each in found["dependencies"]}
    assert len(needs["trireme"]) == len(named)
    core = f"pkg:pypi/pydantic-core@{named['pydantic-core']}"
    assert core in needs[f"pkg:pypi/pydantic@{named['pydantic']}"]
    assert all(ref in purls for refs in needs.values() for ref in refs)


def test_it_is_written_to_a_file(tmp_path: Path) -> None:
    assert run(["sbom", "--out", str(tmp_path / "bom.json")]) == 0
    assert json.loads((tmp_path / "bom.json").read_text())["components"]


def test_it_is_valid() -> None:
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill("1", installed()))
    assert problem is None
