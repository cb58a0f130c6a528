"""What this machine has: CPUs, memory and GPUs, without importing torch."""

import csv
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.facts import MIB, gpu_bytes_of

# nvidia-smi takes 1-3 s where the driver is not kept loaded, and can hang on a broken GPU.
_NVIDIA_SMI_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU: the driver's name for it and its memory."""

    name: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Hardware:
    """The means of one machine, as far as this process may use them."""

    cpus: int
    memory_bytes: int
    gpus: tuple[Gpu, ...] = ()

    @property
    def smallest_gpu_bytes(self) -> int:
        """Memory of the smallest GPU in bytes, since a replica may land on any; 0 without GPUs."""
        return min((gpu.memory_bytes for gpu in self.gpus), default=0)


def detect(
    environ: Mapping[str, str] = os.environ, cgroup: Path = Path("/sys/fs/cgroup")
) -> Hardware:
    """Look at this machine. Honours container limits (cgroup v2) and `CUDA_VISIBLE_DEVICES`."""
    return Hardware(
        cpus=_cpus(cgroup / "cpu.max"),
        memory_bytes=_memory_bytes(cgroup / "memory.max"),
        gpus=_gpus(environ),
    )


def _cpus(limit: Path) -> int:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cpus = allowed or 1
    quota, _, period = _read(limit).partition(" ")
    if quota.isdigit() and period.isdigit():
        cpus = min(cpus, max(1, int(quota) // int(period)))
    return cpus


def _memory_bytes(limit: Path) -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    granted = _read(limit)
    return min(total, int(granted)) if granted.isdigit() else total


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _gpus(environ: Mapping[str, str]) -> tuple[Gpu, ...]:
    command = [
        "nvidia-smi",
        "--query-gpu=index,uuid,name,memory.total",
        "--format=csv,noheader,nounits",
    ]
    try:
        answer = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_NVIDIA_SMI_TIMEOUT_S,
            env=dict(environ),
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    chosen = None if visible is None else {word.strip() for word in visible.split(",")}
    found = []
    for row in csv.reader(answer.stdout.splitlines(), skipinitialspace=True):
        if len(row) != 4:
            continue
        index, uuid, name, mib = row
        if chosen is None or index in chosen or uuid in chosen:
            # GPUs that share the machine's memory report "[N/A]".
            memory = int(mib) * MIB if mib.isdigit() else gpu_bytes_of(name) or 0
            found.append(Gpu(name, memory))
    return tuple(found)
