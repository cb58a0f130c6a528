"""One engine replica of a simulated cluster: the engine model, and what it tells the gateways."""

import math
from collections.abc import Callable, Hashable

from autoscaling.simulator.events import Agenda
from autoscaling.simulator.scenario import Pool
from autoscaling.simulator.work import Arrival
from cluster.config import Tier
from cluster.facts import KV_BLOCK_TOKENS
from cluster.steptime import StepModel
from deployments.engine.model import (
    EngineLimits,
    EngineModel,
    Event,
    PromptText,
    Work,
)
from deployments.router import RemoteLoad, Traits
from deployments.router.fleet import TIER_INDEX

OnEvents = Callable[["SimReplica", list[Event]], None]


def text_of(arrival: Arrival) -> PromptText | None:
    """What the prompt begins with, for the engine's prefix cache."""
    if not arrival.reusable:
        return None
    parts: list[tuple[Hashable, int]] = []
    if arrival.shared_tokens:
        parts.append((("shared", arrival.shared), arrival.shared_tokens // KV_BLOCK_TOKENS))
    if arrival.session:
        own = (arrival.prompt_tokens - arrival.shared_tokens) // KV_BLOCK_TOKENS
        parts.append((("session", arrival.session), own))
    return tuple(parts)


class SimReplica:
    """``on_events`` hears of first tokens and ends when they happen here, before any latency."""

    def __init__(
        self,
        index: int,
        pool: Pool,
        steps: StepModel,
        agenda: Agenda,
        gateways: int,
        on_events: OnEvents,
    ) -> None:
        kv_tokens = pool.kv_tokens_of_a_replica()
        self.index = index
        self.pool = pool
        self.replica_id = f"{pool.name}-{index:04d}"
        self.traits = Traits(
            self.replica_id,
            "model",
            pool.name,
            frozenset(pool.tiers),
            frozenset(pool.lends_to),
            pool.max_num_seqs,
            131_072,
            kv_tokens,
            steps,
        )
        self._limits = EngineLimits(
            pool.max_num_seqs, pool.max_num_batched_tokens, kv_tokens // KV_BLOCK_TOKENS
        )
        self._agenda = agenda
        self._on_events = on_events
        self._gateways = gateways
        self.up = False
        self.boot()
        self.up = False

    def boot(self) -> None:
        """A fresh engine: empty, with an empty cache."""
        self.engine = EngineModel(self.traits.steps, self._limits)
        self.by_gateway = [[0, 0, 0] for _ in range(self._gateways)]
        self._due_s = math.inf
        self.up = True

    # -------------------------------------------------------------- requests

    def submit(self, work: Work, gateway: int, tier: Tier) -> None:
        self.engine.submit(work, self._agenda.now)
        self.by_gateway[gateway][TIER_INDEX[tier]] += 1
        self._schedule()

    def abort(self, work: Work, gateway: int, tier: Tier) -> int:
        """The tokens that it had written."""
        now = self._agenda.now
        if not self.engine.holds(work.work_id, now):
            return self.engine.emitted(work, now)  # it has ended: the news is on its way
        tokens = self.engine.abort(work.work_id, now)
        self.ended(gateway, tier)
        self._schedule()
        return tokens

    def ended(self, gateway: int, tier: Tier) -> None:
        """One of the gateway's requests is no longer here."""
        self.by_gateway[gateway][TIER_INDEX[tier]] -= 1

    # -------------------------------------------------------------- time

    def _schedule(self) -> None:
        """Wake up when the engine has news. An older, later appointment stays: it finds nothing."""
        due_s = self.engine.next_event_s()
        if due_s < self._due_s:
            self._due_s = due_s
            self._agenda.at(due_s, self._wake, self.engine)

    def _wake(self, engine: EngineModel) -> None:
        if engine is not self.engine or not self.up:
            return  # an engine that has crashed since
        now = self._agenda.now
        if now >= self._due_s:
            self._due_s = math.inf
        events = engine.advance(now)
        if events:
            self._on_events(self, events)
        self._schedule()

    def changed(self) -> None:
        """Its pace was changed from outside: look again."""
        self._due_s = math.inf
        self._schedule()

    # -------------------------------------------------------------- reports

    def loads(self) -> list[RemoteLoad]:
        """What a frame to each of the gateways would say now."""
        now = self._agenda.now
        load, steps = self.engine.load(now), self.engine.steps_made(now)
        low, medium, high = self.by_gateway[0]
        for other in self.by_gateway[1:]:
            low, medium, high = low + other[0], medium + other[1], high + other[2]
        every = low, medium, high
        return [
            RemoteLoad(
                load.running,
                load.waiting,
                load.kv_use,
                load.step_s,
                False,
                every,
                (mine[0], mine[1], mine[2]),
                steps,
            )
            for mine in self.by_gateway
        ]
