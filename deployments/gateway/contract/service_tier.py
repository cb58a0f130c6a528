"""OpenAI's ``service_tier``: what a caller may ask for, what he gets, and what he is told.

Three of OpenAI's classes are served: ``priority`` goes ahead of everything else, if the operator
lets the caller's tenant do so; ``flex`` is served when there is nothing else to do, and waits
longer for it; all others are ``default``. Who does not ask, or leaves it to the server (``auto``),
gets the best that his tenant may have. As with OpenAI, the field of the answer is the class that
was used, not the one that was wished for.
"""

from typing import Any, Literal

from cluster.errors import InvalidRequest, clipped
from cluster.tenants.caller import Caller
from deployments.gateway.contract.routes import Kind

SERVICE_TIERS = ("auto", "default", "flex", "scale", "priority", "fast", "ultrafast")
"""OpenAI's words, of chat and of responses."""

ServiceTier = Literal["default", "flex", "priority"]


def service_tier(
    kind: Kind, body: dict[str, Any], caller: Caller | None
) -> tuple[ServiceTier, bool]:
    """The class in which the request is served, and whether the caller asks for one at all.

    Raises ``InvalidRequest`` for a word that is none of OpenAI's. Anthropic's field of this name
    has other words and does not come back in this form: it is not looked at.
    """
    best: ServiceTier = "priority" if caller is not None and caller.priority else "default"
    asked = body.get("service_tier")
    if asked is None or kind not in ("chat", "responses"):
        return best, False
    if asked not in SERVICE_TIERS:
        told = f"'{clipped(asked)}'" if isinstance(asked, str) else "what was sent"
        words = ", ".join(f"'{each}'" for each in SERVICE_TIERS)
        raise InvalidRequest(
            f"Invalid value: {told}. Supported values are: {words}.",
            param="service_tier",
            code="invalid_value" if isinstance(asked, str) else "invalid_type",
        )
    if asked == "flex":
        return "flex", True
    return best if asked in ("auto", "priority") else "default", True
