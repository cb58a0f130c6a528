"""No value does nothing; wrong ones are refused with their place and a remedy."""

import copy
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from cluster import chart
from cluster.chart import CHART, Values
from tests.helm.toggles import TOGGLES
from tests.helm.toolbox import Helm, Tree

# Twenty mistakes that people make, and what the answer has to name.
MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelt section": ({"gatway": {}}, "gatway"),
    "a misspelt setting": ({"weights": {"hostpath": "/x"}}, "hostpath"),
    "a setting that Kubernetes decides": ({"config": {"gateway": {"host": "0.0.0.0"}}}, "host"),
    "a local Ray": ({"config": {"ray": {"num_cpus": 4}}}, "ray"),
    "text for a number": ({"redis": {"port": "six"}}, "port"),
    "a port beyond all ports": ({"service": {"port": 70000}}, "port"),
    "an unknown strategy": ({"upgrade": {"strategy": "Rolling"}}, "strategy"),
    "a tensor parallel size of 3": (
        {"config": {"models": [{"pools": [{"tensor_parallel_size": 3}]}]}},
        "tensor_parallel_size",
    ),
    "an unknown tier": ({"config": {"tiers": {"ultra": {}}}}, "ultra"),
    "an unknown policy": ({"config": {"router": {"policy": "random"}}}, "policy"),
    "no models": ({"config": {"models": []}}, "models"),
    "zero replicas": ({"config": {"models": [{"pools": [{"replicas": 0}]}]}}, "replicas"),
    "too many sequences": (
        {"config": {"models": [{"pools": [{"max_num_seqs": 10**6}]}]}},
        "max_num_seqs",
    ),
    "a folder without a slash at its end": ({"weights": {"uri": "s3://bucket/x"}}, "uri"),
    "a relative host path": ({"weights": {"hostPath": "weights"}}, "hostPath"),
    "a digest that is none": ({"image": {"digest": "sha256:abc"}}, "digest"),
    "gigabytes spelt out": ({"engine": {"sharedMemory": "16 GB"}}, "sharedMemory"),
    "a pool name with capitals": ({"pools": {"Main": {}}}, "Main"),
    "a boolean in quotes": ({"ingress": {"enabled": "yes"}}, "enabled"),
    "a secret with blanks": ({"channel": {"existingSecret": "my secret"}}, "existingSecret"),
    "a remote write without a scheme": (
        {"monitoring": {"remoteWriteUrl": "metrics:9090"}},
        "remoteWriteUrl",
    ),
    "a negative grace": ({"config": {"gateway": {"max_stream_s": -1}}}, "max_stream_s"),
}

# What only the templates can know, with words of the remedy.
MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "a contract of another release": ({"infrastructure": {"contractVersion": 2}}, "one release"),
    "a pool that is not there": ({"pools": {"other": {}}}, "its pools are main"),
    "other GPUs than the pool's": ({"pools": {"main": {"gpus": 8}}}, "write 1, or remove it"),
    "fewer pods than replicas": (
        {"pools": {"main": {"minReplicas": 3, "maxReplicas": 2}}},
        "raise maxReplicas",
    ),
    "two sources of weights": (
        {"weights": {"uri": "s3://b/m/", "existingClaim": "models"}},
        "keep one",
    ),
    "a store without a secret": ({"redis": {"host": "r"}}, "create one and name it here"),
    "a database without a secret": (
        {"database": {"host": "d", "existingSecret": ""}},
        "create one and name it here",
    ),
    "keys without a database": ({"database": {"host": ""}}, "gateways know API keys from"),
    "an endpoint that is open to all": (
        {"config": {"access": {"mode": "none"}}},
        "put an authenticating proxy",
    ),
    "administrators without tokens": (
        {"config": {"access": {"mode": "keys", "admin": {}}}},
        "access.adminSecret",
    ),
    "certificates that no secret holds": (
        {"config": {"gateway": {"tls": {}}}},
        "gateway.tlsSecret: config.gateway.tls needs the secret",
    ),
    "a claim for a log that nobody writes": (
        {"gateway": {"contentLogClaim": "content"}},
        "config.content_log.enabled: true",
    ),
    "an ingress without a certificate": (
        {**TOGGLES["ingress"], "ingress": {**TOGGLES["ingress"]["ingress"], "tlsSecret": ""}},
        "ingress.tlsSecret",
    ),
    "an ingress that no policy lets in": (
        {**TOGGLES["ingress"], "ingress": {**TOGGLES["ingress"]["ingress"], "fromNamespace": ""}},
        "write their namespace",
    ),
    "increments without a Gateway": (
        {"upgrade": {"strategy": "NewClusterWithIncrementalUpgrade"}},
        "name a GatewayClass",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_schema_refuses(helm: Helm, mistake: str) -> None:
    values, named = MISTAKES[mistake]
    done = helm.render(values=values)
    assert done.returncode != 0
    assert "values don't meet the specifications" in done.stderr
    assert named in done.stderr


@pytest.mark.parametrize("misfit", MISFITS)
def test_the_templates_refuse_with_a_remedy(helm: Helm, misfit: str) -> None:
    values, remedy = MISFITS[misfit]
    done = helm.render(values=values)
    assert done.returncode != 0
    assert remedy in " ".join(done.stderr.split())


# -------------------------------------------------------------- every value changes a render

BASES: list[dict[str, Any]] = [
    {},
    *(
        TOGGLES[name]
        for name in (
            *("ingress", "route", "load balancer", "fetched secrets", "metrics agent"),
            *("operator metrics", "incremental", "s3 with host cache", "gated model"),
            *("keys of your own", "tls and volumes"),
        )
    ),
]

# What a value is changed to, where its kind does not say.
OTHERS: dict[str, Any] = {
    "infrastructure.region": "eu-north-1",
    "image.digest": f"sha256:{'1' * 64}",
    "weights.uri": "s3://other/m/",
    "weights.hostPath": "/other",
    "weights.compileCachePath": "/other/c",
    "monitoring.remoteWriteUrl": "https://other.example/w",
    "monitoring.podMonitor.interval": "31s",
    "imageRegistry": "other.example",
    "infrastructure.contractVersion": 2,
    "pools.main.gpus": 8,
    "pools.main.minReplicas": 0,
    "pools.main.maxReplicas": 5,
    "redis.host": "other.example",
    "pools.main.spread": "zone",
    "gateway.usageQueuePath": "/other/u",
    "pools.main.sharedMemory": "7Gi",
}

# Refused when they are anything else; that is their effect.
CHECKED = {"infrastructure.contractVersion", "pools.main.gpus"}


def leaves(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value of the chart beside `config`: its path and its type."""
    for name, field in model.model_fields.items():
        inner: Any = field.annotation
        key = field.alias or name
        if path == () and name == "config":
            continue
        if path == () and name == "pools":
            yield from leaves(chart.Pool, ("pools", "main"))
        elif isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from leaves(inner, (*path, key))
        else:
            yield (*path, key), field


def other(path: str, field: Any, old: Any) -> Any:
    """A valid value that is not ``old``."""
    if path in OTHERS:
        return OTHERS[path]
    kind = str(field.annotation)
    if isinstance(old, bool) or kind == "<class 'bool'>":
        return not old
    if "Literal" in kind:
        options = re.findall(r"'([A-Za-z]+)'", kind)
        return next(each for each in options if each != old)
    if "Toleration" in kind:
        return [{"key": "a", "operator": "Exists"}]
    if "Peer" in kind:
        return [{"ipBlock": {"cidr": "192.0.2.0/24"}}]
    if "Resources" in kind:
        return {"cpu": "3", "memory": "3Gi"}
    if "list[" in kind:
        return ["other"]
    if "dict[" in kind:
        return {"other": "label"}
    if "int" in kind:
        return (old or 0) + 1
    pattern = next((m.pattern for m in field.metadata if hasattr(m, "pattern")), "") or ""
    return "7Gi" if "Ki" in pattern else "other"


def at(tree: Tree, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree.get(name) if isinstance(tree, dict) else None  # type: ignore[assignment]
    return tree


def with_value(tree: Tree, path: tuple[str, ...], value: Any) -> Tree:
    changed = copy.deepcopy(tree)
    inner = changed
    for name in path[:-1]:
        inner = inner.setdefault(name, {})
    inner[path[-1]] = value
    return changed


def comparable(text: str) -> str:
    # Secrets that are made at install differ each time.
    return re.sub(r"^  (secret|password|other): [A-Za-z0-9+/=]{60,}$", r"  \1: *", text, flags=re.M)


def test_every_value_changes_a_render(helm: Helm) -> None:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    before = [comparable(helm.render(values=base).stdout) for base in BASES]
    assert all(before)

    def changes(leaf: tuple[tuple[str, ...], Any]) -> bool:
        path, field = leaf
        name = ".".join(path)
        # The likeliest first: those that say something of the same section.
        tries = zip(BASES, before, strict=True)
        for base, old in sorted(tries, key=lambda pair: path[0] not in pair[0]):
            known = at(base, path)
            value = other(name, field, at(defaults, path) if known is None else known)
            done = helm.render(values=with_value(base, path, value))
            if name in CHECKED:
                return done.returncode != 0
            if done.returncode == 0 and comparable(done.stdout) != old:
                return True
        return False

    tried = list(leaves(Values, ()))
    with ThreadPoolExecutor(4) as pool:
        changed = list(pool.map(changes, tried))
    print(f"{len(tried)} values")
    assert [".".join(path) for (path, _), did in zip(tried, changed, strict=True) if not did] == []
    assert len(tried) > 80


@pytest.mark.parametrize(
    ("settings", "shows"),
    [
        ({"gateway": {"max_stream_s": 1200}}, "terminationGracePeriodSeconds: 1290"),
        ({"gateway": {"port": 9000}}, "containerPort: 9000"),
        ({"gateway": {"replicas": 7}}, "maxReplicas: 8"),
        ({"tiers": {"high": {"max_queued": 999}}}, "max_queued: 999"),
        ({"name": "other"}, "name: other"),
    ],
)
def test_settings_of_trireme_reach_pods_and_serve(
    helm: Helm, settings: dict[str, Any], shows: str
) -> None:
    before, after = helm.render().stdout, helm.render(values={"config": settings}).stdout
    assert shows not in before
    assert shows in after
