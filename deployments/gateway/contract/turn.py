"""One turn of a conversation that is kept: what it goes on from, and what is kept of it."""

from dataclasses import dataclass
from typing import Any

import msgspec

from cluster.errors import InvalidRequest
from cluster.tenants.caller import Caller
from deployments.gateway.background.later import (
    check_may_wait,
    is_wanted,
    not_kept,
    request_of,
)
from deployments.gateway.stored_responses import StoredResponses


@dataclass(slots=True)
class Turn:
    """``items`` are those that the request brought, as JSON; None: nothing of it is kept.

    ``recalled_bytes`` is the size of what was put before them. ``later`` is the request without
    them, as JSON, of a response that is made in the background; None: it is made now. ``streams``:
    its caller wants to be told how it goes.
    """

    stored: StoredResponses | None
    tenant: str
    previous_id: str | None = None
    recalled_bytes: int = 0
    items: bytes | None = None
    later: bytes | None = None
    streams: bool = False

    @property
    def keeps(self) -> bool:
        """Whether the response is to be kept."""
        return self.items is not None

    async def keep(self, response: dict[str, Any]) -> bool:
        """Store the whole ``response``; returns whether it is stored."""
        if self.stored is None or self.items is None:
            return False
        return await self.stored.keep(self.tenant, self.previous_id, self.items, response)


async def begin_turn(
    stored: StoredResponses | None, body: dict[str, Any], caller: Caller | None
) -> Turn:
    """Put what ``body`` goes on from before its input.

    What is left in it asks vLLM to store nothing. Raises ``TriremeError``.
    """
    tenant = "" if caller is None else caller.tenant
    policy = None if stored is None else stored.policy(tenant)
    turn = Turn(None if policy is None else stored, tenant)
    if is_wanted(body):
        check_may_wait(body, stored_here=policy is not None)
        turn.later, turn.streams = request_of(body), body.get("stream") is True
    body.pop("background", None)
    wanted, items = body.get("store"), _own_items(body.get("input"))
    if wanted is None or isinstance(wanted, bool):
        # vLLM has a store of its own, one in each process and without an end.
        body["store"] = False
    if (
        policy is not None
        and items is not None
        and (policy.by_default if wanted is None else wanted is True)
    ):
        turn.items = _encoded(items)
    if turn.later is not None and not turn.keeps:
        raise not_kept()
    previous_id = body.pop("previous_response_id", None)
    if previous_id is not None:
        turn.previous_id = previous_id
        recalled, turn.recalled_bytes = await _recalled(turn, previous_id)
        if items is not None:
            body["input"] = [*recalled, *items]
    return turn


async def _recalled(turn: Turn, previous_id: Any) -> tuple[list[Any], int]:
    if not isinstance(previous_id, str) or not previous_id:
        raise InvalidRequest(
            "Invalid `previous_response_id`: it must be a string.",
            param="previous_response_id",
            code="invalid_type",
        )
    if turn.stored is None:
        raise InvalidRequest(
            "Invalid `previous_response_id`: no such response, as responses are not stored here; "
            "send the whole conversation.",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    return await turn.stored.conversation(turn.tenant, previous_id)


def _own_items(given: Any) -> list[Any] | None:
    """The input as a list; None for what is no input at all, which is refused later."""
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    return given if isinstance(given, list) else None


def _encoded(items: list[Any]) -> bytes:
    try:
        return msgspec.json.encode(items)
    except (OverflowError, ValueError) as error:
        raise InvalidRequest("An integer in the body is too large.") from error
