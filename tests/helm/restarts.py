"""What an upgrade restarts: from two renders, by the rules of KubeRay, Serve and Kubernetes."""

import copy
import json
from dataclasses import dataclass

from tests.helm.toolbox import Tree, of_kind, parsed, the

MUTED_GROUP = ("replicas", "minReplicas", "maxReplicas")
MUTED_POD = ("tolerations", "schedulingGates")
"""KubeRay v1.7.0, `GenerateHashWithoutReplicasAndWorkersToDelete`."""


@dataclass(frozen=True)
class Restarts:
    """What happens to pods and processes that run."""

    new_cluster: bool = False
    """A new Ray cluster beside the old one: every pod of head, gateways and engines anew."""
    pools_added: frozenset[str] = frozenset()
    """Worker groups that KubeRay adds to the cluster that runs."""
    replaced: frozenset[str] = frozenset()
    """Serve applications whose replicas are replaced in place, pod by pod."""
    pods: frozenset[str] = frozenset()
    """Other pods, by the name of their Deployment or StatefulSet."""
    only_next_time: bool = False
    """Something that counts only for the next Ray cluster: KubeRay leaves the running one alone."""


def between(old: list[Tree], new: list[Tree]) -> Restarts:
    """From one render of the release to another."""
    before, after = _cluster(old), _cluster(new)
    known = len(before["workerGroupSpecs"])
    first = {**after, "workerGroupSpecs": after["workerGroupSpecs"][:known]}
    added = [each["groupName"] for each in after["workerGroupSpecs"][known:]]
    fresh = _hashed(before) != _hashed(first)
    serve_old, serve_new = _applications(old), _applications(new)
    return Restarts(
        new_cluster=fresh,
        pools_added=frozenset() if fresh else frozenset(added),
        replaced=frozenset(
            name
            for name, version in serve_new.items()
            if not fresh and name in serve_old and version != serve_old[name]
        ),
        pods=_changed(old, new),
        only_next_time=not fresh and not added and before != after,
    )


def _cluster(objects: list[Tree]) -> Tree:
    return dict(the(objects, "RayService")["spec"]["rayClusterConfig"])


def _hashed(cluster: Tree) -> str:
    plain = copy.deepcopy(cluster)
    for group in (plain["headGroupSpec"], *plain["workerGroupSpecs"]):
        for name in MUTED_GROUP:
            group.pop(name, None)
        for name in MUTED_POD:
            group["template"]["spec"].pop(name, None)
    return json.dumps(plain, sort_keys=True)


def _applications(objects: list[Tree]) -> dict[str, str]:
    """The version of each Serve application, by Serve's own reckoning."""
    from ray.serve._private.deploy_utils import get_app_code_version
    from ray.serve.schema import ServeDeploySchema

    (serve,) = parsed(the(objects, "RayService")["spec"]["serveConfigV2"])
    schema = ServeDeploySchema.model_validate(serve)
    return {each.name: get_app_code_version(each) for each in schema.applications}


def _pod_specs(objects: list[Tree]) -> dict[str, Tree]:
    return {
        each["metadata"]["name"]: each["spec"]["template"]
        for kind in ("Deployment", "StatefulSet")
        for each in of_kind(objects, kind)
    }


def _changed(old: list[Tree], new: list[Tree]) -> frozenset[str]:
    before, after = _pod_specs(old), _pod_specs(new)
    return frozenset(name for name in before.keys() & after if before[name] != after[name])
