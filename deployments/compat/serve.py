"""Ray Serve's internals, as Trireme uses them: the live list of a deployment's replicas.

Serve pushes each change to routers through its long-poll client. A gateway needs the same news but
no Serve router (its tokens do not ride handles), so it listens directly.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from logging.handlers import MemoryHandler
from typing import Any

from ray.serve._private.common import DeploymentID, DeploymentTargetInfo
from ray.serve._private.constants import SERVE_LOGGER_NAME
from ray.serve._private.long_poll import LongPollClient, LongPollNamespace
from ray.serve.context import _get_global_client

WATCH_S = 1.0
"""How often the feed makes sure that it is still listening (Serve's controller may restart)."""


@contextmanager
def serves_log_kept() -> Iterator[None]:
    """Around everything that imports or starts vLLM in a replica.

    vLLM sets its logging up by ``dictConfig``, which closes all handlers of the process; Serve's
    own then leads nowhere. A controller that comes back after its head was lost asks each replica
    for the name of that log, gets an error instead, and ends them all.
    """
    handlers = logging.getLogger(SERVE_LOGGER_NAME).handlers
    targets = [(each, each.target) for each in handlers if isinstance(each, MemoryHandler)]
    try:
        yield
    finally:
        for handler, target in targets:
            handler.setTarget(target)


@dataclass(frozen=True)
class ListedReplica:
    """A running replica: its Serve id and what its ``record_replica_metadata`` returned."""

    replica_id: str
    deployment: str
    metadata: dict[str, Any]


class ReplicaFeed:
    """Calls ``on_change`` with all running replicas of some deployments, on every change.

    ``applications`` has the application of each deployment. One that is not there yet has no
    replicas. The last list stays in force while the controller is away.
    """

    def __init__(
        self,
        applications: Mapping[str, str],
        on_change: Callable[[list[ListedReplica]], None],
        client_id: str,
    ) -> None:
        self._ids = [DeploymentID(name, where) for name, where in applications.items()]
        self._on_change = on_change
        self._client_id = client_id
        self._listed: dict[DeploymentID, list[ListedReplica]] = {}
        self._client: LongPollClient | None = None
        self._watch: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._listen()
        self._watch = asyncio.create_task(self._keep_listening())

    def _listen(self) -> None:
        self._client = LongPollClient(
            _get_global_client()._controller,
            {
                (LongPollNamespace.DEPLOYMENT_TARGETS, each): partial(self._update, each)
                for each in self._ids
            },
            call_in_event_loop=asyncio.get_running_loop(),
            client_id=self._client_id,
        )

    async def _keep_listening(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            if self._client is not None and not self._client.is_running:
                self._listen()

    def _update(self, deployment: DeploymentID, info: DeploymentTargetInfo) -> None:
        self._listed[deployment] = [
            ListedReplica(replica.replica_id.unique_id, deployment.name, replica.replica_metadata)
            for replica in info.running_replicas
        ]
        self._on_change([replica for each in self._listed.values() for replica in each])

    def stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        if self._client is not None:
            self._client.stop()
