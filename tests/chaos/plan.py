"""What goes wrong, drawn from a seed: the same seed gives the same plan."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

KINDS = (
    "kill", "die", "hang", "cut", "blackhole", "deaf", "mute", "delay", "slow", "drain", "poison",
)  # fmt: skip
"""``kill``: the process is gone. ``die``: the engine is killed, and its host says so. ``hang``: no
steps, then a zombie. ``cut``: connections break. ``blackhole``, ``deaf``, ``mute``: bytes vanish in
both directions, on the way to the engine, on the way from it. ``delay``: they come late. ``slow``:
steps take many times as long. ``drain``: an orderly end. ``poison``: a request that kills engines.
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """``node`` counts the replicas that live; ``for_s`` is how long it lasts, where it ends."""

    number: int
    kind: str
    node: int
    for_s: float
    after_s: float
    factor: float


def plan(seed: int, faults: int, kinds: tuple[str, ...] = KINDS) -> Iterator[Fault]:
    """Every kind comes as often as every other."""
    rng = random.Random(seed)
    bag: list[str] = []
    for number in range(faults):
        if not bag:
            bag = list(kinds)
            rng.shuffle(bag)
        yield Fault(
            number,
            bag.pop(),
            rng.randrange(1 << 16),
            rng.uniform(0.2, 2.5),
            rng.uniform(0.0, 0.4),
            rng.uniform(4.0, 10.0),
        )
