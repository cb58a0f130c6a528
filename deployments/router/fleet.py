"""What a gateway knows of its replicas: its own requests at once, the rest from their frames."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from cluster.config import Tier

DEFAULT_STEP_S = 0.02
"""Step time assumed before a replica has reported one."""

BATCH_EXPONENT = 0.476
"""Decode step time grows as batch^0.476: fit of gpt-oss-120b on H200 TP1, batch 4 to 64, ±2 %."""

PREFILL_TOKENS_PER_S = 25_000.0
"""Prefill rate (gpt-oss-120b, H100 TP1: 23.7k measured by Ray's benchmarks, 39k by llm-d's)."""


@dataclass(slots=True)
class Request:
    """A generation to be placed. ``request_id`` is unique among those that a router holds."""

    request_id: str
    model: str
    tier: Tier
    prompt_tokens: int
    max_tokens: int
    attempts: int = 0


@dataclass(slots=True)
class Flight:
    """A request on a replica. ``predicted`` is its expected output in tokens at placement."""

    request: Request
    replica: "Replica" = field(repr=False)
    placed_s: float
    predicted: float
    emitted: int = 0

    @property
    def reserved_kv(self) -> float:
        """KV tokens that it is expected to hold at its peak."""
        return self.request.prompt_tokens + max(self.predicted, float(self.emitted))

    @property
    def replica_id(self) -> str:
        return self.replica.traits.replica_id


@dataclass(frozen=True, slots=True)
class Traits:
    """What does not change while a replica lives."""

    replica_id: str
    model: str
    pool: str
    tiers: frozenset[Tier]
    lends_to: frozenset[Tier]
    max_num_seqs: int
    max_model_len: int
    kv_tokens: int


@dataclass(frozen=True, slots=True)
class RemoteLoad:
    """A replica's own report: requests of all gateways, share of KV in use, mean step time."""

    running: int = 0
    waiting: int = 0
    kv_use: float = 0.0
    step_s: float = 0.0
    draining: bool = False


@dataclass
class Replica:
    """One replica as this gateway sees it. ``others`` counts requests of other gateways.

    ``others_kv`` are the KV tokens that those held at the last report. ``paced_batch`` is the batch
    that the reported step time belongs to. ``refusing`` is true from a refusal until the next
    report.
    """

    traits: Traits
    load: RemoteLoad = field(default_factory=RemoteLoad)
    flights: dict[str, Flight] = field(default_factory=dict)
    others: int = 0
    others_kv: float = 0.0
    reserved_kv: float = 0.0
    awaiting_prefill: int = 0
    paced_batch: int = 1
    refusing: bool = False

    @property
    def in_flight(self) -> int:
        return len(self.flights) + self.others

    def report(self, load: RemoteLoad) -> None:
        """Take in a frame's load. What it holds beyond our own requests belongs to others."""
        self.load = load
        self.refusing = False
        if load.running > 0:
            # The report of an engine that has just gone idle still has its last steps' time.
            self.paced_batch = load.running
        self.others = max(0, load.running + load.waiting - len(self.flights))
        # Now, and not when it is asked for: requests placed later hold none of what is reported.
        used = load.kv_use * self.traits.kv_tokens
        self.others_kv = used * self.others / max(1, self.in_flight)

    def add(self, flight: Flight) -> None:
        self.flights[flight.request.request_id] = flight
        self.reserved_kv += flight.reserved_kv
        self.awaiting_prefill += flight.request.prompt_tokens

    def emitted(self, flight: Flight, tokens: int) -> None:
        """Book ``tokens`` new output tokens of ``flight``."""
        if tokens and flight.emitted == 0:
            self.awaiting_prefill -= flight.request.prompt_tokens
        before = flight.reserved_kv
        flight.emitted += tokens
        if flight.emitted > flight.predicted:
            self.reserved_kv += flight.reserved_kv - before

    def remove(self, request_id: str) -> Flight | None:
        flight = self.flights.pop(request_id, None)
        if flight is not None:
            self.reserved_kv -= flight.reserved_kv
            if flight.emitted == 0:
                self.awaiting_prefill -= flight.request.prompt_tokens
        return flight

    @property
    def unit_step_s(self) -> float | None:
        """Seconds of a decode step of one request, from its reports; None before the first step."""
        if self.load.step_s <= 0.0:
            return None
        return self.load.step_s / math.pow(self.paced_batch, BATCH_EXPONENT)

    def kv_room(self) -> float:
        """KV tokens that no running request is expected to need."""
        return self.traits.kv_tokens - self.reserved_kv - self.others_kv


class Fleet:
    """The replicas that a gateway can reach, by id."""

    def __init__(self) -> None:
        self._replicas: dict[str, Replica] = {}

    def __iter__(self) -> Iterator[Replica]:
        return iter(self._replicas.values())

    def __len__(self) -> int:
        return len(self._replicas)

    def get(self, replica_id: str) -> Replica | None:
        return self._replicas.get(replica_id)

    def join(self, traits: Traits) -> Replica:
        """A replica has become reachable. Its id must be new."""
        if traits.replica_id in self._replicas:
            raise ValueError(f"replica {traits.replica_id} is already in the fleet")
        replica = self._replicas[traits.replica_id] = Replica(traits)
        return replica

    def leave(self, replica_id: str) -> Replica | None:
        return self._replicas.pop(replica_id, None)

    def open_to(self, model: str, tier: Tier) -> list[Replica]:
        """Replicas of ``model`` that take ``tier`` and are not draining."""
        return [
            replica
            for replica in self._replicas.values()
            if replica.traits.model == model
            and not replica.load.draining
            and (tier in replica.traits.tiers or tier in replica.traits.lends_to)
        ]
