"""Each process's own listener for operators: ``/metrics``, ``/status`` and what else it tells.

It listens on ``telemetry.host`` (loopback unless configured) and a free port, which the process
tells through Ray Serve. In a pod, the address is fixed from outside (``ADDRESS_VARIABLE``), as
those who scrape have to know it. Rendering runs in a thread: a scrape must not hold up the tokens.
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cluster.listener import Listener

Status = Callable[[], Any]

ADDRESS_VARIABLE = "TRIREME_OPS_ADDRESS"
"""Environment variable: ``host port``, which then count instead of what ``start`` is told."""

END = b"# EOF\n"
"""Closes OpenMetrics text."""

# When each series was made, one more series each: a third of the text, and nobody asks.
disable_created_metrics()  # type: ignore[no-untyped-call]


def exposition(registry: CollectorRegistry, accept: str = "") -> tuple[bytes, str]:
    """Our metrics, then those that libraries (vLLM, Python) keep in the process-wide registry.

    ``accept`` is the scraper's header: one that reads OpenMetrics gets exemplars as well."""
    encode, content_type = choose_encoder(accept)
    ours: bytes = encode(registry)
    return ours.removesuffix(END) + encode(REGISTRY), content_type


async def exposition_off_loop(registry: CollectorRegistry, accept: str = "") -> tuple[bytes, str]:
    return await asyncio.to_thread(exposition, registry, accept)


def _address(host: str) -> tuple[str, int]:
    given = os.environ.get(ADDRESS_VARIABLE)
    if given is None:
        return host, 0
    host, _, port = given.rpartition(" ")
    return host, int(port)


PAGE_POLICY = (
    "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline';"
    " frame-ancestors 'none'"
)
"""A page has its own style and script in it, and asks nobody but its listener."""


class OpsListener:
    """``registry`` is rendered at ``/metrics``, ``status`` at ``/status`` (JSON), and what ``more``
    names at those paths, as JSON too.

    ``exemplars``: there are some, so scrapers that read OpenMetrics get that, which costs half as
    much again as the plain format. ``page`` is HTML for people, at ``/``."""

    def __init__(
        self,
        registry: CollectorRegistry,
        status: Status,
        more: Mapping[str, Status] = MappingProxyType({}),
        *,
        exemplars: bool = False,
        page: str = "",
    ) -> None:
        self._exemplars = exemplars
        self._page = page
        self._registry = registry
        self._pages = {"/status": status, **more}
        self._listener: Listener | None = None
        self.url = ""

    async def start(self, host: str) -> str:
        """Listen; returns the base URL. Raises ``OSError`` if ``host`` cannot be listened on."""
        routes = [self._route("/metrics", self._metrics)]
        routes += [self._route(path, self._answer) for path in self._pages]
        if self._page:
            routes.append(self._route("/", self._show))
        self._listener = Listener(Starlette(routes=routes))
        self.url = await self._listener.start(*_address(host))
        return self.url

    @staticmethod
    def _route(path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> Route:
        return Route(path, endpoint, methods=["GET"])

    async def _metrics(self, request: Request) -> Response:
        accept = request.headers.get("accept", "") if self._exemplars else ""
        body, content_type = await exposition_off_loop(self._registry, accept)
        return Response(body, headers={"content-type": content_type})

    async def _answer(self, request: Request) -> Response:
        told = self._pages[request.url.path]()
        return Response(json.dumps(told), media_type="application/json")

    async def _show(self, _: Request) -> Response:
        headers = {"content-security-policy": PAGE_POLICY}
        return Response(self._page, media_type="text/html", headers=headers)

    async def stop(self) -> None:
        if self._listener is not None:
            await self._listener.stop()
