"""Where a model's files are: what vLLM gets as ``--model``."""

import os
from pathlib import Path

from cluster.config import TINY_SOURCE, ModelConfig
from deployments.tiny_model import make_tiny_model


def cache_dir() -> Path:
    """Where Trireme keeps what it makes (``TRIREME_HOME``, else the user's cache folder)."""
    home = os.environ.get("TRIREME_HOME")
    if home:
        return Path(home)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "trireme"


def local_source(model: ModelConfig) -> str:
    """A path or Hugging Face id that vLLM can load; makes the tiny model on first use."""
    if model.source != TINY_SOURCE:
        return model.source
    return str(make_tiny_model(cache_dir() / "models" / "tiny"))
