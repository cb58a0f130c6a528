"""The examples applied whole: what they make, that nothing drifts, that they go.

Always with a mocked provider; where it is asked for, also in a stand-in for AWS.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest
import yaml

from cluster.config import TriremeConfig
from tests.helm.toolbox import CHART, Helm, helm_binary, pod_templates
from tests.helm.toolbox import Missing as NoHelm
from tests.terraform.lifecycle import LEFT_OUT, Life
from tests.terraform.test_facts import CONTRACT, SCHEMA, without_operator
from tests.terraform.toolbox import EXAMPLES, note, only_with_the_stand_in

pytestmark = pytest.mark.timeout(1800)

# AWS offers no narrower resource for these than "*" (its service authorization reference).
READS_WITHOUT_RESOURCE = (
    "autoscaling:Describe",
    "ec2:Describe",
    "ec2:GetInstanceTypes",
    "pricing:Get",
)

WAYS = [pytest.param(("mocked", each), id=f"{each}-mocked") for each in EXAMPLES] + [
    pytest.param(("stand-in", each), id=f"{each}-stand-in", marks=only_with_the_stand_in)
    for each in EXAMPLES
]


@pytest.fixture(params=WAYS)
def life(request: pytest.FixtureRequest) -> Life:
    way, example = request.param
    lives: dict[str, Life] = request.getfixturevalue("mocked_lives" if way == "mocked" else "lives")
    return lives[example]


@pytest.fixture(params=EXAMPLES)
def mock(request: pytest.FixtureRequest, mocked_lives: dict[str, Life]) -> Life:
    """An example of which nothing was left out."""
    return mocked_lives[request.param]


def test_a_second_plan_is_empty(life: Life) -> None:
    assert not life.drift, life.drift
    kinds = {each["type"] for each in life.resources()}
    took = ", ".join(f"{name} {spent:.0f} s" for name, spent in life.seconds.items())
    note(
        f"{life.example}, {life.way}: {len(life.resources())} resources, {len(kinds)} kinds; {took}"
    )


def test_everything_that_was_made_goes_again(life: Life) -> None:
    assert life.left_behind == []


@only_with_the_stand_in
@pytest.mark.parametrize("example", EXAMPLES)
def test_only_what_the_stand_in_cannot_make_is_left_out(
    mocked_lives: dict[str, Life], lives: dict[str, Life], example: str
) -> None:
    whole = {each["address"]: each["type"] for each in mocked_lives[example].resources()}
    made = {each["address"] for each in lives[example].resources()}
    assert made <= set(whole)
    missing = Counter(kind for address, kind in whole.items() if address not in made)
    # The roles of add-ons go with them, as does what binds AWS's policies to those.
    roles = {"aws_iam_role", "aws_iam_role_policy_attachment"}
    of_addons = [a for a in whole if a not in made and ".module.addon_role[" in a]
    of_valkey = [a for a in whole if a not in made and "valkey" in a]
    assert set(missing) <= {*LEFT_OUT, *roles}
    assert len(of_valkey) == (0 if example == "trial" else 5)
    assert missing["aws_security_group"] <= 1
    assert missing["aws_iam_role"] + missing["aws_iam_role_policy_attachment"] == len(of_addons)
    left = ", ".join(f"{count} {kind}" for kind, count in sorted(missing.items()))
    note(f"{example}, stand-in: without {sum(missing.values())} that it cannot make: {left}")
    assert len(made) >= 60


def statements(life: Life) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every statement of every policy of IAM that the example made."""
    for each in life.resources():
        text = each["values"].get("policy")
        if each["type"] in ("aws_iam_role_policy", "aws_iam_policy") and text:
            for statement in json.loads(text)["Statement"]:
                yield each["address"], statement


def listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def test_no_role_may_do_everything_or_to_everything(life: Life) -> None:
    seen = 0
    for address, statement in statements(life):
        actions = listed(statement["Action"])
        assert not any("*" in action for action in actions), address
        if "*" in listed(statement["Resource"]):
            assert all(action.startswith(READS_WITHOUT_RESOURCE) for action in actions), address
        seen += 1
    assert seen >= 5


def test_no_role_can_be_taken_by_everybody(life: Life) -> None:
    for each in life.resources():
        if each["type"] == "aws_iam_role":
            for statement in json.loads(each["values"]["assume_role_policy"])["Statement"]:
                assert statement["Principal"] != "*"
                assert "*" not in json.dumps(statement["Principal"])
                if "Federated" in statement["Principal"]:
                    (subject,) = (
                        value
                        for key, value in statement["Condition"]["StringEquals"].items()
                        if key.endswith(":sub")
                    )
                    assert subject.startswith("system:serviceaccount:")
                    assert "*" not in subject


def test_nothing_lets_the_world_in(life: Life) -> None:
    rules = 0
    for each in life.resources():
        if each["type"] == "aws_vpc_security_group_ingress_rule":
            assert each["values"]["cidr_ipv4"] not in ("0.0.0.0/0",), each["address"]
            assert each["values"]["cidr_ipv6"] in (None, ""), each["address"]
            rules += 1
        if each["type"] in ("aws_security_group", "aws_default_security_group"):
            for rule in each["values"]["ingress"]:
                assert "0.0.0.0/0" not in rule["cidr_blocks"], each["address"]
        if each["type"] == "aws_eks_cluster":
            (config,) = each["values"]["vpc_config"]
            assert config["endpoint_private_access"]
            if config["endpoint_public_access"]:
                assert config["public_access_cidrs"] == ["203.0.113.7/32"]
    assert rules >= 1


def test_everything_has_the_names_and_tags_of_its_installation(life: Life) -> None:
    name = life.output("kubeconfig_command").split()[4]
    tagged = 0
    for each in life.resources():
        # A mock does not know the provider's default tags.
        tags = each["values"].get("tags_all")
        if tags:
            assert tags["trireme:installation"] == name, each["address"]
            assert tags["trireme:environment"] == life.example, each["address"]
            tagged += 1
        for attribute in ("name", "bucket", "identifier", "replication_group_id"):
            given = each["values"].get(attribute)
            if given and attribute in NAMING.get(each["type"], ()):
                assert name in given, f"{each['address']}: {given}"
    assert tagged >= 40 or life.way == "mocked"


# What has a name of its own in the account, and the attribute that holds it.
NAMING: dict[str, tuple[str, ...]] = {
    "aws_cloudwatch_log_group": ("name",),
    "aws_db_instance": ("identifier",),
    "aws_db_parameter_group": ("name",),
    "aws_db_subnet_group": ("name",),
    "aws_ecr_repository": ("name",),
    "aws_eks_cluster": ("name",),
    "aws_elasticache_replication_group": ("replication_group_id",),
    "aws_elasticache_subnet_group": ("name",),
    "aws_iam_role": ("name",),
    "aws_kms_alias": ("name",),
    "aws_launch_template": ("name",),
    "aws_s3_bucket": ("bucket",),
    "aws_secretsmanager_secret": ("name",),
    "aws_security_group": ("name",),
    "aws_sns_topic": ("name",),
}


def test_data_is_encrypted_with_keys_that_rotate(life: Life) -> None:
    for each in life.resources():
        values = each["values"]
        if each["type"] == "aws_kms_key":
            assert values["enable_key_rotation"]
        if each["type"] == "aws_cloudwatch_log_group":
            assert values["kms_key_id"], each["address"]
            assert values["retention_in_days"] >= 30
        if each["type"] == "aws_launch_template":
            (disk,) = values["block_device_mappings"]
            assert disk["ebs"][0]["encrypted"] == "true"
            assert values["metadata_options"][0]["http_tokens"] == "required"


def test_nodes_carry_the_labels_and_taints_that_pods_want(life: Life) -> None:
    effects = {"NO_SCHEDULE": "NoSchedule", "NO_EXECUTE": "NoExecute"}
    values = life.helm_values()
    wanted = [values["head"], values["gateway"], *values["pools"].values()]
    groups = [each["values"] for each in life.resources() if each["type"] == "aws_eks_node_group"]
    assert len(groups) == len(wanted)
    for placement in wanted:
        (group,) = (
            each for each in groups if placement["nodeSelector"].items() <= each["labels"].items()
        )
        taints = [
            {"key": each["key"], "value": each["value"], "effect": effects[each["effect"]]}
            for each in group["taint"]
        ]
        tolerated = without_operator(placement["tolerations"])
        assert sorted(taints, key=str) == sorted(tolerated, key=str)
        assert group["labels"][CONTRACT["labels"]["role"]] in CONTRACT["taints"]


def test_the_rendered_values_are_the_charts_and_a_configuration(life: Life) -> None:
    values = life.helm_values()
    jsonschema.validate(values, SCHEMA)
    TriremeConfig.model_validate(values["config"])
    assert values["infrastructure"]["cloud"] == "aws"
    assert values["weights"]["uri"].startswith("s3://")
    assert ("database" in values) == (life.example != "trial")
    # The stand-in has no Valkey.
    assert ("redis" in values) == (life.example != "trial" and life.way == "mocked")
    role = values["serviceAccounts"]["engine"]["annotations"]["eks.amazonaws.com/role-arn"]
    assert role.startswith("arn:aws:iam::")
    assert (values["imageRegistry"] != "") == (life.example == "airgapped")


def test_every_pod_of_the_chart_finds_nodes_that_take_it(
    mock: Life, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The values go into the chart as they are; its pods are held against the node groups."""
    try:
        helm = Helm(helm_binary("4"))
    except NoHelm as error:
        pytest.skip(str(error))
    file = tmp_path_factory.mktemp("values") / "values-infrastructure.yaml"
    file.write_text(mock.output("helm_values"))
    jsonschema.validate(
        yaml.safe_load(file.read_text()), json.loads((CHART / "values.schema.json").read_text())
    )
    groups = [each["values"] for each in mock.resources() if each["type"] == "aws_eks_node_group"]
    pods = dict(pod_templates(helm.objects(file)))
    assert {"head", "gateway", *(f"engine-{pool}" for pool in mock.helm_values()["pools"])} <= {
        *pods
    }
    for name, pod in pods.items():
        homes = [group["node_group_name"] for group in groups if takes(group, pod["spec"])]
        assert len(homes) == 1, f"{name} runs on {homes}"


def takes(group: dict[str, Any], pod: dict[str, Any]) -> bool:
    """Whether Kubernetes would put the pod onto nodes of the group."""
    effects = {"NO_SCHEDULE": "NoSchedule", "NO_EXECUTE": "NoExecute"}
    return pod.get("nodeSelector", {}).items() <= group["labels"].items() and all(
        any(
            one["key"] == taint["key"]
            and one.get("effect", effects[taint["effect"]]) == effects[taint["effect"]]
            and (one.get("operator") == "Exists" or one.get("value") == taint["value"])
            for one in pod.get("tolerations", [])
        )
        for taint in group["taint"]
    )


# What holds data or opens it, and whether it would outlive a mistake.
KEPT: dict[str, Callable[[dict[str, Any]], bool]] = {
    "aws_db_instance": lambda it: (
        it["deletion_protection"]
        and not it["skip_final_snapshot"]
        and it["backup_retention_period"] >= 7
    ),
    "aws_elasticache_replication_group": lambda it: it["snapshot_retention_limit"] >= 7,
    "aws_s3_bucket": lambda it: not it["force_destroy"],
    "aws_s3_bucket_versioning": lambda it: it["versioning_configuration"][0]["status"] == "Enabled",
    "aws_ecr_repository": lambda it: not it["force_delete"],
    "aws_kms_key": lambda it: it["deletion_window_in_days"] == 30,
    "aws_secretsmanager_secret": lambda it: it["recovery_window_in_days"] >= 7,
}


def test_data_outlives_a_mistake(mock: Life) -> None:
    """What holds data refuses to be destroyed, or can be had again for a while."""
    protected: Counter[str] = Counter()
    for each in mock.resources():
        values = each["values"]
        kept = KEPT.get(each["type"])
        if kept is not None:
            assert kept(values), each["address"]
            protected[each["type"]] += 1
    stores = 0 if mock.example == "trial" else 1
    assert protected["aws_db_instance"] == stores
    assert protected["aws_elasticache_replication_group"] == stores
    assert protected["aws_secretsmanager_secret"] == 2 * stores
    assert protected["aws_s3_bucket"] == protected["aws_s3_bucket_versioning"] == 1
    assert protected["aws_kms_key"] >= 3


def test_the_airgapped_network_has_no_way_out(mocked_lives: dict[str, Life]) -> None:
    kinds = Counter(each["type"] for each in mocked_lives["airgapped"].resources())
    assert kinds["aws_internet_gateway"] == kinds["aws_nat_gateway"] == kinds["aws_route"] == 0
    assert kinds["aws_vpc_endpoint"] == 13
    assert kinds["aws_ecr_repository"] == 5
