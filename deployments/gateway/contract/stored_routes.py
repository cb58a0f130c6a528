"""``/v1/responses/{id}`` and what is below it: responses that were kept."""

from typing import Any
from urllib.parse import parse_qsl

from cluster.errors import InvalidRequest, UnknownResponse
from cluster.tenants.caller import Caller
from deployments.gateway.contract.asgi import Receive, Scope, Send, answer_json, as_headers
from deployments.gateway.contract.routes import Kind, response_id
from deployments.gateway.contract.told_events import EVENT_STREAM, tell_events
from deployments.gateway.stored_responses import StoredResponses

MAX_PAGE = 100
PAGE = 20
MAX_QUERY_FIELDS = 16


async def answer_stored(
    stored: StoredResponses | None,
    caller: Caller | None,
    kind: Kind,
    scope: Scope,
    path: str,
    receive: Receive,
    send: Send,
    request_id: str,
) -> None:
    """Raises ``TriremeError``; where nothing is kept, nothing is found."""
    tenant, wanted = "" if caller is None else caller.tenant, response_id(path)
    named = {"x-request-id": request_id}
    if stored is None or stored.policy(tenant) is None:
        raise UnknownResponse(wanted, kept=False)
    fields = _fields(scope.get("query_string", b""))
    answered: dict[str, Any]
    if kind == "input_items":
        items = await stored.input_items(tenant, wanted)
        answered = _page([_listed(item, wanted, i) for i, item in enumerate(items)], fields)
    elif kind == "cancel":
        answered = await stored.cancel(tenant, wanted)
    elif scope["method"] == "DELETE":
        await stored.delete(tenant, wanted)
        answered = {"id": wanted, "object": "response", "deleted": True}
    else:
        streams, after = _streams(fields), _starting_after(fields)
        answered = await stored.response(tenant, wanted)
        if streams:
            _check_streamed_again(answered)
            head = as_headers({"cache-control": "no-cache", "x-accel-buffering": "no", **named})
            head += EVENT_STREAM
            await tell_events(stored, tenant, answered, after, head, receive, send)
            return
    await answer_json(send, 200, answered, named)


def _streams(fields: dict[str, str]) -> bool:
    return fields.get("stream", "false").lower() not in ("false", "0")


def _starting_after(fields: dict[str, str]) -> int:
    """The number of the last event that the client has; -1: none."""
    given = fields.get("starting_after")
    if given is None:
        return -1
    if not (given.isascii() and given.isdigit() and len(given) < 10):
        raise InvalidRequest(
            "`starting_after` must be the number of an event.", param="starting_after"
        )
    return int(given)


def _check_streamed_again(response: dict[str, Any]) -> None:
    if response.get("background") is not True:
        raise InvalidRequest(
            "Only a response that was made in the background can be streamed again; ask for this "
            "one without `stream`.",
            param="stream",
            code="unsupported_parameter",
        )


def _fields(query: bytes) -> dict[str, str]:
    try:
        return dict(parse_qsl(query.decode("ascii"), max_num_fields=MAX_QUERY_FIELDS))
    except ValueError as error:
        raise InvalidRequest("The query cannot be read.") from error


def _listed(item: Any, of: str, place: int) -> Any:
    """An input item as OpenAI lists it: with an id, and text in parts."""
    if not isinstance(item, dict):
        return item
    kind = item.get("type") or "message"
    prefix = "msg" if kind == "message" else "item"
    listed = {"id": f"{prefix}_{of.removeprefix('resp_')}_{place}", "type": kind, **item}
    if kind == "message" and isinstance(item.get("content"), str):
        part = "output_text" if item.get("role") == "assistant" else "input_text"
        listed["content"] = [{"type": part, "text": item["content"]}]
        if part == "output_text":
            listed["content"][0]["annotations"] = []
    if kind == "message":
        listed.setdefault("status", "completed")
    return listed


def _page(items: list[Any], fields: dict[str, str]) -> dict[str, Any]:
    limit = fields.get("limit", str(PAGE))
    if not (limit.isascii() and limit.isdigit() and len(limit) < 9 and 1 <= int(limit) <= MAX_PAGE):
        raise InvalidRequest(f"`limit` must be between 1 and {MAX_PAGE}.", param="limit")
    order = fields.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest("`order` must be asc or desc.", param="order")
    if order == "desc":
        items = items[::-1]
    after = fields.get("after")
    if after is not None:
        places = [i for i, each in enumerate(items) if _id(each) == after]
        if not places:
            raise InvalidRequest("There is no item of that id.", param="after")
        items = items[places[0] + 1 :]
    page = items[: int(limit)]
    return {
        "object": "list",
        "data": page,
        "first_id": _id(page[0]) if page else None,
        "last_id": _id(page[-1]) if page else None,
        "has_more": len(items) > len(page),
    }


def _id(item: Any) -> Any:
    return item.get("id") if isinstance(item, dict) else None
