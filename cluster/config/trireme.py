"""All of `trireme.yaml`, and the rules between its parts."""

from collections.abc import Iterator
from typing import Any, Self

from pydantic import Field, model_validator

from cluster.config.access import AccessConfig
from cluster.config.accounts import ContentLogConfig, QuotasConfig, UsageConfig
from cluster.config.autoscaling import AutoscalingConfig
from cluster.config.base import TIERS, Label, Settings, is_loopback, refuse
from cluster.config.channel import ChannelConfig
from cluster.config.gateway import GatewayConfig
from cluster.config.models import ModelConfig, PoolConfig
from cluster.config.operation import RayConfig, TelemetryConfig
from cluster.config.routing import FailoverConfig, RouterConfig
from cluster.config.storage import BatchConfig, ResponsesConfig
from cluster.config.tiers import TiersConfig
from cluster.errors import Fault


class TriremeConfig(Settings):
    """All of `trireme.yaml`."""

    name: Label = Field(
        default="trireme", description="Name of the cluster: Ray namespace, metric label."
    )
    models: list[ModelConfig] = Field(
        default_factory=lambda: [ModelConfig()],
        min_length=1,
        description="The models that are served.",
    )
    tiers: TiersConfig = Field(default_factory=TiersConfig, description="The effort tiers.")
    gateway: GatewayConfig = Field(default_factory=GatewayConfig, description="The HTTP front.")
    access: AccessConfig = Field(default_factory=AccessConfig, description="Who may call.")
    router: RouterConfig = Field(
        default_factory=RouterConfig, description="How requests are spread over replicas."
    )
    failover: FailoverConfig = Field(
        default_factory=FailoverConfig,
        description="What happens when replicas die, hang, get slow or leave.",
    )
    autoscaling: AutoscalingConfig = Field(
        default_factory=AutoscalingConfig, description="Pools that grow and shrink."
    )
    channel: ChannelConfig = Field(default_factory=ChannelConfig, description="The token channel.")
    quotas: QuotasConfig = Field(
        default_factory=QuotasConfig, description="How limits of tenants and keys are kept."
    )
    usage: UsageConfig = Field(
        default_factory=UsageConfig, description="The account of who used what."
    )
    content_log: ContentLogConfig = Field(
        default_factory=ContentLogConfig, description="A log of requests and answers, opt-in."
    )
    responses: ResponsesConfig = Field(
        default_factory=ResponsesConfig, description="Responses that are kept for their callers."
    )
    batch: BatchConfig = Field(
        default_factory=BatchConfig, description="Files of requests, answered in spare time."
    )
    ray: RayConfig = Field(default_factory=RayConfig, description="The Ray cluster.")
    telemetry: TelemetryConfig = Field(
        default_factory=TelemetryConfig, description="Logs and metrics."
    )

    def pools(self) -> Iterator[tuple[ModelConfig, PoolConfig]]:
        """Every pool with the model that it serves, in the order of the file."""
        for model in self.models:
            for pool in model.pools:
                yield model, pool

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse(self._faults())
        return self

    def _faults(self) -> Iterator[Fault]:
        pools: dict[str, str] = {}
        names: dict[str, str] = {}
        for i, model in enumerate(self.models):
            for j, pool in enumerate(model.pools):
                path = f"models[{i}].pools[{j}].name"
                if pool.name in pools:
                    yield Fault(
                        path,
                        f"'{pool.name}' is also the name of {pools[pool.name]}",
                        "give each pool its own",
                    )
                pools.setdefault(pool.name, path.removesuffix(".name"))
            own = [(f"models[{i}].name", model.name)]
            own += [(f"models[{i}].aliases[{k}]", alias) for k, alias in enumerate(model.aliases)]
            for path, name in own:
                if name in names:
                    yield Fault(
                        path,
                        f"'{name}' already means {names[name]}",
                        "give each model its own names",
                    )
                names.setdefault(name, path)
        yield from self._scaling_faults()
        yield from self._listening_faults()
        yield from self._tls_faults()
        if self.content_log.tenants is not None and self.access.mode == "none":
            yield Fault(
                "content_log.tenants",
                "callers are not told apart, so no request would be kept",
                "set access.mode to keys, or remove it",
            )
        for i, model in enumerate(self.models):
            for name in model.tier_aliases():
                if name in names:
                    yield Fault(
                        names[name],
                        f"'{name}' already means models[{i}] at that tier",
                        "choose a name without the tier",
                    )

    def _listening_faults(self) -> Iterator[Fault]:
        gateway = self.gateway
        if self.access.mode != "none" or gateway.insecure_listen_without_auth:
            return
        if not is_loopback(gateway.host):
            yield Fault(
                "gateway.host",
                f"{gateway.host} can be reached from other machines and callers are not "
                "authenticated",
                "write 127.0.0.1, or set access.mode to keys",
            )

    def _tls_faults(self) -> Iterator[Fault]:
        if self.gateway.tls is None:
            return
        if not self.gateway.haproxy:
            yield Fault(
                "gateway.tls",
                "it is HAProxy that speaks TLS: Serve's own proxy would not read a renewed "
                "certificate until it is restarted",
                "leave gateway.haproxy on, or put TLS in front",
            )
        if self.ray.address is not None:
            yield Fault(
                "gateway.tls",
                "the HAProxy of a Ray that others have started is not ours to configure",
                "remove ray.address, or put TLS in front",
            )

    def _scaling_faults(self) -> Iterator[Fault]:
        if not self.autoscaling.enabled:
            return
        found = False
        for i, model in enumerate(self.models):
            for j, pool in enumerate(model.pools):
                scaling, path = pool.scaling, f"models[{i}].pools[{j}].scaling"
                if scaling is None:
                    continue
                found = True
                if not scaling.min_replicas <= pool.replicas <= scaling.max_replicas:
                    yield Fault(
                        f"models[{i}].pools[{j}].replicas",
                        f"{pool.replicas} is not between the pool's min_replicas "
                        f"({scaling.min_replicas}) and max_replicas ({scaling.max_replicas})",
                        "start with a size between them",
                    )
                waits_s = min(self.tiers.of(tier).max_queue_wait_s for tier in TIERS)
                if scaling.min_replicas == 0 and waits_s < scaling.cold_start_s:
                    yield Fault(
                        f"{path}.min_replicas",
                        f"a request may queue for {waits_s:g} s, and a replica needs "
                        f"{scaling.cold_start_s:g} s to start, so that nothing that comes to an "
                        "empty pool would be served",
                        "raise every tier's max_queue_wait_s above cold_start_s, or write 1",
                    )
        if not found:
            yield Fault(
                "autoscaling.enabled",
                "no pool has `scaling`",
                "give a pool scaling: {min_replicas: 1, max_replicas: 8}, or turn autoscaling off",
            )


def json_schema() -> dict[str, Any]:
    """The JSON schema of `trireme.yaml`, for editors and for the Helm chart."""
    return TriremeConfig.model_json_schema()
