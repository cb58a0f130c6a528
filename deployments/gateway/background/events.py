"""The events of a response in the background, as OpenAI's streams have them. Pure.

They follow from the response alone, which has its end only once: an attempt that came to nothing
leaves no trace in them, and an event has the same number whenever, and at whatever gateway, it is
told. So who comes back goes on after the last one that he has.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

Event = dict[str, Any]

OPEN = ("queued", "in_progress")
"""Of a response that is not over."""

PIECE_CHARS = 2_000
"""Of text in one event."""

_TEXT_PARTS = {
    "output_text": ("output_text", "text"),
    "reasoning_text": ("reasoning_text", "text"),
    "refusal": ("refusal", "refusal"),
}
"""Of a part's type: what its events are called, and where its text stands."""

_LAST = {
    "completed": "response.completed",
    "incomplete": "response.incomplete",
    "failed": "response.failed",
}


def events_of(response: Mapping[str, Any]) -> list[Event]:
    """All that can be told of it as it stands."""
    status = response["status"]
    begun = {**response, "output": [], "completed_at": None, "error": None}
    begun["incomplete_details"] = None
    begun.pop("usage", None)
    queued = {**begun, "status": "queued"}
    told: list[Event] = [
        {"type": "response.created", "response": queued},
        {"type": "response.queued", "response": queued},
    ]
    if status != "queued":
        running = {**begun, "status": "in_progress"}
        told.append({"type": "response.in_progress", "response": running})
    if status not in OPEN:
        for place, item in enumerate(response["output"]):
            told += _item_events(item, place)
        told.append(_last_event(response))
    return [{**event, "sequence_number": number} for number, event in enumerate(told)]


def encoded(event: Event) -> bytes:
    """As it stands in a stream."""
    return b"event: %s\ndata: %s\n\n" % (event["type"].encode(), msgspec.json.encode(event))


def _last_event(response: Mapping[str, Any]) -> Event:
    kind = _LAST.get(response["status"])
    if kind is not None:
        return {"type": kind, "response": response}
    # OpenAI has no event of its own for it.
    return {
        "type": "error",
        "code": "response_cancelled",
        "message": "The response was cancelled.",
        "param": None,
    }


def _item_events(item: Mapping[str, Any], place: int) -> Iterator[Event]:
    """An output item: opened empty, filled, and whole."""
    content = item.get("content")
    parts = content if isinstance(content, list) else []
    empty = {**item, "status": "in_progress"}
    if parts:
        empty["content"] = []
    calls = item.get("type") == "function_call"
    if calls:
        empty["arguments"] = ""
    yield {"type": "response.output_item.added", "output_index": place, "item": empty}
    within = {"item_id": item.get("id") or f"item_{place}", "output_index": place}
    for index, part in enumerate(parts):
        yield from _part_events(part, {**within, "content_index": index})
    if calls:
        name = "response.function_call_arguments"
        for piece in _pieces(item["arguments"]):
            yield {"type": f"{name}.delta", **within, "delta": piece}
        whole = {"name": item["name"], "arguments": item["arguments"]}
        yield {"type": f"{name}.done", **within, **whole}
    yield {"type": "response.output_item.done", "output_index": place, "item": item}


def _part_events(part: Mapping[str, Any], within: Event) -> Iterator[Event]:
    name, field = _TEXT_PARTS.get(part["type"], ("", ""))
    empty = {**part, field: ""} if field else part
    more: Event = {}
    if name == "output_text":
        more = {"logprobs": []}
        empty = {**empty, "annotations": [], **more}
    yield {"type": "response.content_part.added", **within, "part": empty}
    if field:
        for piece in _pieces(part[field]):
            yield {"type": f"response.{name}.delta", **within, "delta": piece, **more}
        yield {"type": f"response.{name}.done", **within, field: part[field], **more}
    yield {"type": "response.content_part.done", **within, "part": part}


def _pieces(text: str) -> Iterator[str]:
    for begin in range(0, len(text), PIECE_CHARS):
        yield text[begin : begin + PIECE_CHARS]
