"""The model directory of the tiny gpt-oss: configuration, tokenizer and seeded random weights."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Raise this whenever anything below changes what the directory holds: older directories are remade.
VERSION = 2
_MARKER = "tiny_model.json"

# The ids and names are those of openai/gpt-oss-120b's tokenizer.json.
_FIRST_SPECIAL_ID = 199998
_SPECIAL_NAMES = {
    199998: "<|startoftext|>",
    199999: "<|endoftext|>",
    200002: "<|return|>",
    200003: "<|constrain|>",
    200005: "<|channel|>",
    200006: "<|start|>",
    200007: "<|end|>",
    200008: "<|message|>",
    200012: "<|call|>",
    200018: "<|endofprompt|>",
}
_LAST_SPECIAL_ID = max(_SPECIAL_NAMES)

# How o200k cuts text into words before byte-pair merging (published with tiktoken's o200k_base).
_WORD_PATTERN = "|".join(
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)

_HIDDEN = 64
_INTERMEDIATE = 64
_LAYERS = 2
_EXPERTS = 4
_HEAD_DIM = 32
_QUERY_HEADS = 4
# Two KV heads and an intermediate size of 64: one head and 32 columns a rank at TP=2, the least
# that vLLM's CPU kernels take (hidden and per-rank intermediate must be multiples of 32).
_KV_HEADS = 2
_VOCABULARY = 201088

_CONFIG: dict[str, Any] = {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "attention_bias": True,
    "attention_dropout": 0.0,
    "eos_token_id": 200002,
    "pad_token_id": 199999,
    "head_dim": _HEAD_DIM,
    "hidden_act": "silu",
    "hidden_size": _HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": _INTERMEDIATE,
    "layer_types": ["sliding_attention", "full_attention"],
    "max_position_embeddings": 131072,
    "num_attention_heads": _QUERY_HEADS,
    "num_experts_per_tok": 2,
    "num_hidden_layers": _LAYERS,
    "num_key_value_heads": _KV_HEADS,
    "num_local_experts": _EXPERTS,
    "rms_norm_eps": 1e-05,
    "rope_theta": 150000,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "original_max_position_embeddings": 4096,
        "truncate": False,
    },
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    # As in gpt-oss's own file; without it transformers warns of a Mistral tokenizer bug.
    "transformers_version": "4.55.0",
    "use_cache": True,
    "vocab_size": _VOCABULARY,
}

# vLLM takes Harmony's stop tokens from here and from nowhere else.
_GENERATION_CONFIG: dict[str, Any] = {
    "bos_token_id": 199998,
    "do_sample": True,
    "eos_token_id": [200002, 199999, 200012],
    "pad_token_id": 199999,
}

_TOKENIZER_CONFIG: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<|startoftext|>",
    "eos_token": "<|return|>",
    "pad_token": "<|endoftext|>",
    "clean_up_tokenization_spaces": False,
    "model_input_names": ["input_ids", "attention_mask"],
    "model_max_length": 131072,
    # vLLM renders Harmony itself; it asks for a template all the same, and gpt-oss has one.
    "chat_template": (
        "{% for message in messages %}"
        "<|start|>{{ message.role }}<|message|>{{ message.content }}<|end|>"
        "{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
    ),
}


def make_tiny_model(directory: Path) -> Path:
    """Write the tiny model's directory, or reuse a complete one of this version.

    The directory appears in one rename, so a reader never sees half of it, and two processes that
    make it at once end with one good copy. Takes about ten seconds and 80 MB, and no network: the
    vocabulary is the one embedded in `oss-harmony`.

    Returns `directory`. Raises `OSError` when it cannot be written.
    """
    if _is_complete(directory):
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    workshop = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        made = workshop / "new"
        made.mkdir()
        _write_json(made / "config.json", _CONFIG)
        _write_json(made / "generation_config.json", _GENERATION_CONFIG)
        _write_json(made / "tokenizer_config.json", _TOKENIZER_CONFIG)
        _write_tokenizer(made / "tokenizer.json")
        _write_weights(made / "model.safetensors")
        _write_json(made / _MARKER, {"version": VERSION})
        _move_into_place(made, directory, workshop / "old")
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return directory


def _is_complete(directory: Path) -> bool:
    """Whether the marker, which is in place only after everything else, is of this version."""
    try:
        marker = json.loads((directory / _MARKER).read_text())
    except (OSError, ValueError):
        return False
    return bool(marker == {"version": VERSION})


def _move_into_place(made: Path, directory: Path, old: Path) -> None:
    """Rename `made` to `directory`; a stale directory there moves to `old` first."""
    while not _is_complete(directory):
        if directory.exists():
            try:
                os.rename(directory, old)
            except FileNotFoundError:
                continue  # Another process moved it first.
        try:
            os.rename(made, directory)
        except OSError:
            if not directory.exists():
                raise
            # Another process put its copy there between the two renames.
            shutil.rmtree(old, ignore_errors=True)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def _write_tokenizer(path: Path) -> None:
    """Write o200k_harmony as a Hugging Face tokenizer, from the vocabulary in `oss-harmony`."""
    from openai_harmony import HarmonyEncodingName, load_harmony_encoding
    from transformers.convert_slow_tokenizer import TikTokenConverter

    encoding = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
    decode_bytes = encoding._inner.decode_bytes

    class FromHarmony(TikTokenConverter):  # type: ignore[misc, unused-ignore]
        @staticmethod
        def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
            return {bytes(decode_bytes([rank])): rank for rank in range(_FIRST_SPECIAL_ID)}

    special = [
        _SPECIAL_NAMES.get(token, f"<|reserved_{token}|>")
        for token in range(_FIRST_SPECIAL_ID, _LAST_SPECIAL_ID + 1)
    ]
    converter = FromHarmony("embedded", pattern=_WORD_PATTERN, extra_special_tokens=special)
    converter.converted().save(str(path), pretty=False)


def _write_weights(path: Path) -> None:
    """Write seeded random bf16 weights under the Hugging Face names of gpt-oss."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(VERSION)

    def rand(*shape: int) -> "torch.Tensor":
        return (torch.randn(shape, generator=generator) * 0.02).to(torch.bfloat16)

    def ones(size: int) -> "torch.Tensor":
        return torch.ones(size, dtype=torch.bfloat16)

    tensors = {
        "model.embed_tokens.weight": rand(_VOCABULARY, _HIDDEN),
        "model.norm.weight": ones(_HIDDEN),
        "lm_head.weight": rand(_VOCABULARY, _HIDDEN),
    }
    sizes = {
        "q_proj": (_QUERY_HEADS * _HEAD_DIM, _HIDDEN),
        "k_proj": (_KV_HEADS * _HEAD_DIM, _HIDDEN),
        "v_proj": (_KV_HEADS * _HEAD_DIM, _HIDDEN),
        "o_proj": (_HIDDEN, _QUERY_HEADS * _HEAD_DIM),
    }
    for layer in range(_LAYERS):
        prefix = f"model.layers.{layer}."
        for name, (out_size, in_size) in sizes.items():
            tensors[f"{prefix}self_attn.{name}.weight"] = rand(out_size, in_size)
            tensors[f"{prefix}self_attn.{name}.bias"] = rand(out_size)
        tensors[f"{prefix}self_attn.sinks"] = rand(_QUERY_HEADS)
        tensors[f"{prefix}input_layernorm.weight"] = ones(_HIDDEN)
        tensors[f"{prefix}post_attention_layernorm.weight"] = ones(_HIDDEN)
        tensors[f"{prefix}mlp.router.weight"] = rand(_EXPERTS, _HIDDEN)
        tensors[f"{prefix}mlp.router.bias"] = rand(_EXPERTS)
        experts = f"{prefix}mlp.experts."
        tensors[f"{experts}gate_up_proj"] = rand(_EXPERTS, _HIDDEN, 2 * _INTERMEDIATE)
        tensors[f"{experts}gate_up_proj_bias"] = rand(_EXPERTS, 2 * _INTERMEDIATE)
        tensors[f"{experts}down_proj"] = rand(_EXPERTS, _INTERMEDIATE, _HIDDEN)
        tensors[f"{experts}down_proj_bias"] = rand(_EXPERTS, _HIDDEN)
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors makes it 0600; another user may run the engine.
