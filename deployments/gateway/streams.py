"""One generation as the gateway follows it, from vLLM's front-end to a replica and back."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from cluster.errors import TriremeError
from deployments.engine.channel.client import EngineLink
from deployments.engine.channel.frames import Output, Sampling, Submit
from deployments.gateway.context import RequestContext
from deployments.router import Flight, Request

CHANNEL = 200005
ANALYSIS = 35644
FINAL = 17196
MESSAGE = 200008
"""o200k_harmony ids of ``<|channel|>``, ``analysis``, ``final`` and ``<|message|>``."""

FIRST_MARKUP = 199998
"""The ids from here on are markup, not text."""


class FrontEnd(Protocol):
    """Where a model's tokens go: vLLM's front-end for that model."""

    model: str

    def deliver(self, outputs: list[tuple["Stream", Output]]) -> None: ...
    def fail(self, stream: "Stream", error: TriremeError) -> None: ...


class AnswerWatch:
    """Finds the first token of the final channel in a Harmony token stream.

    A stream that does not open with ``<|channel|>`` is no Harmony: its first token is the answer.
    The header of the final channel may name a format (``<|constrain|>json``) before its message.

    ``seen`` counts tokens. At ``limit`` of them, the text in analysis channels has
    ``max_analysis_tokens``; in every other channel there is none.
    """

    __slots__ = ("_before", "_header", "_in_text", "_left", "_open", "limit", "seen")

    def __init__(self, max_analysis_tokens: int | None = None) -> None:
        self._before = 0
        self._header = 0
        self._open = False
        self._in_text = False
        self._left = math.inf if max_analysis_tokens is None else max_analysis_tokens
        self.limit = math.inf
        self.seen = 0

    def feed(self, tokens: list[int]) -> int | None:
        """Count of tokens before the answer, once its first token is among ``tokens``."""
        if self._in_text and max(tokens) < FIRST_MARKUP:
            self.seen += len(tokens)  # once a token while it thinks
            return None
        for token in tokens:
            if self._open:
                return self.seen
            if self.seen == 0 and token != CHANNEL:
                return 0
            if token >= FIRST_MARKUP:
                self._on_markup(token)
            elif self._before == CHANNEL and token in (ANALYSIS, FINAL):
                self._header = token
            self._before = token
            self.seen += 1
        self._in_text = not (self._header or self._open or self._before == CHANNEL)
        return None

    def _on_markup(self, token: int) -> None:
        if self.limit < math.inf:  # the end of a text in the analysis channel
            self._left, self.limit = self.limit - self.seen, math.inf
        if token == CHANNEL:
            self._header = 0
        elif token == MESSAGE:
            if self._header == FINAL:
                self._open = True
            elif self._header == ANALYSIS:
                self.limit = self.seen + 1 + self._left
            self._header = 0


@dataclass(slots=True, eq=False)
class Stream:
    """A generation, over all the replicas that it comes to. Times are the event loop's, in seconds.

    ``number`` names its present attempt on the channel: what still comes for an earlier one has no
    stream. ``emitted`` are all output tokens that the front-end was given. ``variant`` tells it
    from others with the same prompt. ``span`` is the present attempt's, and ``traceparent`` tells
    the replica of it; neither is set if the request is not traced.

    ``journal`` is set if it can be resumed elsewhere: replicas keep what it writes under that name.
    ``recalled`` counts the tokens that another gateway's client had been sent before it came here,
    and ``paid`` those of them that the other one counts.
    """

    request: Request
    number: int
    prompt_token_ids: list[int]
    sampling: Sampling
    encoded: bytes
    context: RequestContext
    front_end: FrontEnd
    variant: Callable[[], bytes]
    flight: Flight | None = None
    link: EngineLink | None = None
    placements: int = 0
    emitted: list[int] = field(default_factory=list)
    first_token_s: float = 0.0
    last_token_s: float = 0.0
    answer_s: float | None = None
    traceparent: str = ""
    span: Any = None
    tokens_before_answer: int | None = None
    journal: str = ""
    recalled: int = 0
    paid: int = 0
    watch: AnswerWatch | None = field(default_factory=AnswerWatch)

    @property
    def tokens(self) -> int:
        """Output tokens so far."""
        return len(self.emitted)

    @property
    def counted(self) -> tuple[int, int]:
        """Its (analysis, final) tokens that are to be counted here; analysis comes first."""
        before = self.tokens_before_answer
        analysis = self.tokens if before is None else before
        here = max(0, analysis - self.paid)
        return here, self.tokens - self.paid - here

    def submission(self, number: int, priority: int, *, on_trial: bool) -> Submit:
        """What a replica is told: to begin, or to go on after what was emitted."""
        self.number = number
        self.placements += 1
        return Submit(
            number,
            self.prompt_token_ids,
            self.sampling,
            priority,
            self.request.tier,
            self.encoded,
            self.emitted,
            on_trial,
            self.traceparent,
            self.context.cache_salt,
            self.journal,
            0.0 if self.context.resume is None else self.context.resume.keep_s,
            self.request.deaths > 0,
        )

    def note(self, tokens: list[int], now: float) -> bool:
        """Book new tokens. True: it has thought for as long as it may, and still does."""
        if not self.emitted:
            self.first_token_s = now
        self.emitted += tokens
        self.last_token_s = now
        watch = self.watch
        if watch is None:
            return False
        before = watch.feed(tokens)
        if before is not None:
            self.answer_s, self.tokens_before_answer, self.watch = now, before, None
            return False
        return watch.seen >= watch.limit
