"""What a live cluster lacks for a rendered chart, each with its remedy."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import quote

from cluster.kubernetes.api import Cluster, MayNot
from cluster.kubernetes.needs import Needs
from cluster.kubernetes.placing import Node, fit, nodes_of

Tree = dict[str, Any]

GPU = "nvidia.com/gpu"
OPERATOR = "app.kubernetes.io/name=kuberay-operator"
IMAGE_VOLUMES_SINCE = (1, 33)

GROUPS = {
    "ray.io": "install KubeRay's operator: helm install kuberay-operator kuberay-operator "
    "--repo (KubeRay's chart repository) -n ray-system --create-namespace",
    "monitoring.coreos.com": "install prometheus-operator, or set monitoring.podMonitor.enabled "
    "and monitoring.rules.enabled to false",
    "gateway.networking.k8s.io": "install the Gateway API's standard channel, or set "
    "httpRoute.enabled to false",
    "external-secrets.io": "install the external-secrets operator, or empty externalSecrets.store",
}
"""Where kinds come from that Kubernetes itself does not know."""

ENFORCING = {
    "calico": "Calico",
    "canal": "Canal",
    "cilium": "Cilium",
    "anetd": "GKE's Dataplane V2",
    "antrea": "Antrea",
    "kube-router": "kube-router",
    "weave": "Weave Net",
    "ovnkube": "OVN-Kubernetes",
    "azure-npm": "Azure's network policy manager",
    "kindnet": "kind's network",
}
"""DaemonSets that carry out NetworkPolicies, by how their names begin."""

AWS_NODE, AWS_AGENT = "aws-node", "aws-eks-nodeagent"
FLANNEL = "kube-flannel"
POD_SECURITY = "pod-security.kubernetes.io/enforce"
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
MANY = {"ReadOnlyMany", "ReadWriteMany"}


class State(StrEnum):
    """What a check found."""

    ok = "ok"
    missing = "missing"
    unknown = "unknown"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ``remedy`` is empty where all is well."""

    check: str
    state: State
    what: str
    remedy: str = ""


@dataclass(frozen=True)
class Wanted:
    """What is to be installed, and where. Versions are (major, minor)."""

    needs: Needs
    release: str
    namespace: str
    kubernetes: tuple[int, int]
    kuberay: tuple[int, int]


def examine(wanted: Wanted, cluster: Cluster) -> list[Finding]:
    """Everything that the chart needs, looked for. Raises what ``cluster`` raises, but MayNot."""
    found: list[Finding] = []
    checks: Sequence[tuple[str, Callable[[Wanted, Cluster], Iterator[Finding]]]] = (
        ("kubernetes", _version),
        ("kinds", _kinds),
        ("kuberay", _operator),
        ("namespace", _namespace),
        ("secrets", _secrets),
        ("storage", _storage),
        ("ways in", _ways_in),
        ("network", _network),
        ("nodes", _nodes),
    )
    for name, check in checks:
        try:
            found.extend(check(wanted, cluster))
        except MayNot as error:
            remedy = "ask for the right to read it, or for somebody who has it to run this"
            found.append(Finding(name, State.unknown, str(error), remedy))
    return found


def version_in(text: str) -> tuple[int, int] | None:
    """Major and minor of ``v1.33.2-eks-1`` and the like."""
    numbers = re.search(r"(\d+)\.(\d+)", text)
    return (int(numbers[1]), int(numbers[2])) if numbers else None


def _spelled(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _items(cluster: Cluster, path: str) -> list[Tree]:
    listed = cluster.get(path)
    items: list[Tree] = (listed or {}).get("items") or []
    return items


def _version(wanted: Wanted, cluster: Cluster) -> Iterator[Finding]:
    told = (cluster.get("/version") or {}).get("gitVersion", "")
    known = version_in(told)
    images = wanted.needs.image_volumes
    least = max(wanted.kubernetes, IMAGE_VOLUMES_SINCE) if images else wanted.kubernetes
    why = " (weights.image)" if least > wanted.kubernetes else ""
    if known is None:
        yield Finding("kubernetes", State.unknown, f"its version, {told!r}, cannot be read")
    elif known < least:
        remedy = f"upgrade the cluster to {_spelled(least)} or newer{why}"
        yield Finding("kubernetes", State.missing, f"Kubernetes is {told}", remedy)
    else:
        yield Finding("kubernetes", State.ok, f"Kubernetes is {told}")


def _kinds(wanted: Wanted, cluster: Cluster) -> Iterator[Finding]:
    for version in sorted({version for version, _ in wanted.needs.kinds}):
        group = version.partition("/")[0] if "/" in version else ""
        there = cluster.get(f"/apis/{version}" if group else f"/api/{version}") or {}
        known = {each["kind"] for each in there.get("resources", ())}
        kinds = sorted(kind for v, kind in wanted.needs.kinds if v == version)
        for kind in kinds:
            if kind not in known:
                remedy = GROUPS.get(group, f"upgrade the cluster to one that has {version}")
                yield Finding("kinds", State.missing, f"{version} {kind} is not known", remedy)
        if known.issuperset(kinds) and group in GROUPS:
            yield Finding("kinds", State.ok, f"{version} {', '.join(kinds)}")


def _operator(wanted: Wanted, cluster: Cluster) -> Iterator[Finding]:
    least = _spelled(wanted.kuberay)
    selector = quote(OPERATOR)
    operators = _items(cluster, f"/apis/apps/v1/deployments?labelSelector={selector}")
    if not operators:
        remedy = f"{GROUPS['ray.io']} (version {least} or newer)"
        yield Finding("kuberay", State.missing, "no KubeRay operator runs", remedy)
    for each in operators:
        where = each["metadata"]["namespace"]
        container = each["spec"]["template"]["spec"]["containers"][0]
        tag = container["image"].partition("@")[0].rpartition(":")[2]
        said = f"KubeRay's operator {tag} in {where}"
        known = version_in(tag)
        if not (each.get("status") or {}).get("availableReplicas"):
            remedy = f"kubectl -n {where} describe deployment {each['metadata']['name']}"
            yield Finding("kuberay", State.missing, f"{said} is not available", remedy)
        elif known is None:
            remedy = f"make sure that it is {least} or newer"
            yield Finding("kuberay", State.unknown, f"{said}: no version in its tag", remedy)
        elif known < wanted.kuberay:
            remedy = f"upgrade it and its CRDs to {least} or newer"
            yield Finding("kuberay", State.missing, f"{said} is too old", remedy)
        elif watched := _not_watched(container, wanted.namespace):
            remedy = f"add {wanted.namespace} to its watchNamespace"
            yield Finding("kuberay", State.missing, f"{said} watches {watched} only", remedy)
        else:
            yield Finding("kuberay", State.ok, said)


def _not_watched(container: Tree, namespace: str) -> str:
    for argument in (*container.get("command", ()), *container.get("args", ())):
        name, _, value = argument.partition("=")
        if name.lstrip("-") == "watch-namespace" and value:
            return "" if namespace in value.split(",") else value
    return ""


def _namespace(wanted: Wanted, cluster: Cluster) -> Iterator[Finding]:
    name = wanted.namespace
    there = cluster.get(f"/api/v1/namespaces/{name}")
    if there is None:
        remedy = f"kubectl create namespace {name}"
        yield Finding("namespace", State.missing, f"{name} does not exist", remedy)
        return
    level = (there["metadata"].get("labels") or {}).get(POD_SECURITY, "")
    if wanted.needs.host_paths and level in ("baseline", "restricted"):
        remedy = f"kubectl label --overwrite namespace {name} {POD_SECURITY}=privileged"
        what = f"{name} enforces {level}, which refuses weights.hostPath and compileCachePath"
        yield Finding("namespace", State.missing, what, remedy)
    else:
        yield Finding("namespace", State.ok, name + (f", Pod Security {level}" if level else ""))


def _secrets(wanted: Wanted, cluster: Cluster) -> Iterator[Finding]:
    for name, keys in wanted.needs.secrets.items():
        there = cluster.get(f"/api/v1/namespaces/{wanted.namespace}/secrets/{name}")
        lacking = sorted(keys - set((there or {}).get("data") or ()))
        if there is None:
            what = f"{name} does not exist in {wanted.namespace}"
            yield Finding("secrets", State.missing, what, _make(wanted, name, sorted(keys)))
        elif lacking:
            what = f"{name} has no key {', '.join(lacking)}"
            yield Finding("secrets", State.missing, what, f"add it, or name another key: {name}")
        else:
            yield Finding("secrets", State.ok, name)


def _make(wanted: Wanted, name: str, keys: Sequence[str]) -> str:
    if not keys:
        return f"create it: kubectl -n {wanted.namespace} create secret --help"
    values = " ".join(f"--from-literal={key}=…" for key in keys)
    return f"kubectl -n {wanted.namespace} create secret generic {name} {values}"


def _storage(wanted: Wanted, cluster: Cluster) -> Iterator[Finding]:
    classes = _items(cluster, "/apis/storage.k8s.io/v1/storageclasses")
    names = {each["metadata"]["name"] for each in classes}
    default = any(
        (each["metadata"].get("annotations") or {}).get(DEFAULT_CLASS) == "true" for each in classes
    )
    for name in sorted(wanted.needs.storage_classes):
        if name and name not in names:
            there = f"those here: {', '.join(sorted(names)) or 'none'}"
            remedy = f"set redis.storage.className to another ({there})"
            yield Finding("storage", State.missing, f"no storage class {name}", remedy)
        elif not name and not default:
            remedy = "set redis.storage.className, or mark a storage class as the default"
            yield Finding("storage", State.missing, "no default storage class", remedy)
        else:
            yield Finding("storage", State.ok, f"storage class {name or '(the default)'}")
    for name, several in wanted.needs.claims.items():
        path = f"/api/v1/namespaces/{wanted.namespace}/persistentvolumeclaims/{name}"
        claim = cluster.get(path)
        if claim is None:
            remedy = "create it, with the models on it (weights.existingClaim)"
            yield Finding("storage", State.missing, f"no volume claim {name}", remedy)
        elif several and not MANY & set(claim["spec"].get("accessModes", ())):
            remedy = "use a volume that many nodes may mount: ReadOnlyMany or ReadWriteMany"
            what = f"volume claim {name} is for one node, and several pods mount it"
            yield Finding("storage", State.missing, what, remedy)
        else:
            yield Finding("storage", State.ok, f"volume claim {name}")


def _ways_in(wanted: Wanted, cluster: Cluster) -> Iterator[Finding]:
    needs = wanted.needs
    gateways = "/apis/gateway.networking.k8s.io/v1"
    stores = "/apis/external-secrets.io/v1"
    asked = [
        ("ingress class", name, f"/apis/networking.k8s.io/v1/ingressclasses/{name}",
         "install its controller, or write the class that is here as ingress.className")
        for name in sorted(filter(None, needs.ingress_classes))
    ]  # fmt: skip
    asked += [
        ("Gateway class", name, f"{gateways}/gatewayclasses/{name}",
         "install its controller, or write another as upgrade.incremental.gatewayClassName")
        for name in sorted(needs.gateway_classes)
    ]  # fmt: skip
    for namespace, name in sorted(needs.gateways):
        where = namespace or wanted.namespace
        path = f"{gateways}/namespaces/{where}/gateways/{name}"
        asked.append((f"Gateway in {where}", name, path, "create it, or correct httpRoute.gateway"))
    for kind, name in sorted(needs.stores):
        plural = f"{kind.lower()}s"
        inside = f"namespaces/{wanted.namespace}/" if kind == "SecretStore" else ""
        remedy = "create it, or correct externalSecrets"
        asked.append((kind, name, f"{stores}/{inside}{plural}/{name}", remedy))
    for what, name, path, remedy in asked:
        if cluster.get(path) is None:
            yield Finding("ways in", State.missing, f"no {what} {name}", remedy)
        else:
            yield Finding("ways in", State.ok, f"{what} {name}")
    if "" in needs.ingress_classes:
        yield _default_ingress(cluster)


def _default_ingress(cluster: Cluster) -> Finding:
    mark = "ingressclass.kubernetes.io/is-default-class"
    for each in _items(cluster, "/apis/networking.k8s.io/v1/ingressclasses"):
        if (each["metadata"].get("annotations") or {}).get(mark) == "true":
            return Finding("ways in", State.ok, f"ingress class {each['metadata']['name']}")
    return Finding("ways in", State.missing, "no default ingress class", "set ingress.className")


def _network(wanted: Wanted, cluster: Cluster) -> Iterator[Finding]:
    if not wanted.needs.network_policies:
        return
    plain = ""
    for each in _items(cluster, "/apis/apps/v1/daemonsets"):
        name = each["metadata"]["name"]
        known = next((text for begin, text in ENFORCING.items() if name.startswith(begin)), "")
        if name == AWS_NODE:
            agents = {c["name"]: c for c in each["spec"]["template"]["spec"]["containers"]}
            if "--enable-network-policy=true" in agents.get(AWS_AGENT, {}).get("args", ()):
                known = "AWS's VPC CNI with its network policy agent"
            else:
                plain = "AWS's VPC CNI without its network policy agent"
        elif name.startswith(FLANNEL):
            plain = "Flannel"
        if known:
            yield Finding("network", State.ok, f"{known} carries NetworkPolicies out")
            return
    if plain:
        remedy = "add something that does (Calico, Cilium, or the CNI's own agent); until then any pod reaches gateways, engines and Ray"  # noqa: E501
        what = f"{plain} does not carry NetworkPolicies out"
        yield Finding("network", State.missing, what, remedy)
        return
    what = "nothing that is known to carry NetworkPolicies out runs here"
    remedy = "ask whoever runs the network: Kubernetes takes them either way, and says nothing"
    yield Finding("network", State.unknown, what, remedy)


def _nodes(wanted: Wanted, cluster: Cluster) -> Iterator[Finding]:
    nodes = _items(cluster, "/api/v1/nodes")
    try:
        pods = _items(cluster, "/api/v1/pods")
    except MayNot as error:
        pods = []
        remedy = "the places below count as if nothing else ran"
        yield Finding("nodes", State.unknown, str(error), remedy)
    # A release that runs already makes room for itself.
    mine = {"app.kubernetes.io/name": "trireme", "app.kubernetes.io/instance": wanted.release}
    others = [
        each for each in pods if not mine.items() <= (each["metadata"].get("labels") or {}).items()
    ]
    known = nodes_of(nodes, others)
    grows = cluster.get("/apis/karpenter.sh/v1") is not None or any(
        "cluster-autoscaler" in (each["metadata"].get("labels") or {}).values() for each in pods
    )
    gpus = sum(each.allocatable.get(GPU, 0.0) for each in known)
    if any(GPU in each.requests for each in wanted.needs.groups):
        yield _gpus(known, gpus, grows)
    for group, placed, why in fit(wanted.needs.groups, known):
        what = f"{group.name}: {placed} of {group.count} pods fit"
        if placed >= group.count:
            yield Finding("nodes", State.ok, what)
        elif grows:
            remedy = "a node autoscaler is here: make sure that it may add such nodes"
            yield Finding("nodes", State.unknown, f"{what}; {why.what}", remedy)
        else:
            yield Finding("nodes", State.missing, f"{what}; {why.what}", why.remedy)


def _gpus(known: Sequence[Node], gpus: float, grows: bool) -> Finding:
    if gpus:
        count = sum(1 for each in known if each.allocatable.get(GPU))
        return Finding("nodes", State.ok, f"{gpus:.0f} GPUs on {count} nodes")
    if grows:
        what = "no GPUs yet; a node autoscaler may add them"
        remedy = "make sure that NVIDIA's device plugin runs on the nodes that it adds"
        return Finding("nodes", State.unknown, what, remedy)
    what = f"no node has {GPU}"
    remedy = "add GPU nodes, and install NVIDIA's GPU operator or its device plugin"
    return Finding("nodes", State.missing, what, remedy)
