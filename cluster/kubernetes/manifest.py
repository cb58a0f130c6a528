"""The chart's objects as text, for those who apply them without a Helm release."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.chart import CHART
from cluster.kubernetes import tools

Tree = dict[str, Any]

HELM_NEEDED = "the chart's templates are Helm's, so that there is one truth; install helm 3.18 or newer, or name it with --helm"  # noqa: E501

GENERATED = {
    "channel": "channel.existingSecret",
    "access": "access.existingSecret",
    "redis": "redis.existingSecret",
}
"""Secrets that an install makes and keeps, by the end of their names: the value that names one."""

HOOK = "helm.sh/hook"
MANAGED = "app.kubernetes.io/managed-by: "


@dataclass(frozen=True)
class Part:
    """One object: as text, which keeps what templates wrote, and read."""

    text: str
    tree: Tree

    @property
    def kind(self) -> str:
        return str(self.tree["kind"])

    @property
    def name(self) -> str:
        return str(self.tree["metadata"]["name"])

    @property
    def is_hook(self) -> bool:
        """Whether only Helm would run it, before an install or for ``helm test``."""
        return HOOK in (self.tree["metadata"].get("annotations") or {})

    @property
    def is_generated(self) -> bool:
        """Whether it holds a secret made up by this render, as no cluster was asked for the old."""
        return self.kind == "Secret"

    @property
    def named_by(self) -> str:
        """The value of the chart that names a secret of one's own instead."""
        return GENERATED.get(self.name.rpartition("-")[2], "existingSecret")


def render(values: Sequence[Path], name: str, namespace: str, helm: str = "helm") -> list[Part]:
    """What ``helm install`` with these values would make, hooks included, in the chart's order.

    Raises ToolMissing without helm, and ToolFailed with what the chart says against the values.
    """
    program = tools.found(helm, HELM_NEEDED)
    files = [part for each in values for part in ("-f", str(each))]
    told = tools.answer(program, "template", name, str(CHART), "--namespace", namespace, *files)
    # Whoever applies this is not Helm.
    return parts(told.replace(f"{MANAGED}Helm\n", f"{MANAGED}trireme\n"))


def parts(text: str) -> list[Part]:
    """The objects of a manifest. Raises ``yaml.YAMLError``, and ValueError for other things."""
    found = []
    for document in f"\n{text}".split("\n---"):
        body = document.partition("\n")[2] if document[:1] != "\n" else document[1:]
        tree = yaml.safe_load(body)
        if tree is None:
            continue
        if not isinstance(tree, dict) or not isinstance(tree.get("kind"), str):
            raise ValueError("a document of it is no Kubernetes object")
        if not isinstance(tree.get("metadata"), dict) or "name" not in tree["metadata"]:
            raise ValueError(f"a {tree['kind']} of it has no metadata.name")
        found.append(Part(body.strip("\n"), tree))
    return found


def text_of(chosen: Sequence[Part]) -> str:
    """A manifest of these."""
    return "".join(f"---\n{each.text}\n" for each in chosen)
