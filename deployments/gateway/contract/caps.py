"""The operator's cap on output tokens, for requests that set none of their own."""

from typing import Any

from deployments.gateway.contract.routes import Kind

LIMIT_FIELDS: dict[Kind, tuple[str, ...]] = {
    "chat": ("max_completion_tokens", "max_tokens"),
    "responses": ("max_output_tokens",),
}
"""Where these routes say how long an answer may get. Completions have a default of 16 tokens, and
Messages must name a limit."""


def cap_output(
    kind: Kind, body: dict[str, Any], cap_tokens: int | None, context_tokens: int | None
) -> None:
    """Write ``cap_tokens`` into a body that names no limit; None leaves it as it is.

    vLLM refuses a limit beyond the context, so a cap there counts as the context.
    """
    fields = LIMIT_FIELDS.get(kind, ())
    if cap_tokens is not None and fields and all(body.get(field) is None for field in fields):
        body[fields[0]] = min(cap_tokens, context_tokens or cap_tokens)
