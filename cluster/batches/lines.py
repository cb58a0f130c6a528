"""One line of a batch's input, read and checked; and the lines of its output. Pure."""

from dataclasses import dataclass
from typing import Any

import msgspec

ENDPOINTS = ("/v1/chat/completions", "/v1/responses", "/v1/completions")
"""What a batch may be for."""

MAX_CUSTOM_ID_CHARS = 512
MAX_ERRORS = 100
"""That are told of one input file; the rest of it is not read."""


@dataclass(eq=False)
class LineFault(Exception):
    """Why an input file is refused. ``line`` counts from 1; None: the whole file."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """OpenAI's ``BatchError``."""
        return {
            "code": self.code,
            "message": self.message,
            "param": self.param,
            "line": self.line,
        }


class InputLine(msgspec.Struct):
    """A request, as it stands in the file; ``body`` stays what it is, byte for byte."""

    custom_id: str
    body: msgspec.Raw


class _Envelope(msgspec.Struct):
    custom_id: Any = None
    method: Any = None
    url: Any = None
    body: msgspec.Raw = msgspec.Raw(b"")


class _Body(msgspec.Struct):
    model: Any = None
    stream: Any = None
    background: Any = None


_envelope = msgspec.json.Decoder(_Envelope)
_body = msgspec.json.Decoder(_Body)
_any = msgspec.json.Decoder()


@dataclass(frozen=True, slots=True)
class Checked:
    """What the store keeps of a good line. ``model`` is the name that its body asks for."""

    custom_id: str
    model: str


def check_line(raw: bytes, number: int, endpoint: str, max_bytes: int) -> Checked:
    """Raises ``LineFault``."""
    if len(raw) > max_bytes:
        raise LineFault("line_too_large", f"A line is at most {max_bytes} bytes.", number)
    try:
        _any.decode(raw)  # all of it is JSON, and in UTF-8
        found = _envelope.decode(raw)
        body = _body.decode(found.body) if bytes(found.body) else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LineFault(
            "invalid_json_line", "This line is not parseable as a JSON object.", number
        ) from error
    custom_id = found.custom_id
    if (
        not isinstance(custom_id, str)
        or not 0 < len(custom_id) <= MAX_CUSTOM_ID_CHARS
        or (
            "\0" in custom_id  # PostgreSQL has no place for it in a text
        )
    ):
        raise LineFault(
            "missing_required_parameter" if custom_id is None else "invalid_custom_id",
            f"`custom_id` must be a string of 1 to {MAX_CUSTOM_ID_CHARS} characters.",
            number,
            "custom_id",
        )
    if found.method != "POST":
        raise LineFault("invalid_method", "`method` must be POST.", number, "method")
    if found.url != endpoint:
        message = "`url` must be the endpoint of the batch."
        raise LineFault("mismatched_url", message, number, "url")
    if body is None:
        raise LineFault("missing_required_parameter", "`body` is required.", number, "body")
    for field in ("stream", "background"):
        if getattr(body, field) not in (None, False):
            message = f"`{field}` cannot be used in a batch."
            raise LineFault("unsupported_parameter", message, number, f"body.{field}")
    return Checked(custom_id, _model(body.model))


def _model(name: Any) -> str:
    return name.replace("\0", "")[:256] if isinstance(name, str) else ""


def read_line(raw: bytes) -> InputLine:
    """A line that was checked before."""
    return msgspec.json.decode(raw, type=InputLine)


def line_id(batch_id: str, number: int) -> str:
    """The id of a line in the output; ``number`` counts from 0."""
    return f"batch_req_{batch_id.removeprefix('batch_')}_{number}"


def answered_line(
    batch_id: str, number: int, custom_id: str, status: int, request_id: str, body: bytes
) -> bytes:
    """A line of the output or the error file. ``body`` is JSON."""
    response = {"status_code": status, "request_id": request_id, "body": msgspec.Raw(body)}
    return _output_line(batch_id, number, custom_id, response, None)


def unanswered_line(batch_id: str, number: int, custom_id: str, code: str, message: str) -> bytes:
    """A line of the error file, of a request that was not executed."""
    return _output_line(batch_id, number, custom_id, None, {"code": code, "message": message})


def _output_line(
    batch_id: str,
    number: int,
    custom_id: str,
    response: dict[str, Any] | None,
    error: dict[str, str] | None,
) -> bytes:
    line = {
        "id": line_id(batch_id, number),
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }
    return msgspec.json.encode(line) + b"\n"
