"""From ``trireme.yaml`` to one Serve application: gateways in front, a deployment for each pool."""

from typing import Any

from ray import serve
from ray.serve import Application

from cluster.config import ModelConfig, PoolConfig, TriremeConfig
from deployments.engine.arguments import CPU_ENV
from deployments.engine.deployment import EngineReplica, EngineSettings
from deployments.gateway.deployment import GatewayReplica
from deployments.gateway.settings import GatewaySettings
from deployments.names import GATEWAY, engine_deployment

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
) -> Application:
    """The application. ``gpus``: whether pools with device ``auto`` run on GPUs.

    ``gateway_class`` is for a benchmark that serves something else beside the gateway's app.
    """
    engines = [
        _engine(config, model, pool, secret, on_gpu=_on_gpu(pool, gpus))
        for model, pool in config.pools()
    ]
    gateway = serve.deployment(gateway_class).options(
        name=GATEWAY,
        num_replicas=config.gateway.replicas,
        max_ongoing_requests=MAX_ONGOING,
        health_check_period_s=HEALTH_CHECK_PERIOD_S,
        ray_actor_options={
            "num_cpus": config.gateway.num_cpus,
            # The front-end renders and parses; it must not look for GPUs where there are none.
            "runtime_env": {"env_vars": {**QUIET_ENV, "VLLM_TARGET_DEVICE": "cpu"}},
        },
    )
    settings = GatewaySettings(config, secret, system_start_date)
    return gateway.bind(settings, engines)


def _on_gpu(pool: PoolConfig, gpus: bool) -> bool:
    return pool.engine == "vllm" and (pool.device == "gpu" or (pool.device == "auto" and gpus))


def _engine(
    config: TriremeConfig, model: ModelConfig, pool: PoolConfig, secret: str, *, on_gpu: bool
) -> Application:
    actor: dict[str, Any] = {
        "num_cpus": pool.num_cpus,
        "runtime_env": {"env_vars": {**QUIET_ENV, **({} if on_gpu else CPU_ENV), **pool.env}},
    }
    if on_gpu:
        actor["num_gpus"] = pool.tensor_parallel_size
        if pool.gpu_type is not None:
            actor["accelerator_type"] = pool.gpu_type
    deployment = serve.deployment(EngineReplica).options(
        name=engine_deployment(pool.name),
        num_replicas=pool.replicas,
        max_ongoing_requests=MAX_ONGOING,
        health_check_period_s=HEALTH_CHECK_PERIOD_S,
        # Serve ends a replica this long after it asked it to go; draining happens before.
        graceful_shutdown_timeout_s=pool.drain_timeout_s + 10.0,
        ray_actor_options=actor,
    )
    return deployment.bind(EngineSettings(model, pool, config.channel, config.telemetry, secret))
