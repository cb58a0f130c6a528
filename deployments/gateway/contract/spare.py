"""Requests that a gateway sends to itself: lines of batches, and responses in the background."""

from dataclasses import dataclass

from cluster.tenants.caller import Caller

SPARE = "trireme.spare"
"""The key of the ASGI scope: no server puts it there, whatever a client sends."""


@dataclass(frozen=True, slots=True)
class SpareCall:
    """Whose rights the request has, None where callers are not told apart; and whether it is
    served in spare time only."""

    caller: Caller | None
    spare: bool = True
