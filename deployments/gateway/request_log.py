"""One log line for each request that has ended: ids and figures, never text."""

import logging

from cluster.tracing import trace_id
from deployments.gateway.context import RequestContext

log = logging.getLogger("trireme.request")

SURPRISING = ("failed", "refused")


def log_request(context: RequestContext, status: int, outcome: str, now: float) -> None:
    """``now`` is on the clock of ``context.received_s``. A failed or refused one is a warning."""
    level = logging.WARNING if outcome in SURPRISING else logging.INFO
    if not log.isEnabledFor(level):
        return
    told: dict[str, str | int | float | None] = {
        "route": context.route,
        "status": status,
        "outcome": outcome,
        "took_s": round(now - context.received_s, 4),
    }
    figures = context.figures
    if figures is not None:
        told |= {
            "waited_s": round(figures.waited_s, 4),
            "first_token_s": _rounded(figures.first_token_s),
            "answer_s": _rounded(figures.answer_s),
            "prompt_tokens": figures.prompt_tokens,
            "cached_tokens": figures.cached_tokens,
            "output_tokens": figures.output_tokens,
            "analysis_tokens": figures.analysis_tokens,
            "placements": figures.placements,
            "failovers": figures.failovers,
        }
    if context.asked_tier is not None:
        told["asked_tier"] = context.asked_tier
    if context.failure is not None:
        told["error"] = type(context.failure).__name__
    if context.trace is not None and context.trace.is_recording():
        told["trace_id"] = trace_id(context.trace)
    extra = {
        "request_id": context.request_id,
        "model": context.model,
        "tier": context.tier,
        "replica": context.replica_id or "",
        "figures": told,
    }
    log.log(level, "request", extra=extra)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
