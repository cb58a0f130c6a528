"""How long one engine step of gpt-oss-120b takes, per kind of GPU and tensor parallel size.

A step reads the weights that its tokens need, reads the KV cache of its decoding requests, and
computes its prompt tokens. Every figure here is for one replica (one tensor-parallel group).
"""

from dataclasses import dataclass, field

from cluster.facts import GPT_OSS_120B, kv_bytes_per_token

ROUTED_SHARE = 4 / 128
"""gpt-oss activates 4 of 128 experts per layer and token (the checkpoint's config.json)."""

TABLED_SEQS = 1024
"""Batch sizes up to this one are looked up; a larger one touches all experts (to 1e-14)."""

_TOUCHED = tuple(1.0 - (1.0 - ROUTED_SHARE) ** tokens for tokens in range(TABLED_SEQS + 1))

HBM_BYTES_PER_S = {"H100": 3.35e12, "H200": 4.8e12, "B200": 8.0e12}
"""NVIDIA's data sheets (SXM)."""

HBM_SHARE = 0.9
"""Share of the memory bandwidth at which attention reads the KV cache. Between 0.7 and 0.9 the
measured points say 0.9: the median error of TPOT is 1.1 % with 0.7 and 0.8 % with 0.9."""

_PAIR_S = {"H100": 4.84e-10, "H200": 4.84e-10, "B200": 2.13e-10}
"""Attention of one prompt token to one token before it, on one GPU, in seconds: from the quadratic
term of llm-d's recompute times on one H200 (0.242 ms for each (1,000 tokens)², 8k to 49k tokens),
which is 61 % of the GPU's bf16 peak; B200 by its peak (2.25 PFLOP/s instead of 0.989)."""


def touched_experts(tokens: int) -> float:
    """Expected share of a layer's experts that a step of ``tokens`` tokens reads."""
    return _TOUCHED[tokens] if tokens <= TABLED_SEQS else 1.0


@dataclass(frozen=True)
class StepModel:
    """Step times of one replica; every coefficient in seconds.

    A step of ``base_s`` reads the share of experts that its tokens need (``experts_s`` for all of
    them), samples each decoding request (``seq_s``) and reads their KV cache (``kv_token_s`` for
    each token in it). With prompt tokens it also costs ``mixed_s`` once, ``prefill_token_s`` for
    each of them, and ``prefill_pair_s`` for each pair of one and a token before it.

    What happens to a request outside of the engine (HTTP, tokens from text and back) takes
    ``overhead_s`` and ``overhead_token_s`` for each prompt token.
    """

    base_s: float
    experts_s: float = 0.0
    seq_s: float = 0.0
    kv_token_s: float = 0.0
    prefill_token_s: float = 0.0
    mixed_s: float = 0.0
    prefill_pair_s: float = 0.0
    overhead_s: float = 0.0
    overhead_token_s: float = 0.0
    decode_table_s: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        table = tuple(
            self.base_s + self.experts_s * share + self.seq_s * seqs
            for seqs, share in enumerate(_TOUCHED)
        )
        object.__setattr__(self, "decode_table_s", table)

    def decode_base_s(self, seqs: int) -> float:
        """A step that decodes ``seqs`` requests, without what it reads of the KV cache."""
        if seqs <= TABLED_SEQS:
            return self.decode_table_s[seqs]
        return self.base_s + self.experts_s + self.seq_s * seqs

    def step_s(
        self, seqs: int, kv_tokens: float, prefill_tokens: int = 0, prefill_pairs: float = 0.0
    ) -> float:
        """Seconds of a step that decodes ``seqs`` requests with ``kv_tokens`` in all, and computes
        ``prefill_tokens`` prompt tokens with ``prefill_pairs`` tokens before them, summed up."""
        if not prefill_tokens:
            return self.decode_base_s(seqs) + self.kv_token_s * kv_tokens
        return (
            self.base_s
            + self.mixed_s
            + self.experts_s * touched_experts(seqs + prefill_tokens)
            + self.seq_s * seqs
            + self.kv_token_s * kv_tokens
            + self.prefill_token_s * prefill_tokens
            + self.prefill_pair_s * prefill_pairs
        )

    def request_overhead_s(self, prompt_tokens: int) -> float:
        """What a request spends outside of the engine before its first token, in seconds."""
        return self.overhead_s + self.overhead_token_s * prompt_tokens


def kv_token_s(gpu: str, tp: int) -> float:
    """Reading one token of context from the KV cache, in seconds: bytes over bandwidth."""
    return kv_bytes_per_token(GPT_OSS_120B, tp=tp) / (HBM_SHARE * HBM_BYTES_PER_S[gpu])


def prefill_pair_s(gpu: str, tp: int) -> float:
    """Attention of one prompt token to one token before it, in seconds."""
    return _PAIR_S[gpu] / tp


OVERHEAD_S = 0.012
OVERHEAD_TOKEN_S = 3e-6
"""vLLM's HTTP server and the measuring client, per request and per prompt token: chosen among
6 to 18 ms and 0 to 4 µs by the measured points (see `benchmarks/fidelity.py`)."""

MEASURED_SEQS = 64
"""Batch sizes beyond this one (128 on B200) are extrapolated: expect up to 15 % of error."""

# Fitted by `python -m benchmarks.fidelity` to the points in benchmarks/points/gpt_oss_120b.csv
# (InferenceX's runs as collected by ai-dynamo/aiconfigurator, Apache-2.0): vLLM 0.18.0 on H100 and
# H200 (H200 TP 1 from 8 clients on at 1,024 prompt tokens: an older, unnamed version), vLLM 0.15.1
# on B200 (TP 8 from 16 clients on: unnamed). H100 at TP 1 was not measured.
_COEFFICIENTS: dict[tuple[str, int], tuple[float, float, float, float, float]] = {
    # (GPU, TP): base ms, experts ms, ms a request, µs a prompt token, mixed ms
    ("B200", 1): (2.661, 5.982, 0.008106, 4.55, 17.97),
    ("B200", 2): (2.997, 2.859, 0.01082, 3.289, 11.38),
    ("B200", 4): (2.759, 1.824, 0.01456, 3.576, 2.709),
    ("B200", 8): (2.635, 2.304, 0.01028, 4.978, 1.304),
    ("H100", 2): (3.875, 7.559, 0.03392, 21.75, 3.403),
    ("H100", 4): (3.4, 3.757, 0.02927, 13.94, 1.262),
    ("H100", 8): (3.237, 2.12, 0.02437, 9.889, 0.0),
    ("H200", 1): (4.071, 15.62, 0.04905, 32.58, 14.78),
    ("H200", 2): (3.624, 7.513, 0.03454, 21.45, 7.092),
    ("H200", 4): (3.376, 2.977, 0.03716, 13.61, 4.862),
    ("H200", 8): (3.259, 1.749, 0.02466, 9.563, 2.471),
}

MEASURED_GPUS = tuple(dict.fromkeys(gpu for gpu, _ in _COEFFICIENTS))


def _model(gpu: str, tp: int) -> StepModel:
    base_ms, experts_ms, seq_ms, prefill_us, mixed_ms = _COEFFICIENTS[gpu, tp]
    return StepModel(
        base_s=base_ms / 1e3,
        experts_s=experts_ms / 1e3,
        seq_s=seq_ms / 1e3,
        kv_token_s=kv_token_s(gpu, tp),
        prefill_token_s=prefill_us / 1e6,
        mixed_s=mixed_ms / 1e3,
        prefill_pair_s=prefill_pair_s(gpu, tp),
        overhead_s=OVERHEAD_S,
        overhead_token_s=OVERHEAD_TOKEN_S,
    )


_MODELS = {key: _model(*key) for key in _COEFFICIENTS}


def step_model(gpu: str, tp: int) -> StepModel | None:
    """Step times of gpt-oss-120b over ``tp`` GPUs; None where they were not measured.

    ``gpu`` is Ray's accelerator type (H200) or the driver's name (NVIDIA H200).
    """
    words = gpu.upper().replace("-", " ").split()
    known = next((name for name in MEASURED_GPUS if name in words), None)
    return _MODELS.get((known, tp)) if known else None


def measured() -> tuple[tuple[str, int], ...]:
    """Every (GPU, tensor parallel size) that ``step_model`` knows."""
    return tuple(_COEFFICIENTS)
