"""Everything that the chart renders is what Kubernetes, KubeRay, Ray and Trireme itself accept."""

import base64
import json
import re
from typing import Any

import pytest
import yaml

from cluster.config import TriremeConfig
from cluster.front import Front
from cluster.local_ray import HEAD_S, serve_environment
from deployments.gateway.contract.routes import find_route
from tests.helm.toggles import TOGGLES
from tests.helm.toolbox import (
    KUBERNETES,
    PRESETS,
    Helm,
    Schemas,
    Tree,
    containers,
    of_kind,
    parsed,
    pod_templates,
    the,
)

EVERY = ["default", *PRESETS, *TOGGLES]
LABEL = re.compile(r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")
SECRET = re.compile(r"password|secret|token|_url$|key$", re.IGNORECASE)


@pytest.fixture(params=EVERY)
def objects(rendered: dict[str, list[Tree]], request: pytest.FixtureRequest) -> list[Tree]:
    return rendered[request.param]


def config_of(objects: list[Tree]) -> TriremeConfig:
    """That of the whole cluster: the autoscaler knows it. Without one, what gateways know, and how
    many replicas each pool has."""
    gateways, *rest = serve_config(objects)["applications"]
    config: Tree = gateways["args"]["config"]
    if rest[-1]["name"].endswith("-autoscaler"):
        return TriremeConfig.model_validate(rest[-1]["args"]["config"])
    sizes = {each["name"]: each["num_replicas"] for pool in rest for each in pool["deployments"]}
    for pool in (pool for model in config["models"] for pool in model["pools"]):
        pool["replicas"] = sizes[f"engine-{pool['name']}"]
    return TriremeConfig.model_validate(config)


def serve_config(objects: list[Tree]) -> Tree:
    (config,) = parsed(the(objects, "RayService")["spec"]["serveConfigV2"])
    return config


def group(objects: list[Tree], name: str) -> Tree:
    groups = the(objects, "RayService")["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    (found,) = [each for each in groups if each["groupName"] == name]
    return dict(found)


def environment(container: Tree) -> dict[str, Any]:
    return {each["name"]: each.get("value") for each in container["env"]}


@pytest.mark.parametrize("version", KUBERNETES)
def test_schemas_of_kubernetes_and_of_custom_resources_accept_every_object(
    objects: list[Tree], version: str, schemas: Schemas
) -> None:
    assert [fault for each in objects for fault in schemas.faults(each, version)] == []


def test_a_schema_finds_a_planted_error(renders: dict[str, list[Tree]], schemas: Schemas) -> None:
    service = yaml.safe_load(yaml.safe_dump(the(renders["default"], "RayService")))
    service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["minReplica"] = 1
    assert schemas.faults(service, KUBERNETES[0])


def test_names_and_labels_fit(objects: list[Tree]) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(set(names)) == len(names)
    # KubeRay makes up to 47 characters of a RayService's name, and refuses more.
    assert len(the(objects, "RayService")["metadata"]["name"]) <= 47
    labelled = [each["metadata"] for each in objects]
    labelled += [template["metadata"] for _, template in pod_templates(objects)]
    for metadata in labelled:
        assert len(metadata.get("name", "")) <= 63
        for value in metadata["labels"].values():
            assert len(value) <= 63
            assert LABEL.match(value)


def test_a_long_release_name_still_fits(helm: Helm) -> None:
    long = "a-release-whose-name-is-as-long-as-helm-lets-it-be-xx"
    objects = helm.objects("production", name=long)
    assert all(len(each["metadata"]["name"]) <= 63 for each in objects)
    assert len(the(objects, "RayService")["metadata"]["name"]) <= 47


def test_selectors_select_pods_of_the_release(objects: list[Tree]) -> None:
    labels = [template["metadata"]["labels"] for _, template in pod_templates(objects)]
    selectors = [each["spec"]["selector"] for each in of_kind(objects, "Service")]
    selectors += [
        each["spec"]["selector"]["matchLabels"]
        for kind in ("Deployment", "StatefulSet", "PodDisruptionBudget", "PodMonitor")
        for each in of_kind(objects, kind)
    ]
    selectors += [
        each["spec"]["podSelector"]["matchLabels"] for each in of_kind(objects, "NetworkPolicy")
    ]
    selectors += [
        each["labelSelector"]["matchLabels"]
        for _, template in pod_templates(objects)
        for each in template["spec"].get("topologySpreadConstraints", [])
    ]
    assert selectors
    for selector in selectors:
        assert any(selector.items() <= each.items() for each in labels), selector


def test_no_container_may_more_than_the_restricted_profile(objects: list[Tree]) -> None:
    for name, template in pod_templates(objects):
        pod = template["spec"]["securityContext"]
        assert pod["runAsNonRoot"], name
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not any(template["spec"].get(each) for each in ("hostNetwork", "hostPID", "hostIPC"))
        for each in containers(template):
            security = each["securityContext"]
            assert not security.get("privileged"), name
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"]["drop"] == ["ALL"]
            if each["name"] == "folders":
                # A host path belongs to root; the one who gives it away may do only that.
                assert security["capabilities"]["add"] == ["CHOWN"]
                assert each["command"][0] == "chown"
                continue
            assert security["runAsNonRoot"] is True
            assert "add" not in security["capabilities"]


def test_host_paths_are_mounted_only_where_they_were_asked_for(
    rendered: dict[str, list[Tree]],
) -> None:
    def paths(objects: list[Tree]) -> list[str]:
        return [
            volume["hostPath"]["path"]
            for _, template in pod_templates(objects)
            for volume in template["spec"].get("volumes", [])
            if "hostPath" in volume
        ]

    assert paths(rendered["default"]) == paths(rendered["airgapped"]) == []
    assert paths(rendered["s3 with host cache"]) == ["/mnt/weights", "/mnt/compiled"]


def test_secrets_stand_only_in_secrets(objects: list[Tree]) -> None:
    for _, template in pod_templates(objects):
        for each in containers(template):
            for variable in each.get("env", []):
                if SECRET.search(variable["name"]):
                    assert "value" not in variable, variable["name"]
                    assert "secretKeyRef" in variable["valueFrom"]
    values = [
        base64.b64decode(value).decode()
        for secret in of_kind(objects, "Secret")
        for value in secret["data"].values()
    ]
    text = json.dumps([each for each in objects if each["kind"] != "Secret"])
    assert all(len(value) >= 32 and value not in text for value in values)


def test_every_secret_claim_and_account_is_made_or_named(objects: list[Tree]) -> None:
    made = {each["metadata"]["name"] for each in of_kind(objects, "Secret")}
    accounts = {each["metadata"]["name"] for each in of_kind(objects, "ServiceAccount")}
    named = {"trireme-channel", "trireme-redis", "trireme-database", "hf"}
    named |= {"trireme-access", "trireme-admins", "trireme-test"}
    for _, template in pod_templates(objects):
        assert template["spec"].get("serviceAccountName", "default") in accounts | {"default"}
        for each in containers(template):
            for variable in each.get("env", []):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                assert reference is None or reference["name"] in made | named


def test_only_those_who_ask_kubernetes_have_a_token_for_it(objects: list[Tree]) -> None:
    for name, template in pod_templates(objects):
        spec = template["spec"]
        # The head has it by KubeRay's own role, for the autoscaler beside it.
        asks = name == "head" or name.startswith("Deployment")
        assert spec.get("automountServiceAccountToken", True) is asks, name
    for role in of_kind(objects, "Role"):
        assert role["rules"] == [
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
        ]
    assert not of_kind(objects, "ClusterRole")


def test_engine_pods_ask_for_the_gpus_of_one_replica(objects: list[Tree]) -> None:
    for _, pool in config_of(objects).pools():
        found = group(objects, f"engine-{pool.name}")
        gpus = pool.engine == "vllm" and pool.device != "cpu"
        wanted = pool.tensor_parallel_size if gpus else None
        (container,) = found["template"]["spec"]["containers"]
        assert container["resources"]["limits"].get("nvidia.com/gpu") == wanted
        assert container["resources"]["requests"].get("nvidia.com/gpu") == wanted
        assert found["rayStartParams"].get("num-gpus") == (str(wanted) if wanted else None)
        assert found["minReplicas"] <= found["replicas"] <= found["maxReplicas"]
        tolerated = {each["key"] for each in found["template"]["spec"].get("tolerations", [])}
        assert ("nvidia.com/gpu" in tolerated) is gpus


def test_gateways_alone_get_what_callers_are_known_by(objects: list[Tree]) -> None:
    config = config_of(objects)
    wanted = {"TRIREME_ACCESS_SECRET", "TRIREME_DATABASE_URL"}
    for name, template in pod_templates(objects):
        found = {v["name"] for each in containers(template) for v in each.get("env", [])}
        if name == "gateway" and config.access.mode == "keys":
            assert wanted <= found
            assert not config.gateway.insecure_listen_without_auth
        if name != "gateway":
            assert not (wanted | {"TRIREME_ADMIN_TOKENS"}) & found, name


def test_each_pod_is_a_place_for_exactly_one_replica(objects: list[Tree]) -> None:
    from deployments.kubernetes import places

    cluster = the(objects, "RayService")["spec"]["rayClusterConfig"]
    offered = {}
    for each in cluster["workerGroupSpecs"]:
        # As KubeRay's autoscaler reads it.
        text = each["rayStartParams"]["resources"][1:-1].replace("\\", "")
        offered[each["groupName"]] = yaml.safe_load(text)
    assert offered == {name: {place: 1} for name, place in places(config_of(objects)).items()}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_time_to_end_covers_what_may_still_run(objects: list[Tree]) -> None:
    config = config_of(objects)
    gateway = group(objects, "gateway")["template"]["spec"]
    longest_s = config.gateway.max_stream_s
    assert gateway["terminationGracePeriodSeconds"] >= longest_s + 60
    spec = the(objects, "RayService")["spec"]
    assert spec["rayClusterDeletionDelaySeconds"] >= longest_s
    for _, pool in config.pools():
        engine = group(objects, f"engine-{pool.name}")["template"]["spec"]
        # Serve ends a replica 10 s after its drain timeout (deployments/application.py).
        assert engine["terminationGracePeriodSeconds"] >= pool.drain_timeout_s + 10 + 30
    for spec in (gateway, *(group(objects, f"engine-{p.name}")["template"]["spec"]
                            for _, p in config.pools())):  # fmt: skip
        (container,) = spec["containers"]
        command = container["lifecycle"]["preStop"]["exec"]["command"]
        assert float(command[-1]) < spec["terminationGracePeriodSeconds"]


def test_pods_get_the_settings_that_a_local_ray_gets(objects: list[Tree]) -> None:
    wanted = serve_environment(config_of(objects))
    # A fault of one node is no reason to give up here.
    del wanted["RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT"]
    # Both follow from the machine.
    wanted |= {"RAY_SERVE_HAPROXY_MAXCONN": "16384", "RAY_SERVE_HAPROXY_NBTHREAD": "4"}
    for name, template in pod_templates(objects):
        if name == "head" or name == "gateway" or name.startswith("engine-"):
            (container,) = template["spec"]["containers"]
            assert wanted.items() <= environment(container).items(), name


def test_haproxy_is_started_by_way_of_front_and_every_named_file_is_mounted(
    objects: list[Tree],
) -> None:
    config = config_of(objects)
    tls, channel, usage = config.gateway.tls, config.channel.tls, config.usage.queue_dir
    pair = [tls.cert_file, tls.key_file] if tls is not None else []
    three = [channel.cert_file, channel.key_file, channel.ca_file] if channel is not None else []
    kept = [each for each in (usage, config.content_log.folder) if each is not None]
    for name, template in pod_templates(objects):
        if not (name in ("head", "gateway") or name.startswith("engine-")):
            continue
        (container,) = template["spec"]["containers"]
        told = environment(container).get("TRIREME_FRONT")
        assert (told is not None) == config.gateway.haproxy
        if told is not None:
            front = Front.from_json(told)
            assert front.head_s == HEAD_S
            assert (front.certificate is not None) == bool(pair)
            if front.certificate is not None:
                assert [front.certificate.cert_file, front.certificate.key_file] == pair
        mounted = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
        wanted = {"head": pair, "gateway": [*pair, *three, *kept]}.get(name, three)
        for file in wanted:
            assert any(file.startswith(f"{path}/") for path in mounted), (name, file)
        volumes = {each["name"] for each in template["spec"]["volumes"]}
        assert set(mounted.values()) <= volumes
        # What nobody reads there, nobody gets.
        assert any("gateway-tls" in path for path in mounted) == (bool(pair) and wanted != three)
    probe = group(objects, "gateway")["template"]["spec"]["containers"][0]["readinessProbe"]
    assert (probe["httpGet"].get("scheme") == "HTTPS") == bool(pair)


def test_probes_ask_for_what_the_gateway_answers(objects: list[Tree]) -> None:
    gateway = group(objects, "gateway")["template"]["spec"]["containers"][0]
    assert find_route("GET", gateway["readinessProbe"]["httpGet"]["path"]).kind == "ready"
    prefixes = [
        path["path"]
        for ingress in of_kind(objects, "Ingress")
        for path in ingress["spec"]["rules"][0]["http"]["paths"]
    ]
    prefixes += [
        rule["matches"][0]["path"]["value"]
        for route in of_kind(objects, "HTTPRoute")
        for rule in route["spec"]["rules"]
    ]
    for prefix in prefixes:
        assert find_route("POST", f"{prefix}/chat/completions").kind == "chat"


def test_ways_in_wait_as_long_as_a_stream_may_last(objects: list[Tree]) -> None:
    longest = f"{config_of(objects).gateway.max_stream_s:.0f}"
    for ingress in of_kind(objects, "Ingress"):
        annotations = ingress["metadata"]["annotations"]
        assert annotations["nginx.ingress.kubernetes.io/proxy-read-timeout"] == longest
    for route in of_kind(objects, "HTTPRoute"):
        assert route["spec"]["rules"][0]["timeouts"]["request"] == f"{longest}s"


def test_ray_serve_accepts_its_configuration(objects: list[Tree]) -> None:
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(serve_config(objects))
    names = [application.name for application in schema.applications]
    config = config_of(objects)
    wanted = [config.name, *(f"{config.name}-engine-{pool.name}" for _, pool in config.pools())]
    if config.autoscaling.enabled:
        wanted.append(f"{config.name}-autoscaler")
    assert names == wanted
    assert schema.http_options.port == config.gateway.port
    for application in schema.applications:
        assert application.import_path.startswith("deployments.kubernetes:build")


def test_kuberay_accepts_the_service(objects: list[Tree]) -> None:
    """Rules of its operator (v1.7, `utils/validation.go`) that no schema says."""
    service = the(objects, "RayService")
    cluster = service["spec"]["rayClusterConfig"]
    groups = cluster["workerGroupSpecs"]
    assert len({each["groupName"] for each in groups}) == len(groups)
    for each in groups:
        assert each["minReplicas"] <= each["maxReplicas"]
    if "gcsFaultToleranceOptions" in cluster:
        head = cluster["headGroupSpec"]
        assert "redis-password" not in head["rayStartParams"]
        names = {variable["name"] for variable in head["template"]["spec"]["containers"][0]["env"]}
        assert not names & {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD"}
        assert "ray.io/ft-enabled" not in service["metadata"].get("annotations", {})
    options = service["spec"]["upgradeStrategy"].get("clusterUpgradeOptions")
    if service["spec"]["upgradeStrategy"]["type"] == "NewClusterWithIncrementalUpgrade":
        assert cluster["enableInTreeAutoscaling"]
        assert options["gatewayClassName"]
        assert 0 < options["stepSizePercent"] <= options["maxSurgePercent"] <= 100
    else:
        assert options is None


def test_budgets_let_one_pod_go(objects: list[Tree]) -> None:
    for budget in of_kind(objects, "PodDisruptionBudget"):
        # Without a scale subresource, Kubernetes takes a number here and nothing else.
        assert isinstance(budget["spec"]["minAvailable"], int)
        assert "maxUnavailable" not in budget["spec"]
        labels = budget["spec"]["selector"]["matchLabels"]
        pool = labels.get("trireme.dev/pool")
        least = group(objects, f"engine-{pool}" if pool else "gateway")["minReplicas"]
        assert budget["spec"]["minAvailable"] == least - 1
