"""What a gateway needs to keep quotas and usage, made from the configuration."""

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from cluster.config import TIERS, TriremeConfig
from cluster.metrics import Metrics
from cluster.quotas.limiter import Limiter
from cluster.quotas.remote import RemoteLedger
from cluster.run_state import state_dir
from cluster.tenants.locate import database_url
from cluster.tenants.store import Store, open_store
from cluster.usage.prices import Prices
from cluster.usage.queue import UsageQueue
from cluster.usage.report import Spent, spent
from cluster.usage.segments import QueueFolder
from cluster.usage.writer import UsageWriter
from deployments.gateway.metering import Metering
from deployments.gateway.usage_api import UsageApi
from deployments.router.predict import LengthPredictor

log = logging.getLogger("trireme.gateway")

REDIS_VARIABLE = "TRIREME_REDIS_URL"
QUEUES = "usage-queue"
GAUGE_S = 1.0
SETTLE_S = 2.0
"""How long a gateway that stops waits for its requests to end."""


class Accounting:
    """``api`` None: usage is not kept."""

    def __init__(
        self,
        config: TriremeConfig,
        gateway_id: str,
        metrics: Metrics,
        predictor: LengthPredictor,
        environ: Mapping[str, str],
    ) -> None:
        self._config = config
        self._records = metrics.counter("trireme_usage_records")
        self._queue_bytes = metrics.gauge("trireme_usage_queue_bytes")
        self._shared = metrics.gauge("trireme_quota_shared")
        self._gateways = metrics.gauge("trireme_quota_gateways")
        self._gauge_task: asyncio.Task[None] | None = None
        self._store: Store | None = None
        self._queue: UsageQueue | None = None
        self._writer: UsageWriter | None = None
        self.api: UsageApi | None = None
        if _keeps_usage(config):
            self._store = open_store(database_url(config.access, environ))
            home = config.usage.queue_dir or str(state_dir(environ) / QUEUES)
            self._queue = UsageQueue(
                QueueFolder.make(Path(home), gateway_id),
                flush_s=config.usage.flush_s,
                max_bytes=config.usage.max_queue_bytes,
                dropped=self._records.labels("dropped").inc,
            )
            self._writer = UsageWriter(
                self._queue,
                self._store.engine,
                prepare=self._store.migrate,
                retain_days=config.usage.retain_days,
                told=lambda what, count: self._records.labels(what).inc(count),
            )
            self.api = UsageApi(self._store.engine, config.usage.currency)
        self._limiter = _limiter(config, environ) if config.access.mode != "none" else None
        self.metering = Metering(
            self._limiter,
            self._queue,
            Prices(config.usage.prices),
            config.quotas.tier_weights,
            predictor,
            metrics,
            {pool.name: pool.tensor_parallel_size for _, pool in config.pools()},
        )

    async def start(self) -> None:
        """What was spent before this process lived is read first, if the store answers."""
        if self._limiter is not None:
            if self._store is not None:
                await asyncio.to_thread(self._seed, self._store, self._limiter)
            await self._limiter.start()
        if self._queue is not None and self._writer is not None:
            self._queue.start()
            self._writer.start()
        self._gauge_task = asyncio.create_task(self._show())

    async def stop(self) -> None:
        """After the fleet: everything is settled, and the queue is on the disk at least."""
        if self._gauge_task is not None:
            self._gauge_task.cancel()
        await self.metering.settled(SETTLE_S)
        if self._limiter is not None:
            await self._limiter.stop()
        if self._queue is not None and self._writer is not None:
            await asyncio.to_thread(self._queue.stop)
            await asyncio.to_thread(self._writer.stop)
        if self._store is not None:
            await asyncio.to_thread(self._store.close)

    async def _show(self) -> None:
        while True:
            if self._queue is not None:
                self._queue_bytes.set(self._queue.size_bytes)
            if self._limiter is not None:
                self._shared.set(self._limiter.shared)
                self._gateways.set(self._limiter.gateways)
            await asyncio.sleep(GAUGE_S)

    def _seed(self, store: Store, limiter: Limiter) -> None:
        try:
            store.migrate()
            found = spent(store.engine, time.time())
        except (SQLAlchemyError, OSError) as error:
            log.warning("what budgets were spent is not known: %s", type(error).__name__)
            return
        weights = self._config.quotas.tier_weights
        sums: dict[str, list[float]] = {}
        for each in found:
            for name in _names(each):
                entry = sums.setdefault(name, [0.0, 0.0, 0.0, 0.0])
                weight = sum(weights.of(tier) for tier in TIERS if tier == each.tier)
                entry[0] += weight * each.day_tokens
                entry[1] += each.day_cost
                entry[2] += weight * each.month_tokens
                entry[3] += each.month_cost
        for name, (day, day_cost, month, month_cost) in sums.items():
            limiter.seed(name, (day, day_cost), (month, month_cost))


def make_accounting(
    config: TriremeConfig,
    gateway_id: str,
    metrics: Metrics,
    predictor: LengthPredictor,
    environ: Mapping[str, str] = os.environ,
) -> Accounting | None:
    """None where neither callers are told apart nor usage is kept."""
    if config.access.mode == "none" and not _keeps_usage(config):
        return None
    return Accounting(config, gateway_id, metrics, predictor, environ)


def _keeps_usage(config: TriremeConfig) -> bool:
    wanted = config.usage.enabled
    return config.access.mode != "none" if wanted is None else wanted


def _limiter(config: TriremeConfig, environ: Mapping[str, str]) -> Limiter:
    quotas = config.quotas
    url = quotas.redis_url or environ.get(REDIS_VARIABLE)
    remote = None
    if url:
        remote = RemoteLedger(
            url,
            f"trireme:{config.name}",
            secrets.token_hex(4),
            lease_s=quotas.lease_s,
            timeout_s=quotas.timeout_s,
        )
    elif config.gateway.replicas > 1:
        log.warning(
            "without a Redis, each of several gateways lets its share of all limits through"
        )
    return Limiter(remote, gateways=config.gateway.replicas, lease_s=quotas.lease_s)


def _names(each: Spent) -> tuple[str, ...]:
    """The subjects that it counted for."""
    subjects = f"tenant:{each.tenant}", f"key:{each.key_id}"
    return (*subjects, *(f"{subject}/{each.tier}" for subject in subjects))
