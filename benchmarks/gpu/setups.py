"""What is measured: the models, the engines' settings (one for both sides), shapes and clients."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.config import Tier
from cluster.facts import GPT_OSS_20B, GPT_OSS_120B, TINY, ModelFacts, sizing_for
from cluster.hardware import Hardware


@dataclass(frozen=True)
class Shape:
    """A workload of the closed loop: prompts of up to ``isl`` tokens, outputs of up to ``osl``."""

    isl: int
    osl: int

    @property
    def name(self) -> str:
        return f"{_short(self.isl)}-{_short(self.osl)}"


def _short(tokens: int) -> str:
    return f"{tokens // 1024}k" if tokens % 1024 == 0 else str(tokens)


@dataclass(frozen=True)
class TierMix:
    """An open loop: Poisson arrivals with lengths by tier. ``means`` are output tokens."""

    rate_per_s: float
    duration_s: float
    prompt_tokens: int
    means: Mapping[Tier, int]
    weights: Mapping[Tier, float] = field(
        default_factory=lambda: {"low": 0.5, "medium": 0.35, "high": 0.15}
    )
    sigma: float = 0.5


@dataclass(frozen=True)
class Steps:
    """What is put into an engine to time its steps: batches of requests of so many tokens each,
    and prompts that are computed alone."""

    batches: tuple[int, ...]
    contexts: tuple[int, ...]
    prompts: tuple[int, ...]
    decoded: int
    """Steps that are timed for each batch and context."""


@dataclass(frozen=True)
class Setup:
    """A model and everything that is done with it. ``name`` is its served name.

    ``wave_s`` estimates how long one request of a shape takes at a concurrency, by which points are
    put into stages of bounded length.
    """

    name: str
    facts: ModelFacts
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    gpu_memory_utilization: float
    engine_args: Mapping[str, Any]
    env: Mapping[str, str]
    shapes: tuple[Shape, ...]
    concurrencies: tuple[int, ...]
    point_s: float
    mix: TierMix
    steps: Steps
    continued: int
    """Prompts whose answers are cut and continued."""

    exact_args: Mapping[str, Any]
    """Further arguments of the engine that continues them."""


SHAPES = (Shape(1024, 1024), Shape(1024, 8192), Shape(8192, 1024))


def _gpt_oss(facts: ModelFacts, gpu_bytes: int) -> Setup:
    """Raises ``ValueError`` if the model does not fit one GPU of that memory."""
    sizing = sizing_for(facts, gpu_bytes, 1)
    if sizing is None:
        raise ValueError(f"{facts.name} does not fit one GPU of {gpu_bytes / 2**30:.0f} GiB")
    return Setup(
        name=facts.name,
        facts=facts,
        max_model_len=16_384,
        max_num_seqs=sizing.max_num_seqs,
        max_num_batched_tokens=sizing.max_num_batched_tokens,
        gpu_memory_utilization=sizing.gpu_memory_utilization,
        engine_args={"load_format": "dummy"},
        env={},
        shapes=SHAPES,
        concurrencies=(1, 4, 16, 64, 256),
        point_s=90.0,
        # About 2,850 tokens a second, of some 4,000 that one H200 writes at 128 requests
        # (cluster/steptime.py). Answers are a quarter as long as the tiers' expected ones, so that
        # a few minutes are long against them.
        mix=TierMix(3.0, 240.0, 1024, {"low": 300, "medium": 1000, "high": 3000}),
        steps=Steps(
            (1, 2, 4, 8, 16, 32, 64, 128, 256), (1024, 4096, 12_288), (512, 2048, 8192), 40
        ),
        continued=8,
        exact_args={},
    )


def _tiny() -> Setup:
    """Real weights of two layers, without the script: its words are random, as a dummy's are."""
    return Setup(
        name="gpt-oss-tiny",
        facts=TINY,
        max_model_len=2048,
        max_num_seqs=16,
        max_num_batched_tokens=2048,
        gpu_memory_utilization=0.9,
        engine_args={"enforce_eager": True},
        env={"VLLM_CPU_KVCACHE_SPACE": "1"},
        shapes=(Shape(128, 128), Shape(128, 512), Shape(512, 128)),
        concurrencies=(1, 4, 16),
        point_s=15.0,
        mix=TierMix(1.0, 20.0, 64, {"low": 20, "medium": 60, "high": 150}),
        steps=Steps((1, 4, 16), (64, 512), (128, 512), 20),
        continued=2,
        # On CPUs the rounding of bfloat16 depends on the batch (see `benchmarks.continuation`).
        exact_args={"dtype": "float32"},
    )


def setup_for(name: str, hardware: Hardware) -> Setup:
    """The setup of that name, or (``auto``) the largest model that one GPU here holds.

    Raises ``ValueError`` for a model that does not run here, in words for the caller.
    """
    gpu_bytes = hardware.smallest_gpu_bytes
    if name == "auto":
        fitting = [f for f in (GPT_OSS_120B, GPT_OSS_20B) if sizing_for(f, gpu_bytes, 1)]
        return _gpt_oss(fitting[0], gpu_bytes) if fitting else _tiny()
    if name == "tiny":
        return _tiny()
    known = {facts.name: facts for facts in (GPT_OSS_120B, GPT_OSS_20B)}
    if name not in known:
        raise ValueError(f"there is no model {name}; write auto, tiny, {' or '.join(known)}")
    if not hardware.gpus:
        raise ValueError(f"{name} needs a GPU, and this machine has none; write tiny")
    return _gpt_oss(known[name], gpu_bytes)
