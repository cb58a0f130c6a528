"""A response that is asked for with ``background``, as its caller sees it before it has an answer,
or when there will be none. Pure."""

from collections.abc import Mapping
from typing import Any

import msgspec

from cluster.errors import InvalidRequest

NOT_REPEATED = ("background", "input", "store", "stream", "stream_options")
"""Fields of a request that are kept apart, or settled."""

MAX_MESSAGE_CHARS = 1000


def request_of(body: Mapping[str, Any]) -> bytes:
    """What is kept of a body to be asked later; without its input. Raises ``InvalidRequest``."""
    kept = {name: value for name, value in body.items() if name not in NOT_REPEATED}
    try:
        return msgspec.json.encode(kept)
    except (OverflowError, ValueError) as error:
        raise InvalidRequest("An integer in the body is too large.") from error


def whole_request(request: bytes, items: bytes) -> bytes:
    """The body that asks for it: it is kept by whoever asks."""
    fields = msgspec.json.decode(request, type=dict[str, msgspec.Raw])
    return msgspec.json.encode({**fields, "input": msgspec.Raw(items), "store": False})


def is_wanted(body: Mapping[str, Any]) -> bool:
    """Whether a body asks for it. Raises ``InvalidRequest``."""
    given = body.get("background")
    if given is not None and not isinstance(given, bool):
        raise InvalidRequest(
            "`background` must be true or false.", param="background", code="invalid_type"
        )
    return given is True


def check_may_wait(body: Mapping[str, Any], *, stored_here: bool) -> None:
    """Raises ``InvalidRequest`` where the response cannot be in the background."""
    if not stored_here:
        raise InvalidRequest(
            "`background` cannot be set here: responses are not stored.",
            param="background",
            code="unsupported_parameter",
        )
    if not isinstance(body.get("input"), str | list):
        raise InvalidRequest(
            "`input` is required and must be a string or a list.",
            param="input",
            code="invalid_type",
        )


def not_kept() -> InvalidRequest:
    """The response is not to be stored, by its request or by the policy."""
    return InvalidRequest(
        "`background` can only be used when `store` is true.",
        param="background",
        code="invalid_value",
    )


def queued_response(
    response_id: str,
    created_at: float,
    body: Mapping[str, Any],
    previous_id: str | None,
    effort: str,
    service_tier: str,
) -> dict[str, Any]:
    """OpenAI's Response of a request that was found good; ``body`` is as vLLM gets it."""

    def given(name: str, otherwise: Any = None) -> Any:
        value = body.get(name)
        return otherwise if value is None else value

    return {
        "id": response_id,
        "object": "response",
        "created_at": int(created_at),
        "completed_at": None,
        "status": "queued",
        "background": True,
        "error": None,
        "incomplete_details": None,
        "instructions": given("instructions"),
        "max_output_tokens": given("max_output_tokens"),
        "max_tool_calls": given("max_tool_calls"),
        "metadata": given("metadata"),
        "model": given("model"),
        "output": [],
        "parallel_tool_calls": given("parallel_tool_calls", True),
        "previous_response_id": previous_id,
        "presence_penalty": given("presence_penalty", 0.0),
        "frequency_penalty": given("frequency_penalty", 0.0),
        "reasoning": {"summary": None, **given("reasoning", {}), "effort": effort},
        "service_tier": service_tier,
        "store": True,
        "temperature": given("temperature", 1.0),
        "text": given("text", {"format": {"type": "text"}}),
        "tool_choice": given("tool_choice", "auto"),
        "tools": [_tool(each) for each in given("tools", [])],
        "top_p": given("top_p", 1.0),
        "truncation": "disabled",
        **({"user": body["user"]} if body.get("user") is not None else {}),
    }


def _tool(tool: Any) -> Any:
    if isinstance(tool, dict) and tool.get("type") == "function":
        return {"strict": None, "parameters": None, **tool}
    return tool


def with_status(shown: bytes, status: str) -> bytes:
    """What was shown, as it stands now."""
    return msgspec.json.encode({**msgspec.json.decode(shown), "status": status})


def failed_response(shown: bytes, status: int, body: bytes) -> bytes:
    """What was shown, of one that was answered with an error of HTTP's ``status``."""
    try:
        message = msgspec.json.decode(body)["error"]["message"]
    except (msgspec.DecodeError, LookupError, TypeError):
        message = None
    if not isinstance(message, str):
        message = "The response could not be made."
    error = {"code": _code(status), "message": message[:MAX_MESSAGE_CHARS]}
    return msgspec.json.encode({**msgspec.json.decode(shown), "status": "failed", "error": error})


def _code(status: int) -> str:
    """Of those that OpenAI's schema has."""
    if status == 429:
        return "rate_limit_exceeded"
    # Whose key is good no more cannot help it by another prompt.
    return "invalid_prompt" if 400 <= status < 500 and status not in (401, 403) else "server_error"


def answered_response(shown: bytes, body: bytes) -> tuple[bytes, bytes] | None:
    """Output items, and the rest of the response, of an answer that has come; None: it is none."""
    try:
        response = msgspec.json.decode(body)
        before = msgspec.json.decode(shown)
        output = msgspec.json.encode(response["output"])
        same = {name: before[name] for name in ("id", "created_at", "background", "store")}
        return output, msgspec.json.encode({**response, **same, "output": []})
    except (msgspec.DecodeError, LookupError, TypeError):
        return None
