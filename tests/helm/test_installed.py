"""The chart in a Kubernetes API, by real helm and kubectl: order, hooks, upgrade, rollback, notes.

The API is a stand-in (``tests/helm/stand_in.py``): it refuses what Kubernetes' schemas refuse, and
no controller acts on what is stored.
"""

import copy
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from tests.helm import toolbox
from tests.helm.restarts import Restarts, between
from tests.helm.stand_in import Change, StandIn, serving
from tests.helm.toolbox import CHART, NAMESPACE, Helm, Missing, Schemas, Tree, the

TRIAL = ("-f", str(CHART / "values-trial.yaml"))
ALL_GROUPS = frozenset(
    {"ray.io", "monitoring.coreos.com", "gateway.networking.k8s.io", "external-secrets.io"}
)


@dataclass
class Place:
    """A stand-in, and helm that speaks to it."""

    api: StandIn
    helm: Helm
    kubeconfig: Path
    notes: str = ""
    steps: dict[str, list[Change]] = field(default_factory=dict)
    seen: dict[str, list[Tree]] = field(default_factory=dict)

    def __call__(self, action: str, *args: str) -> "subprocess.CompletedProcess[str]":
        homes = {f"HELM_{kind}_HOME": str(self.kubeconfig.parent) for kind in ("CACHE", "DATA")}
        env = {"KUBECONFIG": str(self.kubeconfig), **homes}
        return self.helm.run(action, "trireme", *args, "-n", NAMESPACE, env=env)

    def step(self, name: str, action: str, *args: str) -> str:
        """One that must succeed; its changes are kept under ``name``, and what stands after it."""
        self.api.requests.clear()
        done = self(action, *args)
        assert done.returncode == 0, done.stderr
        self.steps[name] = [each for each in self.api.requests if not _own(each)]
        self.seen[name] = self.api.all()
        return done.stdout


def _own(change: Change) -> bool:
    """Whether it is helm's note of the release."""
    return change.name.startswith("sh.helm.release")


@pytest.fixture
def kubectl() -> Path:
    try:
        return toolbox.kubectl_binary()
    except Missing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=["4", "3"])
def lived(
    request: pytest.FixtureRequest,
    schemas: Schemas,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Place]:
    """Installed, changed, upgraded to another release, rolled back, tested, removed."""
    fixture = {"4": "helm", "3": "helm3"}[request.param]
    helm: Helm = request.getfixturevalue(fixture)
    folder = tmp_path_factory.mktemp("api")
    api = StandIn(schemas=schemas)
    with serving(api, folder) as kubeconfig:
        place = Place(api, helm, kubeconfig)
        place.notes = place.step("install", "install", str(CHART), "--create-namespace", *TRIAL)
        tiers = ("--set", "config.tiers.high.max_queued=99")
        place.step("tiers", "upgrade", str(CHART), *TRIAL, *tiers)
        place.step("image", "upgrade", str(CHART), *TRIAL, "--set", "image.tag=other-cpu")
        place.step("rollback", "rollback", "1")
        place.step("test", "test")
        place.step("uninstall", "uninstall")
        yield place


def kinds(changes: list[Change], verb: str) -> list[str]:
    return [each.kind for each in changes if each.verb == verb]


def test_the_config_is_checked_before_anything_else_is_made(lived: Place) -> None:
    made = [each for each in lived.steps["install"] if each.kind != "Namespace"]
    assert made[:4] == [
        Change("create", "ConfigMap", "trireme-check"),
        Change("create", "Job", "trireme-check"),
        *sorted(made[2:4], key=lambda each: each.kind, reverse=True),
    ]
    assert {each.verb for each in made[2:4]} == {"DELETE"}
    assert set(kinds(made[4:], "create")) == set(kinds(made, "create")) - {"ConfigMap", "Job"}


def test_what_pods_need_is_made_before_them(lived: Place) -> None:
    made = kinds(lived.steps["install"], "create")
    service = made.index("RayService")
    for kind in ("PriorityClass", "NetworkPolicy", "ServiceAccount", "Secret", "StatefulSet"):
        assert max(at for at, each in enumerate(made) if each == kind) < service, kind
    print(f"{len(made)} objects")
    assert len(made) > 20


def test_notes_say_what_to_do_next(lived: Place) -> None:
    for told in (
        f"kubectl -n {NAMESPACE} wait rayservice/trireme --for=condition=Ready",
        f"helm -n {NAMESPACE} test trireme",
        f"kubectl -n {NAMESPACE} port-forward service/trireme 8000:80",
        "pool main with 2 (2 to 2) replicas",
        "fit for trials. For production, set redis.host.",
    ):
        assert told in lived.notes


def test_other_tiers_change_one_object(lived: Place) -> None:
    changed = [each for each in lived.steps["tiers"] if each.name != "trireme-check"]
    assert changed == [Change("update", "RayService", "trireme")]
    assert not between(lived.seen["install"], lived.seen["tiers"]).new_cluster


def test_another_image_is_a_new_cluster_and_the_rollback_is_the_first_again(lived: Place) -> None:
    assert between(lived.seen["tiers"], lived.seen["image"]).new_cluster
    assert between(lived.seen["image"], lived.seen["rollback"]).new_cluster
    assert between(lived.seen["install"], lived.seen["rollback"]) == Restarts()
    first, last = (the(lived.seen[step], "RayService") for step in ("install", "rollback"))
    assert first["spec"] == last["spec"]
    assert first["metadata"]["uid"] == last["metadata"]["uid"]


def test_generated_secrets_outlive_upgrades_and_the_release(lived: Place) -> None:
    def secrets(step: str) -> dict[str, Tree]:
        return {
            each["metadata"]["name"]: each["data"]
            for each in lived.seen[step]
            if each["kind"] == "Secret" and not each["metadata"]["name"].startswith("sh.helm")
        }

    assert set(secrets("install")) == {"trireme-channel", "trireme-redis"}
    assert secrets("install") == secrets("image") == secrets("rollback") == secrets("uninstall")
    left = {each["kind"] for each in lived.seen["uninstall"]}
    assert left == {"Namespace", "Secret"}


def test_helm_test_asks_at_every_tier_and_cleans_up(lived: Place) -> None:
    name = "trireme-test-answer"
    made = [Change("create", "Pod", name), Change("DELETE", "Pod", name)]
    assert lived.steps["test"] == made


def test_a_config_that_the_check_refuses_installs_nothing(
    helm: Helm, schemas: Schemas, tmp_path: Path
) -> None:
    api = StandIn(schemas=schemas, succeeds=False)
    with serving(api, tmp_path) as kubeconfig:
        place = Place(api, helm, kubeconfig)
        done = place("install", str(CHART), "--create-namespace", *TRIAL)
    assert done.returncode != 0
    assert "pre-install" in done.stderr
    made = {each.kind for each in api.requests if not _own(each)}
    assert made == {"Namespace", "ConfigMap", "Job"}
    # The Job is still there, as its log says what is wrong.
    assert [each["metadata"]["name"] for each in api.all("Job")] == ["trireme-check"]


def created(
    kubectl: Path, kubeconfig: Path, manifest: Path, dry: str
) -> "subprocess.CompletedProcess[str]":
    given = ["--kubeconfig", str(kubeconfig), "-n", NAMESPACE, "-f", str(manifest)]
    return subprocess.run(
        [str(kubectl), "create", f"--dry-run={dry}", "--validate=strict", *given],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def everything(schemas: Schemas) -> StandIn:
    """With every custom resource, and the namespace."""
    api = StandIn(schemas=schemas, groups=ALL_GROUPS)
    api.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    return api


@pytest.mark.parametrize("preset", toolbox.PRESETS)
def test_kubectl_accepts_every_object(
    kubectl: Path, everything: StandIn, renders: dict[str, list[Tree]], tmp_path: Path, preset: str
) -> None:
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(yaml.safe_dump_all(renders[preset]))
    with serving(everything, tmp_path) as kubeconfig:
        for dry in ("client", "server"):
            done = created(kubectl, kubeconfig, manifest, dry)
            assert done.returncode == 0, done.stderr
            assert len(done.stdout.splitlines()) == len(renders[preset])
    assert everything.requests == []


def test_kubectl_refuses_a_misspelt_field(
    kubectl: Path, everything: StandIn, renders: dict[str, list[Tree]], tmp_path: Path
) -> None:
    service = copy.deepcopy(the(renders["trial"], "RayService"))
    service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["minReplica"] = 1
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(yaml.safe_dump(service))
    with serving(everything, tmp_path) as kubeconfig:
        done = created(kubectl, kubeconfig, manifest, "server")
    assert done.returncode != 0
    assert "minReplica" in done.stderr
