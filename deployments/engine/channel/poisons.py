"""Requests that engines die of: gateways know them, and replicas pass them on between those."""

from collections import OrderedDict
from collections.abc import Iterator

from msgspec.structs import replace

from deployments.engine.channel.frames import Poison


class Poisons:
    """At most ``most``; of more, the oldest are forgotten. None stands for longer than
    ``longest_s``. Times are in seconds of the caller's clock."""

    def __init__(self, most: int = 1024, longest_s: float = float("inf")) -> None:
        self._most = most
        self._longest_s = longest_s
        self._known: OrderedDict[str, tuple[float, Poison]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, fingerprint: str) -> bool:
        return fingerprint in self._known

    def add(self, poison: Poison, now: float) -> bool:
        """Whether it is news. What stands already may stand for longer, but not for less."""
        until_s = now + min(poison.left_s, self._longest_s)
        stood_s, _ = self._known.get(poison.fingerprint, (now, None))
        if until_s <= stood_s:
            return False
        self._known[poison.fingerprint] = until_s, poison
        self._known.move_to_end(poison.fingerprint)
        while len(self._known) > self._most:
            self._known.popitem(last=False)
        return stood_s <= now

    def expire(self, now: float) -> None:
        """Forget what has stood long enough."""
        over = [print_ for print_, (until_s, _) in self._known.items() if until_s <= now]
        for print_ in over:
            del self._known[print_]

    def standing(self, now: float) -> Iterator[Poison]:
        """Those that stand, with what is left of their time; the oldest first."""
        for until_s, poison in self._known.values():
            if until_s > now:
                yield replace(poison, left_s=until_s - now)
