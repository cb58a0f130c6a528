"""What a client is told of its limits: OpenAI's ``x-ratelimit-*`` headers, and refusals."""

import math
from collections.abc import Iterator, Sequence

from cluster.errors import BudgetExhausted, OverLimit, RateLimited, TriremeError
from cluster.quotas.ledger import leaves_at
from cluster.quotas.work import Kind, Refused, Subject, Verdict

_WORDS: dict[Kind, str] = {
    "requests_per_minute": "requests per minute",
    "tokens_per_minute": "tokens per minute",
    "concurrent_requests": "requests at once",
    "tokens_per_day": "tokens per day",
    "tokens_per_month": "tokens per month",
    "cost_per_day": "cost per day",
    "cost_per_month": "cost per month",
}


def duration(seconds: float) -> str:
    """As OpenAI writes it: ``120ms``, ``1s``, ``6m0s``, ``1h2m3s``. Rounded up."""
    if seconds < 1.0:
        return f"{max(0, math.ceil(1000 * seconds))}ms" if seconds > 0 else "0s"
    whole = math.ceil(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{left}s"
    return f"{minutes}m{left}s" if minutes else f"{left}s"


def headers_of(subjects: Sequence[Subject], verdict: Verdict) -> dict[str, str]:
    """``x-ratelimit-{limit,remaining,reset}-{requests,tokens}`` of the bounds per minute that have
    least left. ``reset``: when all of it is left again, if nothing else comes."""
    told: dict[str, str] = {}
    for what, limit, used, newest in _tightest(subjects, verdict):
        reset_s = max(0.0, leaves_at(newest) - verdict.now) if used > 0 else 0.0
        told[f"x-ratelimit-limit-{what}"] = str(limit)
        told[f"x-ratelimit-remaining-{what}"] = str(max(0, limit - used))
        told[f"x-ratelimit-reset-{what}"] = duration(reset_s)
    return told


def _tightest(subjects: Sequence[Subject], verdict: Verdict) -> Iterator[tuple[str, int, int, int]]:
    pairs = list(zip(subjects, verdict.uses, strict=True))
    requests = [
        (limit - uses.requests, limit, uses.requests, uses.newest_slot)
        for subject, uses in pairs
        if (limit := subject.limits.requests_per_minute) is not None
    ]
    tokens = [
        (limit - uses.tokens, limit, uses.tokens, uses.newest_slot)
        for subject, uses in pairs
        if (limit := subject.limits.tokens_per_minute) is not None
    ]
    for what, found in (("requests", requests), ("tokens", tokens)):
        if found:
            yield (what, *min(found)[1:])


def error_of(refused: Refused) -> TriremeError:
    """The 429 of a refusal. It names the kind of limit, not whose it is."""
    words = _WORDS[refused.kind]
    amount = f"{refused.limit:,.2f}" if refused.kind.startswith("cost") else f"{refused.limit:,.0f}"
    if refused.never:
        return OverLimit(f"The prompt is longer than the limit of {amount} {words}.")
    if refused.kind.endswith(("_day", "_month")):
        message = f"The budget of {amount} {words} does not suffice for this request."
        return BudgetExhausted(message, retry_after_s=refused.wait_s)
    message = f"Rate limit reached: {amount} {words}. Try again in {duration(refused.wait_s)}."
    return RateLimited(message, retry_after_s=refused.wait_s)
