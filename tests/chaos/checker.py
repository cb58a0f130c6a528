"""Checks every token of every stream as it arrives: value, order, no gap, no duplicate, the end."""

import asyncio
from dataclasses import dataclass, field

from cluster.config import SimulatedEngineConfig, Tier
from cluster.errors import PoisonRequest, TriremeError
from deployments.engine.channel.frames import LENGTH, STOP, Output, Sampling
from deployments.engine.simulated import reply
from deployments.gateway.context import RequestContext
from deployments.gateway.streams import Stream

KEPT_VIOLATIONS = 20


def expected_reply(
    prompt: list[int], tier: Tier, sampling: Sampling, config: SimulatedEngineConfig
) -> tuple[list[int], int]:
    """(tokens, finish code) of a run without faults: it is a function of prompt, tier and seed."""
    script = reply(prompt, tier, sampling.seed or 0, config)
    if len(script) <= sampling.max_tokens:
        return script, STOP
    return script[: sampling.max_tokens], LENGTH


@dataclass(slots=True, eq=False)
class Watched:
    """One stream as its client sees it. ``deadly``: it kills engines, and must be refused."""

    context: RequestContext
    tokens: list[int]
    finish: int
    deadly: bool
    done: asyncio.Event
    got: int = 0
    last_s: float = 0.0
    home: str | None = None
    left: bool = False


@dataclass(slots=True)
class Stall:
    """A pause in a stream that went on elsewhere, in seconds, under the fault of that time."""

    seconds: float
    cause: str


@dataclass(eq=False)
class Checker:
    """The front-end of a gateway: what reaches it would go to clients."""

    model: str
    watched: dict[str, Watched] = field(default_factory=dict)
    finished: int = 0
    tokens: int = 0
    moved: int = 0
    quarantined: int = 0
    cause: str = "none"
    stalls: list[Stall] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def deliver(self, outputs: list[tuple[Stream, Output]]) -> None:
        now = asyncio.get_running_loop().time()
        for stream, output in outputs:
            request_id = stream.request.request_id
            each = self.watched.get(request_id)
            if each is None:
                self._violated(f"{request_id}: something came after its end")
                continue
            self._take(request_id, each, output, now)

    def _take(self, request_id: str, each: Watched, output: Output, now: float) -> None:
        at, tokens = each.got, output.tokens
        if tokens != each.tokens[at : at + len(tokens)]:
            self._violated(f"{request_id} at {at}: got {tokens}, expected {each.tokens[at:][:8]}")
        if tokens:
            home = each.context.replica_id
            if at and home != each.home:
                self.moved += 1
                self.stalls.append(Stall(now - each.last_s, self.cause))
            each.home, each.last_s = home, now
        each.got += len(tokens)
        self.tokens += len(tokens)
        if output.finish is not None:
            if (each.got, output.finish) != (len(each.tokens), each.finish):
                self._violated(
                    f"{request_id} ended after {each.got} of {len(each.tokens)} tokens as "
                    f"{output.finish}, expected {each.finish}"
                )
            self.finished += 1
            self._end(request_id)

    def fail(self, stream: Stream, error: TriremeError) -> None:
        request_id = stream.request.request_id
        each = self.watched.get(request_id)
        if each is None:
            self._violated(f"{request_id} failed after its end: {error}")
            return
        if each.deadly and isinstance(error, PoisonRequest):
            self.quarantined += 1
        else:
            self._violated(f"{request_id} failed after {each.got} tokens: {error!r}")
        self._end(request_id)

    def _end(self, request_id: str) -> None:
        self.watched.pop(request_id).done.set()

    def leave(self, request_id: str) -> None:
        """The client goes away."""
        each = self.watched.pop(request_id)
        each.left = True
        each.done.set()

    def _violated(self, what: str) -> None:
        if len(self.violations) < KEPT_VIOLATIONS:
            self.violations.append(f"[{self.cause}] {what}")
