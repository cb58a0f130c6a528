"""What clients of a simulated cluster ask for, and what became of it."""

import math
from dataclasses import dataclass
from typing import Literal

from msgspec import Struct

from cluster.config import Tier

Status = Literal["finished", "refused", "expired", "cancelled", "failed", "unfinished"]
"""``refused`` at admission, ``expired`` in a queue, ``failed`` by a fault, ``unfinished`` when the
run ended first."""


class Arrival(Struct, frozen=True):
    """One request as its client sends it. Times are seconds of virtual time.

    ``output_tokens`` is what the model would write if nothing stopped it, the last
    ``answer_tokens`` of them in the final channel. Prompts share prefixes in two ways: the first
    ``shared_tokens`` are the text number ``shared`` (a system prompt, say), and what follows is the
    beginning of the text number ``session`` (0: a text of its own that nobody else begins with); a
    session's text goes on with the output. ``patience_s``: the client leaves after so long.

    ``workload`` and ``client`` say whom the outcome is told to. A retry carries ``waited_s``, the
    time since its client first asked.
    """

    at_s: float
    tier: Tier
    prompt_tokens: int
    output_tokens: int
    answer_tokens: int = 1
    tenant: str = ""
    session: int = 0
    shared: int = 0
    shared_tokens: int = 0
    max_tokens: int = 131_072
    patience_s: float = math.inf
    attempt: int = 0
    workload: int = 0
    client: int = 0
    waited_s: float = 0.0

    @property
    def reusable(self) -> bool:
        """Whether any other prompt may begin like this one."""
        return self.session != 0 or self.shared_tokens > 0


@dataclass(slots=True)
class Outcome:
    """What became of an arrival. Times that never came are NaN; ``replica`` is empty then."""

    arrival: Arrival
    number: int
    gateway: int
    status: Status = "unfinished"
    served_tier: Tier = "medium"
    ended_s: float = math.nan
    placed_s: float = math.nan
    first_token_s: float = math.nan
    first_answer_s: float = math.nan
    tokens: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    replica: str = ""
    retry_after_s: float = math.nan

    @property
    def ttft_s(self) -> float:
        """Time to first token of any channel, from the client's request."""
        return self.first_token_s - self.arrival.at_s

    @property
    def tpot_s(self) -> float:
        """Mean time per output token after the first; NaN for fewer than two tokens."""
        if self.tokens < 2:
            return math.nan
        return (self.ended_s - self.first_token_s) / (self.tokens - 1)
