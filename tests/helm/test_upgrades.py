"""An upgrade and its way back, played dry: what restarts, and what does not."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.helm.restarts import Restarts, between
from tests.helm.toolbox import CHART, Helm, Tree

NOTHING = Restarts()
FRESH = Restarts(new_cluster=True)
LATER = Restarts(only_next_time=True)

MAIN: dict[str, Any] = {"name": "main", "device": "gpu", "tensor_parallel_size": 1, "replicas": 2}
SPARE: dict[str, Any] = {**MAIN, "name": "spare", "tiers": []}


def config(*pools: dict[str, Any], **more: Any) -> dict[str, Any]:
    models = [{"name": "gpt-oss-120b", "source": "openai/gpt-oss-120b", "pools": list(pools)}]
    return {"config": {"gateway": {"replicas": 2}, "models": models, **more}}


BASE: dict[str, Any] = {
    **config(MAIN),
    "access": {"existingSecret": "trireme-access"},
    "monitoring": {"remoteWriteUrl": "https://metrics.example.com/write"},
}


def serves(*names: str, **more: Any) -> Restarts:
    return Restarts(replaced=frozenset(names), **more)


def pods(*names: str) -> Restarts:
    return Restarts(pods=frozenset(names))


# What is written on top of BASE, what it restarts, and what going back restarts.
CHANGES: dict[str, tuple[dict[str, Any], Restarts, Restarts]] = {
    "nothing": ({}, NOTHING, NOTHING),
    "tiers": (
        config(MAIN, tiers={"high": {"max_queued": 99}}),
        serves("trireme"),
        serves("trireme"),
    ),
    "the router": (
        config(MAIN, router={"policy": "least-requests"}),
        serves("trireme"),
        serves("trireme"),
    ),
    "gateways, one more": (
        config(MAIN, gateway={"replicas": 3}),
        serves("trireme", only_next_time=True),
        serves("trireme", only_next_time=True),
    ),
    "engines, one more": (
        config({**MAIN, "replicas": 3}),
        LATER,
        LATER,
    ),
    "for whom a pool works": (
        config({**MAIN, "lends_to": ["low"]}),
        serves("trireme"),
        serves("trireme"),
    ),
    "a setting of engines": (
        config({**MAIN, "max_num_seqs": 17}),
        serves("trireme", "trireme-engine-main"),
        serves("trireme", "trireme-engine-main"),
    ),
    "where traces go": (
        config(MAIN, telemetry={"tracing": {"endpoint": "http://c:4318/v1/traces"}}),
        serves("trireme", "trireme-engine-main"),
        serves("trireme", "trireme-engine-main"),
    ),
    "how long a stream may last": (config(MAIN, gateway={"max_stream_s": 999}), FRESH, FRESH),
    "the gateways' port": (config(MAIN, gateway={"port": 9000}), FRESH, FRESH),
    "a pool at the end": (
        config(MAIN, SPARE),
        serves("trireme", pools_added=frozenset({"engine-spare"})),
        FRESH,
    ),
    "a pool before others": (config(SPARE, MAIN), FRESH, FRESH),
    "the image": ({"image": {"tag": "0.1.1"}}, FRESH, FRESH),
    "memory of engines": ({"engine": {"resources": {"memory": "65Gi"}}}, FRESH, FRESH),
    "nodes of engines": ({"engine": {"nodeSelector": {"a": "b"}}}, FRESH, FRESH),
    "tolerations of engines": (
        {"engine": {"tolerations": [{"key": "a", "operator": "Exists"}]}},
        LATER,
        LATER,
    ),
    "where weights come from": ({"weights": {"existingClaim": "models"}}, FRESH, FRESH),
    "how long idle pods stay": ({"nodes": {"idleTimeoutSeconds": 301}}, FRESH, FRESH),
    "the Service": ({"service": {"type": "LoadBalancer"}}, NOTHING, NOTHING),
    "network policies": ({"networkPolicy": {"enabled": False}}, NOTHING, NOTHING),
    "budgets": ({"disruptionBudgets": {"enabled": False}}, NOTHING, NOTHING),
    "alerts and dashboards": (
        {"monitoring": {"rules": {"enabled": True}, "dashboards": {"enabled": True}}},
        NOTHING,
        NOTHING,
    ),
    "where metrics go": (
        {"monitoring": {"remoteWriteUrl": "https://other.example.com/write"}},
        pods("trireme-metrics"),
        pods("trireme-metrics"),
    ),
    "the chart's own Redis": (
        {"images": {"redis": "redis:8"}},
        pods("trireme-redis"),
        pods("trireme-redis"),
    ),
    "how clusters are replaced": ({"upgrade": {"strategy": "None"}}, NOTHING, NOTHING),
}


def merged(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    both = {
        name: merged(base[name], value) if isinstance(value, dict) and name in base else value
        for name, value in top.items()
    }
    return {**base, **both}


@pytest.fixture(scope="module")
def base(helm: Helm) -> list[Tree]:
    return helm.objects(values=BASE)


@pytest.mark.parametrize("change", CHANGES)
def test_an_upgrade_and_its_way_back_restart_what_they_must(
    helm: Helm, base: list[Tree], change: str
) -> None:
    values, there, back = CHANGES[change]
    changed = helm.objects(values=merged(BASE, values))
    assert between(base, changed) == there
    assert between(changed, base) == back


@pytest.mark.parametrize("change", [{"max_replicas": 6}, {"schedules": ["daily 22:00-06:00 <= 1"]}])
def test_other_bounds_of_a_pool_that_scales_replace_neither_gateway_nor_engine(
    helm: Helm, change: dict[str, Any]
) -> None:
    scaling = {"min_replicas": 1, "max_replicas": 4}
    before, after = (
        helm.objects(values=merged(BASE, config({**MAIN, "scaling": each})))
        for each in (scaling, scaling | change)
    )
    assert between(before, after).replaced == {"trireme-autoscaler"}
    assert not between(before, after).new_cluster


def test_other_settings_of_the_autoscaler_replace_it_alone(helm: Helm) -> None:
    scaled = {**MAIN, "scaling": {"min_replicas": 1, "max_replicas": 4}}
    before, after = (
        helm.objects(values=merged(BASE, config(scaled, autoscaling={"interval_s": each})))
        for each in (15, 30)
    )
    assert between(before, after) == serves("trireme-autoscaler")


def released(folder: Path, version: str, program: str) -> Path:
    """The chart as another release would have it."""
    made = folder / "trireme"
    shutil.copytree(CHART, made)
    about = (made / "Chart.yaml").read_text()
    about = about.replace("\nversion: 0.1.0", f"\nversion: {version}")
    made.joinpath("Chart.yaml").write_text(
        about.replace('appVersion: "0.1.0"', f'appVersion: "{program}"')
    )
    return made


def test_a_new_chart_with_the_same_program_restarts_nothing(
    helm: Helm, base: list[Tree], tmp_path: Path
) -> None:
    chart = released(tmp_path, "0.2.0", "0.1.0")
    changed = helm.objects(values=BASE, chart=chart)
    assert changed != base
    assert between(base, changed) == between(changed, base) == NOTHING


def test_a_new_program_is_a_new_cluster_and_so_is_the_way_back(
    helm: Helm, base: list[Tree], tmp_path: Path
) -> None:
    chart = released(tmp_path, "0.2.0", "0.2.0")
    changed = helm.objects(values=BASE, chart=chart)
    assert between(base, changed) == between(changed, base) == FRESH
    pinned = merged(BASE, {"image": {"tag": "0.1.0"}})
    assert between(base, helm.objects(values=pinned, chart=chart)) == NOTHING
