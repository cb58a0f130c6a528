"""What is known of the models and the GPUs, and the memory arithmetic that follows from it.

Everything here is plain numbers: it answers "does it fit?" on a machine that has no GPU.
"""

import math
from dataclasses import dataclass

GIB = 1024**3
MIB = 1024**2

TENSOR_PARALLEL_SIZES = (1, 2, 4, 8)
"""The divisors of gpt-oss's 8 KV heads: each GPU of a group holds whole heads."""

KV_BLOCK_TOKENS = 16
"""Tokens of one KV block, vLLM's default on NVIDIA GPUs."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model's shape, as far as memory depends on it.

    `weights_bytes` is what the weights take on the GPUs once loaded, all GPUs together.
    """

    name: str
    source: str
    layers: int
    full_attention_layers: int
    sliding_window_tokens: int
    kv_heads: int
    head_dim: int
    weights_bytes: int
    vocab: int
    context_tokens: int


GPT_OSS_120B = ModelFacts(
    name="gpt-oss-120b",
    source="openai/gpt-oss-120b",
    layers=36,
    full_attention_layers=18,
    sliding_window_tokens=128,
    kv_heads=8,
    head_dim=64,
    weights_bytes=int(64.38 * GIB),
    vocab=201_088,
    context_tokens=131_072,
)
"""Shape: the checkpoint's config.json. Weights: vLLM's log "Model loading took 64.38 GiB" on an
H100
(vLLM issue 33155); 60.9 GB of MXFP4 experts and 4.2 GB of bf16, plus padding."""

GPT_OSS_20B = ModelFacts(
    name="gpt-oss-20b",
    source="openai/gpt-oss-20b",
    layers=24,
    full_attention_layers=12,
    sliding_window_tokens=128,
    kv_heads=8,
    head_dim=64,
    weights_bytes=int(13.6 * GIB),
    vocab=201_088,
    context_tokens=131_072,
)
"""Shape: the checkpoint's config.json. Weights: worked out, not measured: 19.1 B expert parameters
at
0.53125 bytes and 1.8 B at 2 bytes (12.8 GiB), times the padding seen with gpt-oss-120b (1.06)."""

TINY = ModelFacts(
    name="tiny",
    source="tiny",
    layers=2,
    full_attention_layers=1,
    sliding_window_tokens=128,
    kv_heads=2,
    head_dim=32,
    weights_bytes=104_000_000,
    vocab=201_088,
    context_tokens=131_072,
)
"""The test model that Trireme makes: almost all of it is two vocabulary matrices of 201,088 × 128
in
bf16."""

_KNOWN = (GPT_OSS_120B, GPT_OSS_20B)


def facts_for(source: str) -> ModelFacts | None:
    """The facts of the model at `source`; None for one that is not known here.

    Only the last part of the path counts and it must match whole: `gpt-oss-120b-BF16`, for one, has
    other weights.
    """
    if source == TINY.source:
        return TINY
    last = source.rstrip("/").rsplit("/", 1)[-1].lower()
    return next((facts for facts in _KNOWN if facts.name == last), None)


def kv_bytes_per_token(facts: ModelFacts, dtype_bytes: int = 2, tp: int = 1) -> int:
    """KV cache of one more token of context, in bytes on each of `tp` GPUs.

    Only full-attention layers grow with the context: 36 KiB for gpt-oss-120b in bf16 at TP 1. With
    more GPUs than KV heads each still holds one head.
    """
    heads = max(1, facts.kv_heads // tp)
    return facts.full_attention_layers * 2 * heads * facts.head_dim * dtype_bytes


def kv_bytes_per_request(
    facts: ModelFacts,
    tokens: int,
    max_num_batched_tokens: int,
    dtype_bytes: int = 2,
    tp: int = 1,
) -> int:
    """KV cache that a request of `tokens` (prompt and output) holds, in bytes on each GPU.

    The sliding layers hold their window and what may be in flight, which is two steps under vLLM's
    asynchronous scheduling (SlidingWindowSpec in vLLM's v1/kv_cache_interface.py).
    """
    in_flight = 2 * max_num_batched_tokens
    window = min(facts.sliding_window_tokens - 1 + in_flight, tokens)
    blocks = math.ceil(tokens / KV_BLOCK_TOKENS) + math.ceil(window / KV_BLOCK_TOKENS) + 1
    return blocks * KV_BLOCK_TOKENS * kv_bytes_per_token(facts, dtype_bytes, tp)


def reserve_bytes(max_num_batched_tokens: int) -> int:
    """GPU memory for CUDA's context, graphs and activations, in bytes on each GPU.

    An estimate: 4 GiB and 256 KiB for each token of a step, which gives 4.25 GiB at 1,024 tokens
    and 6 at 8,192. Other estimates for gpt-oss-120b say 4.8 (H100) and 6 (H200). Not measured.
    """
    return 4 * GIB + max_num_batched_tokens * 256 * 1024


def kv_pool_bytes(
    facts: ModelFacts,
    gpu_bytes: int,
    tp: int,
    gpu_memory_utilization: float,
    max_num_batched_tokens: int,
) -> int:
    """What is left for KV cache on each GPU, in bytes; negative when not even weights fit."""
    share = math.ceil(facts.weights_bytes / tp)
    return int(gpu_bytes * gpu_memory_utilization) - share - reserve_bytes(max_num_batched_tokens)


def weights_fit(
    facts: ModelFacts,
    gpu_bytes: int,
    tp: int,
    *,
    gpu_memory_utilization: float = 0.9,
    max_num_batched_tokens: int = 8192,
    context_tokens: int | None = None,
    dtype_bytes: int = 2,
) -> bool:
    """Whether a replica over `tp` GPUs of `gpu_bytes` each holds the weights and a usable KV pool.

    Usable means that one request of the full context (or of `context_tokens`) fits: with less, vLLM
    does not start. For gpt-oss-120b that is 4.6 to 5.1 GiB over the group.
    """
    tokens = context_tokens or facts.context_tokens
    pool = kv_pool_bytes(facts, gpu_bytes, tp, gpu_memory_utilization, max_num_batched_tokens)
    return pool >= kv_bytes_per_request(facts, tokens, max_num_batched_tokens, dtype_bytes, tp)


@dataclass(frozen=True, slots=True)
class Sizing:
    """Engine settings that fit a model to a kind of GPU."""

    tensor_parallel_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    gpu_memory_utilization: float


def _settings(gpu_bytes: int) -> tuple[tuple[int, int, float], ...]:
    # (max_num_seqs, max_num_batched_tokens, gpu_memory_utilization), the best first.
    roomy = (512, 16_384, 0.9) if gpu_bytes >= 160 * GIB else (256, 8192, 0.9)
    return (roomy, (64, 1024, 0.95))


def sizing_for(facts: ModelFacts, gpu_bytes: int, gpus: int) -> Sizing | None:
    """Settings for the smallest tensor-parallel group that fits `gpus` GPUs of `gpu_bytes` each.

    The smallest, as more replicas write more tokens in all than larger groups do. The roomy
    settings are those of vLLM's gpt-oss recipe for Hopper (8,192 tokens a step), doubled on GPUs of
    160 GiB and more. The tight ones (1,024 tokens, 95 % of the memory) are the recipe's answer to
    an 80 GB GPU that runs out of memory: 64 requests, since the 7 GiB left hold 45 of medium
    effort. None when nothing fits.
    """
    for tp in TENSOR_PARALLEL_SIZES:
        if tp > gpus or facts.kv_heads % tp:
            continue
        for seqs, batched, utilization in _settings(gpu_bytes):
            if weights_fit(
                facts,
                gpu_bytes,
                tp,
                gpu_memory_utilization=utilization,
                max_num_batched_tokens=batched,
            ):
                return Sizing(tp, seqs, batched, utilization)
    return None


def tensor_parallel_size_for(facts: ModelFacts, gpu_bytes: int, gpus: int) -> int | None:
    """The smallest group of 1, 2, 4 or 8 GPUs that fits (see `sizing_for`); else None."""
    sizing = sizing_for(facts, gpu_bytes, gpus)
    return sizing.tensor_parallel_size if sizing else None


def choose_model(gpu_bytes: int, gpus: int) -> ModelFacts | None:
    """gpt-oss-120b where `gpus` GPUs of `gpu_bytes` hold it, else gpt-oss-20b, else None."""
    return next((facts for facts in _KNOWN if sizing_for(facts, gpu_bytes, gpus)), None)


# What `nvidia-smi` and `rocm-smi` report as total memory, in MiB. The most telling name comes
# first:
# "GB200" also contains "B200". An A100 of no stated size counts as the smaller one.
_GPU_MIB = (
    ("GB200", 189_471),
    ("B200", 183_359),
    ("H200", 143_771),
    ("H100", 81_559),
    ("A100-80", 81_920),
    ("A100 80", 81_920),
    ("A100-SXM4-80", 81_920),
    ("A100", 40_960),
    ("L40S", 46_068),
    ("L4", 23_034),
    ("A10G", 23_028),
    ("MI300X", 196_592),
)


def gpu_bytes_of(name: str) -> int | None:
    """Memory in bytes of a GPU by its Ray type or its driver's name; None if unknown."""
    upper = name.upper()
    words = set(upper.replace("-", " ").split())
    for known, mib in _GPU_MIB:
        if known in words or (("80" in known) and known in upper):
            return mib * MIB
    return None
