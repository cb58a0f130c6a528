"""Each process's own listener for operators: ``/metrics``, ``/status`` and what else it tells.

It listens on ``telemetry.host`` (loopback unless configured) and a free port, which the process
tells through Ray Serve. Rendering runs in a thread: a scrape must not hold up the tokens.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import uvicorn
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

Status = Callable[[], Any]


def exposition(registry: CollectorRegistry) -> tuple[bytes, str]:
    """Our metrics, then those that libraries (vLLM, Python) keep in the process-wide registry."""
    return generate_latest(registry) + generate_latest(REGISTRY), CONTENT_TYPE_LATEST


async def exposition_off_loop(registry: CollectorRegistry) -> tuple[bytes, str]:
    return await asyncio.to_thread(exposition, registry)


class _Server(uvicorn.Server):
    """Leaves the process's signals alone: they belong to Ray."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class OpsListener:
    """``registry`` is rendered at ``/metrics``, ``status`` at ``/status`` (JSON), and what ``more``
    names at those paths, as JSON too."""

    def __init__(
        self,
        registry: CollectorRegistry,
        status: Status,
        more: Mapping[str, Status] = MappingProxyType({}),
    ) -> None:
        self._registry = registry
        self._pages = {"/status": status, **more}
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self.url = ""

    async def start(self, host: str) -> str:
        """Listen; returns the base URL. Raises ``OSError`` if ``host`` cannot be listened on."""
        routes = [self._route("/metrics", self._metrics)]
        routes += [self._route(path, self._answer) for path in self._pages]
        # Bound here: uvicorn ends the whole process when it cannot bind.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, 0), family=family)
        config = uvicorn.Config(
            Starlette(routes=routes),
            lifespan="off",
            access_log=False,
            log_config=None,
        )
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve([listening]))
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise OSError(f"cannot listen on {host}")
            await asyncio.sleep(0.005)
        port = listening.getsockname()[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        return self.url

    @staticmethod
    def _route(path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> Route:
        return Route(path, endpoint, methods=["GET"])

    async def _metrics(self, _: Request) -> Response:
        body, content_type = await exposition_off_loop(self._registry)
        return Response(body, headers={"content-type": content_type})

    async def _answer(self, request: Request) -> Response:
        told = self._pages[request.url.path]()
        return Response(json.dumps(told), media_type="application/json")

    async def stop(self) -> None:
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await asyncio.gather(self._task, return_exceptions=True)
