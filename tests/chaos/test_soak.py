"""Gateways and engines keep nothing of what has ended: objects and tasks are counted."""

import asyncio
import gc

from tests.chaos.world import World, world

REQUESTS = 1500
MOST_OBJECTS = 1.0
"""That a request may leave behind, on average: a stream's own books are dozens."""


async def requests(here: World, count: int) -> None:
    """A third of them are left by their clients in the middle."""
    left = iter(range(count))

    async def client(number: int) -> None:
        gateway = here.gateways[number % len(here.gateways)]
        for each in left:
            prompt = [here.rng.randrange(1000, 100_000) for _ in range(10)]
            leaves = each % 3 == 0
            await here.ask(gateway, "low", prompt, 10_000 if leaves else 4, leaves=leaves)

    await asyncio.gather(*(client(number) for number in range(64)))
    assert await here.check_books() == []


def alive() -> tuple[int, int]:
    gc.collect()
    return len(gc.get_objects()), len(asyncio.all_tasks())


async def test_what_has_ended_leaves_nothing_behind() -> None:
    async with world(nodes=2, gateways=2, seed=5) as here:
        await requests(here, REQUESTS)  # caches, sketches and pools fill
        before, tasks_before = alive()
        await requests(here, REQUESTS)
        after, tasks_after = alive()
    assert (after - before) / REQUESTS < MOST_OBJECTS, f"{before} objects, then {after}"
    assert tasks_after <= tasks_before
    assert here.violations() == []
