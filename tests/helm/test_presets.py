"""The chart lints; presets and values of Terraform render; helm 3 and 4 agree."""

import json
import re
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from cluster import chart
from cluster.chart import CHART, Values
from tests.helm import golden
from tests.helm.toolbox import PRESETS, Helm, Tree, of_kind, the

RANDOM = re.compile(r"^  (secret|password): [A-Za-z0-9+/=]{60,}$", re.MULTILINE)


def test_what_is_generated_is_up_to_date() -> None:
    for path, text in chart.files().items():
        assert path.read_text() == text, f"{path.name}: run python -m cluster.chart"


def test_the_values_that_come_with_the_chart_are_the_types_defaults() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    given = Values.model_validate(values)
    assert given == Values(config=given.config)


@pytest.mark.parametrize("preset", ["", *PRESETS])
def test_the_chart_lints(helm: Helm, preset: str) -> None:
    files = ["-f", str(CHART / f"values-{preset}.yaml")] if preset else []
    done = helm.run("lint", "--strict", str(CHART), *files)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("preset", PRESETS)
def test_rendering_again_gives_the_same_and_helm_3_does_what_helm_4_does(
    helm: Helm, helm3: Helm, preset: str
) -> None:
    old, new, again = helm3.render(preset), helm.render(preset), helm.render(preset)
    assert old.returncode == 0, old.stderr
    assert RANDOM.sub("", old.stdout) == RANDOM.sub("", new.stdout)
    assert RANDOM.sub("", again.stdout) == RANDOM.sub("", new.stdout)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_renders_to_what_is_kept(renders: dict[str, list[Tree]], preset: str) -> None:
    kept = golden.path_of(preset).read_text()
    assert golden.text_of(renders[preset]) == kept, f"if it is meant: {golden.COMMAND}"


def test_a_change_of_a_preset_shows_in_what_is_kept(helm: Helm) -> None:
    """One line, with its place: what a reviewer of an upgrade reads."""
    kept = golden.path_of("h100-8x").read_text().splitlines()
    changed = golden.text_of(helm.objects("h100-8x", values={"nodes": {"idleTimeoutSeconds": 77}}))
    new = changed.splitlines()
    assert [line.strip() for line in new if line not in kept] == ["idleTimeoutSeconds: 77"]
    assert len(new) == len(kept)


def test_nothing_random_is_kept() -> None:
    for file in golden.FOLDER.glob("*.yaml"):
        assert not re.search(r"[A-Za-z0-9+/=]{60,}", file.read_text()), file.name


def test_eight_gpus_with_s3_tls_and_oidc_take_few_lines() -> None:
    lines = (CHART / "values-h100-8x.yaml").read_text().splitlines()
    written = [line for line in lines if line.strip() and not line.startswith("#")]
    print(f"{len(written)} lines")
    assert len(written) <= 25


def test_the_air_gapped_preset_reaches_nothing_outside(renders: dict[str, list[Tree]]) -> None:
    objects = renders["airgapped"]
    text = yaml.safe_dump(the(objects, "RayService"))
    images = set(re.findall(r"image: (\S+)", yaml.safe_dump(objects)))
    assert all(each.startswith("REGISTRY.example.internal/trireme/") for each in images)
    assert "name: HF_HUB_OFFLINE" in text
    for policy in of_kind(objects, "NetworkPolicy"):
        assert "0.0.0.0/0" not in yaml.safe_dump(policy)


TERRAFORM_VALUES = """
infrastructure: { contractVersion: 1, cloud: aws, region: us-east-1 }
imageRegistry: ""
config:
  name: chat
  gateway: { replicas: 8 }
  models:
    - name: gpt-oss-120b
      source: openai/gpt-oss-120b
      pools:
        - { name: main, replicas: 4, device: gpu, gpu_type: H100, tensor_parallel_size: 2,
            tiers: [low, medium, high], lends_to: [low, medium, high],
            max_num_seqs: 256, max_num_batched_tokens: 8192, gpu_memory_utilization: 0.9 }
        - { name: peak, replicas: 8, device: gpu, gpu_type: H200, tensor_parallel_size: 1,
            tiers: [], lends_to: [low, medium, high],
            max_num_seqs: 256, max_num_batched_tokens: 8192, gpu_memory_utilization: 0.9 }
head: { nodeSelector: { trireme.dev/role: system }, tolerations: [] }
gateway:
  nodeSelector: { trireme.dev/role: gateway }
  tolerations: [{ operator: Equal, key: trireme.dev/role, value: gateway, effect: NoSchedule }]
pools:
  main:
    { minReplicas: 4, maxReplicas: 8, gpus: 2, interruptible: false,
      nodeSelector: { trireme.dev/role: engine, trireme.dev/pool: main, trireme.dev/gpu: H100 },
      tolerations: [{ operator: Equal, key: nvidia.com/gpu, value: present, effect: NoSchedule }] }
  peak:
    { minReplicas: 0, maxReplicas: 8, gpus: 1, interruptible: true,
      nodeSelector: { trireme.dev/role: engine, trireme.dev/pool: peak, trireme.dev/gpu: H200 },
      tolerations: [{ operator: Equal, key: nvidia.com/gpu, value: present, effect: NoSchedule }] }
weights: { uri: "s3://chat-weights/gpt-oss-120b/", hostPath: /mnt/k8s-disks/0/trireme/weights,
           compileCachePath: /mnt/k8s-disks/0/trireme/compile-cache }
redis: { host: redis.example, port: 6379, tls: true, existingSecret: trireme-redis,
         secretKey: password, secretArn: "arn:aws:secretsmanager:redis" }
database: { host: db.example, port: 5432, name: trireme, user: trireme, tls: true,
            existingSecret: trireme-database, secretKey: url, secretArn: "" }
serviceAccounts:
  head: { name: trireme-head, annotations: {} }
  gateway: { name: trireme-gateway, annotations: { eks.amazonaws.com/role-arn: "arn:aws:iam::1:role/g" } }
  engine: { name: trireme-engine, annotations: { eks.amazonaws.com/role-arn: "arn:aws:iam::1:role/e" } }
  metrics: { name: trireme-metrics, annotations: {} }
monitoring: { remoteWriteUrl: "https://aps-workspaces.example/api/v1/remote_write" }
"""  # noqa: E501
"""As `terraform output helm_values` of terraform/modules/trireme gives them."""


@pytest.fixture(scope="module")
def of_terraform(helm: Helm) -> list[Tree]:
    return helm.objects(values=yaml.safe_load(TERRAFORM_VALUES))


def test_values_of_terraform_are_accepted(of_terraform: list[Tree]) -> None:
    contract = json.loads((CHART / "infrastructure-values.schema.json").read_text())
    jsonschema.Draft202012Validator(contract).validate(yaml.safe_load(TERRAFORM_VALUES))
    service = the(of_terraform, "RayService")
    groups = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert {each["groupName"]: (each["minReplicas"], each["maxReplicas"]) for each in groups} == {
        "gateway": (8, 9),
        "engine-main": (4, 8),
        "engine-peak": (0, 8),
    }
    selectors = [each["template"]["spec"]["nodeSelector"] for each in groups]
    assert [each.get("trireme.dev/pool") for each in selectors] == [None, "main", "peak"]


def test_bounds_of_terraform_make_pools_that_scale(of_terraform: list[Tree]) -> None:
    from tests.helm.test_objects import config_of

    config = config_of(of_terraform)
    assert config.autoscaling.enabled
    bounds = {
        pool.name: (pool.scaling.min_replicas, pool.scaling.max_replicas)
        for _, pool in config.pools()
        if pool.scaling
    }
    assert bounds == {"main": (4, 8), "peak": (1, 8)}
    assert config.models[0].source == "/models"


def test_every_value_that_terraform_may_write_is_one_of_the_chart() -> None:
    """Keys of Terraform's schema, at every depth outside `config`, are in the chart's."""
    theirs = json.loads((CHART / "infrastructure-values.schema.json").read_text())
    ours = json.loads((CHART / "values.schema.json").read_text())
    missing = []

    def resolve(schema: Tree, root: Tree) -> Tree:
        while "$ref" in schema or "allOf" in schema:
            if "allOf" in schema:
                schema = schema["allOf"][0]
                continue
            *_, kind, name = schema["$ref"].split("/")
            schema = root[kind][name]
        return schema

    def compare(a: Tree, b: Tree, path: str) -> None:
        a, b = resolve(a, theirs), resolve(b, ours)
        known = b.get("properties")
        for name, each in a.get("properties", {}).items():
            if name == "config" and not path:
                continue
            if known is None or name not in known:
                missing.append(f"{path}{name}")
            else:
                compare(each, known[name], f"{path}{name}.")

    compare(theirs, ours, "")
    assert missing == []


def test_dashboards_and_rules_are_the_files(renders: dict[str, list[Tree]]) -> None:
    objects = renders["production"]
    boards = {
        name: text
        for each in of_kind(objects, "ConfigMap")
        for name, text in each["data"].items()
        if name.endswith(".json")
    }
    files = sorted(CHART.glob("dashboards/*.json"))
    assert {f"trireme-{file.name}" for file in files} == set(boards)
    for file in files:
        assert json.loads(boards[f"trireme-{file.name}"]) == json.loads(file.read_text())
    rules = [each["spec"] for each in of_kind(objects, "PrometheusRule")]
    written = [yaml.safe_load(file.read_text()) for file in sorted(CHART.glob("rules/*.yaml"))]
    assert rules == written


def test_what_is_scraped_has_the_name_that_rules_know(renders: dict[str, list[Tree]]) -> None:
    from cluster.telemetry.local_prometheus import JOB

    monitors = {m["metadata"]["name"]: m for m in of_kind(renders["production"], "PodMonitor")}
    label = monitors["trireme"]["spec"]["jobLabel"]
    service = the(renders["production"], "RayService")
    groups = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert all(g["template"]["metadata"]["labels"][label] == JOB for g in groups)
    ports = {p["name"] for g in groups for p in g["template"]["spec"]["containers"][0]["ports"]}
    for monitor in monitors.values():
        assert {each["port"] for each in monitor["spec"]["podMetricsEndpoints"]} <= ports


def test_a_release_can_be_packaged(helm: Helm, tmp_path: Path) -> None:
    done = helm.run("package", str(CHART), "--destination", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (made,) = tmp_path.glob("trireme-*.tgz")
    assert made.stat().st_size < 1_000_000  # a release's Secret holds the chart
