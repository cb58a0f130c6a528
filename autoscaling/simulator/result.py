"""What one run of a scenario leaves behind."""

from dataclasses import dataclass

from autoscaling.simulator.work import Outcome


@dataclass(frozen=True, slots=True)
class Sample:
    """How the cluster stood at a moment, over all gateways and replicas.

    ``queued`` counts requests in gateways' queues by tier (low, medium, high), ``running`` those
    placed on replicas; ``kv_use`` is the mean share of KV blocks in use, ``replicas`` those ready.
    """

    at_s: float
    queued: tuple[int, int, int]
    running: int
    kv_use: float
    replicas: int


@dataclass(frozen=True, slots=True)
class RunResult:
    """One run: ``replica_seconds`` counts each GPU of a replica, ``wall_s`` is real time."""

    outcomes: list[Outcome]
    replica_seconds: float
    wall_s: float
    series: list[Sample]
