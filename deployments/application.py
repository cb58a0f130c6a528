"""From ``trireme.yaml`` to one Serve application: gateways in front, a deployment for each pool."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ray import serve
from ray.serve import Application

from cluster.config import ModelConfig, PoolConfig, TriremeConfig
from deployments.engine.arguments import CPU_ENV
from deployments.engine.deployment import EngineReplica, EngineSettings
from deployments.gateway.deployment import GatewayReplica
from deployments.gateway.settings import GatewaySettings
from deployments.names import GATEWAY, engine_deployment, wanted_key

HEALTH_CHECK_PERIOD_S = 2.0
"""Serve replaces a replica after three failed checks in a row."""

QUIET_ENV = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1"}
"""vLLM tells dozens of lines at each start; a pool's ``env`` can turn them on again."""

MAX_ONGOING = 1_000_000
"""Admission is the router's; Serve must never queue in front of a gateway."""


def build_application(
    config: TriremeConfig,
    secret: str,
    system_start_date: str,
    *,
    gpus: bool,
    gateway_class: Any = GatewayReplica,
    places: Mapping[str, str] = MappingProxyType({}),
) -> Application:
    """The application. ``gpus``: whether pools with device ``auto`` run on GPUs.

    ``places``: for a deployment, the custom resource of Ray of which a node has one for each of its
    replicas, so that they run there and nowhere else.
    ``gateway_class`` is for a benchmark that serves something else beside the gateway's app.
    """
    engines = [
        _engine(config, model, pool, secret, places, on_gpu=_on_gpu(pool, gpus))
        for model, pool in config.pools()
    ]
    settings = GatewaySettings(config, secret, system_start_date)
    return _gateways(config, gateway_class, places).bind(settings, engines)


def build_gateways(
    config: TriremeConfig, secret: str, system_start_date: str, places: Mapping[str, str]
) -> Application:
    """The gateways alone, for a cluster whose pools are applications of their own."""
    settings = GatewaySettings(config, secret, system_start_date, apart=True)
    return _gateways(config, GatewayReplica, places).bind(settings)


def build_pool(
    config: TriremeConfig, secret: str, places: Mapping[str, str], *, gpus: bool
) -> Application:
    """The engines of a configuration's only pool, as an application of their own."""
    ((model, pool),) = config.pools()
    return _engine(config, model, pool, secret, places, on_gpu=_on_gpu(pool, gpus))


def _gateways(config: TriremeConfig, gateway_class: Any, places: Mapping[str, str]) -> Any:
    return serve.deployment(gateway_class).options(
        name=GATEWAY,
        num_replicas=config.gateway.replicas,
        max_ongoing_requests=MAX_ONGOING,
        health_check_period_s=HEALTH_CHECK_PERIOD_S,
        # A gateway that is replaced takes no more connections, and Serve waits for its streams.
        graceful_shutdown_timeout_s=config.gateway.max_stream_s,
        ray_actor_options={
            "num_cpus": config.gateway.num_cpus,
            **_place(places, GATEWAY),
            # The front-end renders and parses; it must not look for GPUs where there are none.
            "runtime_env": {"env_vars": {**QUIET_ENV, "VLLM_TARGET_DEVICE": "cpu"}},
        },
    )


def _place(places: Mapping[str, str], deployment: str) -> dict[str, Any]:
    return {"resources": {places[deployment]: 1}} if deployment in places else {}


def _on_gpu(pool: PoolConfig, gpus: bool) -> bool:
    return pool.engine == "vllm" and (pool.device == "gpu" or (pool.device == "auto" and gpus))


def _size(config: TriremeConfig, pool: PoolConfig) -> dict[str, Any]:
    """A fixed number, or what lets Serve follow the autoscaler's."""
    scaling = pool.scaling
    settings = config.autoscaling
    if scaling is None or not settings.enabled or settings.actuator == "external":
        return {"num_replicas": pool.replicas}
    return {
        "autoscaling_config": {
            "min_replicas": scaling.min_replicas,
            "initial_replicas": pool.replicas,
            "max_replicas": scaling.max_replicas,
            # The policy has waited already; Serve shall do what it says.
            "upscale_delay_s": 0.0,
            "downscale_delay_s": 0.0,
            "downscale_to_zero_delay_s": 0.0,
            "policy": {
                # A name and no import: this room does not know that one. Serve resolves it.
                "policy_function": "autoscaling.serve_policy:ReadWanted",
                "policy_kwargs": {"key": wanted_key(config.name, pool.name)},
            },
        }
    }


def _engine(
    config: TriremeConfig,
    model: ModelConfig,
    pool: PoolConfig,
    secret: str,
    places: Mapping[str, str],
    *,
    on_gpu: bool,
) -> Application:
    actor: dict[str, Any] = {
        "num_cpus": pool.num_cpus,
        **_place(places, engine_deployment(pool.name)),
        "runtime_env": {"env_vars": {**QUIET_ENV, **({} if on_gpu else CPU_ENV), **pool.env}},
    }
    if on_gpu:
        actor["num_gpus"] = pool.tensor_parallel_size
        if pool.gpu_type is not None:
            actor["accelerator_type"] = pool.gpu_type
    deployment = serve.deployment(EngineReplica).options(
        name=engine_deployment(pool.name),
        **_size(config, pool),
        max_ongoing_requests=MAX_ONGOING,
        health_check_period_s=HEALTH_CHECK_PERIOD_S,
        # Serve ends a replica this long after it asked it to go; draining happens before.
        graceful_shutdown_timeout_s=pool.drain_timeout_s + 10.0,
        ray_actor_options=actor,
    )
    return deployment.bind(EngineSettings(model, pool, config.channel, config.telemetry, secret))
