"""How pods come and go: Ray's own KubeRay provider on the rendered cluster."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.helm.kuberay import CLUSTER, Operator, api_environment, ray_cluster
from tests.helm.stand_in import StandIn, serving
from tests.helm.toolbox import NAMESPACE, ROOT, Helm, Schemas, Tree, the

HEAD = "the-head"
ENGINES = "engine-main"
VALUES: Tree = {"pools": {"main": {"minReplicas": 1, "maxReplicas": 3}}}


@dataclass
class Paper:
    """Nodes that run as soon as they are asked for, and are gone when the test says so."""

    slow: set[str] = field(default_factory=set)
    """Those that still hand their work over."""
    going: set[str] = field(default_factory=set)

    def start(self, pod: str, group: str) -> None:
        pass

    def runs(self, pod: str) -> bool:
        return True

    def end(self, pod: str) -> None:
        self.going.add(pod)

    def ended(self, pod: str) -> bool:
        return pod in self.going - self.slow


@dataclass
class Scaled:
    """A rendered cluster in the stand-in, its operator, and Ray's provider."""

    api: StandIn
    operator: Operator
    nodes: Paper
    cluster: str
    process: "subprocess.Popen[str]"

    def __call__(self, *command: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    @property
    def group(self) -> Tree:
        groups = self.api.find(CLUSTER, NAMESPACE, self.cluster)["spec"]["workerGroupSpecs"]
        (found,) = [each for each in groups if each["groupName"] == ENGINES]
        return dict(found)

    def settle(self) -> None:
        """Pods are made, and then they run."""
        for _ in range(2):
            self.operator.look()

    def engines(self) -> list[str]:
        """Those that Ray counts."""
        found = self("pods")
        assert found["errors"] == []
        return [name for name, group in found["running"].items() if group == ENGINES]


@contextmanager
def provider(kubeconfig: Path, cluster: str) -> "Iterator[subprocess.Popen[str]]":
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.helm.provider", cluster, NAMESPACE],
        env={**os.environ, **api_environment(kubeconfig), "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.kill()


@pytest.fixture
def scaled(helm: Helm, schemas: Schemas, tmp_path: Path) -> Iterator[Scaled]:
    """With the pods that it begins with."""
    api = StandIn(schemas=schemas)
    api.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    cluster = ray_cluster(the(helm.objects(values=VALUES), "RayService"))
    api.put(cluster)
    name = cluster["metadata"]["name"]
    nodes = Paper()
    operator = Operator(api, name, nodes)
    operator.add_head(HEAD)
    for _ in range(2):  # pods, and that they run
        operator.look()
    with serving(api, tmp_path, secured=True) as kubeconfig, provider(kubeconfig, name) as process:
        yield Scaled(api, operator, nodes, name, process)


def test_ray_reads_the_rendered_groups_as_places_for_replicas(scaled: Scaled) -> None:
    types = scaled("types")
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert types[ENGINES]["resources"]["trireme-engine-main"] == 1
    assert types[ENGINES]["resources"]["GPU"] == 1
    assert (types[ENGINES]["min_workers"], types[ENGINES]["max_workers"]) == (1, 3)
    assert types["gateway"]["resources"]["trireme-gateway"] == 1
    assert "GPU" not in types["gateway"]["resources"]


def test_a_launch_makes_pods_and_never_more_than_the_group_may_have(scaled: Scaled) -> None:
    assert len(scaled.engines()) == 1
    scaled("launch", {ENGINES: 1})
    assert scaled.group["replicas"] == 2
    scaled.settle()
    assert len(scaled.engines()) == 2
    scaled("launch", {ENGINES: 4})
    assert scaled.group["replicas"] == 3
    scaled.settle()
    found = scaled("pods")
    assert len([each for each in found["running"].values() if each == ENGINES]) == 3
    (error,) = found["errors"]
    assert "capped by maxReplicas" in error


def test_the_pod_that_is_named_goes_and_no_other(scaled: Scaled) -> None:
    scaled("launch", {ENGINES: 2})
    scaled.settle()
    first, second, third = scaled.engines()
    scaled.nodes.slow.add(second)
    scaled("terminate", [second])
    assert scaled.group["replicas"] == 2
    assert scaled.group["scaleStrategy"] == {"workersToDelete": [second]}
    scaled.operator.look()
    # It still hands its work over: Ray counts it no more, and nothing takes its place.
    assert scaled.operator.deleted == [second]
    assert len(scaled.operator.pods(ENGINES)) == 3
    assert scaled.engines() == [first, third]
    scaled.nodes.slow.clear()
    scaled.operator.look()
    assert len(scaled.operator.pods(ENGINES)) == 2
    # The next one up forgets who was to go.
    scaled("launch", {ENGINES: 1})
    assert scaled.group["scaleStrategy"] == {"workersToDelete": []}
    scaled.settle()
    assert len(scaled.engines()) == 3
    assert second not in scaled.engines()


def test_a_second_end_waits_until_the_first_pod_is_gone(scaled: Scaled) -> None:
    scaled("launch", {ENGINES: 2})
    scaled.settle()
    first, second, _third = scaled.engines()
    scaled("terminate", [first])
    scaled("terminate", [second])
    assert scaled.group["scaleStrategy"] == {"workersToDelete": [first]}
    assert "Waiting for them to be deleted" in scaled("pods")["errors"][0]
    scaled.operator.look()
    scaled("terminate", [second])
    scaled.operator.look()
    assert scaled.operator.deleted == [first, second]
    assert scaled.group["replicas"] == 1


def test_only_the_size_of_a_group_is_changed(scaled: Scaled) -> None:
    before = scaled.api.find(CLUSTER, NAMESPACE, scaled.cluster)["spec"]
    scaled("launch", {ENGINES: 1})
    scaled.settle()
    scaled("terminate", [scaled.engines()[0]])
    after = copy.deepcopy(scaled.api.find(CLUSTER, NAMESPACE, scaled.cluster)["spec"])
    for each in after["workerGroupSpecs"]:
        each.pop("scaleStrategy", None)
    assert after == before
