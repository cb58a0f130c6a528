"""The bill of materials: every package of the environment that runs Trireme, as CycloneDX 1.6."""

import importlib.metadata
from collections.abc import Iterable, Iterator

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.dependency import Dependency
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

OWN = "trireme"


def installed() -> Iterator[importlib.metadata.Distribution]:
    """Every package that Python finds, once, by name."""
    found: dict[str, importlib.metadata.Distribution] = {}
    for each in importlib.metadata.distributions():
        name = each.metadata["Name"]
        if name:
            # The first is the one that Python would import.
            found.setdefault(canonicalize_name(name), each)
    for name in sorted(found):
        if name != OWN:
            yield found[name]


def bill(own_version: str, packages: Iterable[importlib.metadata.Distribution]) -> str:
    """CycloneDX 1.6 as JSON: each package with its version, licence and what it needs of others."""
    bom = Bom()
    root = Component(name=OWN, version=own_version, type=ComponentType.APPLICATION, bom_ref=OWN)
    bom.metadata.component = root
    made: dict[str, Component] = {}
    needs: dict[str, set[str]] = {}
    for each in packages:
        name = canonicalize_name(each.metadata["Name"])
        made[name] = _component(name, each)
        needs[name] = set(_needs(each))
    for key, component in made.items():
        bom.components.add(component)
        depends = [Dependency(made[other].bom_ref) for other in needs[key] & made.keys()]
        bom.dependencies.add(Dependency(component.bom_ref, depends))
    bom.dependencies.add(Dependency(root.bom_ref, [Dependency(c.bom_ref) for c in made.values()]))
    return str(JsonV1Dot6(bom).output_as_string(indent=2))


def _component(name: str, package: importlib.metadata.Distribution) -> Component:
    url = PackageURL("pypi", name=name, version=package.version)
    told = package.metadata
    licence = next((told[key] for key in ("License-Expression", "License") if key in told), "")
    # Some packages have the whole text there.
    named = [DisjunctiveLicense(name=licence)] if licence and len(licence) <= 100 else []
    return Component(
        name=name,
        version=package.version,
        type=ComponentType.LIBRARY,
        purl=url,
        bom_ref=str(url),
        licenses=named,
    )


def _needs(package: importlib.metadata.Distribution) -> Iterator[str]:
    for text in package.requires or ():
        try:
            need = Requirement(text)
        except InvalidRequirement:
            continue
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            yield canonicalize_name(need.name)
