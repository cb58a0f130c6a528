"""What KubeRay's operator does when a RayCluster changes its size, on the Kubernetes stand-in.

A group with too few pods gets more; the pods that Ray's autoscaler names in ``workersToDelete`` go,
each when its node has ended, and no other. The pods have the labels by which Ray's autoscaler knows
them. Whoever uses it gives the nodes that are behind the pods.

Not here: all else that KubeRay does (Services, Serve, upgrades, status, pods that fail).
"""

import copy
import itertools
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import yaml

from tests.helm.stand_in import Resource, StandIn
from tests.helm.toolbox import NAMESPACE, Tree

CLUSTER = Resource("ray.io/v1", "rayclusters", "RayCluster")
POD = Resource("v1", "pods", "Pod")
HEAD_GROUP = "headgroup"


def api_environment(kubeconfig: Path) -> dict[str, str]:
    """Where Ray finds the API, and by what it knows it."""
    config = yaml.safe_load(kubeconfig.read_text())
    server = urlsplit(config["clusters"][0]["cluster"]["server"])
    return {
        "KUBERNETES_SERVICE_HOST": str(server.hostname),
        "KUBERNETES_SERVICE_PORT_HTTPS": str(server.port),
        "RAY_KUBERAY_CA_CERT_PATH": str(kubeconfig.with_name("ca.crt")),
        "RAY_KUBERAY_CLIENT_CERT_PATH": str(kubeconfig.with_name("client.crt")),
        "RAY_KUBERAY_CLIENT_KEY_PATH": str(kubeconfig.with_name("client.key")),
    }


class Nodes(Protocol):
    """The machines: everything returns at once."""

    def start(self, pod: str, group: str) -> None:
        """A pod of the group was made."""

    def runs(self, pod: str) -> bool:
        """Whether its container does."""

    def end(self, pod: str) -> None:
        """The pod was deleted: its hook, then the signal."""

    def ended(self, pod: str) -> bool:
        """Whether nothing of it is left."""


def ray_cluster(service: Tree) -> Tree:
    """The RayCluster of a RayService."""
    name = f"{service['metadata']['name']}-first"
    spec = copy.deepcopy(service["spec"]["rayClusterConfig"])
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": metadata, "spec": spec}


class Operator:
    """For one RayCluster that stands in ``api``. ``look`` is to be called again and again."""

    def __init__(self, api: StandIn, cluster: str, nodes: Nodes) -> None:
        self._api, self._cluster, self._nodes = api, cluster, nodes
        self._numbers = itertools.count(1)
        self.made: list[str] = []
        self.deleted: list[str] = []

    @property
    def groups(self) -> list[Tree]:
        cluster = self._api.find(CLUSTER, NAMESPACE, self._cluster)
        return list(cluster["spec"]["workerGroupSpecs"])

    def pods(self, group: str) -> list[Tree]:
        """Those that exist, also while they end."""
        query = {"labelSelector": f"ray.io/cluster={self._cluster},ray.io/group={group}"}
        items: list[Tree] = self._api.listed(POD, NAMESPACE, query)["items"]
        return items

    def names(self, group: str) -> list[str]:
        """Those that are to stay."""
        return [
            each["metadata"]["name"]
            for each in self.pods(group)
            if "deletionTimestamp" not in each["metadata"]
        ]

    def add_head(self, name: str) -> None:
        """The head's pod, which is there from the beginning."""
        self._put(name, HEAD_GROUP, "head", running=True)

    def look(self) -> None:
        """Once over everything."""
        for group in self.groups:
            name = group["groupName"]
            named = (group.get("scaleStrategy") or {}).get("workersToDelete") or []
            for pod in self.names(name):
                if pod in named:
                    self._delete(pod, name)
            for _ in range(min(group["replicas"], group["maxReplicas"]) - len(self.names(name))):
                self._make(name)
            for each in self.pods(name):
                self._follow(each, name)

    def _make(self, group: str) -> None:
        name = f"{self._cluster}-{group}-worker-{next(self._numbers)}"
        self._put(name, group, "worker", running=False)
        self.made.append(name)
        self._nodes.start(name, group)

    def _delete(self, name: str, group: str) -> None:
        self._put(name, group, "worker", running=True, going=True)
        self.deleted.append(name)
        self._nodes.end(name)

    def _follow(self, pod: Tree, group: str) -> None:
        name, metadata = pod["metadata"]["name"], pod["metadata"]
        if "deletionTimestamp" in metadata:
            if self._nodes.ended(name):
                self._api.remove(POD, NAMESPACE, name)
        elif not pod["status"]["containerStatuses"] and self._nodes.runs(name):
            self._put(name, group, "worker", running=True)

    def _put(self, name: str, group: str, kind: str, *, running: bool, going: bool = False) -> None:
        labels = {"ray.io/cluster": self._cluster, "ray.io/group": group}
        labels |= {"ray.io/node-type": kind, "ray.io/is-ray-node": "yes"}
        metadata: Tree = {"name": name, "namespace": NAMESPACE, "labels": labels}
        if going:
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        states = [{"name": "ray", "state": {"running": {}}}] if running else []
        status = {"phase": "Running" if running else "Pending", "containerStatuses": states}
        spec = {"containers": [{"name": "ray", "image": "trireme"}]}
        item = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        self._api.put({**item, "status": status})
