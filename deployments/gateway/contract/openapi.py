"""The OpenAPI document of what a gateway serves, made from the tables that the door works by."""

from typing import Any

from cluster.batches.lines import ENDPOINTS
from deployments.gateway.contract.fields import PASSED, REFUSED, STRIPPED
from deployments.gateway.contract.routes import OPEN, ROUTES, STORED, Kind
from deployments.gateway.contract.service_tier import SERVICE_TIERS
from deployments.gateway.contract.values import MAX_CHOICES, MAX_TOP_LOGPROBS
from deployments.router.tiers import TIER_OF_EFFORT

VERSION = "1"

_ABOUT: dict[Kind, str] = {
    "chat": "OpenAI's Chat Completions, unary and streamed. Reasoning comes as `reasoning`.",
    "responses": "OpenAI's Responses, unary and streamed.",
    "response": "A response that was kept, where the operator allows that; or its deletion.",
    "input_items": "The items that its request brought.",
    "cancel": "Ends a response that was created with `background`; tells one that is over.",
    "messages": "Anthropic's Messages, unary and streamed.",
    "completions": "OpenAI's legacy Completions: a raw prompt, or its token ids.",
    "tokenize": "The tokens of a prompt.",
    "models": "Every name that a caller may write, tiers and aliases included.",
    "model": "One of these names.",
    "health": "Whether the process lives.",
    "ready": "Whether every model has a replica.",
    "metrics": "Prometheus metrics.",
    "usage": "What the caller's tenant has used: see `docs/quotas.md`.",
    "openapi": "This document.",
    "files": "The caller's files, for batches; or a new one.",
    "file": "One of them; or its deletion.",
    "file_content": "What is in it.",
    "batches": "The caller's batches; or a new one: see `docs/batch.md`.",
    "batch": "One of them, with its progress.",
    "batch_cancel": "Starts no more of its requests.",
}
_EFFORT = {"type": "string", "enum": list(TIER_OF_EFFORT)}
_WHOLE = {"type": "integer", "minimum": 1}
_FIELDS: dict[str, dict[str, Any]] = {
    "model": {"type": "string"},
    "stream": {"type": "boolean", "default": False},
    "background": {"type": "boolean", "default": False},
    "n": {**_WHOLE, "maximum": MAX_CHOICES},
    "top_logprobs": {"type": "integer", "minimum": 0, "maximum": MAX_TOP_LOGPROBS},
    "max_tokens": _WHOLE,
    "max_completion_tokens": _WHOLE,
    "max_output_tokens": _WHOLE,
    "reasoning_effort": _EFFORT,
    "reasoning": {"type": "object", "properties": {"effort": _EFFORT}},
    "output_config": {"type": "object", "properties": {"effort": _EFFORT}},
    "service_tier": {"type": "string", "enum": list(SERVICE_TIERS)},
    "stream_options": {"type": "object"},
    "response_format": {"type": "object"},
    "messages": {"type": "array", "minItems": 1, "items": {"type": "object"}},
    "tools": {"type": "array", "items": {"type": "object"}},
}
_REQUIRED: dict[Kind, list[str]] = {
    "chat": ["model", "messages"],
    "messages": ["model", "messages"],
    "responses": ["model", "input"],
    "completions": ["model", "prompt"],
    "tokenize": ["model"],
}
_PATH_NAMES = dict.fromkeys(STORED, "response_id") | {
    "model": "model",
    "file": "file_id",
    "file_content": "file_id",
    "batch": "batch_id",
    "batch_cancel": "batch_id",
}
_NAMES = {
    ("response", "DELETE"): "delete_response",
    ("file", "DELETE"): "delete_file",
    ("files", "POST"): "create_file",
    ("batches", "POST"): "create_batch",
}
_BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("files", "POST"): {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file", "purpose"],
                "properties": {
                    "file": {"type": "string", "format": "binary"},
                    "purpose": {"type": "string", "enum": ["batch"]},
                },
            }
        }
    },
    ("batches", "POST"): {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["input_file_id", "endpoint", "completion_window"],
                "properties": {
                    "input_file_id": {"type": "string"},
                    "endpoint": {"type": "string", "enum": list(ENDPOINTS)},
                    "completion_window": {"type": "string", "enum": ["24h"]},
                    "metadata": {
                        "type": "object",
                        "additionalProperties": {"type": "string", "maxLength": 512},
                        "maxProperties": 16,
                    },
                },
            }
        }
    },
}
_STREAMED = [
    {"name": "stream", "in": "query", "schema": {"type": "boolean", "default": False}},
    {"name": "starting_after", "in": "query", "schema": {"type": "integer", "minimum": 0}},
]
"""Of a response that was made in the background."""
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_HEADERS = {
    "x-request-id": "The caller's own, if it is at most 128 letters, digits and `._:-`.",
    "openai-processing-ms": "Until the head of the answer was sent.",
    "x-trireme-tier": "The tier that serves the request.",
    "x-trireme-asked-tier": "The tier asked for, where another one serves.",
    "x-trireme-replica": "The replica that serves the request.",
    "x-trireme-ignored": "Fields of the request that are the operator's to set.",
}
_PROBLEMS = (
    *("400", "401", "403", "404", "405", "408", "413", "414", "415", "422", "429", "431"),
    *("500", "503"),
)
_CREDENTIALS = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, or a token of the identity provider, where callers need one.",
    },
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}


def document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    paths: dict[str, Any] = {}
    for path, route in ROUTES.items():
        for method in route.methods:
            if method != "HEAD":
                paths.setdefault(path, {})[method.lower()] = _operation(route.kind, method)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Trireme", "version": VERSION},
        "paths": paths,
        "components": {"schemas": {"Error": _ERROR}, "securitySchemes": _CREDENTIALS},
    }


def _operation(kind: Kind, method: str) -> dict[str, Any]:
    name = _NAMES.get((kind, method), kind)
    operation: dict[str, Any] = {"operationId": name, "summary": _ABOUT[kind]}
    named = _PATH_NAMES.get(kind)
    if named is not None:
        in_path = {"name": named, "in": "path", "required": True, "schema": {"type": "string"}}
        operation["parameters"] = [in_path]
        if (kind, method) == ("response", "GET"):
            operation["parameters"] += _STREAMED
    if (kind, method) in _BODIES:
        operation["requestBody"] = {"required": True, "content": _BODIES[kind, method]}
    answer: dict[str, Any] = {"description": "The answer."}
    if kind in PASSED:
        fields = PASSED[kind] | ({"service_tier"} if kind in ("chat", "responses") else set())
        schema = {
            "type": "object",
            "required": _REQUIRED[kind],
            "properties": {name: _FIELDS.get(name, {}) for name in sorted(fields)},
            "description": (
                f"Ignored and named in `x-trireme-ignored`: {', '.join(sorted(STRIPPED))}. "
                f"Refused: {', '.join(sorted(REFUSED.keys() - PASSED[kind]))}. Any other field is "
                "ignored."
            ),
        }
        body = {"required": True, "content": {"application/json": {"schema": schema}}}
        operation["requestBody"] = body
        answer["headers"] = {
            name: {"description": about, "schema": {"type": "string"}}
            for name, about in _HEADERS.items()
        }
    problem = {
        "description": "An error.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    if kind not in OPEN:
        # Empty: or none of them, where `access.mode` is `none`.
        operation["security"] = [{"bearer": []}, {"key": []}, {}]
    operation["responses"] = {"200": answer} | dict.fromkeys(_PROBLEMS, problem)
    return operation
