"""The books of all gateways, in Redis: one script call, one round trip, for any number of requests.

The script (``ledger.lua``) is atomic, and its clock is Redis's, so gateways need not agree on time.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from cluster.quotas.ledger import Change, month_begins, month_of, wait_of
from cluster.quotas.work import KINDS, Refused, Subject, Uses, Verdict, Work

_SCRIPT = (Path(__file__).parent / "ledger.lua").read_text()

_NONE = -1
"""A wait that is not the window's."""


class LedgerAway(Exception):
    """Redis does not answer, or not as it should. ``str()`` names no password."""


class Held(NamedTuple):
    """What this gateway holds of a subject, and what it knows to be used of its budgets."""

    name: str
    concurrent: int
    held: float
    held_cost: float
    day: int
    day_used: float
    day_cost: float
    month: int
    month_used: float
    month_cost: float


@dataclass(frozen=True, slots=True)
class Call:
    """Applied in this order. ``changes`` are applied once for each ``sequence``, which grows."""

    sequence: int = 0
    holds: Sequence[Held] = ()
    changes: Sequence[tuple[str, Change]] = ()
    asked: Sequence[tuple[Sequence[Subject], Work]] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """``birth`` tells these books from others that were lost. ``lapsed``: what this gateway held
    was forgotten, as it had not been heard of."""

    now: float
    gateways: int
    lapsed: bool
    verdicts: tuple[Verdict, ...]
    birth: str


class RemoteLedger:
    """``gateway`` names this one; what it holds is forgotten ``lease_s`` after its last call."""

    def __init__(
        self, url: str, prefix: str, gateway: str, *, lease_s: float, timeout_s: float
    ) -> None:
        self._redis: Redis = Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            max_connections=2,
        )
        self._prefix = "{" + prefix + "}"
        self._gateway = gateway
        self._lease_ms = round(1000 * lease_s)
        self._sha = ""
        self._calls = 0
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(list[Any])

    async def call(self, call: Call, *, now: float = 0.0) -> Answer:
        """Raises ``LedgerAway``. ``now``: unix seconds instead of Redis's clock, for tests."""
        payload = self._payload(call, now)
        try:
            if not self._sha:
                self._sha = await self._redis.script_load(_SCRIPT)
            try:
                raw = await self._redis.evalsha(self._sha, 1, self._prefix, payload)
            except NoScriptError:
                # Redis was restarted: nothing was done.
                self._sha = await self._redis.script_load(_SCRIPT)
                raw = await self._redis.evalsha(self._sha, 1, self._prefix, payload)
            at, gateways, lapsed, results, birth = self._decoder.decode(raw)
        except (RedisError, OSError, TimeoutError, msgspec.DecodeError, ValueError) as error:
            raise LedgerAway(f"{type(error).__name__}: {error}"[:200]) from error
        verdicts = tuple(
            _verdict(subjects, result, at)
            for (subjects, _), result in zip(call.asked, results, strict=True)
        )
        return Answer(at, gateways, lapsed, verdicts, birth)

    def _payload(self, call: Call, now: float) -> bytes:
        self._calls += 1
        month = month_of(now or time.time())
        asked = [(*work, [subject.told for subject in subjects]) for subjects, work in call.asked]
        changes = [(name, *change) for name, change in call.changes]
        return self._encoder.encode(
            (
                self._gateway,
                self._lease_ms,
                now,
                month,
                month_begins(month + 1),
                call.sequence,
                changes,
                call.holds,
                asked,
                f"{self._gateway}.{self._calls}",
            )
        )

    async def leave(self) -> None:
        """Give up the lease: what is still held counts no more. Raises ``LedgerAway``."""
        try:
            await self._redis.zrem(f"{self._prefix}:leases", self._gateway)
        except (RedisError, OSError, TimeoutError) as error:
            raise LedgerAway(type(error).__name__) from error

    async def close(self) -> None:
        await self._redis.aclose()


def _verdict(subjects: Sequence[Subject], result: list[Any], now: float) -> Verdict:
    found, told = result
    uses = tuple(Uses(*each) for each in told)
    refused = None
    if found:
        index, number, wait_s = found
        subject, kind = subjects[index - 1], KINDS[number - 1]
        limit = getattr(subject.limits, kind)
        refused = Refused(
            subject.name, kind, limit, wait_of(kind, now) if wait_s == _NONE else wait_s
        )
    return Verdict(refused, uses, int(now * 2), now)
