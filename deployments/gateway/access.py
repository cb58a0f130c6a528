"""A gateway's part in who may call: what it knows, how it checks, and the admin API beside it."""

import asyncio
import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from cluster.config import AccessConfig
from cluster.listener import Listener
from cluster.metrics import Metrics
from cluster.tenants.book import Book
from cluster.tenants.directory import Directory
from cluster.tenants.jwks import Jwks
from cluster.tenants.locate import database_url, door_secret
from cluster.tenants.snapshot import Snapshot
from cluster.tenants.store import open_store
from cluster.tenants.tokens import Tokens
from deployments.gateway.admin import AdminApi, read_admins
from deployments.gateway.identity import Identity

log = logging.getLogger("trireme.gateway")

GAUGE_S = 5.0
"""How often the metrics are brought up to date."""

MOST_ADMIN_REQUESTS = 64
"""At a time."""


class AccessControl:
    """``identity`` is the door's ``Access``. Made only where ``access.mode`` is `keys`.

    ``weigh`` gets the tenants' weights on the event loop, whenever they may have changed. Raises
    ``BadSecret`` and ``BadUrl``: a gateway that cannot know anybody must not start.
    """

    def __init__(
        self,
        config: AccessConfig,
        metrics: Metrics,
        weigh: Callable[[Mapping[str, float]], None],
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._config = config
        self._weigh = weigh
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gauge_task: asyncio.Task[None] | None = None
        self._away = metrics.gauge("trireme_store_away_seconds")
        self._expiry = metrics.gauge("trireme_key_expiry_seconds")
        refusals = metrics.counter("trireme_access_refusals")
        secret = door_secret(config, environ)
        self.store = open_store(database_url(config, environ))
        self.directory = Directory(
            self.store, period_s=config.refresh_s, on_change=self._on_snapshot
        )
        self._jwks = None if config.jwt is None else Jwks(config.jwt.jwks_url, config.jwt.refresh_s)
        tokens = None
        if config.jwt is not None and self._jwks is not None:
            tokens = Tokens(config.jwt, self._jwks)
        self.identity = Identity(
            self.directory,
            secret,
            tokens,
            public_metrics=config.public_metrics,
            refused=lambda reason: refusals.labels(reason).inc(),
        )
        self._admin: Listener | None = None
        if config.admin is not None:
            api = AdminApi(Book(self.store, secret), read_admins(config.admin, environ))
            self._admin = Listener(api.app, MOST_ADMIN_REQUESTS)

    async def start(self) -> None:
        """Returns at once, whether the store answers or not."""
        self._loop = asyncio.get_running_loop()
        self.directory.start()
        if self._jwks is not None:
            self._jwks.start()
        self._gauge_task = asyncio.create_task(self._show())
        admin = self._config.admin
        if self._admin is not None and admin is not None:
            try:
                await self._admin.start(admin.host, admin.port)
            except OSError as error:
                # Another gateway of this machine has it, and does the same for all.
                where = f"{admin.host}:{admin.port}"
                log.warning("the admin API cannot listen on %s: %s", where, error)

    def _on_snapshot(self, snapshot: Snapshot) -> None:
        if not self.identity.secret_fits:
            log.error(
                "no key can let anybody in: the access secret is not the one that they were made "
                "with (access.secret_file, TRIREME_ACCESS_SECRET)"
            )
        # In the directory's thread; the router belongs to the loop, which may be gone by now.
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._weigh, snapshot.weights)

    async def _show(self) -> None:
        while True:
            self._away.set(self.directory.status().away_s)
            snapshot = self.directory.snapshot
            self._expiry.set(math.inf if snapshot is None else snapshot.expiry_s(time.time()))
            await asyncio.sleep(GAUGE_S)

    @property
    def ready(self) -> bool:
        """Whether anybody is known: before, every request would be refused."""
        return self.directory.snapshot is not None

    def status(self) -> dict[str, Any]:
        """For ``trireme status``."""
        jwks = self._jwks
        return {
            **self.identity.status(),
            "identity_provider": None
            if jwks is None
            else {"keys": len(jwks.keys), "error": jwks.error},
            "admin_url": "" if self._admin is None else self._admin.url,
        }

    async def stop(self) -> None:
        if self._gauge_task is not None:
            self._gauge_task.cancel()
            await asyncio.gather(self._gauge_task, return_exceptions=True)
        if self._admin is not None:
            await self._admin.stop()
        if self._jwks is not None:
            await self._jwks.stop()
        await asyncio.to_thread(self.directory.stop)
