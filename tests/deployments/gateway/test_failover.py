"""Streams outlive their replicas: real channels, engines that fail on demand, checked tokens."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from cluster.config import TIERS, Tier
from cluster.errors import ReplicaLost
from deployments.engine.channel.frames import ABORTED, ERROR, Load, Output, Step, Submit
from deployments.engine.channel.server import GatewayConnection
from deployments.engine.engine import EngineInfo
from deployments.router import Replica
from deployments.router.recovery import RecoveryLimits
from deployments.router.router import MAX_ATTEMPTS
from tests.chaos.checker import Checker
from tests.chaos.faulty import FaultyEngine, poison
from tests.chaos.world import FAILOVER, MODEL, POOL, Node, SimulatedPlant, World, world

pytestmark = pytest.mark.timeout(60)


class Asked:
    """Streams of one gateway, as tasks that end when their clients have all tokens."""

    def __init__(self, here: World, number: int, tier: Tier = "high") -> None:
        self.here = here
        self.prompts = [[1000 + n, 7, 7, 7] for n in range(number)]
        self.tasks = [
            asyncio.create_task(here.ask(here.gateways[0], tier, prompt)) for prompt in self.prompts
        ]

    async def begun(self, tokens: int = 5) -> None:
        """Each has so many tokens."""
        await asyncio.sleep(0)
        watched = list(checker(self.here).watched.values())
        assert len(watched) == len(self.tasks)
        await self.here.until(lambda: all(each.got >= tokens for each in watched))

    async def ended(self) -> None:
        await asyncio.gather(*self.tasks)


def checker(here: World) -> Checker:
    return here.gateways[0].checker


def fleet(here: World) -> dict[str, Replica]:
    return {replica.replica_id: replica for replica in here.gateways[0].client.router.fleet}


def nodes(here: World) -> list[Node]:
    return list(here.nodes.values())


def value(here: World, name: str, **labels: str) -> float:
    """The sum over a metric's samples with these labels."""
    registry = here.gateways[0].client.metrics.metrics.registry
    return sum(
        sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


async def all_is_well(here: World, streams: int) -> None:
    """So many streams got every token, and nothing is left of them anywhere."""
    assert here.violations() == []
    assert checker(here).finished == streams
    assert await here.check_books() == []
    assert value(here, "trireme_requests_in_flight") == 0.0


BUSY = 6.0
"""How many times longer it may take on a machine that does much else; `tests/chaos` measures it."""


async def within(seconds: float, condition: Callable[[], object], here: World) -> None:
    await here.until(condition, BUSY * seconds)


# ------------------------------------------------------------------ engines that die


async def test_when_an_engine_dies_its_streams_go_on_and_nothing_is_counted_twice() -> None:
    async with world(nodes=3, gateways=1) as here:
        asked = Asked(here, 9)
        await asked.begun()
        victim = nodes(here)[0]
        hit = len(fleet(here)[victim.name].flights)
        assert hit >= 2
        victim.engine.stop()
        await asked.ended()
        await all_is_well(here, 9)
        assert checker(here).moved == hit
        assert value(here, "trireme_failovers_total", kind="exact") == hit
        assert value(here, "trireme_failovers_total", kind="equivalent") == 0
        assert value(here, "trireme_failover_stall_seconds_count") == hit
        assert value(here, "trireme_retried_generations_total", cause="died") == hit
        # Usage and latencies are the request's, not its attempts'.
        assert value(here, "trireme_prompt_tokens_total") == sum(map(len, asked.prompts))
        assert value(here, "trireme_output_tokens_total") == checker(here).tokens
        for histogram in ("time_to_first_token", "time_per_output_token", "queue_wait"):
            assert value(here, f"trireme_{histogram}_seconds_count") == 9
        assert here.gateways[0].client.router.predictor.calibration.requests(
            "high"
        ) == pytest.approx(9, abs=0.1)


async def test_a_process_that_vanishes_is_as_good_as_an_engine_that_says_that_it_died() -> None:
    async with world(nodes=3, gateways=1) as here:
        asked = Asked(here, 9)
        await asked.begun()
        victim = nodes(here)[0]
        hit = len(fleet(here)[victim.name].flights)
        await victim.crash()
        await asked.ended()
        await all_is_well(here, 9)
        assert value(here, "trireme_retried_generations_total", cause="died") == hit


async def test_an_orderly_end_makes_no_suspects() -> None:
    async with world(nodes=2, gateways=1) as here:
        asked = Asked(here, 6)
        await asked.begun()
        await nodes(here)[0].host.stop()
        await here.until(lambda: len(fleet(here)) == 1)
        flights = [f for replica in fleet(here).values() for f in replica.flights.values()]
        assert not any(flight.request.deaths for flight in flights)
        await asked.ended()
        await all_is_well(here, 6)
        assert value(here, "trireme_retried_generations_total", cause="replica_lost") >= 2


async def test_an_engine_that_was_killed_from_outside_makes_no_suspects() -> None:
    async with world(nodes=2, gateways=1) as here:
        asked = Asked(here, 6)
        await asked.begun()
        engine = nodes(here)[0].engine
        assert isinstance(engine, FaultyEngine)
        engine.die()
        await here.until(lambda: len(fleet(here)) == 1)
        flights = [f for replica in fleet(here).values() for f in replica.flights.values()]
        assert not any(flight.request.deaths or flight.on_trial for flight in flights)
        await asked.ended()
        await all_is_well(here, 6)
        assert value(here, "trireme_retried_generations_total", cause="replica_lost") >= 2


async def test_without_another_replica_streams_pause_until_one_comes() -> None:
    async with world(nodes=1, gateways=1) as here:
        asked = Asked(here, 4)
        await asked.begun()
        nodes(here)[0].engine.stop()
        await here.until(lambda: not fleet(here))
        assert here.gateways[0].client.streams == 4
        await asyncio.sleep(0.3)
        await here.replace(nodes(here)[0])
        await asked.ended()
        await all_is_well(here, 4)
        assert checker(here).moved == 4


async def test_a_pause_has_an_end() -> None:
    async with world(nodes=1, gateways=1) as here:
        client = here.gateways[0].client
        client.router.recovery.limits = RecoveryLimits(max_pause_s=0.3)
        for queue in client.router.queues.values():
            queue.limits = {tier: replace(queue.limits[tier], max_wait_s=0.1) for tier in TIERS}
        asked = Asked(here, 1)
        await asked.begun()
        nodes(here)[0].engine.stop()
        await asked.ended()
        (violation,) = here.violations()
        assert ReplicaLost.__name__ in violation
        assert "No replica could go on" in violation


async def test_a_client_that_leaves_during_the_pause_leaves_nothing_behind() -> None:
    async with world(nodes=1, gateways=1) as here:
        asked = Asked(here, 3)
        await asked.begun()
        nodes(here)[0].engine.stop()
        await here.until(lambda: not fleet(here))
        client = here.gateways[0].client
        gone = list(checker(here).watched)
        client.abort(gone[:2])
        assert client.streams == 1
        for request_id in gone[:2]:
            checker(here).leave(request_id)
        await here.replace(nodes(here)[0])
        await asked.ended()
        assert checker(here).finished == 1
        assert here.violations() == []
        assert client.streams == client.router.waiting == 0


async def test_tokens_of_an_engine_that_does_not_sample_exactly_are_told_as_equivalent() -> None:
    class Inexact(FaultyEngine):
        async def start(self) -> EngineInfo:
            return replace(await super().start(), exact_sampling=False)

    async with world(nodes=1, gateways=1) as here:
        asked = Asked(here, 2)
        await asked.begun()
        nodes(here)[0].engine.stop()
        assert isinstance(here.plant, SimulatedPlant)
        here.plant.engine_class = Inexact
        await here.replace(nodes(here)[0])
        await asked.ended()
        await all_is_well(here, 2)
        assert value(here, "trireme_failovers_total", kind="equivalent") == 2


@pytest.mark.parametrize("finish", [ERROR, ABORTED])
async def test_a_request_that_an_engine_gives_up_goes_on_without_its_tokens(finish: int) -> None:
    async with world(nodes=2, gateways=1) as here:
        asked = Asked(here, 1)
        await asked.begun()
        client = here.gateways[0].client
        (stream,) = client._streams.values()
        assert stream.link is not None
        # What comes with the error has no place in the answer.
        client.on_step(stream.link, Step(Load(), [Output(stream.number, [1, 2, 3], finish)]))
        await asked.ended()
        await all_is_well(here, 1)
        assert value(here, "trireme_retried_generations_total", cause="failed") == 1


async def test_a_request_that_engines_give_up_again_and_again_fails_once() -> None:
    async with world(nodes=2, gateways=1) as here:
        client = here.gateways[0].client
        for node in nodes(here):
            node.engine.hang()  # so that no token comes in between
        asked = Asked(here, 1)
        await asyncio.sleep(0)
        (stream,) = client._streams.values()
        for _ in range(MAX_ATTEMPTS):
            assert stream.link is not None
            client.on_step(stream.link, Step(Load(), [Output(stream.number, [], ERROR)]))
        await asked.ended()
        (violation,) = here.violations()
        assert ReplicaLost.__name__ in violation
        assert client.streams == 0


# ------------------------------------------------------------------ networks that break


async def test_a_connection_that_breaks_makes_no_suspects() -> None:
    async with world(nodes=2, gateways=1) as here:
        asked = Asked(here, 6)
        await asked.begun()
        for _ in range(3):
            nodes(here)[0].proxy.cut()
            await asyncio.sleep(0.05)
            flights = [f for replica in fleet(here).values() for f in replica.flights.values()]
            assert not any(flight.request.deaths for flight in flights)
        await asked.ended()
        await all_is_well(here, 6)
        assert value(here, "trireme_retried_generations_total", cause="died") == 0


@pytest.mark.parametrize(
    ("to_engine", "to_gateway"), [(False, False), (True, False), (False, True)]
)
async def test_streams_survive_a_partition_in_either_direction(
    to_engine: bool, to_gateway: bool
) -> None:
    async with world(nodes=2, gateways=1) as here:
        asked = Asked(here, 6)
        await asked.begun()
        proxy = nodes(here)[0].proxy
        proxy.to_engine, proxy.to_gateway = to_engine, to_gateway
        await asyncio.sleep(0.5)
        more = Asked(here, 2, "low")
        await asked.ended()
        await more.ended()
        proxy.mend()
        await here.until(here.recovered)
        await all_is_well(here, 8)


async def test_late_frames_delay_and_do_no_harm() -> None:
    async with world(nodes=2, gateways=1) as here:
        nodes(here)[0].proxy.delay_s = 0.3
        asked = Asked(here, 6)
        await asked.begun()
        nodes(here)[0].proxy.mend()
        await asked.ended()
        await all_is_well(here, 6)
        assert checker(here).moved == 0


# ------------------------------------------------------------------ engines that hang or are slow


async def test_a_hang_is_seen_within_two_seconds_and_a_zombies_tokens_are_dropped() -> None:
    async with world(nodes=2, gateways=1) as here:
        asked = Asked(here, 8)
        await asked.begun(tokens=20)
        hung = nodes(here)[0]
        hit = len(fleet(here)[hung.name].flights)
        pending = hung.host.pending
        hung.engine.hang()
        await within(2.0, lambda: fleet(here)[hung.name].shunned, here)
        assert here.gateways[0].client.aside(hung.name) == "hung"
        assert hit == pending >= 2
        # One old attempt is left there, by which it shows that it is back.
        await here.until(lambda: hung.host.pending == 1)
        await here.until(lambda: checker(here).moved == hit)
        written = hung.host.tokens_out
        hung.engine.resume()
        await within(2.0, lambda: not fleet(here)[hung.name].shunned, here)
        assert hung.host.tokens_out > written  # the zombie wrote, and nobody heard of it
        await asked.ended()
        await all_is_well(here, 8)
        assert hung.host.pending == 0
        assert value(here, "trireme_ejections_total", pool=POOL, cause="hung") == 1
        asked = Asked(here, 8)
        await asked.begun()
        assert fleet(here)[hung.name].flights
        await asked.ended()


async def test_a_hang_of_the_only_replica_is_waited_out() -> None:
    async with world(nodes=1, gateways=1) as here:
        asked = Asked(here, 3)
        await asked.begun()
        nodes(here)[0].engine.hang()
        await asyncio.sleep(2.0)
        assert not fleet(here)[nodes(here)[0].name].shunned
        nodes(here)[0].engine.resume()
        await asked.ended()
        await all_is_well(here, 3)
        assert checker(here).moved == 0


async def test_a_slow_replica_is_put_aside_and_its_long_requests_move() -> None:
    async with world(nodes=3, gateways=1) as here:
        here.start_clients(9)
        await asyncio.sleep(1.0)
        slow = nodes(here)[0]
        slow.engine.slow_down(10.0)
        await within(5.0, lambda: fleet(here)[slow.name].shunned, here)
        assert here.gateways[0].client.aside(slow.name) == "slow"
        open_to = here.gateways[0].client.router.fleet.open_to(MODEL, "low")
        assert slow.name not in [replica.replica_id for replica in open_to]
        await here.until(lambda: value(here, "trireme_retried_generations_total", cause="slow") > 0)
        slow.engine.slow_down(1.0)
        await here.until(here.recovered)
        await here.stop_clients()
        assert here.violations() == []
        assert await here.check_books() == []


# ------------------------------------------------------------------ replicas that leave


async def test_a_leaving_replica_is_empty_soon_and_nothing_is_cut() -> None:
    async with world(nodes=3, gateways=1) as here:
        asked = Asked(here, 9)
        await asked.begun()
        leaving = nodes(here)[0]
        for flight in fleet(here)[leaving.name].flights.values():
            flight.predicted = 5_000.0  # they are thought to have a long way to go
        hit = len(fleet(here)[leaving.name].flights)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        await leaving.host.drain(10.0)
        assert leaving.host.pending == 0
        assert loop.time() - began_s < 1.0
        await asked.ended()
        await all_is_well(here, 9)
        assert checker(here).moved == hit
        assert value(here, "trireme_retried_generations_total", cause="drained") == hit
        assert value(here, "trireme_failover_stall_seconds_count") == hit


async def test_short_remainders_end_on_the_replica_that_leaves() -> None:
    async with world(nodes=2, gateways=1) as here:
        asked = Asked(here, 6)
        await asked.begun()
        leaving = nodes(here)[0]
        for flight in fleet(here)[leaving.name].flights.values():
            flight.predicted = flight.emitted + 1.0
            flight.request.max_tokens = flight.emitted + 10
        drains = here.gateways[0].client._drains
        drains.finish_s = 30.0
        await leaving.host.drain(20.0)
        await asked.ended()
        await all_is_well(here, 6)
        assert checker(here).moved == 0


async def test_without_room_elsewhere_everything_ends_where_it_is() -> None:
    async with world(nodes=1, gateways=1) as here:
        asked = Asked(here, 3)
        await asked.begun()
        await nodes(here)[0].host.drain(20.0)
        await asked.ended()
        await all_is_well(here, 3)
        assert checker(here).moved == 0


async def test_a_replica_that_ends_before_its_streams_costs_them_a_pause_only() -> None:
    async with world(nodes=2, gateways=1) as here:
        here.gateways[0].client._drains.finish_s = 30.0
        asked = Asked(here, 6)
        await asked.begun()
        leaving = nodes(here)[0]
        await leaving.host.drain(0.1)
        await leaving.host.stop()
        await asked.ended()
        await all_is_well(here, 6)


# ------------------------------------------------------------------ poison


@pytest.mark.parametrize("at_token", [0, 1, 25])
async def test_poison_costs_two_engines_and_no_other_stream(at_token: int) -> None:
    async with world(nodes=4, gateways=1) as here:
        asked = Asked(here, 8)
        await asked.begun()
        gateway = here.gateways[0]
        deadly = poison("drink me", at_token)
        await here.ask(gateway, "high", deadly, deadly=True)
        assert checker(here).quarantined == 1
        dead = [node for node in nodes(here) if node.engine.poisoned]
        assert len(dead) == 2
        await asked.ended()
        await all_is_well(here, 8)
        assert value(here, "trireme_quarantined_requests_total", tier="high") == 1
        (entry,) = gateway.client.quarantine.listed(asyncio.get_running_loop().time())
        assert entry["model"] == MODEL
        assert 0.0 < float(str(entry["left_s"])) <= FAILOVER.quarantine_s
        # The same again is refused without an engine; another prompt is not.
        await here.ask(gateway, "high", deadly, deadly=True)
        await here.ask(gateway, "low", deadly, deadly=True)
        assert checker(here).quarantined == 3
        assert value(here, "trireme_quarantine_refusals_total") == 2
        assert [node for node in nodes(here) if node.engine.poisoned] == dead
        await here.ask(gateway, "high", [POISON_FREE, *deadly[1:]])
        assert here.violations() == []


POISON_FREE = 5


async def test_what_one_gateway_puts_into_quarantine_no_other_one_tries() -> None:
    async with world(nodes=4, gateways=2) as here:
        one, other = here.gateways
        deadly = poison("drink me", 1)
        await here.ask(one, "high", deadly, deadly=True)
        dead = [node for node in nodes(here) if node.engine.poisoned]
        assert len(dead) == 2
        await here.until(lambda: bool(other.client.quarantine))
        (mine,), (told,) = (
            each.client.quarantine.listed(asyncio.get_running_loop().time())
            for each in (one, other)
        )
        assert float(str(told.pop("left_s"))) <= float(str(mine.pop("left_s"))) + 0.5
        assert told == mine
        await here.ask(other, "high", deadly, deadly=True)
        assert other.checker.quarantined == 1
        assert [node for node in nodes(here) if node.engine.poisoned] == dead


async def test_when_an_engine_dies_twice_in_a_row_the_innocent_are_not_blamed() -> None:
    async with world(nodes=4, gateways=1) as here:
        asked = Asked(here, 12)
        await asked.begun()
        for _ in range(2):
            victim = next(node for node in nodes(here) if node.host.died is None)
            victim.engine.stop()
            # Those it had are tried, one after the other, and acquitted.
            await here.until(lambda: not here.gateways[0].client.router.recovery.held)
            await here.until(lambda: not any(r.trial for r in fleet(here).values()))
        await asked.ended()
        await all_is_well(here, 12)
        assert checker(here).quarantined == 0


async def test_two_gateways_do_not_try_their_suspects_on_the_same_replica() -> None:
    async with world(nodes=2, gateways=2) as here:
        for gateway in here.gateways:
            for n in range(2):
                here.ask_later(gateway, "high", [2000 + n, 5, 5])
        await here.until(lambda: sum(g.checker.tokens for g in here.gateways) > 40)
        survivor = nodes(here)[1]
        trials: set[str] = set()
        original = survivor.host._on_submit

        def watching(connection: GatewayConnection, submit: Submit) -> None:
            original(connection, submit)
            trials.add(survivor.host._trial)

        survivor.host.server.handlers = replace(survivor.host.server.handlers, submit=watching)
        nodes(here)[0].engine.stop()
        await here.stop_clients()
        assert here.violations() == []
        assert len(trials - {""}) >= 2
