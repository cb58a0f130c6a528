"""Requests that a gateway sends to itself, to be served in spare time."""

from dataclasses import dataclass

from cluster.tenants.caller import Caller

SPARE = "trireme.spare"
"""The key of the ASGI scope: no server puts it there, whatever a client sends."""


@dataclass(frozen=True, slots=True)
class SpareCall:
    """Whose rights the request has, None where callers are not told apart."""

    caller: Caller | None
