"""The Serve deployment of a pool: one engine replica, its channel server and its ops listener."""

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve

from cluster import heap
from cluster.certificates import Expiry
from cluster.config import ChannelConfig, ModelConfig, PoolConfig, TelemetryConfig
from cluster.logs import set_up_logging
from cluster.metrics import ENGINE_METRICS, Metrics
from cluster.ops import OpsListener
from cluster.tracing import tracer
from deployments.compat.serve import serves_log_kept
from deployments.engine.arguments import engine_args
from deployments.engine.channel.gauges import TrafficMetrics
from deployments.engine.channel.server import ServerSettings
from deployments.engine.channel.tls import ChannelTls, certificates
from deployments.engine.engine import Engine
from deployments.engine.host import EngineHost
from deployments.engine.simulated import SimulatedEngine
from deployments.engine.traces import EngineTraces
from deployments.sources import local_source

log = logging.getLogger("trireme.engine")

REFRESH_S = 0.5
"""How often the gauges follow the engine's state."""


@dataclass(frozen=True)
class EngineSettings:
    """What a replica of ``pool`` needs to know. ``secret`` admits gateways to the channel."""

    model: ModelConfig
    pool: PoolConfig
    channel: ChannelConfig
    telemetry: TelemetryConfig
    secret: str


def make_engine(settings: EngineSettings) -> Engine:
    """The pool's kind of engine, not started."""
    model, pool = settings.model, settings.pool
    if pool.engine == "simulated":
        return SimulatedEngine(
            pool.simulated,
            pool.max_num_seqs,
            pool.max_num_batched_tokens,
            model.max_model_len,
            pool.tensor_parallel_size,
        )
    # Only here: a simulated cluster has no need of vLLM, nor of the seconds that its import takes.
    from deployments.engine.vllm_engine import VllmEngine

    return VllmEngine(local_source(model), engine_args(model, pool))


class EngineReplica:
    """One replica. Serve builds it, asks for its health, and destroys it."""

    async def __init__(self, settings: EngineSettings) -> None:  # type: ignore[misc]
        set_up_logging(settings.telemetry.log_level)
        started = time.monotonic()
        context = serve.get_replica_context()
        self._settings = settings
        self._replica_id = context.replica_id.unique_id
        pool = settings.model.name, settings.pool.name
        self._metrics = Metrics(ENGINE_METRICS)
        self._metrics.begin((settings.model.name,), (pool,))
        self._traffic = TrafficMetrics(self._metrics)
        expiry = Expiry(certificates(settings.channel.tls))
        self._metrics.gauge("trireme_certificate_expiry_seconds").set_function(expiry.left_s)
        tracing = tracer(settings.telemetry.tracing, "trireme-engine", self._replica_id)
        self._traces = None if tracing is None else EngineTraces(tracing, self._replica_id)
        channel = settings.channel
        self._address = channel.host or ray.util.get_node_ip_address()
        with serves_log_kept():
            self._host = self._make_host(settings, channel)
            await self._host.start(self._address)
        self._ops = OpsListener(self._metrics.registry, self.status)
        await self._ops.start(settings.telemetry.host)
        self._set("trireme_replica_start_seconds", time.monotonic() - started)
        self._refresher = asyncio.create_task(self._refresh())
        heap.freeze()
        log.info("replica %s is ready after %.1f s", self._replica_id, time.monotonic() - started)

    def _make_host(self, settings: EngineSettings, channel: ChannelConfig) -> EngineHost:
        return EngineHost(
            make_engine(settings),
            self._replica_id,
            ServerSettings(
                secret=settings.secret,
                heartbeat_s=channel.heartbeat_s,
                dead_after_s=channel.dead_after_s,
                max_frame_bytes=channel.max_frame_bytes,
                max_buffered_bytes=channel.max_buffered_bytes,
                # Enough for gateways that do not know of each other yet to overshoot a little.
                max_streams=4 * settings.pool.max_num_seqs,
                tls=None if channel.tls is None else ChannelTls(channel.tls),
            ),
            settings.pool.progress_timeout_s,
            self._traces,
        )

    # -------------------------------------------------------------- what Serve calls

    async def check_health(self) -> None:
        """Raises when the engine is dead or makes no progress with work pending."""
        self._host.check()

    async def record_replica_metadata(self) -> dict[str, Any]:
        """Published by Serve to every gateway once the replica is ready."""
        return {
            "host": self._address,
            "port": self._host.port,
            "model": self._settings.model.name,
            "pool": self._settings.pool.name,
            "ops_url": self._ops.url,
        }

    async def __del__(self) -> None:
        """Serve is about to end the replica: let what runs finish, within the drain timeout."""
        host = getattr(self, "_host", None)
        if host is None:
            return
        await host.drain(self._settings.pool.drain_timeout_s)
        self._refresher.cancel()
        await self._ops.stop()
        await host.stop()
        if self._traces is not None:
            await asyncio.to_thread(self._traces.stop)

    # -------------------------------------------------------------- what operators see

    def status(self) -> dict[str, Any]:
        load = self._host.load
        return {
            "replica": self._replica_id,
            "model": self._settings.model.name,
            "pool": self._settings.pool.name,
            "engine": self._settings.pool.engine,
            "tensor_parallel_size": self._settings.pool.tensor_parallel_size,
            "healthy": self._host.died is None,
            "running": load.running,
            "waiting": load.waiting,
            "pending": self._host.pending,
            "kv_use": load.kv_use,
            "step_s": load.step_s,
            "gateways": len(self._host.server.connections),
            "tasks": len(asyncio.all_tasks()),
            "ops_url": self._ops.url,
        }

    async def describe(self) -> dict[str, Any]:
        """``status`` for callers that come through a Serve handle."""
        return self.status()

    async def _refresh(self) -> None:
        """Gauges follow the engine at a fixed pace, so that steps pay nothing for them."""
        tokens_before = preempted_before = 0
        pool = (self._settings.model.name, self._settings.pool.name)
        written = self._metrics.counter("trireme_replica_output_tokens").labels(*pool)
        preempted = self._metrics.counter("trireme_replica_preemptions").labels(*pool)
        while True:
            load = self._host.load
            self._set("trireme_replica_running", load.running)
            self._set("trireme_replica_waiting", load.waiting)
            self._set("trireme_replica_kv_use_ratio", load.kv_use)
            self._set("trireme_replica_step_seconds", load.step_s)
            self._set("trireme_replica_gateways", len(self._host.server.connections))
            written.inc(self._host.tokens_out - tokens_before)
            tokens_before = self._host.tokens_out
            preempted.inc(self._host.preemptions - preempted_before)
            preempted_before = self._host.preemptions
            self._traffic.observe()
            await asyncio.sleep(REFRESH_S)

    def _set(self, name: str, value: float) -> None:
        labels = self._settings.model.name, self._settings.pool.name
        self._metrics.gauge(name).labels(*labels).set(value)
