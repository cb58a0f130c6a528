"""OpenAI's ``service_tier``: what a caller may ask for, and what he is told that he got.

Here every request runs in the one class that there is, so whatever was asked for, ``default`` is
what the answer says. OpenAI does the same when it has no room in the class asked for: the field of
the answer is the class that was used, not the one that was wished for.
"""

from typing import Any

from cluster.errors import InvalidRequest, clipped
from deployments.gateway.contract.routes import Kind

SERVICE_TIERS = ("auto", "default", "flex", "scale", "priority", "fast", "ultrafast")
"""OpenAI's words, of chat and of responses."""

USED = "default"


def used_service_tier(kind: Kind, body: dict[str, Any]) -> str | None:
    """The class in which the request is served; None if the caller does not ask.

    Raises ``InvalidRequest`` for a word that is none of OpenAI's. Anthropic's field of this name
    has other words and does not come back in this form: it is not looked at.
    """
    asked = body.get("service_tier")
    if asked is None or kind not in ("chat", "responses"):
        return None
    if asked not in SERVICE_TIERS:
        told = f"'{clipped(asked)}'" if isinstance(asked, str) else "what was sent"
        words = ", ".join(f"'{each}'" for each in SERVICE_TIERS)
        raise InvalidRequest(
            f"Invalid value: {told}. Supported values are: {words}.",
            param="service_tier",
            code="invalid_value" if isinstance(asked, str) else "invalid_type",
        )
    return USED
