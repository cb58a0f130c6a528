"""A gateway process, apart from Ray Serve: front-ends over one fleet client behind one door."""

import asyncio
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from cluster.certificates import Expiry
from cluster.config import TIERS, Tier, TriremeConfig
from cluster.ops import OpsListener, exposition_off_loop
from cluster.pool_steps import step_model_of
from cluster.telemetry.page import PAGE
from cluster.tracing import tracer
from deployments.compat import vllm as compat
from deployments.engine.arguments import PARSERS, front_end_args
from deployments.engine.channel.client import Endpoint, LinkSettings
from deployments.engine.channel.tls import ChannelTls, certificates
from deployments.gateway.access import AccessControl
from deployments.gateway.account import Account
from deployments.gateway.accounting import make_accounting
from deployments.gateway.background.runner import BackgroundRunner
from deployments.gateway.batches.make import make_batches
from deployments.gateway.content_log import make_content_log
from deployments.gateway.context import RequestContext
from deployments.gateway.contract import Door, Limits
from deployments.gateway.fleet_client import FleetClient
from deployments.gateway.gauges import FleetMetrics
from deployments.gateway.keep_alive import KeepAlive
from deployments.gateway.links import Member
from deployments.gateway.loop_lag import LoopLag
from deployments.gateway.model_core import ModelCore
from deployments.gateway.request_log import log_request
from deployments.gateway.runaway import RunawayGuard
from deployments.gateway.settings import GatewaySettings
from deployments.gateway.stored_responses import make_stored_responses
from deployments.gateway.traces import RequestTraces
from deployments.router import (
    Router,
    served_names,
)
from deployments.router.recovery import RecoveryLimits
from deployments.router.settings import tier_policies
from deployments.sources import local_source


def make_router(config: TriremeConfig) -> Router:
    """The router that the configuration describes."""
    models = tuple(model.name for model in config.models)
    routing = config.router
    failover = config.failover
    return Router(
        models,
        tier_policies(config.tiers),
        routing.policy,
        routing.shadow,
        recovery=RecoveryLimits(
            failover.budget_share,
            failover.budget_floor,
            failover.max_pause_s,
            failover.isolation_s,
        ),
    )


class Gateway:
    """``app`` is the ASGI application once ``start`` has returned."""

    def __init__(self, settings: GatewaySettings, gateway_id: str) -> None:
        self.gateway_id = gateway_id
        self._settings = settings
        config = self._config = settings.config
        self._pools = {pool.name: (model, pool) for model, pool in config.pools()}
        self._may_be_empty = {
            model.name
            for model, pool in config.pools()
            if config.autoscaling.enabled and pool.scaling and pool.scaling.min_replicas == 0
        }
        tracing = tracer(config.telemetry.tracing, "trireme-gateway", gateway_id)
        self.metrics = FleetMetrics(
            tuple(model.name for model in config.models),
            tuple((model.name, pool.name) for model, pool in config.pools()),
            config.tiers,
            None if tracing is None else RequestTraces(tracing),
        )
        policies = tier_policies(config.tiers)
        self._account = Account(
            gateway_id,
            [model.name for model in config.models],
            {tier: policy.slo for tier, policy in policies.items()},
        )
        self.metrics.account = self._account
        self.loop_lag = LoopLag(self.metrics.metrics.histogram("trireme_event_loop_lag_seconds"))
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
                tls=None if channel.tls is None else ChannelTls(channel.tls),
            ),
            self.metrics,
            config.failover,
            RunawayGuard.of(config.tiers),
        )
        shown = () if config.gateway.tls is None else (config.gateway.tls.cert_file,)
        expiry = Expiry((*certificates(channel.tls), *shown))
        self.metrics.metrics.gauge("trireme_certificate_expiry_seconds").set_function(expiry.left_s)
        # Without keys none can expire; and a gauge that nobody sets would say that one has.
        self.metrics.metrics.gauge("trireme_key_expiry_seconds").set(math.inf)
        self.access: AccessControl | None = None
        if config.access.mode == "keys":
            self.access = AccessControl(
                config.access, self.metrics.metrics, self.fleet.router.weigh
            )
        self.accounting = make_accounting(
            config, gateway_id, self.metrics.metrics, self.fleet.router.predictor
        )
        if self.accounting is not None:
            self.fleet.metering = self.accounting.metering
        self.content_log = make_content_log(config, gateway_id, self.metrics.metrics)
        self.stored = make_stored_responses(config, self.metrics.metrics)
        self._background: BackgroundRunner | None = None
        self.batches = make_batches(config, gateway_id, self.metrics.metrics)
        self.ops = OpsListener(
            self.metrics.metrics.registry,
            self.status,
            {
                "/decisions": self.decisions,
                "/quarantine": self.quarantine,
                "/account": self.account,
            },
            exemplars=self.metrics.traces is not None,
            page=PAGE,
        )
        self.app: KeepAlive | None = None

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
        door = Door(
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
            access=None if self.access is None else self.access.identity,
            stored=self.stored,
            batches=None if self.batches is None else self.batches.desk,
            resume_s=config.gateway.resume_s,
            **self._metering_hooks(),
        )
        if self.content_log is not None:
            self.content_log.start()
        recorded = door if self.content_log is None else self.content_log.over(door)
        self.app = KeepAlive(
            recorded,
            every_s=config.gateway.keep_alive_s,
            unread_s=config.gateway.unread_s,
        )
        if self.accounting is not None:
            await self.accounting.start()
        if self.stored is not None:
            self.stored.start()
        self.fleet.start()
        if self.access is not None:
            await self.access.start()
        again = None if self.access is None else self.access.identity.again
        if self.batches is not None:
            self.batches.start(recorded, again, self._has_time)
        if self.stored is not None:
            self._background = BackgroundRunner(self.stored, self.gateway_id, recorded, again)
            self._background.start()
        self.loop_lag.start()
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
        """Whether every model has at least one healthy replica, and it is known who may call.

        A model that scales to zero needs none: what would wake it up comes through here."""
        known = self.access is None or self.access.ready
        needed = {model.name for model in self._config.models} - self._may_be_empty
        return known and all(self.fleet.ready_for(model) for model in needed)

    def _has_time(self) -> bool:
        """Whether requests of batches may start: nobody waits for a replica."""
        return self.ready() and not self.fleet.router.waiting

    def _tier_to_serve(self, model: str, tier: Tier) -> Tier:
        now = asyncio.get_running_loop().time()
        return self.fleet.router.tier_to_serve(model, tier, now)

    def _done(self, context: RequestContext, status: int) -> None:
        outcome = _outcome(status)
        self.metrics.request_done(context, outcome)
        log_request(context, status, outcome, asyncio.get_running_loop().time())
        if self.fleet.metering is not None:
            self.fleet.metering.done(context, outcome, asyncio.get_running_loop().time())
        if self.metrics.traces is not None:
            self.metrics.traces.done(context, status, outcome)
        if self.content_log is not None:
            self.content_log.done(context, status)

    def _metering_hooks(self) -> dict[str, Any]:
        """The door's part of quotas and usage."""
        if self.accounting is None:
            return {}
        return {
            "check_limits": self.accounting.metering.check,
            "usage": None if self.accounting.api is None else self.accounting.api.answer,
        }

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
                    "aside": self.fleet.aside(replica.replica_id),
                }
                for replica in router.fleet
            ],
            "objectives": self.metrics.objectives(),
            "access": None if self.access is None else self.access.status(),
            "ops_url": self.ops.url,
        }

    def account(self) -> dict[str, Any]:
        """What the autoscaler takes; see ``cluster/accounts.py``."""
        now = asyncio.get_running_loop().time()
        account = self._account.read(self.fleet.router, now)
        found: dict[str, Any] = msgspec.to_builtins(account)
        return found

    def decisions(self) -> list[dict[str, object]]:
        """The last placements with their reasons, the newest first."""
        return [decision.as_dict() for decision in self.fleet.router.decisions]

    def quarantine(self) -> list[dict[str, object]]:
        """Requests of which engines died, the newest first."""
        return self.fleet.quarantine.listed(asyncio.get_running_loop().time())

    async def stop(self) -> None:
        await self.loop_lag.stop()
        await self.ops.stop()
        if self.batches is not None:
            await self.batches.stop()
        if self._background is not None:
            await self._background.stop()
        await self.fleet.stop()
        if self.accounting is not None:
            await self.accounting.stop()
        if self.stored is not None:
            await asyncio.to_thread(self.stored.stop)
        if self.access is not None:
            await self.access.stop()
        if self.metrics.traces is not None:
            await asyncio.to_thread(self.metrics.traces.stop)
        if self.content_log is not None:
            await asyncio.to_thread(self.content_log.stop)


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
