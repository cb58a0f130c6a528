"""What Terraform, the chart and Python hold in common says the same on all sides."""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cluster.config import TriremeConfig
from cluster.facts import (
    TENSOR_PARALLEL_SIZES,
    facts_for,
    gpu_bytes_of,
    sizing_for,
    weights_fit,
)
from tests.terraform.toolbox import (
    MODULES,
    ROOT,
    Missing,
    Terraform,
    copy_tree,
    found_terraform,
    or_skip,
)

FACTS: dict[str, Any] = yaml.safe_load((ROOT / "terraform/facts/instances.yaml").read_text())
PRICES: dict[str, Any] = yaml.safe_load((ROOT / "terraform/facts/prices.yaml").read_text())
CONTRACT: dict[str, Any] = yaml.safe_load((ROOT / "helm/trireme/node-contract.yaml").read_text())
SCHEMA = json.loads((ROOT / "helm/trireme/infrastructure-values.schema.json").read_text())
CASES = [(gpu, model) for gpu in FACTS["gpus"] for model in FACTS["models"]]


@pytest.mark.parametrize(("gpu", "model"), CASES)
def test_settings_of_replicas_are_those_of_the_memory_arithmetic(gpu: str, model: str) -> None:
    facts = facts_for(FACTS["models"][model]["source"])
    gpu_bytes = gpu_bytes_of(FACTS["gpus"][gpu]["accelerator"])
    assert facts is not None
    assert gpu_bytes is not None
    table = FACTS["gpus"][gpu]["tensor_parallel"][model]

    for tp in TENSOR_PARALLEL_SIZES:
        fitting = [
            name
            for name, each in FACTS["engine_settings"].items()
            if weights_fit(
                facts,
                gpu_bytes,
                tp,
                gpu_memory_utilization=each["gpu_memory_utilization"],
                max_num_batched_tokens=each["max_num_batched_tokens"],
            )
        ]
        assert (tp in table) == bool(fitting), f"TP {tp}"
        if tp in table:
            assert table[tp] in fitting

    sizing = sizing_for(facts, gpu_bytes, max(TENSOR_PARALLEL_SIZES))
    assert sizing is not None
    assert sizing.tensor_parallel_size == min(table)
    chosen = FACTS["engine_settings"][table[min(table)]]
    assert chosen == {
        "max_num_seqs": sizing.max_num_seqs,
        "max_num_batched_tokens": sizing.max_num_batched_tokens,
        "gpu_memory_utilization": sizing.gpu_memory_utilization,
    }


def test_every_instance_type_has_its_gpu_quota_and_way_to_buy() -> None:
    for name, about in FACTS["instance_types"].items():
        assert name in FACTS["gpus"][about["gpu"]]["instance_types"]
        for way in about["capacity"]:
            assert way in FACTS["quotas"][about["quota"]], f"{name} {way}"
        sold_by_the_hour = "on-demand" in about["capacity"]
        if name in PRICES["on_demand_usd_per_hour"]:
            assert sold_by_the_hour
    for gpu in FACTS["gpus"].values():
        assert set(gpu["instance_types"]) <= set(FACTS["instance_types"])


def test_the_contract_has_every_role_label_and_account() -> None:
    assert set(CONTRACT["labels"]) == {"role", "pool", "gpu", "capacity"}
    assert set(CONTRACT["taints"]) == {"system", "gateway", "engine"}
    assert set(CONTRACT["service_accounts"]) == {"head", "gateway", "engine", "metrics"}
    for taint in chain(*CONTRACT["taints"].values(), CONTRACT["interruptible_taints"]):
        assert set(taint) == {"key", "value", "effect"}
        assert taint["effect"] in ("NoSchedule", "NoExecute", "PreferNoSchedule")
    assert CONTRACT["local_disk"]["weights"].startswith(CONTRACT["local_disk"]["mount"])


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    """A terraform for the one module without a provider."""
    try:
        binary = found_terraform()
    except Missing as error:
        or_skip(error)
    home: Path = tmp_path_factory.mktemp("bare")
    copy_tree(home)
    (home / "terraform/root").mkdir()
    return Terraform(binary, home, {"TF_CLI_CONFIG_FILE": "", "TF_CLI_ARGS": "-no-color"})


def rendered(bare: Terraform, **variables: Any) -> dict[str, Any]:
    root = bare.folder("root")
    call = {"source": "../modules/trireme", "name": "chat", "region": "us-east-1"}
    (root / "main.tf.json").write_text(
        json.dumps(
            {
                "module": {"it": {**call, **variables}},
                "output": {"values": {"value": "${module.it.helm_values}"}},
            }
        )
    )
    bare.run("root", "init", "-input=false")
    bare.run("root", "apply", "-auto-approve", "-input=false")
    values: dict[str, Any] = yaml.safe_load(bare.run("root", "output", "-raw", "values").stdout)
    return values


POOLS = {
    "main": {"gpu": "h100", "tensor_parallel_size": 1, "replicas": 8, "max_replicas": 16},
    "wide": {"gpu": "b200", "tensor_parallel_size": 2, "replicas": 4, "tiers": ["high"]},
    "peak": {
        "gpu": "l40s",
        "tensor_parallel_size": 4,
        "replicas": 2,
        "interruptible": True,
        "tiers": [],
    },
}


def test_rendered_values_pass_their_schema_and_are_a_configuration(bare: Terraform) -> None:
    redis = {"host": "valkey.internal", "port": 6379, "tls": True}
    database = {"host": "pg", "port": 5432, "name": "trireme", "user": "trireme", "tls": True}
    for extra in ({}, {"redis": redis, "database": database, "weights_uri": "s3://b/models/m/"}):
        values = rendered(bare, pools=POOLS, **extra)
        jsonschema.validate(values, SCHEMA)
        config = TriremeConfig.model_validate(values["config"])
        assert config.access.mode == ("keys" if "database" in extra else "none")
        assert config.gateway.insecure_listen_without_auth is ("database" not in extra)
        assert {pool.name for _, pool in config.pools()} == set(POOLS) == set(values["pools"])
        for _, pool in config.pools():
            assert values["pools"][pool.name]["gpus"] == pool.tensor_parallel_size


def test_a_value_that_the_schema_does_not_know_is_refused(bare: Terraform) -> None:
    values = rendered(bare, pools=POOLS)
    for change in (
        {"surprise": 1},
        {"weights": {"uri": "s3://b/file", "hostPath": "/a", "compileCachePath": "/b"}},
        {"infrastructure": {"contractVersion": 2, "cloud": "aws", "region": "us-east-1"}},
        {"pools": {}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**values, **change}, SCHEMA)


def test_pods_select_and_tolerate_what_the_contract_puts_on_nodes(bare: Terraform) -> None:
    values = rendered(bare, pools=POOLS)
    labels = CONTRACT["labels"]
    for role, placement in (("system", values["head"]), ("gateway", values["gateway"])):
        assert placement["nodeSelector"] == {labels["role"]: role}
        assert without_operator(placement["tolerations"]) == CONTRACT["taints"][role]
    for name, pool in values["pools"].items():
        assert pool["nodeSelector"][labels["role"]] == "engine"
        assert pool["nodeSelector"][labels["pool"]] == name
        more = CONTRACT["interruptible_taints"] if pool["interruptible"] else []
        assert without_operator(pool["tolerations"]) == CONTRACT["taints"]["engine"] + more
    names = {role: account["name"] for role, account in values["serviceAccounts"].items()}
    assert names == CONTRACT["service_accounts"]


def without_operator(tolerations: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{k: v for k, v in each.items() if k != "operator"} for each in tolerations]


def test_the_modules_are_those_that_the_readme_lists() -> None:
    text = (ROOT / "terraform/README.md").read_text()
    for name in MODULES:
        assert f"`{name}`" in text, name
