"""`trireme cloud`: variables for Terraform, and one line for what cannot be."""

import json
import re
from pathlib import Path

import pytest

from cluster.cli.app import run


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--gpu a10g --replicas 1", "nothing is known of a10g: write one of h100"),
        ("--gpu h100 --replicas 0", "0 replicas cannot be: write 1 to 4096"),
        ("--gpu h100 --replicas 5000", "5000 replicas cannot be"),
        ("--gpu h100 --replicas 4 --max-replicas 2", "write 4 to 4096"),
        ("--gpu l40s --replicas 1 --tp 1", "write --tp 2, 4, 8"),
        ("--gpu h100 --replicas 1 --tp 3", "write --tp 1, 2, 4, 8"),
        (
            "--gpu h100 --replicas 1 --tp 2 --instance-type p5.4xlarge",
            "--tp 2 is more than the 1 GPUs of a p5.4xlarge: write 1 or less",
        ),
        (
            "--gpu h100 --replicas 1 --instance-type p5en.48xlarge",
            "p5en.48xlarge has no h100 that is known: write one of p5.48xlarge, p5.4xlarge",
        ),
        ("--gpu h100 --replicas 1 --model gpt-4", "nothing is known of gpt-4"),
        ("--gpu h100 --replicas 1 --capacity spot", "write --spot-replicas"),
        ("--gpu h100 --replicas 1 --capacity reservation", "wants --reservation"),
        (
            "--gpu h100 --replicas 1 --capacity capacity-block --reservation cr-01234567",
            "write its letter as --zone",
        ),
        ("--gpu h100 --replicas 1 --reservation cr-01234567", "--reservation goes with"),
        (
            "--gpu h200 --replicas 1 --instance-type p5e.48xlarge",
            "p5e.48xlarge cannot be had as on-demand",
        ),
        ("--gpu b200 --replicas 8 --spot-replicas 8", "cannot be had as spot"),
        ("--gpu h100 --replicas 1 --region mars", "mars is no region: write one such as"),
        ("--gpu h100 --replicas 1 --zones a", "write letters such as ab or abc"),
        ("--gpu h100 --replicas 1 --zone c", "--zone c is none of --zones ab"),
        ("--gpu h100", "Missing option"),
        ("--gpu h100 --replicas some", "'--replicas'"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_2(
    arguments: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["cloud", "plan", *arguments.split()]) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    assert told in line
    assert printed.out == ""


def planned(capsys: pytest.CaptureFixture[str], arguments: str) -> str:
    assert run(["cloud", "plan", *arguments.split()]) == 0
    return capsys.readouterr().out


def test_eight_replicas_of_one_gpu_fill_one_machine(capsys: pytest.CaptureFixture[str]) -> None:
    out = planned(capsys, "--gpu h100 --replicas 8")
    assert "# main: 8 × gpt-oss-120b over 1 h100 on 1 × p5.48xlarge\n" in out
    assert "Running On-Demand P instances (L-417A185B), 192 vCPUs" in out
    assert "55.04 USD an hour" in out
    assert 'main = { gpu = "h100", instance_type = "p5.48xlarge", tensor_parallel_size = 1' in out


def test_the_fewest_gpus_that_hold_the_model_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert "tensor_parallel_size = 2" in planned(capsys, "--gpu l40s --replicas 2")
    assert "tensor_parallel_size = 4" in planned(capsys, "--gpu l40s --replicas 2 --tp 4")


def test_the_cheapest_machines_that_fit_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert "on 1 × p5.4xlarge" in planned(capsys, "--gpu h100 --replicas 1")
    assert "on 1 × p5.48xlarge" in planned(capsys, "--gpu h100 --replicas 1 --tp 8")
    assert "on 1 × g6e.12xlarge" in planned(capsys, "--gpu l40s --replicas 2 --tp 2")


def test_quotas_count_what_autoscaling_may_reach(capsys: pytest.CaptureFixture[str]) -> None:
    out = planned(capsys, "--gpu h200 --replicas 8 --max-replicas 17")
    assert "on 1 × p5en.48xlarge, up to 3" in out
    assert "576 vCPUs" in out


def test_spot_replicas_are_a_pool_that_only_lends(capsys: pytest.CaptureFixture[str]) -> None:
    out = planned(capsys, "--gpu h100 --replicas 8 --spot-replicas 8")
    (peak,) = (line for line in out.splitlines() if line.startswith("  peak = "))
    assert 'capacity = "spot"' in peak
    assert "tiers = []" in peak
    assert "All P5 Spot Instance Requests" in out


def test_a_capacity_block_has_its_zone_and_no_quota(capsys: pytest.CaptureFixture[str]) -> None:
    block = "--capacity capacity-block --reservation cr-0123456789abcdef0 --zone b"
    out = planned(capsys, f"--gpu h200 --replicas 8 --region us-west-2 {block}")
    assert 'reservation_id = "cr-0123456789abcdef0", zone = "us-west-2b"' in out
    assert "quota" not in out
    assert "USD" not in out


def test_the_output_is_one_assignment_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    out = planned(capsys, "--gpu h100 --replicas 8 --model gpt-oss-20b --zones abc")
    code = [line for line in out.splitlines() if not line.startswith("#")]
    names = [found[1] for line in code if (found := re.match(r"(\w+) += ", line))]
    assert names == ["region", "availability_zones", "model", "pools"]
    assert len(code) <= 20


def test_a_manifest_lists_every_file_with_its_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "original").mkdir()
    (tmp_path / "model-1.safetensors").write_bytes(b"12345")
    (tmp_path / "original" / "dtypes.json").write_text("{}")
    (tmp_path / "manifest.json").write_text("an older one")

    assert run(["cloud", "manifest", str(tmp_path)]) == 0

    files = json.loads(capsys.readouterr().out)["files"]
    assert files == {"model-1.safetensors": 5, "original/dtypes.json": 2}


def test_a_folder_without_weights_has_no_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        assert run(["cloud", "manifest", str(folder)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "name the" in line
