"""Repairs of vLLM's Response objects, at the few events of a stream that carry one or its items.

vLLM adds ``*_per_turn`` lists to the usage details, on which OpenAI's JavaScript Agents SDK rejects
a whole stream, and fields of its engines. It leaves out ``error`` and ``completed_at``, which
OpenAI's schema has, and ``store``, for which clients then assume true whether it is stored or not.
It ends a stream that met the cap with ``response.completed``, and writes null where the schema has
a list, an object, or nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from cluster.batches.views import Owner
from cluster.conversations.background import Order
from cluster.errors import InternalError
from deployments.gateway.background.later import queued_response
from deployments.gateway.contract.turn import Turn

OPENING_EVENTS = (b"event: response.created", b"event: response.in_progress")
FINAL_EVENTS = (b"event: response.completed", b"event: response.incomplete")
ITEM_EVENTS = (b"event: response.output_item.", b"event: response.content_part.")

_VLLMS_OWN = ("kv_transfer_params", "ec_transfer_params", "input_messages", "output_messages")

_NULLABLE = ("parameters", "strict")
"""Of a tool."""


@dataclass(frozen=True, slots=True)
class ResponseShape:
    """One request's words, which its Response repeats.

    ``effort`` is the one asked for, not the tier that it maps to. ``unix_s`` is the wall clock.
    """

    effort: str
    service_tier: str
    unix_s: Callable[[], float]
    turn: Turn

    async def whole(self, body: bytes) -> bytes:
        """A unary response, which is kept before it goes out."""
        try:
            response = msgspec.json.decode(body)
        except msgspec.DecodeError:
            return body
        return msgspec.json.encode(await self._kept(self._repaired(response)))

    async def queued(self, response_id: str, body: bytes, owner: Owner) -> bytes:
        """The response to a request that is answered later, once it is stored. ``body`` is as vLLM
        would get it now. Raises ``TriremeError``."""
        turn, created_at = self.turn, self.unix_s()
        if turn.stored is None or turn.items is None or turn.later is None:
            raise InternalError("a response that is not kept cannot be in the background")
        asked = msgspec.json.decode(body)
        response = queued_response(
            response_id, created_at, asked, turn.previous_id, self.effort, self.service_tier
        )
        shown = msgspec.json.encode(response)
        order = Order(
            response_id, owner, turn.previous_id, created_at, turn.items, turn.later, shown
        )
        await turn.stored.order(order)
        return shown

    async def event(self, event: bytes) -> bytes:
        """An event that carries the whole response, or an item or a part of it. The response of
        the last one is kept before that goes out: who reads the end finds it at every gateway."""
        name, _, rest = event.partition(b"\ndata: ")
        try:
            data = msgspec.json.decode(rest)
        except msgspec.DecodeError:
            return event
        if not isinstance(data, dict):
            return event
        if "item" in data:
            data["item"] = _item(data["item"])
        if "part" in data:
            data["part"] = _part(data["part"])
        if "response" in data:
            response = self._repaired(data.get("response"))
            if event.startswith(FINAL_EVENTS):
                response = await self._kept(response)
            data["response"] = response
            if isinstance(response, dict) and response.get("status") == "incomplete":
                data["type"] = "response.incomplete"
                name = b"event: response.incomplete"
        return name + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"

    async def _kept(self, response: Any) -> Any:
        """``response``, stored if that was asked for and can be done; it tells whether it is."""
        if isinstance(response, dict) and self.turn.keeps:
            response["store"] = await self.turn.keep(response)
        return response

    def _repaired(self, response: Any) -> Any:
        if not isinstance(response, dict):
            return response
        usage = response.get("usage")
        if isinstance(usage, dict):
            for details in usage.values():
                if isinstance(details, dict):
                    for key in [key for key in details if key.endswith("_per_turn")]:
                        del details[key]
        for key in _VLLMS_OWN:
            if response.get(key) is None:
                response.pop(key, None)
        response.setdefault("error", None)
        response["store"] = self.turn.keeps
        response["previous_response_id"] = self.turn.previous_id
        done = response.get("status") == "completed"
        response.setdefault("completed_at", int(self.unix_s()) if done else None)
        response["service_tier"] = self.service_tier
        reasoning = _without_nulls(response.get("reasoning") or {})
        response["reasoning"] = {"summary": None, **reasoning, "effort": self.effort}
        if response.get("text") is None:
            response["text"] = {"format": {"type": "text"}}
        for key in ("user", "usage"):
            if response.get(key) is None:
                response.pop(key, None)
        response["tools"] = [_tool(tool) for tool in response.get("tools") or ()]
        response["output"] = [_item(item) for item in response.get("output") or ()]
        return response


def _without_nulls(value: dict[str, Any]) -> dict[str, Any]:
    return {key: each for key, each in value.items() if each is not None}


def _tool(tool: Any) -> Any:
    """As OpenAI repeats it: of what is not set, only what its schema asks for."""
    if not isinstance(tool, dict):
        return tool
    return {key: each for key, each in tool.items() if each is not None or key in _NULLABLE}


def _item(item: Any) -> Any:
    """An output item; OpenAI's leave out what they have not."""
    if not isinstance(item, dict):
        return item
    item = _without_nulls(item)
    if isinstance(item.get("content"), list):
        item["content"] = [_part(part) for part in item["content"]]
    return item


def _part(part: Any) -> Any:
    if isinstance(part, dict) and part.get("type") == "output_text":
        return {**part, "logprobs": part.get("logprobs") or []}
    return part
