"""Everything that could cut a long stream takes its time limit from one setting."""

from typing import Any

from cluster.config import TriremeConfig
from cluster.local_ray import serve_environment
from deployments.application import build_application


def test_no_part_on_the_way_of_a_stream_ends_it_sooner_than_the_setting_says() -> None:
    config = TriremeConfig.model_validate(
        {"gateway": {"max_stream_s": 1234.5}, "models": [{"pools": [{"engine": "simulated"}]}]}
    )
    environment = serve_environment(config)
    limits = [value for name, value in environment.items() if name.endswith("_S") and value != "1"]
    assert len(limits) == 3
    assert set(limits) == {"1235"}
    application: Any = build_application(config, "secret", "2026-01-01", gpus=False)
    gateway = application._bound_deployment
    assert gateway._deployment_config.graceful_shutdown_timeout_s == 1234.5
