"""Folders of models without weights: the real configuration and tokenizer, made without a network.

The tokenizer is the tiny model's, which is gpt-oss's own. The shape is openai/gpt-oss-120b's and
-20b's config.json.
"""

import json
import shutil
import struct
from pathlib import Path
from typing import Any

from benchmarks.gpu.setups import Setup
from cluster.facts import GPT_OSS_20B, GPT_OSS_120B, TINY, ModelFacts
from deployments.tiny_model import make_tiny_model

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")

EXPERTS = {GPT_OSS_120B.name: 128, GPT_OSS_20B.name: 32}

_MARKER = "complete"


def make_model(setup: Setup, home: Path) -> Path:
    """The folder that engines of ``setup`` load, made if it is not there. Raises ``OSError``."""
    tiny = make_tiny_model(home / "models" / "tiny")
    if setup.facts is TINY:
        return tiny
    folder = home / "models" / setup.name
    if (folder / _MARKER).exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in TOKENIZER_FILES:
        shutil.copyfile(tiny / name, folder / name)
    config = json.loads((tiny / "config.json").read_text()) | _shape(setup.facts)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    # Of no tensors: engines are told to draw the weights, but a folder without any file of weights
    # is refused.
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    (folder / _MARKER).touch()
    return folder


def _shape(facts: ModelFacts) -> dict[str, Any]:
    kinds = ["sliding_attention", "full_attention"]
    return {
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "num_attention_heads": 64,
        "num_key_value_heads": facts.kv_heads,
        "head_dim": facts.head_dim,
        "num_hidden_layers": facts.layers,
        "layer_types": [kinds[layer % 2] for layer in range(facts.layers)],
        "sliding_window": facts.sliding_window_tokens,
        "num_local_experts": EXPERTS[facts.name],
        "num_experts_per_tok": 4,
        "experts_per_token": 4,
        "initial_context_length": 4096,
        "quantization_config": {
            "quant_method": "mxfp4",
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
        },
    }
