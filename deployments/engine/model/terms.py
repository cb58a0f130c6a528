"""What the engine model takes and tells: its limits, its events, its load, and what it refuses."""

from dataclasses import dataclass
from enum import Enum

from msgspec import Struct

from cluster.facts import KV_BLOCK_TOKENS
from deployments.engine.model.work import Work

WINDOW_BLOCKS = 9
"""Blocks a request holds for the 18 layers with a window: 127 tokens back, and one begun."""


class EventKind(Enum):
    FIRST_TOKEN = "first-token"
    FINISHED = "finished"
    PREEMPTED = "preempted"


class Event(Struct):
    """What became of ``work`` at ``at_s``; ``tokens`` is how many it has written by then."""

    kind: EventKind
    work: Work
    at_s: float
    tokens: int


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What a replica can do at once. ``kv_blocks`` are blocks of ``block_tokens`` tokens."""

    max_num_seqs: int
    max_num_batched_tokens: int
    kv_blocks: int
    prefix_caching: bool = True
    max_waiting: int = 1 << 20
    block_tokens: int = KV_BLOCK_TOKENS
    window_blocks: int = WINDOW_BLOCKS

    def __post_init__(self) -> None:
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError("max_num_batched_tokens is less than max_num_seqs")


class EngineLoad(Struct, frozen=True):
    """``prefill_tokens`` are prompt tokens still to compute, of running and waiting requests."""

    running: int
    waiting: int
    kv_use: float
    kv_free_tokens: int
    step_s: float
    prefill_tokens: int


class TooLarge(ValueError):
    """A request that this replica could never hold to its end."""


class EngineFull(Exception):
    """``max_waiting`` requests wait already."""
