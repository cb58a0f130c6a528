"""What one request has used: the row that adds up."""

import msgspec

from cluster.config import Tier

MAX_TEXT = 256
"""Characters of any name or id; more is cut."""


class UsageRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Of one HTTP request that generates. Tokens are those of its response's ``usage``:
    ``analysis_tokens`` and ``final_tokens`` are its output, ``cached_tokens`` a part of its prompt.

    ``at_s`` is when it ended, in unix seconds. ``gpu_s`` are GPU-seconds attributed to it, and
    ``cost`` is in the currency of the prices of then. ``outcome`` is that of ``trireme_requests``.
    ``ttft_s`` None: it had no token. Another gateway version may add fields at the end.
    """

    at_s: float
    request_id: str
    tenant: str
    team: str
    project: str
    key_id: str
    model: str
    route: str
    tier_asked: Tier
    tier_served: Tier
    prompt_tokens: int
    cached_tokens: int
    analysis_tokens: int
    final_tokens: int
    gpu_s: float
    cost: float
    outcome: str
    ttft_s: float | None
    duration_s: float


def plain(text: str) -> str:
    """``text`` as every database takes it."""
    return text.replace("\x00", "")[:MAX_TEXT]
