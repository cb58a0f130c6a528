"""Whether pods find nodes: labels, taints and what is free, pod by pod."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.kubernetes.needs import PodGroup, requested
from cluster.kubernetes.quantity import amount

Tree = dict[str, Any]

KEEPS_OUT = ("NoSchedule", "NoExecute")
ENDED = ("Succeeded", "Failed")


@dataclass
class Node:
    """A node that takes pods. Amounts in Kubernetes' units."""

    name: str
    labels: dict[str, str]
    taints: tuple[Tree, ...]
    allocatable: dict[str, float]
    free: dict[str, float]


@dataclass(frozen=True)
class Reason:
    """Why pods find no place."""

    what: str = ""
    remedy: str = ""


def nodes_of(nodes: Sequence[Tree], pods: Sequence[Tree]) -> list[Node]:
    """The nodes that are ready and not cordoned, less what ``pods`` take."""
    found: dict[str, Node] = {}
    for each in nodes:
        status = each.get("status") or {}
        ready = {c["type"]: c["status"] for c in status.get("conditions", ())}.get("Ready")
        if ready == "True" and not each["spec"].get("unschedulable"):
            name = each["metadata"]["name"]
            has = {k: amount(text) for k, text in status.get("allocatable", {}).items()}
            labels = each["metadata"].get("labels") or {}
            taints = tuple(each["spec"].get("taints", ()))
            found[name] = Node(name, labels, taints, has, dict(has))
    for pod in pods:
        node = found.get(pod["spec"].get("nodeName", ""))
        if node is not None and (pod.get("status") or {}).get("phase") not in ENDED:
            for resource, wanted in requested(pod["spec"]).items():
                node.free[resource] = node.free.get(resource, 0.0) - wanted
    return list(found.values())


def fit(
    groups: Sequence[PodGroup], nodes: Sequence[Node]
) -> Iterator[tuple[PodGroup, int, Reason]]:
    """How many pods of each group find a place, largest first, and why the others do not.

    Takes the room that it gives from ``nodes``.
    """

    def size(group: PodGroup) -> tuple[float, float]:
        return group.requests.get("nvidia.com/gpu", 0.0), group.requests.get("memory", 0.0)

    for group in sorted(groups, key=size, reverse=True):
        placed = 0
        while placed < group.count and _place(group, nodes):
            placed += 1
        yield group, placed, _reason(group, nodes) if placed < group.count else Reason()


def _place(group: PodGroup, nodes: Sequence[Node]) -> bool:
    for node in nodes:
        if _takes(group, node) and _room(group, node):
            for resource, wanted in group.requests.items():
                node.free[resource] -= wanted
            return True
    return False


def _room(group: PodGroup, node: Node) -> bool:
    return all(
        node.free.get(resource, 0.0) >= wanted for resource, wanted in group.requests.items()
    )


def _takes(group: PodGroup, node: Node) -> bool:
    return group.selector.items() <= node.labels.items() and not _refused(group, node)


def _refused(group: PodGroup, node: Node) -> list[Tree]:
    """The node's taints that the pods do not tolerate."""
    return [
        taint
        for taint in node.taints
        if taint["effect"] in KEEPS_OUT
        and not any(_tolerates(each, taint) for each in group.tolerations)
    ]


def _tolerates(toleration: Tree, taint: Tree) -> bool:
    effect, key = toleration.get("effect", ""), toleration.get("key", "")
    if effect and effect != taint["effect"]:
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return not key or key == taint["key"]
    return bool(key == taint["key"] and toleration.get("value", "") == taint.get("value", ""))


def _reason(group: PodGroup, nodes: Sequence[Node]) -> Reason:
    wanted = ",".join(f"{k}={v}" for k, v in group.selector.items())
    alike = [each for each in nodes if group.selector.items() <= each.labels.items()]
    if not alike:
        return Reason(
            f"no node that is ready has the labels {wanted}" if wanted else "no node is ready",
            f"kubectl label node NODE {wanted.replace(',', ' ')}, or change nodeSelector"
            if wanted
            else "add nodes",
        )
    open_ = [each for each in alike if not _refused(group, each)]
    if not open_:
        taint = _refused(group, alike[0])[0]
        spelled = f"{taint['key']}={taint.get('value', '')}:{taint['effect']}"
        return Reason(
            f"{len(alike)} nodes are tainted, such as {alike[0].name} with {spelled}",
            "tolerate it in the values, or remove the taint",
        )
    largest = {
        resource: max(each.free.get(resource, 0.0) for each in open_) for resource in group.requests
    }
    short = [name for name, need in group.requests.items() if largest[name] < need]
    lacking = f"no node has {' and '.join(_told(group, largest, n) for n in short)}"
    return Reason(
        lacking if short else f"{len(open_)} nodes take such pods, and they are full",
        "add nodes, ask for less in the values, or run fewer replicas",
    )


def _told(group: PodGroup, largest: dict[str, float], resource: str) -> str:
    need, most = group.requests[resource], max(0.0, largest[resource])
    if resource == "memory":
        return f"{need / 2**30:.0f} GiB of memory free (at most {most / 2**30:.1f})"
    return f"{need:g} {resource} free (at most {most:g})"
