"""A gateway as a process of its own, without Ray: the same ``Gateway`` behind uvicorn.

Run: ``python -m tests.e2e.gateway_alone CONFIG MEMBERS GATEWAY_ID URL_FILE``; the first two are
JSON files; the base URL is written to the last. SIGTERM stops it in order.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import uvicorn

from cluster.config import TriremeConfig
from deployments.gateway.gateway import Gateway
from deployments.gateway.settings import GatewaySettings
from tests.deployments.engine.channel_world import SECRET


async def main(config: TriremeConfig, members: list[Any], gateway_id: str, url_file: str) -> None:
    gateway = Gateway(GatewaySettings(config, SECRET, "2026-01-31"), gateway_id)
    await gateway.start()
    gateway.update_members([(name, told) for name, told in members])
    assert gateway.app is not None
    server = uvicorn.Server(
        uvicorn.Config(
            gateway.app, port=0, lifespan="off", log_level="warning", timeout_keep_alive=75
        )
    )
    serving = asyncio.create_task(server.serve())
    while not (server.started and gateway.ready()):
        await asyncio.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    os.rename(_written(f"{url_file}.part", f"http://127.0.0.1:{port}"), url_file)
    await serving
    await gateway.stop()


def _written(path: str, text: str) -> str:
    Path(path).write_text(text)
    return path


if __name__ == "__main__":
    settings = TriremeConfig.model_validate_json(Path(sys.argv[1]).read_text())
    asyncio.run(main(settings, json.loads(Path(sys.argv[2]).read_text()), *sys.argv[3:]))
