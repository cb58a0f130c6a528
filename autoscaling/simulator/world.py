"""A whole cluster in virtual time: clients, gateways with the production router, replicas."""

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from autoscaling.simulator.events import Agenda
from autoscaling.simulator.gateway import SimGateway, place_of
from autoscaling.simulator.replica import SimReplica
from autoscaling.simulator.result import RunResult, Sample
from autoscaling.simulator.scenario import FaultEvent, Join, Pool, Scenario
from autoscaling.simulator.work import Arrival, Outcome
from autoscaling.simulator.workloads import Traffic
from cluster.config import POLICIES, TIERS, ChannelConfig, PolicyName, PoolConfig
from cluster.steptime import StepModel
from deployments.engine.model import EngineModel, Event, EventKind
from deployments.router import RemoteLoad

__all__ = ["POLICIES", "World", "run"]

REPORT_EVERY_S = 0.1
ALONE_REPORT_EVERY_S = 0.5
"""Between load reports. Live ones come with every frame. To a gateway that is alone they tell only
the pace and the KV use, which change slowly; the rest it has counted itself."""

SAMPLE_EVERY_S = 5.0

HANG_NOTICED_S = PoolConfig().progress_timeout_s
LINK_LOST_S = ChannelConfig().dead_after_s


class World:
    """One run of a scenario. The same scenario, policy and seed give the same run."""

    def __init__(self, scenario: Scenario, policy: PolicyName, seed: int) -> None:
        self.scenario = scenario
        self.agenda = Agenda()
        self.traffic = Traffic(scenario.workload, seed, scenario.duration_s)
        self.gateways = [
            SimGateway(index, scenario, policy, self.agenda, self._on_end)
            for index in range(scenario.gateways.number)
        ]
        self.replicas: list[SimReplica] = []
        self.outcomes: list[Outcome] = []
        self.open = 0
        self.series: list[Sample] = []
        self._gpu_seconds = 0.0
        self._end_s = scenario.duration_s + scenario.drain_s
        alone = scenario.gateways.number == 1
        self._report_every_s = ALONE_REPORT_EVERY_S if alone else REPORT_EVERY_S
        self._age_s = scenario.gateways.report_age_s + scenario.gateways.frame_latency_s
        for pool in scenario.fleet.pools:
            for _ in range(pool.replicas):
                self._add(pool, 0.0)
        for join in scenario.fleet.joins:
            self.agenda.at(join.at_s, self._ask, join)
        for fault in scenario.faults:
            self.agenda.at(fault.at_s, self._break, fault)
        self.agenda.at(0.0, self._sample)
        self._arrivals = self.traffic.first()
        self._next_arrival(None)

    def run(self, after_each: Callable[[], None] | None = None) -> None:
        """To the end: all clients have come, and all they asked for has ended (or time is up).

        ``after_each`` is called after every event, for a test that checks what must always hold.
        """
        self.agenda.run(self._end_s, after_each)

    # -------------------------------------------------------------- clients

    def _next_arrival(self, arrival: Arrival | None) -> None:
        """The open-loop arrivals are drawn one at a time."""
        if arrival is not None:
            self._arrive(arrival)
        following = next(self._arrivals, None)
        if following is not None:
            self.agenda.at(following.at_s, self._next_arrival, following)

    def _arrive(self, arrival: Arrival) -> None:
        number = len(self.outcomes)
        gateway = self.gateways[number % len(self.gateways)]
        outcome = Outcome(arrival, number, gateway.index)
        self.outcomes.append(outcome)
        self.open += 1
        # Rendering and the like: measured, see cluster/steptime.py.
        overhead_s = self.steps.request_overhead_s(arrival.prompt_tokens)
        self.agenda.at(self.agenda.now + overhead_s, gateway.receive, outcome)

    def _on_end(self, outcome: Outcome) -> None:
        self.open -= 1
        for arrival in self.traffic.after(outcome, self.agenda.now):
            self.agenda.at(arrival.at_s, self._arrive, arrival)

    @property
    def steps(self) -> StepModel:
        return self.replicas[0].traits.steps

    # -------------------------------------------------------------- replicas

    def _add(self, pool: Pool, ready_in_s: float) -> None:
        """A replica is asked for; its GPUs are paid from now on."""
        replica = SimReplica(
            len(self.replicas), pool, pool.steps(), self.agenda, len(self.gateways), self._on_events
        )
        self.replicas.append(replica)
        left_s = self.scenario.duration_s - self.agenda.now
        self._gpu_seconds += max(0.0, left_s) * pool.tensor_parallel_size
        if ready_in_s > 0.0:
            self.agenda.at(self.agenda.now + ready_in_s, self._ready, replica)
        else:
            self._ready(replica)

    def _ask(self, join: Join) -> None:
        pool = next(each for each in self.scenario.fleet.pools if each.name == join.pool)
        for _ in range(join.replicas):
            self._add(pool, self.scenario.fleet.cold_start_s)

    def _ready(self, replica: SimReplica) -> None:
        replica.boot()
        for gateway in self.gateways:
            gateway.joined(replica)
        self.agenda.at(self.agenda.now, self._report, (replica, replica.engine))

    def _on_events(self, replica: SimReplica, events: list[Event]) -> None:
        """The engine's news go out; each to the gateway that had placed the request."""
        for event in events:
            if event.kind is EventKind.FINISHED:
                gateway, number, _ = place_of(event)
                replica.ended(gateway, self.outcomes[number].arrival.tier)
        self.agenda.at(self.agenda.now + self.scenario.gateways.frame_latency_s, self._hear, events)

    def _hear(self, events: list[Event]) -> None:
        for event in events:
            self.gateways[place_of(event)[0]].on_event(event)

    def _report(self, what: tuple[SimReplica, object]) -> None:
        replica, engine = what
        if not replica.up or replica.engine is not engine:
            return
        now = self.agenda.now
        if not self._reports_lost(now):
            loads = replica.loads()
            self.agenda.at(now + self._age_s, self._tell, (replica.replica_id, loads))
        if self._news_count(now):
            self.agenda.at(now + self._report_every_s, self._report, what)

    def _tell(self, what: tuple[str, list[RemoteLoad]]) -> None:
        replica_id, loads = what
        for gateway, load in zip(self.gateways, loads, strict=True):
            gateway.on_load(replica_id, load)

    def _news_count(self, now: float) -> bool:
        """Whether a load report can still change anything: until all that came have been placed,
        or longer where a fault may bring some back."""
        if now < self.scenario.duration_s:
            return True
        if self.scenario.faults:
            return self.open > 0
        return self.open > sum(gateway.router.placed for gateway in self.gateways)

    def _reports_lost(self, now: float) -> bool:
        lost = self.scenario.gateways.reports_lost
        return any(each.at_s <= now < each.at_s + each.for_s for each in lost)

    # -------------------------------------------------------------- faults

    def _break(self, fault: FaultEvent) -> None:
        replica, now = self.replicas[fault.replica], self.agenda.now
        match fault.kind:
            case "crash":
                self._lose(replica)
            case "hang":
                replica.engine.halt(now)
                replica.changed()
                self.agenda.at(now + HANG_NOTICED_S, self._notice_hang, (replica, replica.engine))
            case "slow":
                replica.engine.set_slowdown(fault.factor, now)
                replica.changed()
            case "partition":
                # A shorter one is over before anybody has noticed it.
                if fault.for_s is None or fault.for_s > LINK_LOST_S:
                    self.agenda.at(now + LINK_LOST_S, self._cut, fault)
        if fault.for_s is not None:
            self.agenda.at(now + fault.for_s, self._mend, fault)

    def _lose(self, replica: SimReplica) -> None:
        replica.up = False
        for gateway in self.gateways:
            gateway.lost(replica, died=True)

    def _notice_hang(self, what: tuple[SimReplica, EngineModel]) -> None:
        replica, engine = what
        if replica.up and replica.engine is engine and engine.next_event_s() == math.inf:
            self._lose(replica)
            self.agenda.at(self.agenda.now + self.scenario.fleet.cold_start_s, self._ready, replica)

    def _cut(self, fault: FaultEvent) -> None:
        replica = self.replicas[fault.replica]
        for gateway in self.gateways:
            if fault.gateway in (None, gateway.index):
                gateway.lost(replica)

    def _mend(self, fault: FaultEvent) -> None:
        replica, now = self.replicas[fault.replica], self.agenda.now
        match fault.kind:
            case "crash":
                self.agenda.at(now + self.scenario.fleet.cold_start_s, self._ready, replica)
            case "hang":
                if replica.up:
                    replica.engine.resume(now)
                    replica.changed()
            case "slow":
                replica.engine.set_slowdown(1.0, now)
                replica.changed()
            case "partition":
                for gateway in self.gateways:
                    gateway.joined(replica)

    # -------------------------------------------------------------- figures

    def _sample(self, _: object) -> None:
        now = self.agenda.now
        queued = [
            sum(gateway.router.queues["model"].length(tier) for gateway in self.gateways)
            for tier in TIERS
        ]
        up = [replica for replica in self.replicas if replica.up]
        loads = [replica.engine.load(now) for replica in up]
        self.series.append(
            Sample(
                now,
                (queued[0], queued[1], queued[2]),
                sum(load.running + load.waiting for load in loads),
                sum(load.kv_use for load in loads) / max(1, len(loads)),
                len(up),
            )
        )
        if self.open or now < self.scenario.duration_s:
            self.agenda.at(now + SAMPLE_EVERY_S, self._sample)

    def result(self, wall_s: float) -> RunResult:
        return RunResult(self.outcomes, self._gpu_seconds, wall_s, self.series)


def run(scenario: Scenario, policy: str, seed: int) -> RunResult:
    """One run. ``policy`` is one of ``POLICIES``."""
    if policy not in POLICIES:
        raise ValueError(f"no policy {policy!r}; there are {', '.join(POLICIES)}")
    started = time.perf_counter()
    with _no_collection():
        world = World(scenario, policy, seed)
        world.run()
    return world.result(time.perf_counter() - started)


@contextmanager
def _no_collection() -> Iterator[None]:
    """The run makes millions of objects and few cycles; looking for these takes a fifth of it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
