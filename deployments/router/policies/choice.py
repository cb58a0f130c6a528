"""What a placement policy is, and how it says what it saw."""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from types import MappingProxyType
from typing import Protocol, overload
from zlib import crc32

import numpy as np
from msgspec import Struct

from deployments.router.fleet import Fleet, Replica, Request


class Verdict(IntEnum):
    """Why a replica could or could not be chosen."""

    HOME = 0
    """It could: of the tier's own zone, or there are no zones."""
    SPILL = 1
    """It could, outside of the tier's zone: its objectives and its residents' would be kept."""
    LATE = 2
    """It could, but the first token would come after the tier's objective."""
    SLOW = 3
    """No: a step would take longer than this tier's, or a resident's, TPOT objective."""
    FULL = 4
    """No: no seat, or it refused a moment ago."""
    MEMORY = 5
    """No: its KV cache would not hold everybody to the end."""


Considered = tuple[Replica, float, Verdict]
"""A candidate, its predicted finish in seconds, and the verdict on it."""

VERDICTS = tuple(Verdict)

NOTHING: Mapping[str, int] = MappingProxyType({})


class Candidates(Sequence[Considered]):
    """As a list of them, out of columns: few decisions are ever looked at."""

    def __init__(
        self,
        replicas: Sequence[Replica],
        finish_s: "np.ndarray[tuple[int], np.dtype[np.float64]]",
        verdicts: "np.ndarray[tuple[int], np.dtype[np.int8]]",
    ) -> None:
        self._replicas = replicas
        self._finish_s = finish_s
        self._verdicts = verdicts

    def __len__(self) -> int:
        return len(self._replicas)

    @overload
    def __getitem__(self, index: int) -> Considered: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Considered]: ...
    def __getitem__(self, index: int | slice) -> Considered | Sequence[Considered]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        verdict = VERDICTS[self._verdicts[index]]
        return self._replicas[index], float(self._finish_s[index]), verdict


class Choice(Struct, frozen=True):
    """A decision. ``considered`` has every candidate."""

    replica: Replica
    finish_s: float
    verdict: Verdict
    considered: Sequence[Considered]
    cached_tokens: int = 0


class Policy(Protocol):
    """A placement policy. It must not raise, block or keep time of its own.

    Those that remember nothing inherit ``held``, ``note``, ``placed`` and ``lost``.
    """

    name: str

    def choose(self, request: Request, fleet: Fleet, now: float) -> Choice | None:
        """The replica for ``request``, or None while every replica that may take it is full."""
        ...

    def held(self, request: Request) -> Mapping[str, int]:
        """Tokens of its prompt that replicas (by id) are thought to hold, for a policy that
        remembers them: a choice finds no more."""
        return NOTHING

    def note(self, request: Request, now: float) -> None:
        """A request has been admitted."""
        return

    def placed(self, request: Request, replica: Replica, now: float) -> None:
        """The request goes to ``replica``."""
        return

    def lost(self, replica_id: str) -> None:
        """The replica is gone."""
        return


def finish_s(replica: Replica, request: Request, cached_tokens: int = 0) -> float:
    """Predicted seconds until ``replica`` would have finished ``request``.

    Prefill of what waits there and of what of this prompt is not cached, then one decode step a
    token, as long as a step is with one more request.
    """
    prefill = replica.awaiting_prefill + request.prompt_tokens - cached_tokens
    return prefill * replica.prefill_token_s + request.predicted * replica.next_step_s


def tie_break(request_id: str, replica_id: str) -> int:
    """Orders replicas that look the same (all idle, say) by the request, so that gateways that
    share nothing do not pile onto the same one."""
    # Multiplied by 2^32 / golden ratio: alone, the CRCs of one request with several replicas
    # differ by constants, and a few replicas would win most ties.
    return crc32(f"{request_id}/{replica_id}".encode()) * 0x9E3779B1 & 0xFFFFFFFF
