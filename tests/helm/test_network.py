"""The rendered NetworkPolicies, played over the pods: the picture's flows pass, and no other."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.helm.toggles import TOGGLES
from tests.helm.toolbox import NAMESPACE, PRESETS, Helm, Tree, of_kind, pod_templates

RAY = (6380, 10002, 19999, 52365, 42000)
ALL = (
    *(53, 80, 443, 5432, 6379, 6443, 8000, 8080, 8265, 8404, 8500, 9101, 9400),
    *(10001, 30000, 31000, 41999, 52000, *RAY),
)


@dataclass(frozen=True)
class End:
    """A pod, or an address outside."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()
    namespace: str = NAMESPACE
    address: str = ""


def outsiders() -> list[End]:
    operator = (("app.kubernetes.io/name", "kuberay-operator"),)
    prometheus = (("app.kubernetes.io/name", "prometheus"),)
    return [
        End("neighbour", (("app", "other"),)),
        End("stranger", (("app", "other"),), "elsewhere"),
        End("operator", operator, "kuberay"),
        End("prometheus", prometheus, "monitoring"),
        End("dns", (("k8s-app", "kube-dns"),), "kube-system"),
        End("controller", (("app", "nginx"),), "ingress-nginx"),
        End("internet", address="203.0.113.9"),
    ]


def pods(objects: list[Tree]) -> list[End]:
    found = {}
    for _, template in pod_templates(objects):
        labels = template["metadata"]["labels"]
        role = labels["trireme.dev/role"]
        found[role] = End(role, tuple(sorted(labels.items())))
    return list(found.values())


def selects(selector: Tree | None, labels: dict[str, str]) -> bool:
    wanted: dict[str, str] = (selector or {}).get("matchLabels", {})
    return wanted.items() <= labels.items()


def is_peer(peer: Tree, end: End) -> bool:
    if "ipBlock" in peer:
        return bool(end.address) and peer["ipBlock"]["cidr"] == "0.0.0.0/0"
    if end.address:
        return False
    if "namespaceSelector" in peer:
        names = {"kubernetes.io/metadata.name": end.namespace}
        if not selects(peer["namespaceSelector"], names):
            return False
    elif end.namespace != NAMESPACE:
        return False
    return selects(peer.get("podSelector"), dict(end.labels))


def opened(rule: Tree, port: int) -> bool:
    ports = rule.get("ports")
    return ports is None or any(
        each["port"] <= port <= each.get("endPort", each["port"]) for each in ports
    )


def passes(policies: list[Tree], direction: str, pod: End, peer: End, port: int) -> bool:
    """As Kubernetes says: a pod that any policy selects is open to what one of them allows."""
    if pod.address:
        return True
    key, side = ("ingress", "from") if direction == "Ingress" else ("egress", "to")
    selected = [
        policy["spec"]
        for policy in policies
        if pod.namespace == NAMESPACE
        and direction in policy["spec"]["policyTypes"]
        and selects(policy["spec"]["podSelector"], dict(pod.labels))
    ]
    return not selected or any(
        opened(rule, port) and any(is_peer(each, peer) for each in rule.get(side, [{}]))
        for spec in selected
        for rule in spec.get(key) or []
    )


def flows(objects: list[Tree], further: tuple[End, ...] = ()) -> Iterator[tuple[str, str, int]]:
    policies = of_kind(objects, "NetworkPolicy")
    own = pods(objects)
    ends = [*own, *outsiders(), *further]
    for source in ends:
        for target in ends:
            # A pod's other instances are the target of its role.
            if source not in own and target not in own:
                continue
            for port in ALL:
                if passes(policies, "Egress", source, target, port) and passes(
                    policies, "Ingress", target, source, port
                ):
                    yield source.name, target.name, port


def picture(*lines: str) -> set[tuple[str, str, int]]:
    found = set()
    for line in lines:
        source, target, ports = line.split(maxsplit=2)
        for port in ports.split():
            for each in RAY if port == "ray" else (int(port),):
                found.add((source, target, each))
                if each == 42000:
                    found.add((source, target, 52000))
    return found


DNS = [f"{role} dns 53" for role in ("head", "gateway", "engine", "test", "check")]
PICTURE = [
    "gateway head ray 6379 8500",
    "engine head ray 6379",
    "head gateway ray 9400",
    "head engine ray 9400",
    "gateway gateway 30000 31000",
    "gateway engine 42000",
    "test gateway 8000",
    "operator head 8265 8000",
    *(f"prometheus {role} 8080 9400" for role in ("head", "gateway", "engine")),
    "head internet 443 6443",
    *DNS,
]


def asked_by_all(objects: list[Tree]) -> set[tuple[str, str, int]]:
    """The same namespace may ask the gateways; of our own pods only those whose way out says so."""
    del objects
    return picture("neighbour gateway 8000")


def test_exactly_the_picture_passes(renders: dict[str, list[Tree]]) -> None:
    objects = renders["default"]
    wanted = picture(
        *PICTURE,
        "head redis 6379",
        "redis dns 53",
        "gateway internet 443 5432",
        "engine internet 443",
    )
    assert set(flows(objects)) == wanted | asked_by_all(objects)


def test_an_air_gapped_cluster_reaches_no_address_outside(
    renders: dict[str, list[Tree]],
) -> None:
    reached = {flow for flow in flows(renders["airgapped"]) if flow[1] == "internet"}
    assert reached == set()


def test_production_lets_in_the_gateway_alone(renders: dict[str, list[Tree]]) -> None:
    gateway = End("public", (("app", "envoy"),), "gateways")
    found = set(flows(renders["production"], (gateway,)))
    assert {flow for flow in found if flow[1] == "gateway" and flow[2] == 8000} == {
        ("public", "gateway", 8000),
        ("test", "gateway", 8000),
    }
    assert ("gateway", "internet", 5432) in found
    assert ("engine", "internet", 5432) not in found


def test_an_ingress_controller_is_let_in(helm: Helm) -> None:
    objects = helm.objects(values=TOGGLES["ingress"])
    assert ("controller", "gateway", 8000) in set(flows(objects))
    assert not any(flow[0] == "controller" and flow[1] != "gateway" for flow in flows(objects))


def test_without_policies_everything_passes(helm: Helm) -> None:
    objects = helm.objects(values=TOGGLES["no network policies"])
    assert ("stranger", "engine", 42000) in set(flows(objects))


@pytest.mark.parametrize("preset", ["default", *PRESETS])
def test_every_port_that_a_pod_opens_is_in_a_policy(
    renders: dict[str, list[Tree]], preset: str
) -> None:
    objects = renders[preset]
    named: dict[str, set[int]] = {}
    for policy in of_kind(objects, "NetworkPolicy"):
        role = policy["spec"]["podSelector"]["matchLabels"].get("trireme.dev/role")
        for rule in policy["spec"].get("ingress") or []:
            for port in rule["ports"]:
                named.setdefault(role, set()).update(
                    range(port["port"], port.get("endPort", port["port"]) + 1)
                )
    for _, template in pod_templates(objects):
        role = template["metadata"]["labels"]["trireme.dev/role"]
        for container in template["spec"]["containers"]:
            for port in container.get("ports", []):
                assert port["containerPort"] in named[role], (role, port)


def test_every_port_of_ray_is_fixed_and_in_a_policy(renders: dict[str, list[Tree]]) -> None:
    objects = renders["default"]
    open_to_head = {
        port
        for source, target, port in flows(objects)
        if source == "head" and target == "engine"
    }  # fmt: skip
    (service,) = of_kind(objects, "RayService")
    groups: list[Any] = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    for group in groups:
        params = group["rayStartParams"]
        fixed = [int(value) for name, value in params.items() if name.endswith("-port")]
        assert len(set(fixed)) == len(fixed)
        assert int(params["min-worker-port"]) in open_to_head
        assert int(params["max-worker-port"]) in open_to_head
        assert int(params["node-manager-port"]) in open_to_head
