"""A live cluster, read through kubectl: it knows every way in that a kubeconfig can name."""

import json
from collections.abc import Sequence
from typing import Any, Protocol

from cluster.kubernetes import tools

Tree = dict[str, Any]

KUBECTL_NEEDED = "install kubectl, which has your way into the cluster, or name it with --kubectl"


class MayNot(Exception):
    """The caller has no right to read this; ``str()`` is the API server's sentence."""


class Unreachable(Exception):
    """No API server answered; ``str()`` is one line."""


class Cluster(Protocol):
    """What the checks read."""

    def get(self, path: str) -> Tree | None:
        """The object or list at a path of the API; None where there is none. Raises MayNot."""
        ...


class Kubectl:
    """Reads with ``kubectl get --raw``. ``options`` are those that choose the cluster."""

    def __init__(self, program: str, options: Sequence[str]) -> None:
        """Raises ToolMissing."""
        self._command = (tools.found(program, KUBECTL_NEEDED), *options)

    def get(self, path: str) -> Tree | None:
        """Raises MayNot and Unreachable."""
        try:
            told = tools.answer(*self._command, "get", "--raw", path)
        except tools.ToolFailed as error:
            text = " ".join(str(error).split())
            if "(NotFound)" in text:
                return None
            if "(Forbidden)" in text:
                raise MayNot(text) from None
            raise Unreachable(text) from None
        tree: Tree = json.loads(told)
        return tree
