"""What a rendered chart wants of the cluster that it goes to."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.kubernetes.quantity import amount

Tree = dict[str, Any]

RAY_TOKEN_KEY = "auth_token"
"""KubeRay's name of it in ``authOptions.secretName``."""


@dataclass(frozen=True)
class PodGroup:
    """Pods of one kind: how many at least, and where one fits. Amounts in Kubernetes' units."""

    name: str
    count: int
    requests: dict[str, float]
    selector: dict[str, str]
    tolerations: tuple[Tree, ...]


@dataclass(frozen=True)
class Needs:
    """All of it, as the manifest says."""

    kinds: frozenset[tuple[str, str]]
    """apiVersion and kind."""
    secrets: dict[str, frozenset[str]] = field(default_factory=dict)
    """Keys by name; those that the manifest itself makes are not among them."""
    claims: dict[str, bool] = field(default_factory=dict)
    """Volume claims, and whether several pods mount them."""
    storage_classes: frozenset[str] = frozenset()
    """An empty name is the cluster's default."""
    ingress_classes: frozenset[str] = frozenset()
    gateway_classes: frozenset[str] = frozenset()
    gateways: frozenset[tuple[str, str]] = frozenset()
    """Namespace (empty: the release's) and name."""
    stores: frozenset[tuple[str, str]] = frozenset()
    """Kind and name, of the external-secrets operator."""
    groups: tuple[PodGroup, ...] = ()
    host_paths: bool = False
    image_volumes: bool = False
    network_policies: bool = False


def needs(objects: Sequence[Tree]) -> Needs:
    """Of the objects of a manifest."""
    made = {each["metadata"]["name"] for each in objects if each["kind"] == "Secret"}
    made |= {each["spec"]["target"]["name"] for each in objects if each["kind"] == "ExternalSecret"}
    secrets: dict[str, set[str]] = {}
    for name, key in (pair for each in objects for pair in _secrets(each)):
        if name not in made:
            secrets.setdefault(name, set()).update({key} if key else ())
    routes = [each for each in objects if each["kind"] == "HTTPRoute"]
    groups = list(_groups(objects))
    volumes = [v for _, _, spec in groups for v in spec.get("volumes", ())]
    upgrades = [each["spec"].get("upgradeStrategy", {}) for each in _of(objects, "RayService")]
    return Needs(
        kinds=frozenset((each["apiVersion"], each["kind"]) for each in objects),
        secrets={name: frozenset(keys) for name, keys in sorted(secrets.items())},
        claims=_claims(groups),
        storage_classes=frozenset(
            claim["spec"].get("storageClassName", "")
            for each in _of(objects, "StatefulSet")
            for claim in each["spec"].get("volumeClaimTemplates", ())
        ),
        ingress_classes=frozenset(
            each["spec"].get("ingressClassName", "") for each in _of(objects, "Ingress")
        ),
        gateway_classes=frozenset(
            each["clusterUpgradeOptions"]["gatewayClassName"]
            for each in upgrades
            if "clusterUpgradeOptions" in each
        ),
        gateways=frozenset(
            (parent.get("namespace", ""), parent["name"])
            for each in routes
            for parent in each["spec"].get("parentRefs", ())
        ),
        stores=frozenset(
            (each["spec"]["secretStoreRef"]["kind"], each["spec"]["secretStoreRef"]["name"])
            for each in _of(objects, "ExternalSecret")
        ),
        groups=tuple(_pods(name, count, spec) for name, count, spec in groups),
        host_paths=any("hostPath" in each for each in volumes),
        image_volumes=any("image" in each for each in volumes),
        network_policies=bool(_of(objects, "NetworkPolicy")),
    )


def _of(objects: Sequence[Tree], kind: str) -> list[Tree]:
    return [each for each in objects if each["kind"] == kind]


def _secrets(node: Any) -> Iterator[tuple[str, str]]:
    """Every secret that is referred to, with its key; an empty key is any."""
    if isinstance(node, list):
        for each in node:
            yield from _secrets(each)
    if not isinstance(node, dict):
        return
    for name, value in node.items():
        if name == "secretKeyRef" and isinstance(value, dict):
            if not value.get("optional"):
                yield value["name"], value["key"]
        elif name == "imagePullSecrets":
            yield from ((each["name"], "") for each in value)
        elif name == "authOptions" and value.get("secretName"):
            yield value["secretName"], RAY_TOKEN_KEY
        elif name == "secretName" and isinstance(value, str):
            items = [each["key"] for each in node.get("items", ())]
            yield from ((value, key) for key in items or ("",))
        else:
            yield from _secrets(value)


def _groups(objects: Sequence[Tree]) -> Iterator[tuple[str, int, Tree]]:
    for service in _of(objects, "RayService"):
        cluster = service["spec"]["rayClusterConfig"]
        yield "head", 1, cluster["headGroupSpec"]["template"]["spec"]
        for group in cluster["workerGroupSpecs"]:
            least = max(group.get("minReplicas", 0), group.get("replicas", 0))
            yield group["groupName"], least, group["template"]["spec"]
    for kind in ("StatefulSet", "Deployment"):
        for each in _of(objects, kind):
            spec = each["spec"]
            yield each["metadata"]["name"], spec.get("replicas", 1), spec["template"]["spec"]


def _pods(name: str, count: int, spec: Tree) -> PodGroup:
    total = requested(spec)
    return PodGroup(
        name=name,
        count=count,
        requests=total,
        selector=spec.get("nodeSelector", {}),
        tolerations=tuple(spec.get("tolerations", ())),
    )


def requested(spec: Tree) -> dict[str, float]:
    """What a pod takes of its node: its containers together, or its largest init container."""
    total: dict[str, float] = {"pods": 1.0}
    for each in spec["containers"]:
        for resource, text in _asked(each).items():
            total[resource] = total.get(resource, 0.0) + amount(text)
    for each in spec.get("initContainers", ()):
        for resource, text in _asked(each).items():
            total[resource] = max(total.get(resource, 0.0), amount(text))
    return total


def _asked(container: Tree) -> Tree:
    resources = container.get("resources") or {}
    return {**(resources.get("limits") or {}), **(resources.get("requests") or {})}


def _claims(groups: Sequence[tuple[str, int, Tree]]) -> dict[str, bool]:
    mounted: dict[str, int] = {}
    for _, count, spec in groups:
        for volume in spec.get("volumes", ()):
            if claim := volume.get("persistentVolumeClaim"):
                name = claim["claimName"]
                mounted[name] = mounted.get(name, 0) + count
    return {name: count > 1 for name, count in mounted.items()}
