"""What found no room, so that it is not looked for again where nothing has changed."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deployments.router.fleet import Replica


class NoRoom:
    """None of ``replicas`` had room for a request of ``need_tokens`` (prompt and expected reply),
    and so none has for a larger one of its kind, but those that have ``changed`` since.

    It holds for these very ``replicas`` and zones (``homes``), which are replaced, never changed.
    """

    def __init__(
        self, need_tokens: float, replicas: Sequence["Replica"], homes: Mapping[str, int]
    ) -> None:
        self.need_tokens = need_tokens
        self.replicas = replicas
        self.homes = homes
        self.changed: set[Replica] = set()
        self._of = frozenset(replicas)

    def update(self, changed: AbstractSet["Replica"]) -> None:
        """Of the fleet."""
        self.changed |= self._of & changed
