"""Mistakes in the variables of an example: each is refused at plan, and told with its remedy."""

import json
import re
from typing import Any

import pytest

from cluster.cli.app import run
from tests.terraform.toolbox import Terraform, note

pytestmark = pytest.mark.timeout(600)

RIGHT: dict[str, Any] = {
    "region": "us-east-1",
    "availability_zones": ["us-east-1a", "us-east-1b"],
    "pools": {"main": {"gpu": "h100", "tensor_parallel_size": 1, "replicas": 8}},
    "api_client_cidrs": ["10.0.0.0/16"],
    "alert_emails": ["oncall@example.com"],
    "monthly_budget_usd": 1000,
}

POOLS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"gpu": "a10g"}, "write one of b200, h100, h200, l40s"),
    "split": ({"tensor_parallel_size": 3}, "Write 1, 2, 4 or 8"),
    "small": ({"gpu": "l40s"}, "does not fit so few of these GPUs: write one of 2, 4, 8"),
    "wide": (
        {"instance_type": "p5.4xlarge", "tensor_parallel_size": 2},
        "the node has fewer GPUs: write at most 1, or take a larger instance_type",
    ),
    "noquota": ({"instance_type": "p3.16xlarge"}, "no quota family in facts/instances.yaml: write"),
    "other": (
        {"instance_type": "p5en.48xlarge"},
        "other GPUs than gpu says: write one of p5.48xlarge, p5.4xlarge",
    ),
    "unsold": (
        {"gpu": "h200", "instance_type": "p5e.48xlarge"},
        "EC2 does not sell this instance type so, or its quota is not known: write one of spot",
    ),
    "own": ({"capacity": "spot"}, "write tiers = [] for it, or another capacity"),
    "noid": (
        {"capacity": "reservation", "zone": "us-east-1a"},
        "Write the ID of the reservation or block",
    ),
    "badid": (
        {"capacity": "reservation", "zone": "us-east-1a", "reservation_id": "r-1"},
        "Write an ID such as cr-",
    ),
    "half": ({"replicas": 1.5}, "Write a whole number from 0 to 4096"),
    "less": ({"max_replicas": 2}, "Write a number that is at least replicas"),
    "noefa": (
        {"gpu": "l40s", "instance_type": "g6e.4xlarge", "efa": True},
        "This instance type has no EFA: write false",
    ),
}

PLACES: dict[str, tuple[Any, str]] = {
    "other_cidrs": (["10.40.0.0/18"], "overlaps with cidr: write a cidr that none of them touches"),
    "api_client_cidrs": (["0.0.0.0/0"], "Write the ranges of your own networks"),
    "node_autoscaler": ("magic", "Write cluster-autoscaler, karpenter or none"),
    "admin_role_arns": (["arn:aws:iam::123456789012:user/me"], "Write ARNs of roles"),
    "max_gateway_nodes": (1, "Write a number from min_nodes to 200"),
    "alert_emails": (["oncall"], "Write addresses such as oncall@example.com"),
    "model": ("gpt-4", "Write one of gpt-oss-120b, gpt-oss-20b"),
    "name": ("Prod_1", "Write 3 to 24 lower-case letters"),
}

RIGHT_POOL = RIGHT["pools"]["main"]

# A rule that reads another variable is not asked while that one is refused, so that mistakes which
# hide each other are made one after the other.
TOGETHER = (
    ("unknown", "half"),
    ("noquota", "other", "less"),
    ("split", "small", "wide", "own", "noid", "badid", "noefa"),
    ("unsold",),
)

ELSEWHERE = {"main": {**RIGHT_POOL, "capacity": "reservation", "zone": "us-east-1f"}}


def refusal(
    terraform: Terraform, account: dict[str, str], example: str, variables: dict[str, Any]
) -> str:
    """What terraform says about the variables, as one line."""
    place = f"examples/{example}"
    file = terraform.folder(place) / "wrong.tfvars.json"
    file.write_text(json.dumps(variables))
    done = terraform.run(
        place, "plan", "-input=false", f"-var-file={file}", "-state=none.tfstate",
        expect=(1,), **account,
    )  # fmt: skip
    # Words are wrapped and framed to fit a screen.
    return " ".join(done.stderr.replace("│", " ").split())


def check(told: str, wanted: dict[str, str]) -> None:
    missing = {mistake: remedy for mistake, remedy in wanted.items() if remedy not in told}
    assert not missing, f"{missing}\nwas told: {told}"


@pytest.mark.parametrize("names", TOGETHER, ids="-".join)
def test_mistakes_in_pools(
    terraform: Terraform, account: dict[str, str], names: tuple[str, ...]
) -> None:
    pools = {name: {**RIGHT_POOL, **POOLS[name][0]} for name in names}
    told = refusal(terraform, account, "production", {**RIGHT, "pools": pools})
    check(told, {name: POOLS[name][1] for name in names})


def test_mistakes_in_network_access_and_money(
    terraform: Terraform, account: dict[str, str]
) -> None:
    wrong = {name: value for name, (value, _) in PLACES.items()}
    told = refusal(terraform, account, "production", {**RIGHT, **wrong})
    check(told, {name: remedy for name, (_, remedy) in PLACES.items()})


@pytest.mark.parametrize(
    ("example", "wrong", "remedy"),
    [
        ("airgapped", {"region": "mars"}, "Write a region, such as us-east-1"),
        ("airgapped", {"pools": ELSEWHERE}, "is none of availability_zones: write one of those"),
        ("airgapped", {"monthly_budget_usd": 0}, "Write an amount above 0"),
    ],
)
def test_mistakes_in_one_variable(
    terraform: Terraform,
    account: dict[str, str],
    example: str,
    wrong: dict[str, Any],
    remedy: str,
) -> None:
    check(refusal(terraform, account, example, {**RIGHT, **wrong}), {str(wrong): remedy})


def test_a_public_api_without_allow_list(terraform: Terraform, account: dict[str, str]) -> None:
    names = ("region", "availability_zones", "alert_emails")
    trial = {name: RIGHT[name] for name in names} | {"my_addresses": []}
    told = refusal(terraform, account, "trial", trial)
    check(told, {"my_addresses": "write your own addresses into public_api_cidrs"})


@pytest.mark.parametrize(
    "asked",
    [
        "--gpu h100 --replicas 8 --max-replicas 16 --spot-replicas 8",
        "--gpu h200 --replicas 8 --capacity capacity-block --reservation cr-01234567 --zone b",
    ],
)
def test_what_cloud_plan_prints_is_taken_as_it_is(
    terraform: Terraform, account: dict[str, str], capsys: pytest.CaptureFixture[str], asked: str
) -> None:
    assert run(["cloud", "plan", *asked.split()]) == 0
    printed = capsys.readouterr().out
    place = "examples/production"
    folder = terraform.folder(place)
    (folder / "planned.tfvars").write_text(printed)
    rest = {
        name: RIGHT[name] for name in ("api_client_cidrs", "alert_emails", "monthly_budget_usd")
    }
    (folder / "rest.tfvars.json").write_text(json.dumps(rest))
    told = terraform.run(
        place, "plan", "-input=false", "-var-file=planned.tfvars", "-var-file=rest.tfvars.json",
        "-state=none.tfstate", **account,
    ).stdout  # fmt: skip
    for pool in re.findall(r"^  (\w+) = \{ gpu", printed, re.MULTILINE):
        assert f'module.gpu_nodes["{pool}"].aws_eks_node_group.this' in told
    # Nothing but the three that the answer says are to be added.
    assert f"# To be added: {', '.join(rest)}." in printed


def test_there_are_twenty_mistakes() -> None:
    assert sorted(name for names in TOGETHER for name in names) == sorted(POOLS)
    count = len(POOLS) + len(PLACES) + 4
    note(f"wrong inputs: {count}, each refused with its remedy")
    assert count >= 20
