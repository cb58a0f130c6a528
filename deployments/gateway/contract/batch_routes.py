"""``/v1/files`` and ``/v1/batches``, as OpenAI has them."""

import contextlib
from typing import Any
from urllib.parse import parse_qsl

from cluster.batches.files import Page
from cluster.batches.lines import ENDPOINTS
from cluster.errors import InvalidRequest, StoreAway, UnknownRoute
from cluster.tenants.caller import Caller
from deployments.gateway.batches.desk import BatchDesk
from deployments.gateway.contract.asgi import Receive, Scope, Send, answer_json, as_headers
from deployments.gateway.contract.body import decode_body, read_body
from deployments.gateway.contract.routes import Kind, batch_object_id, is_file_id
from deployments.gateway.contract.upload import Form, read_upload

MAX_QUERY_FIELDS = 16
MAX_ORDER_BYTES = 65_536
ORDER_S = 60.0
MAX_FILES_PAGE = 10_000
MAX_BATCHES_PAGE = 100
MAX_METADATA = 16
MAX_KEY_CHARS = 64
MAX_VALUE_CHARS = 512
MIN_EXPIRES_S = 3600
MAX_EXPIRES_S = 2_592_000


async def answer_batch(
    desk: BatchDesk | None,
    caller: Caller | None,
    kind: Kind,
    scope: Scope,
    path: str,
    receive: Receive,
    send: Send,
    request_id: str,
) -> None:
    """Answer the request. Raises ``TriremeError`` before anything is sent, and ``ClientLeft``."""
    method = scope["method"]
    if desk is None:
        raise UnknownRoute(method, path)
    named = {"x-request-id": request_id}
    wanted = batch_object_id(path)
    headers = {name.lower(): value for name, value in scope["headers"]}
    if kind == "file_content":
        await _send_content(desk, caller, wanted, send, named)
        return
    query = _query(scope.get("query_string", b""))
    if kind == "files":
        if method == "POST":
            answered = await _upload(desk, caller, headers, receive)
        else:
            answered = await _files(desk, caller, query)
    elif kind == "file":
        answered = await _file(desk, caller, wanted, method)
    elif kind == "batches":
        if method == "POST":
            body = decode_body(await read_body(headers, receive, MAX_ORDER_BYTES, ORDER_S))
            answered = await _create(desk, caller, body)
        else:
            page = _page(query, MAX_BATCHES_PAGE, 20)
            answered = _list(*await desk.batch_page(caller, page))
    elif kind == "batch":
        answered = await desk.batch(caller, wanted)
    else:
        answered = await desk.cancel(caller, wanted)
    await answer_json(send, 200, answered, named)


# ------------------------------------------------------------------ files


async def _upload(
    desk: BatchDesk, caller: Caller | None, headers: dict[bytes, bytes], receive: Receive
) -> dict[str, Any]:
    upload = await desk.begin_upload(caller)
    try:
        try:
            form = await read_upload(headers, receive, upload.write, desk.config.max_file_bytes)
            expires_s = _check_form(form)
            assert form.filename is not None
            return await upload.done(form.filename, "batch", expires_s)
        except BaseException:
            with contextlib.suppress(StoreAway):
                await upload.discard()
            raise
    finally:
        desk.end_upload()


def _check_form(form: Form) -> float | None:
    """Seconds after which the file goes, None if the form does not say."""
    if form.filename is None:
        raise InvalidRequest("`file` is required.", param="file")
    purpose = form.fields.get("purpose")
    if purpose is None:
        raise InvalidRequest("`purpose` is required.", param="purpose")
    if purpose != "batch":
        raise InvalidRequest(
            "Files are for batches here: `purpose` must be 'batch'.",
            param="purpose",
            code="invalid_value",
        )
    given = form.fields.get("expires_after[seconds]")
    anchor = form.fields.get("expires_after[anchor]")
    if given is None and anchor is None:
        return None
    whole = given is not None and given.isascii() and given.isdigit() and len(given) < 9
    if anchor != "created_at" or given is None or not whole:
        raise InvalidRequest(
            "`expires_after` needs the anchor 'created_at' and whole seconds.",
            param="expires_after",
        )
    if not MIN_EXPIRES_S <= int(given) <= MAX_EXPIRES_S:
        raise InvalidRequest(
            f"`expires_after[seconds]` must be between {MIN_EXPIRES_S} and {MAX_EXPIRES_S}.",
            param="expires_after",
        )
    return float(given)


async def _files(desk: BatchDesk, caller: Caller | None, query: dict[str, str]) -> dict[str, Any]:
    page, purpose = _page(query, MAX_FILES_PAGE, MAX_FILES_PAGE), query.get("purpose")
    if purpose not in (None, "batch", "batch_output"):
        return _list([], False)  # there are no others
    return _list(*await desk.file_page(caller, page, purpose))


async def _file(
    desk: BatchDesk, caller: Caller | None, file_id: str, method: str
) -> dict[str, Any]:
    if method == "DELETE":
        await desk.delete_file(caller, file_id)
        return {"id": file_id, "object": "file", "deleted": True}
    return await desk.file(caller, file_id)


async def _send_content(
    desk: BatchDesk, caller: Caller | None, file_id: str, send: Send, named: dict[str, str]
) -> None:
    size_bytes = (await desk.file(caller, file_id))["bytes"]
    pieces = desk.contents(file_id, size_bytes)
    # The first piece before the head: a folder that does not answer still gets its status.
    first = await anext(pieces, b"")
    head = {
        "content-type": "application/octet-stream",
        "content-length": str(size_bytes),
        "x-content-type-options": "nosniff",
        **named,
    }
    await send({"type": "http.response.start", "status": 200, "headers": as_headers(head)})
    await send({"type": "http.response.body", "body": first, "more_body": True})
    async for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


# ------------------------------------------------------------------ batches


async def _create(desk: BatchDesk, caller: Caller | None, body: dict[str, Any]) -> dict[str, Any]:
    file_id, endpoint = body.get("input_file_id"), body.get("endpoint")
    if not isinstance(file_id, str) or not is_file_id(file_id):
        raise InvalidRequest(
            "`input_file_id` is required and must be the id of a file.", param="input_file_id"
        )
    if endpoint not in ENDPOINTS:
        allowed = ", ".join(f"'{each}'" for each in ENDPOINTS)
        raise InvalidRequest(
            f"Invalid `endpoint`. Supported values are: {allowed}.",
            param="endpoint",
            code="invalid_value",
        )
    if body.get("completion_window") != "24h":
        raise InvalidRequest(
            "Invalid `completion_window`: it must be '24h'.",
            param="completion_window",
            code="invalid_value",
        )
    if body.get("output_expires_after") is not None:
        # Whoever asks for it relies on the files being gone by then.
        raise InvalidRequest(
            "`output_expires_after` is not supported.",
            param="output_expires_after",
            code="unsupported_parameter",
        )
    return await desk.create(caller, endpoint, file_id, _metadata(body.get("metadata")))


def _metadata(given: Any) -> dict[str, str]:
    if given is None:
        return {}
    good = (
        isinstance(given, dict)
        and len(given) <= MAX_METADATA
        and all(
            len(key) <= MAX_KEY_CHARS and isinstance(value, str) and len(value) <= MAX_VALUE_CHARS
            # PostgreSQL has no place for it in a text.
            and "\0" not in key + value
            for key, value in given.items()
        )
    )  # fmt: skip
    if not good:
        raise InvalidRequest(
            f"`metadata` must be an object of at most {MAX_METADATA} strings of at most "
            f"{MAX_VALUE_CHARS} characters, under names of at most {MAX_KEY_CHARS}.",
            param="metadata",
        )
    return dict(given)


# ------------------------------------------------------------------ lists


def _query(query: bytes) -> dict[str, str]:
    try:
        return dict(parse_qsl(query.decode("ascii"), max_num_fields=MAX_QUERY_FIELDS))
    except ValueError as error:
        raise InvalidRequest("The query cannot be read.") from error


def _page(query: dict[str, str], most: int, default: int) -> Page:
    limit = query.get("limit", str(default))
    if not (limit.isascii() and limit.isdigit() and len(limit) < 9 and 1 <= int(limit) <= most):
        raise InvalidRequest(f"`limit` must be between 1 and {most}.", param="limit")
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest("`order` must be asc or desc.", param="order")
    after = query.get("after")
    if after is not None and (not after.isprintable() or len(after) > 64):
        raise InvalidRequest("There is nothing of that id.", param="after")
    return Page(int(limit), after, order == "desc")


def _list(items: list[dict[str, Any]], more: bool) -> dict[str, Any]:
    ends = {"first_id": items[0]["id"], "last_id": items[-1]["id"]} if items else {}
    return {"object": "list", "data": items, **ends, "has_more": more}
