"""Errors in the form that the client of each route understands, and vLLM's own brought into it."""

import logging
import re
from dataclasses import dataclass, field
from typing import Any

import msgspec

from cluster.errors import (
    ContextTooLong,
    InternalError,
    InvalidRequest,
    NoReplica,
    TriremeError,
    clipped,
)
from deployments.gateway.contract.routes import Kind

log = logging.getLogger("trireme.gateway")

_MAX_MESSAGE_CHARS = 300
_MAX_ECHO_CHARS = 80

_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}

# The words in which vLLM says that a prompt is too long; (limit, got), in this order or named.
_TOO_LONG = (
    re.compile(
        r"maximum context length is (?P<limit>\d+) tokens.* contains (?:at least )?(?P<got>\d+)"
        r" input tokens",
        re.S,
    ),
    re.compile(r"Input length \((?P<got>\d+)\) exceeds .*context length \((?P<limit>\d+)\)"),
    re.compile(r"prompt \(length (?P<got>\d+)\).* maximum model length of (?P<limit>\d+)", re.S),
)
# One entry of vLLM's account of a failed pydantic validation.
_VALIDATION = re.compile(
    r"'loc': '(?P<loc>[^']*)', 'msg': (?P<quote>['\"])(?P<msg>.*?)(?P=quote), "
)
_PARAMETER = re.compile(r" \(parameter=.*\)$", re.S)
_QUOTED = re.compile(r"'[^']{80,}'|\"[^\"]{80,}\"|`[^`]{80,}`|\S{81,}")


@dataclass(frozen=True, slots=True)
class Fault:
    """An error as it goes out. ``status`` is HTTP's; ``error`` is OpenAI's error object."""

    status: int
    error: dict[str, str | None]
    headers: dict[str, str] = field(default_factory=dict)

    def body(self, anthropic: bool) -> dict[str, Any]:
        """The response body: OpenAI's, or Anthropic's with OpenAI's keys in it."""
        if not anthropic:
            return {"error": self.error}
        kind = _ANTHROPIC_TYPES.get(
            self.status, "api_error" if self.status >= 500 else "invalid_request_error"
        )
        return {"type": "error", "error": {**self.error, "type": kind}}

    def events(self, kind: Kind, sequence_number: int) -> bytes:
        """The last events of a stream that fails after it began.

        OpenAI's libraries raise on any event with an ``error`` key; on the Responses route they
        expect an event of type ``error``, whose fields stand beside its type.
        """
        if kind == "messages":
            return b"event: error\ndata: " + msgspec.json.encode(self.body(True)) + b"\n\n"
        if kind == "responses":
            event = {
                "type": "error",
                "code": self.error["code"],
                "message": self.error["message"],
                "param": self.error["param"],
                "sequence_number": sequence_number,
            }
            return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"
        data = msgspec.json.encode({"error": self.error})
        return b"data: " + data + b"\n\ndata: [DONE]\n\n"


def fault_of(error: TriremeError) -> Fault:
    """An error of ours."""
    return Fault(error.status, error.body()["error"], error.headers())


def vllm_fault(status: int, raw: bytes, request_id: str, text_field: str | None) -> Fault:
    """An error answer of vLLM's (or of its framework), whatever its form.

    The status stays, but for 501 (asked for something vLLM cannot do), which is the caller's to
    change: 400. What vLLM says of a fault of the server's goes into the log only.
    """
    message, param = _read(raw)
    if status >= 500 and status != 501:
        log.error("vLLM answered %s: %s", status, message[:500], extra={"request_id": request_id})
        return fault_of(NoReplica() if status == 503 else InternalError())
    for pattern in _TOO_LONG:
        if found := pattern.search(message):
            return fault_of(ContextTooLong(int(found["limit"]), int(found["got"]), text_field))
    if found := _VALIDATION.search(message):
        param, message = found["loc"], found["msg"]
    param = _param(param)
    message = _short(message) or "The request is not valid."
    if param is not None and param not in message:
        message = f"Invalid `{param}`: {message}"
    fault = fault_of(InvalidRequest(message, param=param))
    return Fault(400 if status == 501 else status, fault.error)


def event_fault(event: bytes, request_id: str, text_field: str | None) -> Fault:
    """An error event of vLLM's own inside a stream."""
    _, _, data = event.partition(b"data: ")
    raw = data.partition(b"\n")[0]
    try:
        code = msgspec.json.decode(raw)["error"]["code"]
    except (msgspec.DecodeError, LookupError, TypeError):
        code = 500
    return vllm_fault(
        code if isinstance(code, int) and 400 <= code <= 599 else 500, raw, request_id, text_field
    )


def _read(raw: bytes) -> tuple[str, str | None]:
    """(message, param) of an error body in any of the forms that vLLM and FastAPI have."""
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "", None
    error = body.get("error", body.get("detail")) if isinstance(body, dict) else None
    if isinstance(error, dict):
        message, param = error.get("message"), error.get("param")
        return str(message or ""), param if isinstance(param, str) else None
    return error if isinstance(error, str) else "", None


def _param(loc: str | None) -> str | None:
    """The field in the caller's words; pydantic also names the classes that it tried."""
    if loc is None:
        return None
    steps = [step for step in loc.split(".") if step != "body" and not step[:1].isupper()]
    return clipped(".".join(steps)) or None


def _short(message: str) -> str:
    """vLLM quotes the caller's values; none comes back longer than ``_MAX_ECHO_CHARS``."""
    message = _PARAMETER.sub("", message.removeprefix("Value error, "))
    cut = _QUOTED.sub(lambda found: clipped(found[0], _MAX_ECHO_CHARS), message)
    return clipped(cut, _MAX_MESSAGE_CHARS)
