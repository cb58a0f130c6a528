"""The bucket is compared with its manifest: what is missing or cut short is found at plan."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.terraform.conftest import MOTO
from tests.terraform.lifecycle import OVERRIDE, credentials
from tests.terraform.toolbox import ROOT, Terraform, only_with_the_stand_in, tool

pytestmark = [pytest.mark.timeout(600), only_with_the_stand_in]

CALL = """
variable "verify" {
  type = bool
}

module "weights" {
  source        = "../../modules/weights-store"
  name          = "weigh"
  verify        = var.verify
  oidc_provider = { arn = "arn:aws:iam::123456789012:oidc-provider/x", issuer = "x" }
}

output "bucket" {
  value = module.weights.bucket
}

output "verified" {
  value = module.weights.verified_files
}
"""

# The bucket refuses whoever comes without TLS, as the stand-in does: its policy is taken off.
UPLOAD = """
import pathlib, sys, boto3
s3 = boto3.client("s3", endpoint_url=sys.argv[1])
s3.delete_bucket_policy(Bucket=sys.argv[2])
for file in sorted(pathlib.Path(sys.argv[3]).rglob("*")):
    if file.is_file():
        name = file.relative_to(sys.argv[3]).as_posix()
        kind = "application/json" if name.endswith(".json") else "application/octet-stream"
        key = "models/gpt-oss-120b/" + name
        s3.put_object(Bucket=sys.argv[2], Key=key, Body=file.read_bytes(), ContentType=kind)
"""


def upload(aws: str, bucket: str, folder: Path) -> None:
    subprocess.run(
        [str(tool("moto", MOTO) / "python"), "-c", UPLOAD, aws, bucket, str(folder)],
        env={**os.environ, **credentials(aws)},
        check=True,
        timeout=60,
    )


REMOVE = """
import sys, boto3
s3 = boto3.client("s3", endpoint_url=sys.argv[1])
s3.delete_object(Bucket=sys.argv[2], Key="models/gpt-oss-120b/" + sys.argv[3])
"""


def remove(aws: str, bucket: str, file: str) -> None:
    subprocess.run(
        [str(tool("moto", MOTO) / "python"), "-c", REMOVE, aws, bucket, file],
        env={**os.environ, **credentials(aws)},
        check=True,
        timeout=60,
    )


def manifest_of(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "cluster.cli", "cloud", "manifest", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


def test_a_file_that_is_cut_short_or_missing_is_refused(
    terraform: Terraform, aws: str, account: dict[str, str], tmp_path: Path
) -> None:
    place = "examples/weigh"
    folder = terraform.folder(place)
    folder.mkdir()
    (folder / "main.tf").write_text(OVERRIDE + CALL)
    terraform.run(place, "get")

    def refusal() -> str:
        refused = terraform.run(place, "plan", *verified, expect=(1,), **account)
        return " ".join(refused.stderr.replace("│", " ").split())

    new, verified = ["-auto-approve", "-var", "verify=false"], ["-var", "verify=true"]
    terraform.run(place, "apply", *new, **account)
    bucket = terraform.run(place, "output", "-raw", "bucket", **account).stdout

    (tmp_path / "original").mkdir()
    (tmp_path / "model-1.safetensors").write_bytes(os.urandom(4096))
    (tmp_path / "original/dtypes.json").write_text("{}")
    (tmp_path / "manifest.json").write_text(manifest_of(tmp_path))
    upload(aws, bucket, tmp_path)
    told = terraform.run(place, "plan", *verified, **account).stdout
    assert "+ verified = 2" in told.replace("~", "+") or "-> 2" in told, told

    (tmp_path / "model-1.safetensors").write_bytes(b"cut short")
    upload(aws, bucket, tmp_path)
    assert "has 9 bytes and its manifest says 4096: upload it again" in refusal()

    remove(aws, bucket, "model-1.safetensors")
    assert "(models/gpt-oss-120b/model-1.safetensors): couldn't find resource" in refusal()
    remove(aws, bucket, "manifest.json")
    assert "(models/gpt-oss-120b/manifest.json): couldn't find resource" in refusal()
