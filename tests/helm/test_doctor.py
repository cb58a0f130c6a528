"""`trireme k8s doctor`, against a cluster that has everything but one thing."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.cli.app import run
from cluster.kubernetes.api import MayNot
from cluster.kubernetes.doctor import Finding, State, Wanted, examine
from cluster.kubernetes.needs import needs
from cluster.kubernetes.placing import nodes_of
from cluster.kubernetes.quantity import amount
from tests.helm import toolbox
from tests.helm.stand_in import StandIn, serving
from tests.helm.toolbox import CHART, NAMESPACE, Helm, Missing, Tree

GROUPS = frozenset({"ray.io", "monitoring.coreos.com", "gateway.networking.k8s.io"})
SECRETS = {
    "trireme-channel": "secret",
    "trireme-access": "secret",
    "trireme-test": "key",
    "trireme-ray-token": "auth_token",
    "trireme-redis": "password",
    "trireme-database": "url",
}
"""What values-production.yaml names."""


def named(version: str, kind: str, name: str, namespace: str = "", **more: Any) -> Tree:
    metadata: Tree = {"name": name, **({"namespace": namespace} if namespace else {})}
    metadata |= more.pop("metadata", {})
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **more}


def node(name: str, gpus: int = 0, **more: Any) -> Tree:
    allocatable = {"cpu": "190", "memory": "1900Gi", "pods": "110"}
    if gpus:
        allocatable["nvidia.com/gpu"] = str(gpus)
        taint = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
        more = {"spec": {"taints": [taint]}, **more}
    conditions = [{"type": "Ready", "status": "True"}]
    status = {"allocatable": allocatable, "conditions": conditions}
    return named("v1", "Node", name, **{"spec": {}, "status": status, **more})


def operator(
    image: str = "registry.example.com/kuberay/operator:v1.7.0", available: int = 1
) -> Tree:
    labels = {"app.kubernetes.io/name": "kuberay-operator"}
    containers = [{"name": "kuberay-operator", "image": image, "args": []}]
    return named(
        "apps/v1",
        "Deployment",
        "kuberay-operator",
        "kuberay",
        metadata={"labels": labels},
        spec={"template": {"spec": {"containers": containers}}},
        status={"availableReplicas": available},
    )


def daemons(name: str, *containers: Tree) -> Tree:
    spec = {"template": {"spec": {"containers": list(containers)}}}
    return named("apps/v1", "DaemonSet", name, "kube-system", spec=spec)


def secret(name: str, key: str) -> Tree:
    return named("v1", "Secret", name, NAMESPACE, data={key: "eA=="})


def pod(name: str, on: str, gpus: int, **labels: str) -> Tree:
    containers = [{"name": "c", "resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}]
    return named(
        "v1",
        "Pod",
        name,
        "other",
        metadata={"labels": labels},
        spec={"nodeName": on, "containers": containers},
        status={"phase": "Running"},
    )


def everything() -> list[Tree]:
    """A cluster on which values-production.yaml runs."""
    return [
        named("v1", "Namespace", NAMESPACE),
        *(secret(name, key) for name, key in SECRETS.items()),
        operator(),
        daemons("cilium"),
        named("gateway.networking.k8s.io/v1", "Gateway", "public", "gateways", spec={}),
        *(node(f"system-{index}") for index in range(2)),
        *(node(f"gpu-{index}", gpus=8) for index in range(2)),
    ]


class Direct:
    """Reads the stand-in without a kubectl between."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, trust_env=False, timeout=10)

    def get(self, path: str) -> Tree | None:
        answer = self._http.get(path)
        if answer.status_code == 403:
            raise MayNot(answer.json()["message"])
        tree: Tree = answer.json()
        return tree if answer.is_success else None


def wanted_of(objects: list[Tree], release: str = "trireme") -> Wanted:
    return Wanted(needs(objects), release, NAMESPACE, (1, 29), (1, 7))


Ask = Callable[..., list[Finding]]


@pytest.fixture
def ask(tmp_path: Path, renders: dict[str, list[Tree]]) -> Ask:
    """The findings for a preset in a cluster that holds these objects."""

    def asked(
        there: list[Tree], preset: str = "production", groups: frozenset[str] = GROUPS, **more: Any
    ) -> list[Finding]:
        api = StandIn(groups=groups, **more)
        for each in there:
            api.put(each)
        with serving(api, tmp_path) as kubeconfig:
            url = kubeconfig.read_text().partition("server: ")[2].split()[0]
            return examine(wanted_of(renders[preset]), Direct(url))

    return asked


def faults(findings: list[Finding]) -> list[Finding]:
    return [each for each in findings if each.state is not State.ok]


def test_a_cluster_that_has_everything_passes(ask: Ask) -> None:
    findings = ask(everything())
    print(f"{len(findings)} checks")
    assert faults(findings) == []
    assert len(findings) > 18


def without(name: str) -> list[Tree]:
    return [each for each in everything() if each["metadata"]["name"] != name]


def instead(*new: Tree) -> list[Tree]:
    names = {each["metadata"]["name"] for each in new}
    return [each for each in everything() if each["metadata"]["name"] not in names] + list(new)


def labelled(level: str) -> Tree:
    labels = {"pod-security.kubernetes.io/enforce": level}
    return named("v1", "Namespace", NAMESPACE, metadata={"labels": labels})


AWS = daemons("aws-node", {"name": "aws-node"}, {"name": "aws-eks-nodeagent", "args": ["--x"]})
TAINT = {"key": "team", "value": "ml", "effect": "NoSchedule"}

# What the cluster has, and what is said of the one thing that it lacks.
LACKS: dict[str, tuple[list[Tree], str, str]] = {
    "the namespace": (
        [e for e in without(NAMESPACE) if e["kind"] != "Secret"],
        "serving does not exist",
        "kubectl create namespace serving",
    ),
    "a secret": (
        without("trireme-database"),
        "trireme-database does not exist in serving",
        "create secret generic trireme-database --from-literal=url=…",
    ),
    "the key of a secret": (
        instead(secret("trireme-redis", "pass")),
        "trireme-redis has no key password",
        "add it",
    ),
    "KubeRay's operator": (
        without("kuberay-operator"),
        "no KubeRay operator runs",
        "helm install kuberay-operator",
    ),
    "a new enough operator": (
        instead(operator("registry.example.com/kuberay/operator:v1.6.2")),
        "v1.6.2 in kuberay is too old",
        "upgrade it and its CRDs to 1.7",
    ),
    "an operator that runs": (
        instead(operator(available=0)),
        "is not available",
        "describe deployment kuberay-operator",
    ),
    "room for host paths": (
        instead(labelled("restricted")),
        "serving enforces restricted, which refuses weights.hostPath",
        "kubectl label --overwrite namespace serving",
    ),
    "the Gateway": (
        without("public"),
        "no Gateway in gateways public",
        "correct httpRoute.gateway",
    ),
    "NetworkPolicies that work": (
        [*without("cilium"), AWS],
        "AWS's VPC CNI without its network policy agent does not carry",
        "until then any pod reaches gateways",
    ),
    "a device plugin": (
        instead(node("gpu-0"), node("gpu-1")),
        "no node has nvidia.com/gpu",
        "install NVIDIA's GPU operator",
    ),
    "room for all engines": (
        without("gpu-1"),
        "engine-spot: 0 of 1 pods fit; no node has 1 nvidia.com/gpu free (at most 0)",
        "add nodes",
    ),
    "GPUs that nobody else has": (
        [*everything(), pod("a", "gpu-0", 8), pod("b", "gpu-1", 6)],
        "engine-main: 1 of 4 pods fit",
        "add nodes",
    ),
    "nodes without other taints": (
        instead(*(node(f"system-{i}", spec={"taints": [TAINT]}) for i in range(2))),
        "gateway: 0 of 3 pods fit; 4 nodes are tainted",
        "tolerate it in the values",
    ),
}


@pytest.mark.parametrize("lack", LACKS)
def test_what_is_missing_is_said_with_its_remedy(ask: Ask, lack: str) -> None:
    there, said, remedy = LACKS[lack]
    found = [each for each in faults(ask(there)) if said in each.what]
    assert [each.state for each in found] == [State.missing], faults(ask(there))
    assert remedy in found[0].remedy


@pytest.mark.parametrize(
    ("group", "remedy"),
    [
        ("ray.io", "install KubeRay's operator"),
        ("monitoring.coreos.com", "monitoring.podMonitor.enabled"),
        ("gateway.networking.k8s.io", "httpRoute.enabled"),
    ],
)
def test_kinds_that_are_not_installed(ask: Ask, group: str, remedy: str) -> None:
    there = [each for each in everything() if each["apiVersion"].split("/")[0] != group]
    found = [each for each in ask(there, groups=GROUPS - {group}) if each.check == "kinds"]
    lacking = [each for each in found if each.state is State.missing]
    assert lacking
    assert all(group in each.what and remedy in each.remedy for each in lacking)


def test_an_old_kubernetes(ask: Ask) -> None:
    (fault,) = faults(ask(everything(), version="v1.28.4"))
    assert (fault.check, fault.state) == ("kubernetes", State.missing)
    # An image as a volume needs a newer one than the rest.
    found = faults(ask(everything(), preset="airgapped", version="v1.31.0"))
    assert [each.remedy for each in found if each.check == "kubernetes"] == [
        "upgrade the cluster to 1.33 or newer (weights.image)"
    ]


def test_storage_of_the_trial(ask: Ask) -> None:
    def storage(*there: Tree) -> list[tuple[State, str]]:
        found = ask([*everything(), *there], preset="trial")
        return [(each.state, each.what) for each in found if each.check == "storage"]

    assert storage() == [(State.missing, "no default storage class")]
    marks = {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}
    default = named("storage.k8s.io/v1", "StorageClass", "fast", metadata=marks)
    assert storage(default) == [(State.ok, "storage class (the default)")]


def test_a_claim_for_one_node_does_not_fit_many_pods(tmp_path: Path, helm: Helm) -> None:
    objects = helm.objects(values={"weights": {"existingClaim": "models"}})
    api = StandIn()
    for modes, state in ((["ReadWriteOnce"], State.missing), (["ReadOnlyMany"], State.ok)):
        spec = {"accessModes": modes}
        api.put(named("v1", "PersistentVolumeClaim", "models", NAMESPACE, spec=spec))
        with serving(api, tmp_path) as kubeconfig:
            url = kubeconfig.read_text().partition("server: ")[2].split()[0]
            found = examine(wanted_of(objects), Direct(url))
        assert [e.state for e in found if e.what.startswith("volume claim models")] == [state]


def test_a_node_autoscaler_may_add_what_is_missing(ask: Ask) -> None:
    found = faults(ask(without("gpu-1"), groups=GROUPS | {"karpenter.sh"}))
    assert {each.state for each in found} == {State.unknown}
    assert any("a node autoscaler is here" in each.remedy for each in found)


def test_pods_of_the_release_itself_are_no_others(ask: Ask) -> None:
    mine = {"app.kubernetes.io/name": "trireme", "app.kubernetes.io/instance": "trireme"}
    there = [*everything(), pod("a", "gpu-0", 8, **mine), pod("b", "gpu-1", 8, **mine)]
    assert faults(ask(there)) == []


def test_what_may_not_be_read_is_unknown_and_no_failure(ask: Ask) -> None:
    found = faults(ask(everything(), forbidden=frozenset({"nodes", "pods", "daemonsets"})))
    assert {each.check for each in found} == {"nodes", "network"}
    assert {each.state for each in found} == {State.unknown}
    assert all("the right to read it" in each.remedy for each in found)


def test_nodes_that_are_cordoned_or_away_take_no_pods() -> None:
    away = {"conditions": [{"type": "Ready", "status": "Unknown"}]}
    cordoned = node("a", spec={"unschedulable": True})
    assert nodes_of([cordoned, node("b", status=away)], []) == []
    assert [each.name for each in nodes_of([node("c")], [])] == ["c"]


@pytest.mark.parametrize(
    ("text", "value"),
    [("500m", 0.5), ("2", 2.0), ("64Gi", 64 * 2**30), ("1e3", 1000.0), (3, 3.0), ("1.5k", 1500.0)],
)
def test_quantities(text: str | int, value: float) -> None:
    assert amount(text) == pytest.approx(value)


# ------------------------------------------------------------------------- with a real kubectl


@pytest.fixture
def kubectl() -> Path:
    try:
        return toolbox.kubectl_binary()
    except Missing as error:
        pytest.skip(str(error))


@pytest.fixture
def command(helm: Helm, kubectl: Path, tmp_path: Path) -> Iterator[tuple[StandIn, list[str]]]:
    """A cluster that has everything, and the command that examines it."""
    api = StandIn(groups=GROUPS)
    for each in everything():
        api.put(each)
    with serving(api, tmp_path) as kubeconfig:
        tools = ["--helm", str(helm.binary), "--kubectl", str(kubectl)]
        values = ["-f", str(CHART / "values-production.yaml"), "-n", NAMESPACE]
        yield api, ["k8s", "doctor", *values, *tools, "--kubeconfig", str(kubeconfig)]


def test_the_command_says_it_in_words_and_by_its_exit_code(
    command: tuple[StandIn, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    api, line = command
    assert run(line) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-1].endswith("ok"), told
    assert any("Kubernetes is v1.35.0" in each for each in told)
    api.remove(api.resource("v1", "secrets"), NAMESPACE, "trireme-database")
    assert run([*line, "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["missing"] == 1
    (fault,) = [each for each in said["findings"] if each["state"] == "missing"]
    assert fault["check"] == "secrets"
    assert "--from-literal=url=" in fault["remedy"]
    # It only reads.
    assert api.requests == []


def test_a_rendered_manifest_will_do(
    command: tuple[StandIn, list[str]],
    helm: Helm,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, line = command
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(helm.render("production").stdout)
    at = line.index("-f")
    assert run([*line[:at], "--manifest", str(manifest), *line[at + 2 :]]) == 0
    assert run([*line, "--manifest", str(manifest)]) == 2
    assert "say the same thing twice" in capsys.readouterr().err


def test_what_cannot_be_asked_is_one_line_and_exit_code_2(
    command: tuple[StandIn, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, line = command
    empty = tmp_path / "empty.yaml"
    empty.write_text("kind: ConfigMap\nmetadata: {name: a}\n")
    wrong = copy.copy(line)
    wrong[wrong.index("--kubeconfig") + 1] = str(empty)
    lonely = ["k8s", "doctor", "--manifest", str(empty)]
    for given, told in (
        ([*line, "--context", "elsewhere"], "elsewhere"),
        ([*line, "--kubectl", "no-such-kubectl"], "install kubectl"),
        ([*line, "--helm", "no-such-helm"], "install helm"),
        (lonely, "it holds no RayService"),
        ([*lonely[:-1], str(CHART / "templates" / "rayservice.yaml")], "is no manifest"),
    ):
        assert run(given) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith("error: ")
        assert told in said
