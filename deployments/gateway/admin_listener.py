"""A listener of its own for the admin API, on an address that no client of the endpoint reaches."""

import asyncio
import socket
from typing import Any

import uvicorn

from cluster.ops import QuietServer


class AdminListener:
    """Serves ``app`` on the running loop."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._server: QuietServer | None = None
        self._task: asyncio.Task[None] | None = None
        self.url = ""

    async def start(self, host: str, port: int) -> str:
        """Listen; returns the base URL. Raises ``OSError`` if it cannot."""
        # Bound here: uvicorn ends the whole process when it cannot bind.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
        config = uvicorn.Config(
            self._app,
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            limit_concurrency=64,
        )
        self._server = QuietServer(config)
        self._task = asyncio.create_task(self._server.serve([listening]))
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise OSError(f"cannot listen on {host}")
            await asyncio.sleep(0.005)
        found = listening.getsockname()[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{found}"
        return self.url

    async def stop(self) -> None:
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await asyncio.gather(self._task, return_exceptions=True)
