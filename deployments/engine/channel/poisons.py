"""What a replica knows of requests that engines die of. It passes that on between gateways."""

from collections import OrderedDict
from collections.abc import Iterator

import msgspec

from deployments.engine.channel.frames import Poison

MAX_POISONS = 1024
"""Of more, the oldest are forgotten; the gateways that found them know them still."""


class Poisons:
    """Times are on the caller's clock, in seconds."""

    def __init__(self, most: int = MAX_POISONS) -> None:
        self._most = most
        self._known: OrderedDict[str, tuple[Poison, float]] = OrderedDict()

    def add(self, poison: Poison, now: float) -> bool:
        """Whether it is news."""
        known = self._known.get(poison.fingerprint)
        if known is not None and known[1] > now:
            return False
        self._known[poison.fingerprint] = poison, now + poison.left_s
        self._known.move_to_end(poison.fingerprint)
        while len(self._known) > self._most:
            self._known.popitem(last=False)
        return True

    def standing(self, now: float) -> Iterator[Poison]:
        """Those that stand, with what is left of their time."""
        for poison, until_s in self._known.values():
            if until_s > now:
                yield msgspec.structs.replace(poison, left_s=until_s - now)
