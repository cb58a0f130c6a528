"""Two repairs of vLLM's Response objects, each done once a request.

vLLM adds ``*_per_turn`` lists to the usage details, on which OpenAI's JavaScript Agents SDK rejects
a whole stream. It leaves out ``error``, which OpenAI's schema requires, and ``store``, for which
clients then assume true although nothing is stored.
"""

from typing import Any

import msgspec

FINAL_EVENTS = (b"event: response.completed", b"event: response.incomplete")


def repaired_body(body: bytes) -> bytes:
    """A whole unary response."""
    try:
        response = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return body
    return msgspec.json.encode(_repaired(response))


def repaired_event(event: bytes) -> bytes:
    """The last event of a stream, which carries the whole response."""
    name, _, rest = event.partition(b"\ndata: ")
    try:
        data = msgspec.json.decode(rest)
    except msgspec.DecodeError:
        return event
    if isinstance(data, dict):
        data["response"] = _repaired(data.get("response"))
    return name + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"


def _repaired(response: Any) -> Any:
    if not isinstance(response, dict):
        return response
    usage = response.get("usage")
    if isinstance(usage, dict):
        for details in usage.values():
            if isinstance(details, dict):
                for key in [key for key in details if key.endswith("_per_turn")]:
                    del details[key]
    response.setdefault("error", None)
    response.setdefault("store", False)
    return response
