"""The admin API: tenants, keys and the audit log over HTTP, for administrators only.

It has credentials of its own: no API key opens it, and its tokens open nothing else. Every change
goes through the ``Book``, in a thread, and is audited under the administrator's name.
"""

import asyncio
import dataclasses
import hmac
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cluster.config import AdminConfig
from cluster.errors import BodyTooLarge, InternalError, InvalidRequest, TriremeError, Unauthorized
from cluster.tenants.book import Actor, Book, Conflict, MadeKey, NotThere
from cluster.tenants.orders import NewKeyOrder, NewTenant, Rotation, TenantChange
from cluster.tenants.store import StoreError

ADMINS_VARIABLE = "TRIREME_ADMIN_TOKENS"
LEAST_TOKEN_CHARS = 32
MOST_BODY_BYTES = 65_536
MOST_LISTED = 1000

T = TypeVar("T", bound=BaseModel)


class BadAdmins(ValueError):
    """The administrators' tokens cannot be used. ``str()`` is one line and holds no token."""


class NotFound(InvalidRequest):
    status = 404
    code = "not_found"


class InConflict(InvalidRequest):
    status = 409
    code = "conflict"


class StoreAway(TriremeError):
    status = 503
    code = "store_away"


def read_admins(config: AdminConfig, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The administrators' tokens by name: a line ``name: token`` each. Raises ``BadAdmins``."""
    if config.tokens_file is not None:
        try:
            text = Path(config.tokens_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadAdmins(f"{config.tokens_file} cannot be read") from error
    else:
        text = environ.get(ADMINS_VARIABLE, "")
    admins: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        name, colon, token = (part.strip() for part in line.partition(":"))
        if not colon or not name or name in admins or len(token) < LEAST_TOKEN_CHARS:
            raise BadAdmins(
                f"line {number} of the administrators' tokens is not `name: token` with a name of "
                f"its own and {LEAST_TOKEN_CHARS} characters or more"
            )
        admins[name] = token
    if not admins:
        raise BadAdmins(
            f"the admin API has no tokens: set access.admin.tokens_file or the "
            f"variable {ADMINS_VARIABLE}"
        )
    return admins


class AdminApi:
    """``app`` is the ASGI application. ``admins`` are tokens by name."""

    def __init__(self, book: Book, admins: Mapping[str, str]) -> None:
        self._book = book
        self._admins = {name: token.encode() for name, token in admins.items()}
        get, post, patch, drop = ["GET"], ["POST"], ["PATCH"], ["DELETE"]
        tenant = "/admin/tenants/{name}"
        self.app = Starlette(
            routes=[
                Route("/admin/tenants", self._wrapped(self._tenants), methods=get),
                Route("/admin/tenants", self._wrapped(self._create_tenant), methods=post),
                Route(tenant, self._wrapped(self._tenant), methods=get),
                Route(tenant, self._wrapped(self._set_tenant), methods=patch),
                Route(tenant, self._wrapped(self._delete_tenant), methods=drop),
                Route("/admin/keys", self._wrapped(self._keys), methods=get),
                Route("/admin/keys", self._wrapped(self._create_key), methods=post),
                Route("/admin/keys/{id}/rotate", self._wrapped(self._rotate), methods=post),
                Route("/admin/keys/{id}/revoke", self._wrapped(self._revoke), methods=post),
                Route("/admin/audit", self._wrapped(self._audit), methods=get),
            ]
        )

    # -------------------------------------------------------------- around each answer

    def _wrapped(
        self, endpoint: Callable[[Request, Actor], Awaitable[Any]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                told = await endpoint(request, self._actor(request))
            except TriremeError as error:
                return _json(error.body(), error.status, error.headers())
            except NotThere as error:
                return _told(NotFound(str(error)))
            except Conflict as error:
                return _told(InConflict(str(error)))
            except StoreError:
                return _told(StoreAway("The store does not answer.", retry_after_s=2.0))
            return _json(told, 200)

        return answer

    def _actor(self, request: Request) -> Actor:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        given = token.strip().encode("latin-1")
        found = None
        # All of them, so that the time tells nothing of which was nearly right.
        for name, known in self._admins.items():
            if hmac.compare_digest(given, known):
                found = name
        if found is None or scheme.lower() != "bearer":
            raise Unauthorized("The admin API needs an administrator's token.")
        return Actor(f"admin:{found}", request.client.host if request.client else "")

    # -------------------------------------------------------------- tenants

    async def _tenants(self, _: Request, __: Actor) -> Any:
        return {"tenants": await asyncio.to_thread(self._book.tenants)}

    async def _tenant(self, request: Request, _: Actor) -> Any:
        return await asyncio.to_thread(self._book.tenant, request.path_params["name"])

    async def _create_tenant(self, request: Request, actor: Actor) -> Any:
        order = await _order(request, NewTenant)
        return await asyncio.to_thread(self._book.create_tenant, order, actor)

    async def _set_tenant(self, request: Request, actor: Actor) -> Any:
        order, name = await _order(request, TenantChange), request.path_params["name"]
        return await asyncio.to_thread(self._book.set_tenant, name, order, actor)

    async def _delete_tenant(self, request: Request, actor: Actor) -> Any:
        name, with_keys = request.path_params["name"], _flag(request, "with_keys")
        await asyncio.to_thread(self._book.delete_tenant, name, actor, with_keys=with_keys)
        return {"deleted": name}

    # -------------------------------------------------------------- keys

    async def _keys(self, request: Request, _: Actor) -> Any:
        tenant = request.query_params.get("tenant")
        return {"keys": await asyncio.to_thread(self._book.keys, tenant)}

    async def _create_key(self, request: Request, actor: Actor) -> Any:
        order = await _order(request, NewKeyOrder)
        return made_key(await asyncio.to_thread(self._book.create_key, order, actor))

    async def _rotate(self, request: Request, actor: Actor) -> Any:
        order, key_id = await _order(request, Rotation), request.path_params["id"]
        return made_key(await asyncio.to_thread(self._book.rotate_key, key_id, order, actor))

    async def _revoke(self, request: Request, actor: Actor) -> Any:
        return await asyncio.to_thread(self._book.revoke_key, request.path_params["id"], actor)

    async def _audit(self, request: Request, _: Actor) -> Any:
        limit = _number(request, "limit", 100)
        before = _number(request, "before", None)
        if limit is None or not 1 <= limit <= MOST_LISTED:
            raise InvalidRequest(f"`limit` must be 1 to {MOST_LISTED}.", param="limit")
        return {"audit": await asyncio.to_thread(self._book.audit, limit, before)}


def made_key(made: MadeKey) -> dict[str, Any]:
    """A new key, as it is shown this once."""
    return {**dataclasses.asdict(made.view), "key": made.key.text}


def _json(told: Any, status: int, headers: Mapping[str, str] | None = None) -> Response:
    # New keys are among the answers.
    kept_nowhere = {"cache-control": "no-store", **(headers or {})}
    return Response(msgspec.json.encode(told), status, kept_nowhere, "application/json")


def _told(error: TriremeError) -> Response:
    return _json(error.body(), error.status, error.headers())


def _flag(request: Request, name: str) -> bool:
    return request.query_params.get(name, "") in ("1", "true")


def _number(request: Request, name: str, default: int | None) -> int | None:
    value = request.query_params.get(name)
    if value is None:
        return default
    if not value.isascii() or not value.isdigit() or len(value) > 18:
        raise InvalidRequest(f"`{name}` must be a whole number.", param=name)
    return int(value)


async def _order(request: Request, kind: type[T]) -> T:
    raw = b""
    async for piece in request.stream():
        raw += piece
        if len(raw) > MOST_BODY_BYTES:
            raise BodyTooLarge(MOST_BODY_BYTES)
    try:
        return kind.model_validate_json(raw or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise InvalidRequest(
            f"{place or 'the body'}: {first['msg']}", param=place or None
        ) from error
    except RecursionError as error:
        raise InternalError(str(error)) from error
