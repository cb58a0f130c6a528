"""The fleet client over real sockets: hosts with simulated engines, a recording front-end."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from cluster.config import TIERS, Tier
from cluster.errors import (
    InvalidRequest,
    NoReplica,
    Overloaded,
    ReplicaLost,
    TriremeError,
)
from cluster.steptime import StepModel
from deployments.engine.channel.client import Endpoint
from deployments.engine.channel.frames import ERROR, LENGTH, STOP, Load, Output, Sampling, Step
from deployments.engine.host import EngineHost
from deployments.engine.simulated import ANSWER_TOKENS, SimulatedEngine, reply
from deployments.gateway.context import RequestContext
from deployments.gateway.fleet_client import FleetClient
from deployments.gateway.gauges import FleetMetrics
from deployments.gateway.links import Member
from deployments.gateway.streams import AnswerWatch, Stream
from deployments.router import LogNormal, QueueLimits, Router, Slo, TierPolicy
from tests.deployments.engine.channel_world import link_settings, quick_engine, server_settings

MODEL, POOL = "gpt-oss-120b", "main"
LONG = 100_000  # no token limit in practice
STEPS = StepModel(base_s=0.001, seq_s=0.00027, prefill_token_s=0.0000285)  # a quick engine's


@dataclass(eq=False)
class FrontEnd:
    """Records what the fleet delivers for each generation."""

    model: str = MODEL
    tokens: dict[str, list[int]] = field(default_factory=dict)
    finished: dict[str, int] = field(default_factory=dict)
    failed: dict[str, TriremeError] = field(default_factory=dict)
    contexts: dict[str, RequestContext] = field(default_factory=dict)

    def deliver(self, outputs: list[tuple[Stream, Output]]) -> None:
        for stream, output in outputs:
            request_id = stream.request.request_id
            assert request_id not in self.finished
            assert request_id not in self.failed
            self.tokens.setdefault(request_id, []).extend(output.tokens)
            if output.finish is not None:
                self.finished[request_id] = output.finish

    def fail(self, stream: Stream, error: TriremeError) -> None:
        request_id = stream.request.request_id
        assert request_id not in self.finished
        assert request_id not in self.failed
        self.failed[request_id] = error


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


class World:
    """One gateway's fleet client and the hosts that it may use."""

    def __init__(self, client: FleetClient) -> None:
        self.client = client
        self.front_end = FrontEnd()
        self.hosts: dict[str, EngineHost] = {}
        self.members: dict[str, Member] = {}

    async def add(self, name: str, engine: SimulatedEngine, **settings: object) -> EngineHost:
        """Start a host, list it in the directory and wait until it is connected."""
        host = EngineHost(engine, name, server_settings(**settings), 60.0)
        await host.start("127.0.0.1")
        self.hosts[name] = host
        endpoint = Endpoint(name, "127.0.0.1", host.port)
        self.members[name] = Member(endpoint, MODEL, POOL, frozenset(TIERS), frozenset(), STEPS)
        self.client.update_members(self.members.values())
        await until(lambda: self.client.router.fleet.get(name) is not None)
        return host

    async def kill(self, name: str) -> None:
        """The host goes away with all its connections; the directory still lists it."""
        await self.hosts.pop(name).stop()

    def delist(self, name: str) -> None:
        del self.members[name]
        self.client.update_members(self.members.values())

    def submit(
        self,
        request_id: str,
        tier: Tier = "low",
        prompt: list[int] | None = None,
        max_tokens: int = LONG,
    ) -> None:
        now = asyncio.get_running_loop().time()
        context = RequestContext(request_id, MODEL, tier, None, now)
        self.front_end.contexts[request_id] = context
        prompt = self.prompt_of(request_id) if prompt is None else prompt
        self.client.submit(request_id, prompt, Sampling(max_tokens), b"", context, self.front_end)

    @staticmethod
    def prompt_of(request_id: str) -> list[int]:
        return [7, *request_id.encode()]

    def home_of(self, request_id: str) -> str | None:
        return self.front_end.contexts[request_id].replica_id

    def value(self, name: str, **labels: str) -> float:
        registry = self.client.metrics.metrics.registry
        value = registry.get_sample_value(name, {"model": MODEL, **labels})
        return 0.0 if value is None else value

    def gauge_sum(self, name: str) -> float:
        return sum(self.value(name, tier=tier) for tier in TIERS)

    async def until_begun(self, request_ids: list[str], tokens: int = 1) -> None:
        """Each of these has had so many tokens."""
        heard = self.front_end.tokens
        await until(lambda: all(len(heard.get(each, ())) >= tokens for each in request_ids))

    async def until_idle(self) -> None:
        """Every book of the gateway and of the hosts is back to zero."""
        await until(lambda: not any(host.pending for host in self.hosts.values()))
        client = self.client
        assert client.streams == 0
        for queue in client.router.queues.values():
            assert (len(queue), queue.unsettled) == (0, 0)
        for replica in client.router.fleet:
            assert not replica.flights
            assert replica.own == [0, 0, 0]
            assert replica.reserved_kv == pytest.approx(0.0, abs=1e-6)
            assert replica.awaiting_prefill == 0
        assert self.gauge_sum("trireme_requests_in_flight") == 0.0
        await until(lambda: self.gauge_sum("trireme_queue_length") == 0.0)


def make_router(max_queued: int, max_wait_s: float) -> Router:
    means: Mapping[Tier, float] = {"low": 40.0, "medium": 60.0, "high": 90.0}
    limits = QueueLimits(max_queued, max_wait_s, 0)
    slo = Slo(ttft_s=2.0, tpot_s=0.05)
    tiers = {tier: TierPolicy(limits, LogNormal.from_mean(means[tier], 0.3), slo) for tier in TIERS}
    return Router((MODEL,), tiers, shadow="least-requests")


@asynccontextmanager
async def world(max_queued: int = 1000, max_wait_s: float = 30.0) -> AsyncIterator[World]:
    metrics = FleetMetrics((MODEL,), ((MODEL, POOL),))
    client = FleetClient(make_router(max_queued, max_wait_s), link_settings(), metrics)
    client.start()
    made = World(client)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(_stop_hosts, made)
        stack.push_async_callback(client.stop)
        yield made


async def _stop_hosts(made: World) -> None:
    for host in made.hosts.values():
        await host.stop()


def slow_engine(max_num_seqs: int = 16) -> SimulatedEngine:
    """Makes a token every 50 ms: long enough to meet its requests half-way."""
    return quick_engine(max_num_seqs, step_ms={"base": 50})


def silent_engine(max_num_seqs: int = 16) -> SimulatedEngine:
    """Its first token would come after half a minute."""
    return quick_engine(max_num_seqs, step_ms={"base": 30_000})


# ------------------------------------------------------------------ generations that go well


async def test_generations_spread_over_the_hosts_and_arrive_token_for_token() -> None:
    async with world() as it:
        engines = {name: quick_engine() for name in ("a", "b")}
        for name, engine in engines.items():
            await it.add(name, engine)
        names = {f"{tier}-{n}": tier for tier in TIERS for n in range(8)}
        for request_id, tier in names.items():
            it.submit(request_id, tier)
        await until(lambda: len(it.front_end.finished) == len(names))
        for request_id, tier in names.items():
            expected = reply(it.prompt_of(request_id), tier, 0, engines["a"].config)
            assert it.front_end.tokens[request_id] == expected
            assert it.front_end.finished[request_id] == STOP
            assert it.front_end.contexts[request_id].settled
        homes = [it.home_of(request_id) for request_id in names]
        assert min(homes.count("a"), homes.count("b")) >= 8
        assert it.front_end.failed == {}
        await it.until_idle()


async def test_the_counters_tell_tokens_by_channel_and_the_times_of_every_generation() -> None:
    async with world() as it:
        engine = quick_engine()
        await it.add("a", engine)
        for n in range(5):
            it.submit(f"g{n}", "medium")
        await until(lambda: len(it.front_end.finished) == 5)
        lengths = [len(reply(it.prompt_of(f"g{n}"), "medium", 0, engine.config)) for n in range(5)]
        written = "trireme_output_tokens_total"
        final = 5 * (ANSWER_TOKENS + 1)  # the closing token belongs to the answer
        assert it.value(written, tier="medium", channel="final") == final
        assert it.value(written, tier="medium", channel="analysis") == sum(lengths) - final
        prompts = sum(len(it.prompt_of(f"g{n}")) for n in range(5))
        assert it.value("trireme_prompt_tokens_total", tier="medium") == prompts
        first, answer = "trireme_time_to_first_token_seconds", "first_answer_token_seconds"
        for histogram in (
            first,
            f"trireme_time_to_{answer}",
            "trireme_time_per_output_token_seconds",
            "trireme_queue_wait_seconds",
        ):
            assert it.value(f"{histogram}_count", tier="medium") == 5
            assert it.value(f"{histogram}_count", tier="low") == 0
        first_s = it.value(f"{first}_sum", tier="medium")
        assert 0 < first_s < it.value(f"trireme_time_to_{answer}_sum", tier="medium")
        await until(lambda: it.value("trireme_replicas", pool=POOL) == 1)
        assert it.client.metrics.metrics.registry.get_sample_value(
            "trireme_router_decision_seconds_count"
        )
        await it.until_idle()


async def test_generations_cut_by_their_token_limit_are_not_taken_for_short_ones() -> None:
    async with world() as it:
        await it.add("a", quick_engine())
        predictor = it.client.router.predictor
        key = predictor.key("high", False, 10, "")
        before = predictor.expected(key, LONG)
        for n in range(20):
            it.submit(f"cut-{n}", "high", max_tokens=3)
        await until(lambda: len(it.front_end.finished) == 20)
        assert set(it.front_end.finished.values()) == {LENGTH}
        assert predictor.expected(key, LONG) == pytest.approx(before, rel=0.01)
        for n in range(20):
            it.submit(f"whole-{n}", "low")  # they end by themselves
        await until(lambda: len(it.front_end.finished) == 40)
        assert predictor.calibration.requests("low") > 19
        assert predictor.expected(key, LONG) == pytest.approx(before, rel=0.01)


async def test_every_placement_is_told_with_its_reasons_and_compared_with_the_shadow() -> None:
    async with world() as it:
        for name in ("a", "b"):
            await it.add(name, quick_engine())
        for n in range(10):
            it.submit(f"g{n}", "medium")
        await until(lambda: len(it.front_end.finished) == 10)
        for n in range(10):
            decision = it.front_end.contexts[f"g{n}"].decision
            assert decision is not None
            assert decision.request_id == f"g{n}"
            assert decision.replica_id == it.home_of(f"g{n}")
            assert len(decision.choice.considered) == 2
        assert it.value("trireme_placements_total", tier="medium", verdict="home") == 10
        shadow = it.client.router.shadow
        assert shadow is not None
        assert shadow.count.decisions == 10
        registry = it.client.metrics.metrics.registry

        def compared() -> float:
            return sum(
                registry.get_sample_value("trireme_shadow_decisions_total", {"outcome": outcome})
                or 0.0
                for outcome in ("same", "other")
            )

        await until(lambda: compared() == 10)
        quantile = {"tier": "medium", "quantile": "0.5"}
        await until(
            lambda: (
                registry.get_sample_value("trireme_prediction_coverage_ratio", quantile) is not None
            )
        )


async def test_a_queued_generation_is_placed_as_soon_as_another_ends() -> None:
    async with world() as it:
        await it.add("a", quick_engine(max_num_seqs=1))
        for n in range(4):
            it.submit(f"g{n}")
        assert it.client.streams == 4
        assert len(it.client.router.queues[MODEL]) == 3
        await until(lambda: it.value("trireme_queue_length", tier="low") > 0)
        await until(lambda: len(it.front_end.finished) == 4)
        assert list(it.front_end.finished) == ["g0", "g1", "g2", "g3"]
        await it.until_idle()


async def test_a_generation_waits_for_the_first_replica_to_come() -> None:
    async with world() as it:
        it.submit("early")
        await asyncio.sleep(0.1)
        assert not it.client.ready_for(MODEL)
        await it.add("a", quick_engine())
        assert it.client.ready_for(MODEL)
        await until(lambda: "early" in it.front_end.finished)
        await it.until_idle()


# ------------------------------------------------------------------ aborts


async def test_an_abort_frees_the_slot_at_once_for_the_next_in_the_queue() -> None:
    async with world() as it:
        host = await it.add("a", slow_engine(max_num_seqs=1))
        it.submit("leaver", "high")
        await until(lambda: it.front_end.tokens.get("leaver"))
        it.submit("next")
        assert it.home_of("next") is None
        it.client.abort(["leaver"])
        await until(lambda: it.home_of("next") == "a", timeout_s=1.0)
        await until(lambda: it.front_end.tokens.get("next"))
        assert host.pending == 1
        heard = len(it.front_end.tokens["leaver"])
        it.client.abort(["next", "leaver", "never seen"])
        await it.until_idle()
        assert len(it.front_end.tokens["leaver"]) == heard
        assert it.front_end.finished == {}


async def test_an_aborted_generation_in_the_queue_never_reaches_a_replica() -> None:
    async with world() as it:
        it.submit("gone")
        it.client.abort(["gone"])
        host = await it.add("a", quick_engine())
        it.submit("stays")
        await until(lambda: "stays" in it.front_end.finished)
        assert host.tokens_out == len(it.front_end.tokens["stays"])
        assert it.home_of("gone") is None
        await it.until_idle()


async def test_a_replica_whose_clients_have_all_left_takes_new_work() -> None:
    async with world(max_wait_s=3.0) as it:
        await it.add("a", quick_engine(max_num_seqs=4))
        for round_number in range(5):
            ids = [f"{round_number}-{n}" for n in range(4)]
            for request_id in ids:
                it.submit(request_id, "high")
            await it.until_begun(ids)
            it.client.abort(ids)
            await it.until_idle()
        it.submit("after")
        await until(lambda: "after" in {**it.front_end.finished, **it.front_end.failed})
        assert it.front_end.failed == {}


async def test_a_gateway_learns_that_another_gateways_work_is_over() -> None:
    async with world(max_wait_s=3.0) as it, world() as other:
        host = await it.add("a", quick_engine(max_num_seqs=2))
        other.members = it.members
        other.client.update_members(it.members.values())
        await until(lambda: other.client.router.fleet.get("a") is not None)
        for n in range(2):
            other.submit(f"theirs-{n}", "high")
        replica = it.client.router.fleet.get("a")
        assert replica is not None
        await until(lambda: replica.others == [0, 0, 2])
        await until(lambda: len(other.front_end.finished) == 2)
        assert host.pending == 0
        await until(lambda: replica.others == [0, 0, 0], timeout_s=2.0)


async def test_a_gateway_never_takes_its_own_work_for_that_of_others() -> None:
    async with world() as it:
        await it.add("a", quick_engine(max_num_seqs=4))
        replica = it.client.router.fleet.get("a")
        assert replica is not None
        names = [f"g{n}" for n in range(24)]
        for n, request_id in enumerate(names):
            it.submit(request_id, TIERS[n % 3])
        while len(it.front_end.finished) < len(names):
            assert replica.others == [0, 0, 0]
            assert replica.in_flight <= 4
            await asyncio.sleep(0.002)
        await it.until_idle()


# ------------------------------------------------------------------ lost replicas


async def test_a_host_lost_before_the_first_token_costs_its_clients_nothing() -> None:
    async with world() as it:
        await it.add("a", silent_engine())
        for n in range(6):
            it.submit(f"g{n}")
        assert {it.home_of(f"g{n}") for n in range(6)} == {"a"}
        engine = quick_engine()
        await it.add("b", engine)
        await it.kill("a")
        await until(lambda: len(it.front_end.finished) == 6)
        for n in range(6):
            expected = reply(it.prompt_of(f"g{n}"), "low", 0, engine.config)
            assert it.front_end.tokens[f"g{n}"] == expected
            assert it.home_of(f"g{n}") == "b"
        assert it.front_end.failed == {}
        assert it.value("trireme_retried_generations_total", tier="low", cause="replica_lost") == 6
        await it.until_idle()


async def test_a_host_lost_after_the_first_token_costs_its_clients_a_pause() -> None:
    async with world() as it:
        engines = {name: slow_engine() for name in ("a", "b")}
        for name, engine in engines.items():
            await it.add(name, engine)
        names = [f"g{n}" for n in range(8)]
        for request_id in names:
            it.submit(request_id)
        await it.until_begun(names)
        moved = [each for each in names if it.home_of(each) == "a"]
        assert 0 < len(moved) < len(names)
        await it.kill("a")
        await until(lambda: len(it.front_end.finished) == len(names))
        for request_id in names:
            expected = reply(it.prompt_of(request_id), "low", 0, engines["b"].config)
            assert it.front_end.tokens[request_id] == expected
            assert it.home_of(request_id) == "b"
        assert it.front_end.failed == {}
        assert len(it.client.router.fleet) == 1
        assert it.value("trireme_failovers_total", tier="low", kind="exact") == len(moved)
        await it.until_idle()


async def test_a_generation_that_loses_three_replicas_in_a_row_fails() -> None:
    async with world() as it:
        it.submit("unlucky")
        for name in ("a", "b", "c"):
            assert it.front_end.failed == {}
            await it.add(name, silent_engine())
            assert it.home_of("unlucky") == name
            await it.kill(name)
            await until(lambda: len(it.client.router.fleet) == 0)
        assert type(it.front_end.failed["unlucky"]) is ReplicaLost
        await it.until_idle()


async def test_a_host_that_comes_back_is_used_again() -> None:
    async with world() as it:
        engine = quick_engine()
        host = await it.add("a", engine)
        for connection in list(host.server.connections):
            connection.fail(ConnectionError("cut by the test"))
        await until(lambda: len(it.client.router.fleet) == 0)
        it.submit("waits")
        await until(lambda: "waits" in it.front_end.finished)
        assert it.client.metrics.metrics.registry.get_sample_value(
            "trireme_channel_reconnects_total"
        )
        await it.until_idle()


async def test_when_the_gateway_stops_every_client_is_told() -> None:
    async with world() as it:
        for name in ("a", "b"):
            await it.add(name, slow_engine(max_num_seqs=2))
        names = [f"g{n}" for n in range(6)]
        for request_id in names:
            it.submit(request_id)
        await until(lambda: len(it.front_end.tokens) == 4)
        await it.client.stop()
        assert sorted(it.front_end.failed) == names
        assert it.client.streams == 0
        assert it.gauge_sum("trireme_requests_in_flight") == 0.0
        await until(lambda: not any(host.pending for host in it.hosts.values()))


# ------------------------------------------------------------------ refusals


async def test_a_full_queue_refuses_with_the_time_to_come_back() -> None:
    async with world(max_queued=2) as it:
        await it.add("a", slow_engine(max_num_seqs=1))
        it.submit("runs", "high")
        await it.until_begun(["runs"], tokens=4)
        for n in range(2):
            it.submit(f"waits-{n}", "high")
        it.submit("refused", "high")
        error = it.front_end.failed["refused"]
        assert isinstance(error, Overloaded)
        assert error.retry_after_s is not None
        assert 1.0 <= error.retry_after_s <= 120.0
        # Two replies of about 90 tokens at 20 tokens a second are ahead of it.
        assert error.retry_after_s == pytest.approx(9.0, rel=0.5)
        assert it.client.streams == 3
        it.submit("other tier", "low")
        assert "other tier" not in it.front_end.failed
        it.client.abort(["runs", "waits-0", "waits-1", "other tier"])
        await it.until_idle()


async def test_what_waits_too_long_fails_as_overloaded() -> None:
    async with world(max_wait_s=0.3) as it:
        await it.add("a", slow_engine(max_num_seqs=1))
        it.submit("runs", "high")
        it.submit("waits")
        await until(lambda: "waits" in it.front_end.failed, timeout_s=1.5)
        error = it.front_end.failed["waits"]
        assert isinstance(error, Overloaded)
        assert error.retry_after_s is not None
        it.client.abort(["runs"])
        await it.until_idle()


async def test_without_any_replica_the_wait_ends_as_unavailable_and_not_as_overload() -> None:
    async with world(max_wait_s=0.2) as it:
        it.submit("nobody there")
        await until(lambda: it.front_end.failed, timeout_s=1.5)
        error = it.front_end.failed["nobody there"]
        assert isinstance(error, NoReplica)
        assert error.status == 503
        assert error.retry_after_s == 1.0
        await it.until_idle()


async def test_a_request_that_an_engine_calls_faulty_is_refused_for_good() -> None:
    async with world() as it:
        await it.add("a", quick_engine())
        it.submit("too long", prompt=[1] * 8192)
        await until(lambda: it.front_end.failed)
        assert isinstance(it.front_end.failed["too long"], InvalidRequest)
        await it.until_idle()


async def test_a_generation_refused_by_a_full_host_goes_to_another() -> None:
    async with world() as it:
        await it.add("full", slow_engine(), max_streams=1)
        it.submit("first", "high")
        await until(lambda: it.front_end.tokens.get("first"))
        # Its books say that it has room for fifteen more.
        it.submit("second", "high")
        assert it.home_of("second") == "full"
        await it.add("free", quick_engine())
        await until(lambda: "second" in it.front_end.finished)
        assert it.home_of("second") == "free"
        refusals = it.value("trireme_retried_generations_total", tier="high", cause="refused")
        assert 1 <= refusals <= 2
        it.client.abort(["first"])
        await it.until_idle()


async def test_a_generation_that_no_host_accepts_is_given_up_and_leaves_no_trace() -> None:
    async with world() as it:
        await it.add("full", slow_engine(), max_streams=1)
        it.submit("first", "high")
        await until(lambda: it.front_end.tokens.get("first"))
        it.submit("second", "high")
        await until(lambda: "second" in it.front_end.failed)
        assert isinstance(it.front_end.failed["second"], NoReplica)
        assert it.gauge_sum("trireme_requests_in_flight") == 1.0
        it.client.abort(["first"])
        await it.until_idle()


# ------------------------------------------------------------------ the directory


async def test_a_member_that_leaves_the_directory_ends_its_work_and_is_then_let_go() -> None:
    async with world() as it:
        leaver = await it.add("a", slow_engine())
        it.submit("running")
        await until(lambda: it.front_end.tokens.get("running"))
        await it.add("b", quick_engine())
        it.delist("a")
        await asyncio.sleep(0.15)
        assert it.client.router.fleet.get("a") is not None
        assert leaver.server.connections
        await until(lambda: "running" in it.front_end.finished)
        await until(lambda: it.client.router.fleet.get("a") is None)
        await until(lambda: not leaver.server.connections)
        assert it.front_end.failed == {}
        it.submit("later")
        await until(lambda: "later" in it.front_end.finished)
        assert it.home_of("later") == "b"
        await it.until_idle()


async def test_a_member_that_has_left_the_directory_gets_nothing_new() -> None:
    async with world() as it:
        await it.add("a", quick_engine(step_ms={"base": 20}))
        it.submit("running", "high")
        await until(lambda: it.front_end.tokens.get("running"))
        it.delist("a")
        it.submit("later")
        await asyncio.sleep(0.1)
        assert it.home_of("later") is None
        assert not it.client.ready_for(MODEL)
        await it.add("b", quick_engine())
        await until(lambda: len(it.front_end.finished) == 2)
        assert it.home_of("later") == "b"
        await it.until_idle()


async def test_a_member_may_leave_and_come_back() -> None:
    async with world() as it:
        await it.add("a", quick_engine())
        member = it.members["a"]
        it.delist("a")
        await until(lambda: len(it.client.router.fleet) == 0)
        it.members["a"] = member
        it.client.update_members(it.members.values())
        it.submit("again")
        await until(lambda: "again" in it.front_end.finished)
        await it.until_idle()


async def test_a_draining_host_ends_what_it_has_and_gets_nothing_new() -> None:
    async with world() as it:
        host = await it.add("a", slow_engine())
        it.submit("running")
        await until(lambda: it.front_end.tokens.get("running"))
        draining = asyncio.create_task(host.drain(20.0))
        await until(lambda: not it.client.ready_for(MODEL))
        it.submit("later")
        await it.add("b", quick_engine())
        await until(lambda: len(it.front_end.finished) == 2)
        await draining
        assert (it.home_of("running"), it.home_of("later")) == ("a", "b")
        await it.until_idle()


# ------------------------------------------------------------------ frames without tokens


async def test_an_engine_error_without_a_token_is_no_first_token_and_fails_after_three() -> None:
    async with world() as it:
        await it.add("a", silent_engine())
        it.submit("broken")
        link = it.client._links["a"]
        stream = it.client._streams["broken"]
        for _ in range(3):
            assert it.front_end.failed == {}
            it.client.on_step(link, Step(Load(), [Output(stream.number, [], ERROR)]))
        assert type(it.front_end.failed["broken"]) is ReplicaLost
        assert it.value("trireme_time_to_first_token_seconds_count", tier="low") == 0
        assert it.client.streams == 0
        replica = it.client.router.fleet.get("a")
        assert replica is not None
        assert (replica.awaiting_prefill, replica.in_flight) == (0, 0)


# ------------------------------------------------------------------ the answer's first token

ANALYSIS = [200005, 35644, 200008]
FINAL = [200005, 17196, 200008]
TURN = [200007, 200006, 173781]


def answer_at(tokens: list[int], chunk: int) -> int | None:
    watch = AnswerWatch()
    for start in range(0, len(tokens), chunk):
        before = watch.feed(tokens[start : start + chunk])
        if before is not None:
            return before
    return None


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 100])
def test_the_answer_begins_after_the_final_channels_header_however_tokens_are_cut(
    chunk: int,
) -> None:
    thinking = [*ANALYSIS, 290, 328, 17196, 200005, 290, *TURN]
    assert answer_at([*thinking, *FINAL, 13225, 200002], chunk) == len(thinking) + 3
    assert answer_at([*FINAL, 13225], chunk) == 3


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_a_final_channel_that_names_its_format_is_an_answer_too(chunk: int) -> None:
    # <|channel|>final <|constrain|>json<|message|>{
    header = [200005, 17196, 220, 200003, 4108, 200008]
    assert answer_at([*ANALYSIS, 290, *TURN, *header, 90], chunk) == 3 + 1 + 3 + 6


def test_a_reply_without_a_final_channel_has_no_answer() -> None:
    commentary = [200005, 12606, 815, 316, 200008, 290, 200012]
    assert answer_at([*ANALYSIS, 290, *TURN, *commentary], 1) is None
    assert answer_at([*ANALYSIS, *FINAL], 1) is None


def test_a_stream_that_is_not_harmony_is_an_answer_from_its_first_token() -> None:
    assert answer_at([13225, *FINAL, 290], 1) == 0
