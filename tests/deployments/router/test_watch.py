"""The watch over replicas: who hangs, who is slow, and when they are trusted again."""

from dataclasses import replace

import pytest
from msgspec import structs

from deployments.router import Replica, Router
from deployments.router.watch import (
    FORGIVEN_S,
    LAST_RESORT,
    Findings,
    Watch,
    WatchLimits,
)
from tests.deployments.router.router_world import (
    STEPS,
    flight_of,
    join,
    load_of,
    make_router,
    placed,
    request,
    write,
)

LOOK_S = 0.05
LIMITS = WatchLimits()


class World:
    """A router whose replicas step every 5 ms, unless they are told not to."""

    def __init__(self, replicas: int = 3, limits: WatchLimits = LIMITS) -> None:
        self.router: Router = make_router()
        self.watch = Watch(limits)
        self.now = 0.0
        self.steps = dict.fromkeys((f"r{n}" for n in range(replicas)), 0)
        self.stopped: set[str] = set()
        self.slow: dict[str, float] = {}
        self.found: list[tuple[float, str, str]] = []
        for name in self.steps:
            join(self.router, name, max_num_seqs=64)

    def replica(self, name: str) -> Replica:
        found = self.router.fleet.get(name)
        assert found is not None
        return found

    def begin(self, requests: int = 9, tokens: int = 1, **more: object) -> None:
        """So many requests run, each with its first token."""
        for _ in range(requests):
            each = request("high", **more)  # type: ignore[arg-type]
            assert placed(self.router, each, self.now) is not None
            write(self.router, flight_of(self.router, each), tokens)

    def run(self, seconds: float) -> None:
        until_s = self.now + seconds
        while self.now < until_s:
            self.now += LOOK_S
            for name in self.steps:
                if name not in self.stopped:
                    self.steps[name] += 10
                replica = self.replica(name)
                running = len(replica.flights)
                step_s = self.slow.get(name, 1.0) * STEPS.step_s(running, 0.0)
                load = load_of((0, 0, running), (0, 0, running), step_s=step_s)
                self.router.on_load(name, structs.replace(load, steps=self.steps[name]), self.now)
            self.take(self.watch.look(self.router.fleet, self.now))

    def take(self, findings: Findings) -> None:
        for what in ("hung", "slow", "well"):
            for replica in getattr(findings, what):
                self.found.append((self.now, what, replica.replica_id))
                self.router.fleet.shun(replica, shunned=what != "well")


def test_replicas_that_step_are_left_alone() -> None:
    world = World()
    world.begin()
    world.run(120.0)
    assert world.found == []


def test_a_replica_that_stops_stepping_hangs_within_two_seconds() -> None:
    world = World()
    world.begin()
    world.run(10.0)
    world.stopped.add("r1")
    world.run(5.0)
    ((found_s, what, name),) = world.found
    assert (what, name) == ("hung", "r1")
    assert LIMITS.hang_min_s <= found_s - 10.0 <= 2.0
    assert world.watch.aside("r1") == "hung"


def test_an_idle_replica_hangs_never() -> None:
    world = World()
    world.stopped.update(world.steps)
    world.run(60.0)
    assert world.found == []


def test_slow_steps_are_waited_for_longer() -> None:
    world = World()
    world.slow = dict.fromkeys(world.steps, 40.0)
    world.begin()
    world.run(60.0)  # by now the pace is known: steps of about 0.2 s
    world.stopped.add("r1")
    step_s = world.replica("r1").next_step_s
    patience_s = LIMITS.hang_steps * step_s
    assert 3.0 < patience_s < LIMITS.hang_max_s
    world.run(patience_s - 0.3)
    assert world.found == []
    world.run(0.5)
    assert [what for _, what, _ in world.found] == ["hung"]


def test_a_long_prompt_is_given_the_time_that_it_takes() -> None:
    world = World()
    world.begin()
    world.run(10.0)
    replica = world.replica("r1")
    waiting = next(iter(replica.flights.values()))
    # As when a prompt of 100k tokens has just been placed there.
    waiting.emitted, waiting.to_prefill = 0, 100_000
    waiting.request.prompt_tokens = 100_000
    replica.awaiting_prefill = 100_000
    slow_prompts = replace(STEPS, prefill_pair_s=1e-9)
    replica.traits = replace(replica.traits, steps=slow_prompts)
    world.stopped.add("r1")
    world.run(2.0)
    assert world.found == []
    world.run(5.0)
    assert [what for _, what, _ in world.found] == ["hung"]


def test_a_silence_that_it_has_come_back_from_is_no_hang_the_next_time() -> None:
    world = World()
    world.begin()
    world.run(5.0)
    for silence_s in (0.9, 1.5):
        world.stopped.add("r1")
        world.run(silence_s)
        world.stopped.clear()
        world.run(1.0)
    assert world.found == []


def test_while_only_first_tokens_are_awaited_there_is_more_patience() -> None:
    world = World()
    world.begin(tokens=0)
    world.stopped.update({"r0"})
    world.run(LIMITS.hang_first_s - 0.2)
    assert world.found == []
    world.run(0.5)
    assert [name for _, _, name in world.found] == ["r0"]


def test_a_look_that_comes_late_is_not_held_against_anybody() -> None:
    world = World()
    world.begin()
    world.run(5.0)
    world.now += 30.0  # this process did nothing for so long
    world.take(world.watch.look(world.router.fleet, world.now))
    assert world.found == []


def test_a_replica_that_steps_again_is_trusted_at_once_the_first_time_and_later_the_next() -> None:
    world = World()
    world.begin()
    world.run(5.0)
    world.stopped.add("r1")
    world.run(3.0)
    world.stopped.clear()
    world.run(0.2)
    assert [what for _, what, _ in world.found] == ["hung", "well"]
    world.stopped.add("r1")
    world.run(20.0)
    again_s = world.found[2][0]
    world.stopped.clear()
    world.run(20.0)
    assert [what for _, what, _ in world.found] == ["hung", "well", "hung", "well"]
    assert world.found[3][0] - again_s >= LIMITS.eject_s
    world.run(FORGIVEN_S + 1.0)
    world.stopped.add("r1")
    world.run(25.0)
    world.stopped.clear()
    world.run(0.2)
    assert world.found[-1][1] == "well"


def test_a_replica_that_shows_no_steps_is_tried_at_last() -> None:
    world = World()
    world.begin()
    world.run(5.0)
    world.stopped.add("r1")
    world.run(LAST_RESORT * LIMITS.eject_s)
    assert [what for _, what, _ in world.found] == ["hung"]
    world.run(3.0)
    assert [what for _, what, _ in world.found][:2] == ["hung", "well"]


def test_half_of_the_replicas_may_be_put_aside_and_never_the_last_that_serves() -> None:
    for replicas, most in ((1, 0), (2, 1), (3, 1), (6, 3)):
        world = World(replicas)
        world.begin(3 * replicas)
        world.run(5.0)
        world.stopped.update(world.steps)
        world.run(60.0)
        assert len(world.found) == most


def test_others_that_drain_do_not_count_as_those_who_take_over() -> None:
    world = World(2)
    world.begin()
    world.run(5.0)
    world.stopped.add("r1")
    for look in range(200):
        world.now += LOOK_S
        leaving = structs.replace(world.replica("r0").load, draining=True, steps=1000 + look)
        world.router.on_load("r0", leaving, world.now)
        assert world.watch.look(world.router.fleet, world.now) == Findings([], [], [])


@pytest.mark.parametrize("factor", [3.0, 10.0])
def test_a_replica_much_slower_than_its_peers_is_put_aside_and_tried_again(factor: float) -> None:
    world = World()
    world.begin()
    world.run(10.0)
    world.slow["r2"] = factor
    world.run(5.0)
    ((found_s, what, name),) = world.found
    assert (what, name) == ("slow", "r2")
    assert found_s - 10.0 <= 5.0
    world.run(LIMITS.eject_s + 0.2)
    assert [what for _, what, _ in world.found] == ["slow", "well"]
    # Still slow: put aside again, for longer.
    world.run(5.0 + 2 * LIMITS.eject_s)
    assert [what for _, what, _ in world.found][:4] == ["slow", "well", "slow", "well"]
    assert world.found[3][0] - world.found[2][0] >= 2 * LIMITS.eject_s


def test_a_moment_of_slowness_and_a_pool_that_is_slow_as_a_whole_are_nothing() -> None:
    world = World()
    world.begin()
    world.run(10.0)
    world.slow["r2"] = 10.0
    world.run(LIMITS.slow_after_s - 0.5)
    world.slow.clear()
    world.run(5.0)
    world.slow = dict.fromkeys(world.steps, 10.0)
    world.run(30.0)
    assert world.found == []


def test_who_comes_back_under_its_old_name_begins_anew() -> None:
    world = World()
    world.begin()
    world.run(5.0)
    world.stopped.add("r1")
    world.run(3.0)
    world.watch.forget("r1")
    assert world.watch.aside("r1") == ""
