"""The identity provider's public keys: fetched in threads, kept, and asked for again when needed.

While the provider is away, what is known goes on. A key id that nobody knows makes for one fetch,
but not more often than every ``LEAST_S``: whoever sends invented ids cannot make us flood it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import msgspec

from cluster.config import is_loopback

log = logging.getLogger("trireme.tenants")

LEAST_S = 10.0
"""Between two fetches that unknown key ids ask for. Providers publish a new key long before they
sign with it, so that this is for the rest."""

FETCH_S = 5.0
MOST_BYTES = 1024 * 1024
MOST_KEYS = 100

ASYMMETRIC = frozenset({"RSA", "EC", "OKP"})


class Jwks:
    """``keys`` by key id; ``generation`` counts the changes of them."""

    def __init__(
        self, url: str, refresh_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._url = url
        self._refresh_s = refresh_s
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._asked_s = float("-inf")
        self._told: Any = None
        self.keys: Mapping[str, jwt.PyJWK] = MappingProxyType({})
        self.generation = 0
        self.error = ""

    def start(self) -> None:
        """Fetch now and then, on the running loop."""
        self._task = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        for task in (self._task, self._fetching):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _keep(self) -> None:
        while True:
            await self._fetch_once()
            # A provider that was away at the start is soon asked again.
            await asyncio.sleep(self._refresh_s if self.keys else min(LEAST_S, self._refresh_s))

    async def look_for(self, key_id: str) -> jwt.PyJWK | None:
        """The key of that id, after one more fetch if that may be made now."""
        if key_id not in self.keys and (
            self._is_fetching or self._clock() - self._asked_s >= LEAST_S
        ):
            await self._fetch_once()
        return self.keys.get(key_id)

    async def _fetch_once(self) -> None:
        """Fetch, or wait for the fetch that is under way. Never raises."""
        if self._fetching is None or self._fetching.done():
            self._asked_s = self._clock()
            self._fetching = asyncio.create_task(self._fetch())
        # A caller that leaves must not end it for the others.
        await asyncio.shield(self._fetching)

    @property
    def _is_fetching(self) -> bool:
        # Asked of the task itself: a callback of it would come a turn of the loop after its end,
        # and who looked in between would take the old keys for new ones.
        return self._fetching is not None and not self._fetching.done()

    async def _fetch(self) -> None:
        try:
            told = await asyncio.to_thread(_download, self._url)
            if told != self._told:
                self.keys = MappingProxyType(_keys_of(told))
                self._told = told
                self.generation += 1
            self.error = ""
        except Exception as error:
            if not self.error:
                log.warning("the identity provider's keys cannot be fetched: %r", error)
            self.error = type(error).__name__


def _download(url: str) -> Any:
    # A proxy of the environment may lead to the provider, never to this machine.
    outside = not is_loopback(urlsplit(url).hostname or "")
    with (
        httpx.Client(timeout=FETCH_S, trust_env=outside, follow_redirects=False) as http,
        http.stream("GET", url) as answer,
    ):
        if answer.status_code != 200:
            raise ValueError(f"status {answer.status_code}")
        body = b""
        ends_s = time.monotonic() + FETCH_S
        for piece in answer.iter_bytes():
            body += piece
            if len(body) > MOST_BYTES or time.monotonic() > ends_s:
                raise ValueError("too large or too slow")
    return msgspec.json.decode(body)


def _keys_of(told: Any) -> dict[str, jwt.PyJWK]:
    """The keys that can check a signature. Raises ``ValueError`` if it is no JWKS at all."""
    listed = told.get("keys") if isinstance(told, dict) else None
    if not isinstance(listed, list):
        raise ValueError("no JWKS")
    found: dict[str, jwt.PyJWK] = {}
    for each in listed[:MOST_KEYS]:
        if (
            isinstance(each, dict)
            and each.get("kty") in ASYMMETRIC
            and each.get("use", "sig") == "sig"
            and isinstance(each.get("kid"), str)
        ):
            # One that this program cannot read is no reason to do without the others.
            with contextlib.suppress(jwt.PyJWTError, ValueError):
                found[each["kid"]] = jwt.PyJWK(each)
    return found
