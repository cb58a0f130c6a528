"""Reading an upload: ``multipart/form-data`` with one file, passed on while it comes."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from cluster.errors import BodyTooLarge, InvalidRequest, SlowRequest, UnsupportedMediaType
from deployments.gateway.contract.asgi import Receive
from deployments.gateway.contract.body import ClientLeft

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

IDLE_S = 30.0
"""A sender that is silent for so long has gone, or wants to hold a connection."""

MOST_S = 3600.0
"""For the whole upload."""

MAX_FIELDS = 16
MAX_FIELD_BYTES = 1024
MAX_BOUNDARY_CHARS = 70
"""As RFC 2046 has it."""

HANDED_ON_BYTES = 1 << 20

_FRAME_BYTES = 16_384
"""What a form may have around its file."""


@dataclass(slots=True)
class Form:
    """The fields of the form, apart from its file. ``filename`` None: it has none."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None


async def read_upload(
    headers: Mapping[bytes, bytes],
    receive: Receive,
    write: Callable[[bytes], Awaitable[None]],
    max_file_bytes: int,
) -> Form:
    """Gives the file to ``write`` in pieces. Raises ``InvalidRequest`` and its kind,
    ``ClientLeft``, and what ``write`` raises."""
    boundary = _boundary(headers)
    limit_bytes = max_file_bytes + _FRAME_BYTES
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and (len(declared) > 18 or int(declared) > limit_bytes):
        raise BodyTooLarge(max_file_bytes)
    reader = _Reader()
    parser = MultipartParser(boundary, reader.callbacks())
    size = 0
    try:
        async with asyncio.timeout(MOST_S):
            more = True
            while more:
                async with asyncio.timeout(IDLE_S):
                    message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                chunk = message.get("body", b"")
                size += len(chunk)
                more = message.get("more_body", False)
                parser.write(chunk)
                if size > limit_bytes or reader.file_bytes > max_file_bytes:
                    raise BodyTooLarge(max_file_bytes)
                if reader.held_bytes >= HANDED_ON_BYTES or not more:
                    await write(reader.take())
            parser.finalize()
    except TimeoutError as error:
        raise SlowRequest(IDLE_S) from error
    except MultipartParseError as error:
        raise InvalidRequest("The form cannot be read.", code="invalid_form") from error
    if not reader.ended:
        raise InvalidRequest("The form has no end.", code="invalid_form")
    return reader.form


def _boundary(headers: Mapping[bytes, bytes]) -> bytes:
    given = headers.get(b"content-type", b"")
    kind, options = parse_options_header(given)
    if kind != b"multipart/form-data":
        raise UnsupportedMediaType(given.decode("latin-1"), "multipart/form-data")
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= MAX_BOUNDARY_CHARS:
        raise InvalidRequest("The form has no boundary.", code="invalid_form")
    return boundary


class _Reader:
    """What the parser calls. Only the part called ``file`` is passed on."""

    def __init__(self) -> None:
        self.form = Form()
        self.ended = False
        self.file_bytes = self.held_bytes = 0
        self._held: list[bytes] = []
        self._name = ""
        self._value = b""
        self._is_file = False
        self._header = b""
        self._header_value = b""
        self._parts = 0

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_piece,
            "on_header_end": self._header_end,
            "on_part_data": self._data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def take(self) -> bytes:
        """What of the file has come since the last time."""
        taken, self._held, self.held_bytes = b"".join(self._held), [], 0
        return taken

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_FIELDS:
            raise InvalidRequest("The form has too many fields.", code="invalid_form")
        self._name, self._value, self._is_file = "", b"", False
        self._header = self._header_value = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_piece(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(self._header_value)
            self._name = options.get(b"name", b"").decode("utf-8", "replace")
            if self._name == "file":
                if self.form.filename is not None:
                    raise InvalidRequest("The form has more than one file.", param="file")
                self._is_file = True
                filename = options.get(b"filename", b"").decode("utf-8", "replace")
                printable = "".join(each for each in filename if each.isprintable())
                self.form.filename = printable[-256:] or "file"
        self._header = self._header_value = b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._held.append(data[start:end])
            self.held_bytes += end - start
            self.file_bytes += end - start
            return
        self._value += data[start:end]
        if len(self._value) > MAX_FIELD_BYTES:
            raise InvalidRequest("A field of the form is too long.", code="invalid_form")

    def _end_part(self) -> None:
        if self._name and not self._is_file:
            self.form.fields[self._name[:64]] = self._value.decode("utf-8", "replace")

    def _end(self) -> None:
        self.ended = True
