"""What an engine is to the rest of Trireme: tokens in, one batch of token deltas out per step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from deployments.engine.channel.frames import Output, Submit


class EngineDead(Exception):
    """The engine cannot serve any more; only a new replica helps. ``blameless``: it was ended from
    outside, so that nothing it ran can be to blame."""

    def __init__(self, message: str, *, blameless: bool = False) -> None:
        super().__init__(message)
        self.blameless = blameless


class RequestRefused(Exception):
    """The engine does not take this request. ``retryable``: another replica may."""

    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


@dataclass(frozen=True)
class EngineInfo:
    """A started engine, all of it as the engine itself reports it.

    ``exact_sampling``: an answer that another such engine began goes on with the tokens that this
    engine would have written. Without, it goes on with others, as likely.
    """

    max_num_seqs: int
    max_model_len: int
    kv_tokens: int
    exact_sampling: bool = True


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Scheduler state after a step: requests running and waiting, share of the KV cache in use, and
    preemptions since the engine's start."""

    running: int
    waiting: int
    kv_use: float
    preemptions: int = 0


class CoreOutput(Protocol):
    """New tokens of one request; vLLM's ``EngineCoreOutput`` has this shape."""

    request_id: str
    new_token_ids: list[int]

    @property
    def finished(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class EngineStep:
    outputs: Sequence[CoreOutput]
    stats: EngineStats | None


class Engine(Protocol):
    """An engine with its TP group. All coroutines run on one event loop.

    ``next_step`` waits for the next engine step and raises ``EngineDead`` when there will be none;
    ``submit`` raises ``RequestRefused``; ``abort`` ignores unknown ids; ``pack`` turns one output
    into its wire form; ``check`` raises ``EngineDead``.
    """

    async def start(self) -> EngineInfo: ...
    async def submit(self, request_id: str, submit: Submit) -> None: ...
    async def abort(self, request_ids: list[str]) -> None: ...
    async def next_step(self) -> EngineStep: ...
    def pack(self, output: CoreOutput, stream: int) -> Output: ...
    def check(self) -> None: ...
    def stop(self) -> None: ...
