"""When a gateway says that it may be called."""

from typing import Any

import pytest

from cluster.config import TriremeConfig
from deployments.gateway.gateway import Gateway
from deployments.gateway.settings import GatewaySettings


@pytest.mark.parametrize(
    ("least", "enabled", "ready"), [(1, True, False), (0, True, True), (0, False, False)]
)
async def test_a_model_that_scales_to_zero_needs_no_replica(
    least: int, enabled: bool, ready: bool
) -> None:
    """Where pods that are not ready get no requests, nothing else could wake it up."""
    scaling: dict[str, Any] = {"min_replicas": least, "max_replicas": 2, "cold_start_s": 10}
    pool = {"engine": "simulated", "replicas": 1, "scaling": scaling}
    config = TriremeConfig.model_validate(
        {"models": [{"pools": [pool]}], "autoscaling": {"enabled": enabled}}
    )
    gateway = Gateway(GatewaySettings(config, "a secret", "2026-11-23"), "gateway")
    assert gateway.ready() is ready


async def test_another_model_still_needs_its_own() -> None:
    scaling = {"min_replicas": 0, "max_replicas": 2, "cold_start_s": 10}
    models = [
        {"name": "sleeps", "pools": [{"name": "a", "engine": "simulated", "scaling": scaling}]},
        {"name": "serves", "pools": [{"name": "b", "engine": "simulated"}]},
    ]
    config = TriremeConfig.model_validate({"models": models, "autoscaling": {"enabled": True}})
    gateway = Gateway(GatewaySettings(config, "a secret", "2026-11-23"), "gateway")
    assert not gateway.ready()
