"""An HTTP listener of this process's own, beside whatever Ray Serve has it serve."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn


class QuietServer(uvicorn.Server):
    """Leaves the process's signals alone: they belong to Ray."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Listener:
    """Serves the ASGI application ``app`` on the running loop; ``most`` requests at a time."""

    def __init__(self, app: Any, most: int | None = None) -> None:
        self._app = app
        self._most = most
        self._server: QuietServer | None = None
        self._task: asyncio.Task[None] | None = None
        self.url = ""

    async def start(self, host: str, port: int) -> str:
        """Listen, on a free port for 0; returns the base URL. Raises ``OSError`` if it cannot."""
        # Bound here: uvicorn ends the whole process when it cannot bind.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
        config = uvicorn.Config(
            self._app,
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            limit_concurrency=self._most,
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
