"""A gateway process, apart from Ray Serve: front-ends over one fleet client behind one door."""

import asyncio
import os
from collections.abc import Iterable, Mapping
from typing import Any

from cluster.config import TIERS, PoolConfig, Tier, TriremeConfig
from cluster.ops import OpsListener, exposition_off_loop
from cluster.steptime import StepModel, step_model
from deployments.compat import vllm as compat
from deployments.engine.arguments import PARSERS, front_end_args
from deployments.engine.channel.client import Endpoint, LinkSettings
from deployments.engine.simulated import step_times
from deployments.gateway.context import RequestContext
from deployments.gateway.door import Door, Limits
from deployments.gateway.fleet_client import FleetClient, Member
from deployments.gateway.gauges import FleetMetrics
from deployments.gateway.model_core import ModelCore
from deployments.gateway.settings import GatewaySettings
from deployments.router import (
    Router,
    served_names,
)
from deployments.router.settings import tier_policies
from deployments.sources import local_source

REFERENCE_GPU = "H200"


def step_model_of(pool: PoolConfig) -> StepModel:
    """What the router expects a step of the pool's replicas to take.

    Where the GPU is unknown or was not measured (a CPU, say), the shape of an H200's: the measured
    pace corrects its scale.
    """
    if pool.engine == "simulated":
        return step_times(pool.simulated, pool.tensor_parallel_size)
    found = step_model(pool.gpu_type or REFERENCE_GPU, pool.tensor_parallel_size)
    found = found or step_model(REFERENCE_GPU, pool.tensor_parallel_size)
    assert found is not None  # the reference was measured at every size
    return found


def make_router(config: TriremeConfig) -> Router:
    """The router that the configuration describes."""
    models = tuple(model.name for model in config.models)
    routing = config.router
    return Router(models, tier_policies(config.tiers), routing.policy, routing.shadow)


class Gateway:
    """``app`` is the ASGI application once ``start`` has returned."""

    def __init__(self, settings: GatewaySettings, gateway_id: str) -> None:
        self.gateway_id = gateway_id
        self._settings = settings
        config = self._config = settings.config
        self._pools = {pool.name: (model, pool) for model, pool in config.pools()}
        self.metrics = FleetMetrics(
            tuple(model.name for model in config.models),
            tuple((model.name, pool.name) for model, pool in config.pools()),
        )
        channel = config.channel
        self.fleet = FleetClient(
            make_router(config),
            LinkSettings(
                secret=settings.secret,
                gateway_id=gateway_id,
                heartbeat_s=channel.heartbeat_s,
                dead_after_s=channel.dead_after_s,
                connect_timeout_s=channel.connect_timeout_s,
                max_frame_bytes=channel.max_frame_bytes,
            ),
            self.metrics,
        )
        self.ops = OpsListener(
            self.metrics.metrics.registry, self.status, {"/decisions": self.decisions}
        )
        self.app: Door | None = None

    async def start(self) -> None:
        """Build vLLM's front-end for every model (seconds each), then listen for operators."""
        # Read when vLLM renders a system message; a moving date would empty every prefix cache.
        os.environ["VLLM_SYSTEM_START_DATE"] = self._settings.system_start_date
        apps = {}
        for model in self._config.models:
            core = ModelCore(model.name, self.fleet)
            args = front_end_args(model, self._config.gateway)
            namespace = compat.parse_args(
                await asyncio.to_thread(local_source, model), args, *PARSERS
            )
            client = await asyncio.to_thread(compat.make_front_end, namespace, core)
            core.attach(client)
            apps[model.name] = await compat.front_end_app(namespace, client)
        config = self._config
        self.app = Door(
            apps,
            served_names({model.name: tuple(model.aliases) for model in config.models}),
            default_tier=config.tiers.default,
            limits=Limits(
                config.gateway.max_body_bytes,
                config.gateway.max_unbroken_run_chars,
                {tier: config.tiers.of(tier).max_output_tokens for tier in TIERS},
            ),
            max_model_len={model.name: model.max_model_len for model in config.models},
            ready=self.ready,
            metrics=lambda: exposition_off_loop(self.metrics.metrics.registry),
            clock=asyncio.get_running_loop().time,
            tier_to_serve=self._tier_to_serve,
            on_done=self._done,
        )
        self.fleet.start()
        await self.ops.start(config.telemetry.host)

    def update_members(self, listed: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """The replicas that Serve lists: (replica id, what it published about itself)."""
        members = []
        for replica_id, metadata in listed:
            if "port" not in metadata:
                continue  # Serve lists it before it has told where it listens
            model, pool = self._pools[metadata["pool"]]
            members.append(
                Member(
                    Endpoint(replica_id, metadata["host"], metadata["port"]),
                    model.name,
                    pool.name,
                    frozenset(pool.tiers),
                    frozenset(pool.lends_to),
                    step_model_of(pool),
                )
            )
        self.fleet.update_members(members)

    def ready(self) -> bool:
        """Whether every model has at least one healthy replica."""
        return all(self.fleet.ready_for(model.name) for model in self._config.models)

    def _tier_to_serve(self, model: str, tier: Tier) -> Tier:
        now = asyncio.get_running_loop().time()
        return self.fleet.router.tier_to_serve(model, tier, now)

    def _done(self, context: RequestContext, status: int) -> None:
        self.metrics.request_done(context.model or "unknown", context.tier, _outcome(status))

    def status(self) -> dict[str, Any]:
        """What ``trireme status`` shows of this gateway."""
        now = asyncio.get_running_loop().time()
        router = self.fleet.router
        return {
            "gateway": self.gateway_id,
            "ready": self.ready(),
            "generations": self.fleet.streams,
            "tasks": len(asyncio.all_tasks()),
            "queues": [
                {
                    "model": model,
                    "tier": tier,
                    "queued": queue.length(tier),
                    "oldest_wait_s": round(queue.oldest_wait_s(tier, now), 3),
                    "drain_s": round(router.drain_s(model, tier, now), 1),
                }
                for model, queue in router.queues.items()
                for tier in TIERS
            ],
            "replicas": [
                {
                    "replica": replica.traits.replica_id,
                    "model": replica.traits.model,
                    "pool": replica.traits.pool,
                    "in_flight": len(replica.flights),
                    "of_others": round(sum(replica.others)),
                    "step_ms": round(1000.0 * replica.load.step_s, 2),
                    "tiers": {
                        tier: sum(f.request.tier == tier for f in replica.flights.values())
                        for tier in TIERS
                    },
                    "draining": replica.load.draining,
                }
                for replica in router.fleet
            ],
            "ops_url": self.ops.url,
        }

    def decisions(self) -> list[dict[str, object]]:
        """The last placements with their reasons, the newest first."""
        return [decision.as_dict() for decision in self.fleet.router.decisions]

    async def stop(self) -> None:
        await self.ops.stop()
        await self.fleet.stop()


def _outcome(status: int) -> str:
    match status:
        case 499:
            return "cancelled"
        case 429 | 503:
            return "refused"
        case status if status >= 500:
            return "failed"
        case status if status >= 400:
            return "invalid"
        case _:
            return "ok"
