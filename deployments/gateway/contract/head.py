"""The head of a request: whether it is let in, and what of it vLLM gets to see."""

import re
import uuid
from collections.abc import Mapping

from cluster.errors import AmbiguousHead, HeadersTooLarge, UrlTooLong
from deployments.compat.vllm_streams import CHUNKS_TO
from deployments.gateway.contract.asgi import Headers, Scope, Send
from deployments.gateway.contract.limits import Limits

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

# Headers that steer vLLM, those that describe the body as the client sent it, and credentials.
_DROPPED = frozenset(
    {
        b"x-request-id",
        b"x-session-id",
        b"x-data-parallel-rank",
        b"content-length",
        b"transfer-encoding",
        b"content-encoding",
        b"authorization",
        b"x-api-key",
        b"cookie",
    }
)
_DROPPED_PREFIX = b"x-vllm-"

_SINGLE = (
    *(b"host", b"content-length", b"content-type", b"content-encoding", b"transfer-encoding"),
    *(b"authorization", b"x-api-key"),
)
_HTTP_VERSIONS = ("1.0", "1.1", "2")


def check_head(scope: Scope, limits: Limits) -> None:
    """Raises ``TriremeError`` for a head that is too large, or that two servers may read
    differently."""
    if len(scope["path"]) + len(scope.get("query_string", b"")) > limits.max_url_bytes:
        raise UrlTooLong(limits.max_url_bytes)
    size = sum(len(name) + len(value) for name, value in scope["headers"])
    if len(scope["headers"]) > limits.max_headers or size > limits.max_header_bytes:
        raise HeadersTooLarge(limits.max_headers, limits.max_header_bytes)
    names = [name.lower() for name, _ in scope["headers"]]
    twice = {name for name in _SINGLE if names.count(name) > 1}
    if twice or (b"content-length" in names and b"transfer-encoding" in names):
        # What stands in front of us may have read the other one.
        raise AmbiguousHead
    if scope.get("http_version", "1.1") not in _HTTP_VERSIONS:
        raise AmbiguousHead


def inner_scope(scope: Scope, request_id: str, body_bytes: int, reply: Send) -> Scope:
    """The scope for vLLM's application, which is to send to ``reply``."""
    headers: Headers = [
        (name, value)
        for name, value in scope["headers"]
        if name.lower() not in _DROPPED and not name.lower().startswith(_DROPPED_PREFIX)
    ]
    # vLLM builds its own ids on this one.
    headers.append((b"x-request-id", request_id.encode()))
    headers.append((b"content-length", str(body_bytes).encode()))
    # From 2.4 on, Starlette notices a client that left only when it sends; vLLM's handlers must
    # hear of it at once.
    asgi = {**scope.get("asgi", {}), "spec_version": "2.3"}
    return {**scope, "headers": headers, "asgi": asgi, CHUNKS_TO: reply}


def request_id_of(headers: Mapping[bytes, bytes]) -> str:
    """The caller's own, if it is fit to be one; else a new one."""
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    return given if _REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
