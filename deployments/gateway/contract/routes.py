"""Which paths the gateway answers. vLLM registers many more; none of those is reachable."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cluster.errors import MethodNotAllowed, UnknownRoute

Kind = Literal[
    "health",
    "ready",
    "metrics",
    "openapi",
    "models",
    "model",
    "chat",
    "completions",
    "responses",
    "response",
    "input_items",
    "cancel",
    "messages",
    "tokenize",
    "usage",
    "files",
    "file",
    "file_content",
    "batches",
    "batch",
    "batch_cancel",
]

_MODEL_PREFIX = "/v1/models/"
_RESPONSE = re.compile(r"/v1/responses/(?P<id>resp_[A-Za-z0-9_-]{1,120})(?P<rest>/[a-z_]+)?")

_FILE = re.compile(r"/v1/files/(?P<id>file-[A-Za-z0-9_-]{1,59})(?P<rest>/content)?")
_BATCH = re.compile(r"/v1/batches/(?P<id>batch_[A-Za-z0-9_-]{1,58})(?P<rest>/cancel)?")

STORED: frozenset[Kind] = frozenset({"response", "input_items", "cancel"})
"""Routes of a response that was kept."""

BATCH: frozenset[Kind] = frozenset(
    {"files", "file", "file_content", "batches", "batch", "batch_cancel"}
)
"""Routes of files and batches."""

OPEN: frozenset[Kind] = frozenset({"health", "ready", "openapi"})
"""Answered without credentials: probes ask them, and they tell nothing of anybody."""


@dataclass(frozen=True, slots=True)
class Route:
    """One path. ``text_field`` is the field of its body that holds the prompt (errors name it)."""

    kind: Kind
    methods: tuple[str, ...]
    text_field: str | None = None

    @property
    def generates(self) -> bool:
        """The route takes a JSON body for a model and is answered by vLLM."""
        return self.text_field is not None


_MODEL = Route("model", ("GET",))

ROUTES: Mapping[str, Route] = {
    "/health": Route("health", ("GET", "HEAD")),
    "/ready": Route("ready", ("GET", "HEAD")),
    "/metrics": Route("metrics", ("GET",)),
    "/openapi.json": Route("openapi", ("GET",)),
    "/v1/models": Route("models", ("GET",)),
    "/v1/models/{model}": _MODEL,
    "/v1/usage": Route("usage", ("GET",)),
    "/v1/chat/completions": Route("chat", ("POST",), "messages"),
    "/v1/completions": Route("completions", ("POST",), "prompt"),
    "/v1/responses": Route("responses", ("POST",), "input"),
    "/v1/responses/{response_id}": Route("response", ("GET", "DELETE")),
    "/v1/responses/{response_id}/input_items": Route("input_items", ("GET",)),
    "/v1/responses/{response_id}/cancel": Route("cancel", ("POST",)),
    "/v1/files": Route("files", ("GET", "POST")),
    "/v1/files/{file_id}": Route("file", ("GET", "DELETE")),
    "/v1/files/{file_id}/content": Route("file_content", ("GET",)),
    "/v1/batches": Route("batches", ("GET", "POST")),
    "/v1/batches/{batch_id}": Route("batch", ("GET",)),
    "/v1/batches/{batch_id}/cancel": Route("batch_cancel", ("POST",)),
    "/v1/messages": Route("messages", ("POST",), "messages"),
    "/tokenize": Route("tokenize", ("POST",), "prompt"),
}


def find_route(method: str, path: str) -> Route:
    """The route of a request. Raises ``UnknownRoute`` and ``MethodNotAllowed``."""
    route = None if "{" in path else ROUTES.get(path)
    if route is None and path.startswith(_MODEL_PREFIX) and len(path) > len(_MODEL_PREFIX):
        route = _MODEL
    if route is None and (found := _RESPONSE.fullmatch(path)):
        route = ROUTES.get(f"/v1/responses/{{response_id}}{found['rest'] or ''}")
    if route is None and (found := _FILE.fullmatch(path)):
        route = ROUTES.get(f"/v1/files/{{file_id}}{found['rest'] or ''}")
    if route is None and (found := _BATCH.fullmatch(path)):
        route = ROUTES.get(f"/v1/batches/{{batch_id}}{found['rest'] or ''}")
    if route is None:
        raise UnknownRoute(method, path)
    if method not in route.methods:
        raise MethodNotAllowed(method, path, route.methods)
    return route


def speaks_anthropic(path: str) -> bool:
    """Clients of this path expect errors in Anthropic's form."""
    return path.startswith("/v1/messages")


def response_id(path: str) -> str:
    """The id in ``/v1/responses/{id}`` and below."""
    found = _RESPONSE.fullmatch(path)
    return "" if found is None else found["id"]


def is_file_id(text: str) -> bool:
    """Whether it may be the id of a file."""
    return "/" not in text and _FILE.fullmatch(f"/v1/files/{text}") is not None


def batch_object_id(path: str) -> str:
    """The id in ``/v1/files/{id}`` or ``/v1/batches/{id}``, and below."""
    found = _FILE.fullmatch(path) or _BATCH.fullmatch(path)
    return "" if found is None else found["id"]


def model_id(path: str) -> str:
    """The id in ``/v1/models/{id}``; it may contain slashes."""
    return path.removeprefix(_MODEL_PREFIX)
