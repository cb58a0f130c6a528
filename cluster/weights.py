"""The files that engines will load, made or fetched before the engines want them.

Run as ``python -m cluster.weights`` with a ``TriremeConfig`` as JSON on standard input: a process
of its own, because making the tiny model takes torch, which is big. Prints one line per model.
"""

import sys
from pathlib import Path

from cluster.checksums import check_formats, verify
from cluster.config import TINY_SOURCE, ModelConfig, TriremeConfig
from deployments.sources import local_source

# gpt-oss's repositories hold the weights three times, in formats that vLLM does not read.
_UNUSED_FILES = ["original/*", "metal/*", "*.bin", "*.pth", "*.onnx"]


def prepare(model: ModelConfig) -> str:
    """Make sure that `model`'s files are on this machine and may be loaded; says in a few words how
    they came. Raises `BadWeights`, `OSError`."""
    if model.source == TINY_SOURCE:
        return f"{model.name}: tiny test model in {local_source(model)}"
    path = Path(model.source)
    if path.is_absolute() or path.exists():
        if not (path / "config.json").is_file():
            raise FileNotFoundError(f"{path} holds no model (no config.json)")
        return f"{model.name}: {path}{_checked(model, path)}"
    if all(pool.engine == "simulated" for pool in model.pools):
        return f"{model.name}: no weights, its pools are simulated"
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(model.source, revision=model.revision, local_files_only=True)
        how = f"{model.source} is in the cache"
    except OSError:
        found = snapshot_download(
            model.source, revision=model.revision, ignore_patterns=_UNUSED_FILES
        )
        how = f"fetched {model.source}"
    folder = Path(found)
    if model.revision is None:
        # The cache names a snapshot's folder by its commit.
        how += f" at {folder.name} (to stay with it, set the model's revision)"
    return f"{model.name}: {how}{_checked(model, folder)}"


def _checked(model: ModelConfig, folder: Path) -> str:
    if any(pool.engine == "vllm" for pool in model.pools):
        check_formats(folder)
    if model.manifest is None:
        return ""
    size = verify(folder, Path(model.manifest))
    return f", {size} bytes as in {model.manifest}"


def main() -> int:
    config = TriremeConfig.model_validate_json(sys.stdin.read())
    for model in config.models:
        try:
            print(prepare(model), flush=True)
        except Exception as error:
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            print(f"{model.name}: {line}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
