"""What one HTTP request has used so far, and what of it is put down when it is done."""

from dataclasses import dataclass, field

from cluster.quotas.reservation import Reservation
from cluster.quotas.work import Refused, Subject
from cluster.tenants.caller import Caller
from cluster.usage.prices import Prices
from cluster.usage.record import UsageRecord, plain
from deployments.gateway.context import RequestContext
from deployments.gateway.streams import Stream


@dataclass(slots=True)
class Generation:
    """One of a request's. ``prompt_tokens`` 0: another one pays for its ``prompt``. ``share_from``
    is its replica's ``share_s`` when it began to write."""

    prompt: str
    prompt_tokens: int
    reservation: Reservation | None = None
    aborted: bool = False
    cached_tokens: int = 0
    share_from: float | None = None
    gpu_s: float = 0.0


@dataclass(slots=True)
class Meter:
    """One HTTP request's. ``cached`` has the prompts that were counted (``n`` answers share one),
    and what was cached of each for the last answer that ended: so it is what vLLM tells. ``slot``
    is that of its first admission, None before."""

    subjects: tuple[Subject, ...]
    names: tuple[str, ...]
    open: dict[str, Generation] = field(default_factory=dict)
    cached: dict[str, int] = field(default_factory=dict)
    slot: int | None = None
    counted: bool = False
    prompt_tokens: int = 0
    analysis_tokens: int = 0
    final_tokens: int = 0
    gpu_s: float = 0.0
    done: "tuple[str, float] | None" = None


def record_of(context: RequestContext, meter: Meter, prices: Prices, at_s: float) -> UsageRecord:
    """Of a request that is done, in unix seconds ``at_s``."""
    outcome, duration_s = meter.done or ("failed", 0.0)
    caller = context.caller or Caller("", "")
    figures = context.figures
    output_tokens = meter.analysis_tokens + meter.final_tokens
    cached_tokens = min(meter.prompt_tokens, sum(meter.cached.values()))
    cost = prices.cost(
        context.model, context.tier, meter.prompt_tokens, output_tokens, cached_tokens
    )
    return UsageRecord(
        at_s,
        plain(context.request_id),
        plain(caller.tenant),
        plain(caller.team),
        plain(caller.project),
        plain(caller.key_id),
        context.model,
        context.route,
        context.asked_tier or context.tier,
        context.tier,
        meter.prompt_tokens,
        cached_tokens,
        meter.analysis_tokens,
        meter.final_tokens,
        meter.gpu_s,
        cost,
        outcome,
        None if figures is None else figures.first_token_s,
        duration_s,
    )


def generation_of(stream: Stream) -> Generation | None:
    meter: Meter | None = stream.context.meter
    return None if meter is None else meter.open.get(stream.request.request_id)


def too_long(subjects: tuple[Subject, ...], prompt_tokens: int) -> Refused | None:
    """A prompt that no minute has room for."""
    for subject in subjects:
        limit = subject.limits.tokens_per_minute
        if limit is not None and prompt_tokens > limit:
            return Refused(subject.name, "tokens_per_minute", limit, 0.0, never=True)
    return None
