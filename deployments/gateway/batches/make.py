"""A gateway's part in batches, by the configuration."""

import os
import threading
import uuid
from collections.abc import Callable, Mapping

from cluster.batches.files import Files
from cluster.batches.folder import Folder, is_known
from cluster.batches.views import Owner
from cluster.batches.work import Work
from cluster.config import TriremeConfig
from cluster.errors import ConfigError, Fault
from cluster.metrics import Metrics
from cluster.run_state import state_dir
from cluster.tenants.caller import Caller
from cluster.tenants.locate import database_url
from cluster.tenants.store import Store, open_store
from deployments.gateway.batches.desk import BatchDesk
from deployments.gateway.batches.jobs import Jobs
from deployments.gateway.batches.runner import BatchRunner
from deployments.gateway.contract.asgi import ASGIApp

FOLDER = "batches"
"""In the state folder, where nothing else is configured."""


class GatewayBatches:
    """``desk`` is for the door; the runner comes with ``start``, once there is an application."""

    def __init__(
        self,
        config: TriremeConfig,
        store: Store,
        folder: Folder,
        gateway_id: str,
        told: Callable[[str], None],
    ) -> None:
        self._config = config.batch
        self._max_line_bytes = config.gateway.max_body_bytes
        self._store = store
        self._folder = folder
        # A gateway that comes again under its name must not take its old leases for its own.
        self._holder = f"{gateway_id[:64]}:{uuid.uuid4().hex}"
        self._told = told
        self._migrating = threading.Lock()
        self._migrated = False
        self._stopping = threading.Event()
        self.desk = BatchDesk(store, folder, config.batch, self._prepare)
        self._runner: BatchRunner | None = None

    def start(
        self,
        app: ASGIApp,
        again: Callable[[Owner], Caller] | None,
        has_time: Callable[[], bool],
    ) -> None:
        work = Work(self._store.engine, self._holder, self._config.lease_s)
        jobs = Jobs(
            work,
            Files(self._store.engine),
            self._folder,
            self._config,
            self._max_line_bytes,
            self._stopping.is_set,
        )
        self._runner = BatchRunner(
            work,
            jobs,
            self._folder,
            self._config,
            self._prepare,
            app=app,
            again=again,
            has_time=has_time,
            told=self._told,
        )
        self.desk.changed = self._runner.look_now
        self._runner.start()

    async def stop(self) -> None:
        """Gives back what is not done."""
        self._stopping.set()
        if self._runner is not None:
            await self._runner.stop()
        self.desk.stop()
        self._store.close()

    def _prepare(self) -> None:
        with self._migrating:
            if not self._migrated:
                self._store.migrate()
                self._migrated = True


def make_batches(
    config: TriremeConfig,
    gateway_id: str,
    metrics: Metrics,
    environ: Mapping[str, str] = os.environ,
) -> GatewayBatches | None:
    """None where there are no batches. Raises ``ConfigError``."""
    if not config.batch.enabled:
        return None
    folder = config.batch.folder or str(state_dir(environ) / FOLDER)
    if not is_known(folder):
        kind = folder.partition("://")[0]
        problem, remedy = f"nothing here knows {kind}://", "install the extra `s3`, or write a path"
        raise ConfigError([Fault("batch.folder", problem, remedy)])
    attempts = metrics.counter("trireme_batch_lines")
    return GatewayBatches(
        config,
        open_store(database_url(config.access, environ)),
        Folder(folder),
        gateway_id,
        lambda outcome: attempts.labels(outcome).inc(),
    )
