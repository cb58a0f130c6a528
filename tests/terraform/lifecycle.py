"""An example's whole life in an empty account: applied, unchanged, looked at, destroyed."""

import json
from dataclasses import dataclass, field
from typing import Any

import yaml

from tests.terraform.toolbox import Terraform, running_provider

# Against an address like 127.0.0.1 a bucket cannot be part of the host's name.
OVERRIDE = 'provider "aws" {\n  s3_use_path_style = true\n}\n'

# What moto cannot make, and why; left out by the examples' own variables.
LEFT_OUT = {
    "aws_eks_addon": "moto answers 404 to CreateAddon: emulator = true",
    "aws_elasticache_replication_group": "moto's has no members, and never goes",
    "aws_elasticache_subnet_group": "goes with it: emulator = true",
    "aws_security_group": "Valkey's",
    "aws_vpc_security_group_ingress_rule": "Valkey's",
    "aws_secretsmanager_secret": "Valkey's",
    "aws_secretsmanager_secret_version": "Valkey's",
    "aws_cloudwatch_metric_alarm": "Valkey's",
    "aws_eks_access_entry": "moto knows no CreateAccessEntry: admin_role_arns = []",
    "aws_eks_access_policy_association": "goes with the access entry",
}


@dataclass
class Life:
    """What an example showed. ``state`` is that of terraform after the first apply."""

    example: str
    state: dict[str, Any] = field(default_factory=dict)
    drift: str = ""
    left_behind: list[str] = field(default_factory=list)

    def resources(self) -> list[dict[str, Any]]:
        """All managed resources."""
        return _resources(self.state["values"]["root_module"])

    def output(self, name: str) -> Any:
        return self.state["values"]["outputs"][name]["value"]

    def helm_values(self) -> dict[str, Any]:
        values: dict[str, Any] = yaml.safe_load(self.output("helm_values"))
        return values


def _resources(module: dict[str, Any]) -> list[dict[str, Any]]:
    own = [each for each in module.get("resources", []) if each["mode"] == "managed"]
    return own + [each for child in module.get("child_modules", []) for each in _resources(child)]


def live(terraform: Terraform, aws: str, example: str) -> Life:
    """Apply, plan, look and destroy; all in the account at ``aws``."""
    with running_provider(terraform, **credentials(aws)) as account:
        return _lived(terraform, account, example)


def _lived(terraform: Terraform, account: dict[str, str], example: str) -> Life:
    place, life = f"examples/{example}", Life(example)
    (terraform.folder(place) / "stand_in_override.tf").write_text(OVERRIDE)
    variables = ["-input=false", "-var-file=terraform.tfvars.example", "-var", "emulator=true"]
    if example != "trial":
        # Unprotected from the start: the provider waits for minutes at each change of a database.
        variables += ["-var", "admin_role_arns=[]", "-var", "deletion_protection=false"]

    terraform.run(place, "apply", "-auto-approve", *variables, **account)
    again = terraform.run(place, "plan", "-detailed-exitcode", *variables, expect=(0, 2), **account)
    life.drift = again.stdout[-6000:] if again.returncode == 2 else ""
    life.state = json.loads(terraform.run(place, "show", "-json", **account).stdout)
    terraform.run(place, "destroy", "-auto-approve", *variables, **account)
    life.left_behind = terraform.run(place, "state", "list", **account).stdout.split()
    return life


def credentials(aws: str) -> dict[str, str]:
    """The environment in which the provider speaks to the stand-in and to nobody else."""
    return {
        "AWS_ENDPOINT_URL": aws,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }


def planned_addresses(
    terraform: Terraform, account: dict[str, str], example: str
) -> dict[str, str]:
    """Address and type of all that the example makes in an account, where nothing is left out."""
    place = f"examples/{example}"
    file = terraform.folder(place) / "whole.tfplan"
    terraform.run(
        place, "plan", "-input=false", "-var-file=terraform.tfvars.example", f"-out={file}",
        "-state=none.tfstate", **account,
    )  # fmt: skip
    plan = json.loads(terraform.run(place, "show", "-json", str(file), **account).stdout)
    resources = _resources(plan["planned_values"]["root_module"])
    return {each["address"]: each["type"] for each in resources}
