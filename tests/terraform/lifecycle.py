"""An example's whole life: applied, unchanged, looked at, destroyed.

Once in an empty account that a stand-in for AWS keeps, by the provider's own calls, in minutes and
without what the stand-in cannot make; once whole, with a mock in the provider's place, in seconds.
"""

import json
import time
from dataclasses import dataclass, field
from typing import Any, Literal

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


MOCKED = """
mock_provider "aws" {
  source = "../../testing/aws"
}

run "applied" {
  command = apply
}

run "unchanged" {
  command = plan
}
"""

Way = Literal["mocked", "stand-in"]


@dataclass
class Life:
    """What an example showed after its first apply, at a second plan and once it was destroyed."""

    example: str
    way: Way
    root: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    drift: str = ""
    left_behind: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def resources(self) -> list[dict[str, Any]]:
        """All managed resources."""
        return _resources(self.root)

    def output(self, name: str) -> Any:
        return self.outputs[name]["value"]

    def helm_values(self) -> dict[str, Any]:
        values: dict[str, Any] = yaml.safe_load(self.output("helm_values"))
        return values


def _resources(module: dict[str, Any]) -> list[dict[str, Any]]:
    own = [each for each in module.get("resources", []) if each["mode"] == "managed"]
    return own + [each for child in module.get("child_modules", []) for each in _resources(child)]


def mocked(terraform: Terraform, environment: dict[str, str], example: str) -> Life:
    """Apply, plan and destroy all of the example, with nobody behind the provider's schema.

    ``environment`` names a running provider.
    """
    place, life = f"examples/{example}", Life(example, "mocked")
    tests = terraform.folder(place) / "tests"
    tests.mkdir(exist_ok=True)
    (tests / "whole.tftest.hcl").write_text(MOCKED)
    variables = "-var-file=terraform.tfvars.example"
    begun = time.monotonic()
    told = terraform.run(place, "test", "-json", "-verbose", variables, **environment).stdout
    life.seconds["all"] = time.monotonic() - begun
    for line in told.splitlines():
        message = json.loads(line)
        kind = message["type"]
        if kind == "test_state" and not life.root:
            life.root, life.outputs = (message[kind][part] for part in ("root_module", "outputs"))
        elif kind == "test_plan":
            changes = message[kind].get("resource_changes", [])
            life.drift = "\n".join(
                f"{each['address']}: {each['change']['actions']}"
                for each in changes
                if each["change"]["actions"] != ["no-op"]
            )
            assert len(changes) >= len(life.resources())
        elif kind == "test_cleanup":
            life.left_behind = [str(each) for each in message[kind]["failed_resources"]]
        elif kind == "test_summary":
            assert message[kind]["passed"] == 2, told[-4000:]
    return life


def live(terraform: Terraform, aws: str, example: str) -> Life:
    """Apply, plan, look and destroy; all in the account at ``aws``."""
    with running_provider(terraform, **credentials(aws)) as account:
        return _lived(terraform, account, example)


def _lived(terraform: Terraform, account: dict[str, str], example: str) -> Life:
    place, life = f"examples/{example}", Life(example, "stand-in")
    (terraform.folder(place) / "stand_in_override.tf").write_text(OVERRIDE)
    variables = ["-input=false", "-var-file=terraform.tfvars.example", "-var", "emulator=true"]
    if example != "trial":
        # Unprotected from the start: the provider waits for minutes at each change of a database.
        variables += ["-var", "admin_role_arns=[]", "-var", "deletion_protection=false"]

    def timed(command: str, *args: str, expect: tuple[int, ...] = (0,)) -> str:
        begun = time.monotonic()
        done = terraform.run(place, command, *args, expect=expect, timeout_s=1500, **account)
        life.seconds[command] = time.monotonic() - begun
        life.drift = done.stdout[-6000:] if done.returncode == 2 else life.drift
        return done.stdout

    # Most of the time the provider waits, so that many resources can be waited for at once.
    timed("apply", "-auto-approve", "-parallelism=40", *variables)
    timed("plan", "-detailed-exitcode", "-parallelism=40", *variables, expect=(0, 2))
    state = json.loads(timed("show", "-json"))["values"]
    life.root, life.outputs = state["root_module"], state["outputs"]
    timed("destroy", "-auto-approve", "-parallelism=40", *variables)
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
