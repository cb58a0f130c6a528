"""One generation as the gateway follows it, from vLLM's front-end to a replica and back."""

from dataclasses import dataclass, field
from typing import Protocol

from cluster.errors import TriremeError
from deployments.engine.channel.client import EngineLink
from deployments.engine.channel.frames import Output, Submit
from deployments.gateway.context import RequestContext
from deployments.router import Flight, Request

CHANNEL = 200005
FINAL = 17196
MESSAGE = 200008
"""o200k_harmony ids of ``<|channel|>``, ``final`` and ``<|message|>``."""


class FrontEnd(Protocol):
    """Where a model's tokens go: vLLM's front-end for that model."""

    model: str

    def deliver(self, outputs: list[tuple["Stream", Output]]) -> None: ...
    def fail(self, stream: "Stream", error: TriremeError) -> None: ...


class AnswerWatch:
    """Finds the first token of the final channel in a Harmony token stream.

    A stream that does not open with ``<|channel|>`` is no Harmony: its first token is the answer.
    The header of the final channel may name a format (``<|constrain|>json``) before its message.
    """

    def __init__(self) -> None:
        self._before = 0
        self._in_header = False
        self._open = False
        self._seen = 0

    def feed(self, tokens: list[int]) -> int | None:
        """Count of tokens before the answer, once its first token is among ``tokens``."""
        for token in tokens:
            if self._open:
                return self._seen
            if self._seen == 0 and token != CHANNEL:
                return 0
            if token == CHANNEL:
                self._in_header = False
            elif self._before == CHANNEL and token == FINAL:
                self._in_header = True
            elif self._in_header and token == MESSAGE:
                self._open = True
            self._before = token
            self._seen += 1
        return None


@dataclass(slots=True, eq=False)
class Stream:
    """A generation. ``number`` names it on the channel; times are the event loop's, in seconds."""

    request: Request
    number: int
    submit: Submit
    context: RequestContext
    front_end: FrontEnd
    flight: Flight | None = None
    link: EngineLink | None = None
    tokens: int = 0
    first_token_s: float = 0.0
    last_token_s: float = 0.0
    answer_s: float | None = None
    tokens_before_answer: int | None = None
    watch: AnswerWatch | None = field(default_factory=AnswerWatch)

    def note(self, tokens: list[int], now: float) -> bool:
        """Book new tokens; true for the first ones of the stream."""
        if not tokens:
            return False  # an engine may end a generation without another token
        first = self.tokens == 0
        if first:
            self.first_token_s = now
        self.tokens += len(tokens)
        if self.flight is not None:
            self.flight.emitted = self.tokens
        self.last_token_s = now
        if self.watch is not None:
            before = self.watch.feed(tokens)
            if before is not None:
                self.answer_s, self.tokens_before_answer, self.watch = now, before, None
        return first
