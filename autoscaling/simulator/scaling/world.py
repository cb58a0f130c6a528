"""The event simulator with its fleet resized while it runs: production router, production policy.

Every part of the live loop is there but the wire: gateways' accounts, the ledger that merges them,
the policy, replicas that start for a while and leave when what runs on them has ended.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from autoscaling.policy import Policy, PolicySettings, PoolPlan
from autoscaling.signals import Ledger
from autoscaling.simulator.gateway import MODEL, place_of
from autoscaling.simulator.replica import SimReplica
from autoscaling.simulator.result import RunResult
from autoscaling.simulator.scaling.scalers import MONDAY
from autoscaling.simulator.scenario import Pool, Scenario
from autoscaling.simulator.work import Outcome
from autoscaling.simulator.world import World
from autoscaling.sizing import ReplicaKind
from cluster.config import TIERS, FailoverConfig, PolicyName, Tier
from deployments.engine.model import Event, EventKind
from deployments.gateway.account import Account
from deployments.router import Flight, RemoteLoad

LOOK_S = 1.0
"""How often a leaving replica is looked at."""

FINISH_S = FailoverConfig().drain_finish_s
"""What has not ended on a leaving replica by then goes on elsewhere."""


@dataclass(frozen=True, slots=True)
class Resizing:
    """How the fleet may change. ``clock_s`` is where in the week the scenario begins.

    ``gone`` are times in which no account arrives; ``never_ready`` is how many replicas, counted
    from the first that is asked for, never start; ``place`` how many there is room for at all.
    """

    settings: PolicySettings
    at_least: int = 1
    at_most: int = 64
    clock_s: float = 0.0
    gone: tuple[tuple[float, float], ...] = ()
    never_ready: int = 0
    place: int = 10_000


class AutoscaledWorld(World):
    """A world whose first pool the policy resizes every interval."""

    def __init__(
        self, scenario: Scenario, policy: PolicyName, seed: int, resizing: Resizing
    ) -> None:
        slos = {tier: scenario.slo(tier) for tier in TIERS}
        self._resizing = resizing
        self._pool = scenario.fleet.pools[0]
        self._leaving: set[int] = set()
        self._gone: set[int] = set()
        self._stuck = resizing.never_ready
        self.sizes: list[tuple[float, int]] = []
        self.freed_s: list[float] = []
        self.accounts = [
            Account(f"g{index}", [MODEL], slos) for index in range(scenario.gateways.number)
        ]
        self.ledger = Ledger(
            MODEL,
            [self._pool.name],
            {tier: (slo.ttft_s, slo.tpot_s) for tier, slo in slos.items()},
            _priors(scenario),
        )
        self.scaling = Policy([_plan(self._pool, scenario, resizing)], slos, resizing.settings)
        super().__init__(scenario, policy, seed)
        self.agenda.at(resizing.settings.interval_s, self._decide)

    # -------------------------------------------------------------- accounts

    def _hear(self, events: list[Event]) -> None:
        firsts = []
        for event in events:
            gateway, number, _ = place_of(event)
            if event.kind is EventKind.FIRST_TOKEN:
                stream = self.gateways[gateway].streams.get(str(number))
                if stream is not None and stream.work is event.work:
                    firsts.append((gateway, number, stream.request))
        super()._hear(events)
        for gateway, number, request in firsts:
            self.accounts[gateway].placed(request)
            outcome = self.outcomes[number]
            self.accounts[gateway].first_token(MODEL, outcome.served_tier, outcome.ttft_s)

    def _on_end(self, outcome: Outcome) -> None:
        account = self.accounts[outcome.gateway]
        if outcome.status in ("refused", "expired"):
            account.refused(MODEL, outcome.served_tier)
        elif outcome.status == "finished" and outcome.tokens > 1:
            account.ended(MODEL, outcome.served_tier, outcome.tpot_s)
        super()._on_end(outcome)

    # -------------------------------------------------------------- sizes

    def _decide(self, _: object) -> None:
        now = self.agenda.now
        silent = any(start <= now < end for start, end in self._resizing.gone)
        if not silent:
            for gateway, account in zip(self.gateways, self.accounts, strict=True):
                self.ledger.take(account.read(gateway.router, now), now)
        starting = len(self._starting())
        signals = self.ledger.signals(now, starting={self._pool.name: starting})
        clock = MONDAY + timedelta(seconds=self._resizing.clock_s + now)
        (wanted,) = self.scaling.decide(signals, clock).pools
        self._resize(wanted.wanted)
        self.sizes.append((now, wanted.wanted))
        if now < self.scenario.duration_s:
            self.agenda.at(now + self._resizing.settings.interval_s, self._decide)

    def _starting(self) -> list[SimReplica]:
        return [each for each in self._kept() if not each.up]

    def _kept(self) -> list[SimReplica]:
        away = self._leaving | self._gone
        return [each for each in self.replicas if each.index not in away]

    def _resize(self, wanted: int) -> None:
        kept = self._kept()
        for _ in range(min(wanted, self._resizing.place) - len(kept)):
            self._add(self._pool, self.scenario.fleet.cold_start_s)
        # Those that are not ready go first, then those with the least left to do.
        order = sorted(kept, key=lambda each: (each.up, self._left_to_do(each)))
        for replica in order[: max(0, len(kept) - wanted)]:
            self._leave(replica)

    def _ready(self, replica: SimReplica) -> None:
        if replica.index in self._leaving or replica.index in self._gone:
            return
        if self.agenda.now > 0.0 and self._stuck > 0:
            self._stuck -= 1  # it will never be
            return
        super()._ready(replica)

    def _leave(self, replica: SimReplica) -> None:
        self._leaving.add(replica.index)
        for gateway in self.gateways:
            there = gateway.router.fleet.get(replica.replica_id)
            if there is not None:
                gateway.on_load(replica.replica_id, _draining(replica, gateway.index))
        self._look((replica, self.agenda.now + FINISH_S))

    def _flights(self, replica: SimReplica) -> list[Flight]:
        there = [gateway.router.fleet.get(replica.replica_id) for gateway in self.gateways]
        return [flight for each in there if each is not None for flight in each.flights.values()]

    def _left_to_do(self, replica: SimReplica) -> float:
        """Output tokens that its requests are expected to write yet."""
        return sum(max(0.0, each.predicted - each.emitted) for each in self._flights(replica))

    def _look(self, what: tuple[SimReplica, float]) -> None:
        """Gone, once nothing runs on it, or when the rest has had its time and is moved."""
        replica, until_s = what
        if self._flights(replica) and self.agenda.now < until_s:
            self.agenda.at(self.agenda.now + LOOK_S, self._look, what)
            return
        self.freed_s.append(self.agenda.now - (until_s - FINISH_S))
        for gateway in self.gateways:
            gateway.lost(replica)
        self._leaving.discard(replica.index)
        self._gone.add(replica.index)
        replica.up = False
        left_s = max(0.0, self.scenario.duration_s - self.agenda.now)
        self._gpu_seconds -= left_s * replica.pool.tensor_parallel_size

    def _news_count(self, now: float) -> bool:
        # A replica that leaves brings its requests back; and the policy reads the routers' state.
        return self.open > 0 or now < self.scenario.duration_s

    def _report(self, what: tuple[SimReplica, object]) -> None:
        if what[0].index not in self._leaving:  # its last word was that it leaves
            super()._report(what)


def _draining(replica: SimReplica, gateway: int) -> RemoteLoad:
    load = replica.loads()[gateway]
    return RemoteLoad(
        load.running, load.waiting, load.kv_use, load.step_s, True, load.by_tier, load.ours
    )


def _plan(pool: Pool, scenario: Scenario, resizing: Resizing) -> PoolPlan:
    return PoolPlan(
        pool.name,
        ReplicaKind(
            pool.steps(),
            pool.max_num_seqs,
            pool.kv_tokens_of_a_replica(),
            pool.tensor_parallel_size,
        ),
        frozenset(pool.tiers),
        frozenset(pool.lends_to),
        at_least=resizing.at_least,
        at_most=resizing.at_most,
        cold_start_s=scenario.fleet.cold_start_s,
    )


def _priors(scenario: Scenario) -> Mapping[Tier, tuple[float, float]]:
    return {tier: (1000.0, scenario.tiers.of(tier).prior_output_tokens_mean) for tier in TIERS}


def run_autoscaled(
    scenario: Scenario, seed: int, resizing: Resizing, policy: PolicyName = "effort"
) -> tuple[RunResult, AutoscaledWorld]:
    """One run to its end."""
    world = AutoscaledWorld(scenario, policy, seed, resizing)
    world.run()
    return world.result(0.0), world
