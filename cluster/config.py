"""`trireme.yaml` as types: every setting, its default, its unit, and why it exists.

Objects are frozen and refuse unknown fields. A rule that involves several fields raises `faults`,
an error that carries `Fault` objects; `cluster.loading` turns those and pydantic's own errors into
one line each for the operator.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import date
from ipaddress import ip_address
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import regex  # type: ignore[import-untyped]
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from cluster.errors import Fault
from cluster.facts import TENSOR_PARALLEL_SIZES, facts_for
from cluster.schedule import HOW_TO_SCHEDULE, parse_rule
from cluster.steptime import measured, step_model

Tier = Literal["low", "medium", "high"]
TIERS: tuple[Tier, ...] = ("low", "medium", "high")

Device = Literal["auto", "gpu", "cpu"]
EngineKind = Literal["vllm", "simulated"]
PolicyName = Literal["effort", "least-requests", "round-robin", "power-of-two", "prefix-affinity"]
POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)

KIB = 1024
MIB = 1024 * KIB

TINY_SOURCE = "tiny"
"""The `source` that means the small GptOss model which Trireme makes itself."""

LABEL_PATTERN = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
MODEL_NAME_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._:/-]*[A-Za-z0-9])?$"

# Pool names become Serve deployment names, metric labels and Kubernetes labels (63 characters with
# a suffix).
Label = Annotated[str, Field(pattern=LABEL_PATTERN, max_length=40)]
ModelName = Annotated[str, Field(pattern=MODEL_NAME_PATTERN, max_length=128)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=0, le=65535)]

JwtAlgorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]
"""Asymmetric ones only: with another, who can check a token could also make one."""
DEFAULT_JWT_ALGORITHMS: tuple[JwtAlgorithm, ...] = ("RS256", "ES256")

STORE_URL = re.compile(r"^(postgres(ql)?(\+psycopg)?://|sqlite:///.)")

# vLLM arguments that Trireme sets from a setting of its own, and that setting.
OWNED_ENGINE_ARGS: dict[str, str] = {
    "model": "set the model's source instead",
    "tokenizer": "set the model's source instead; the tokenizer comes with it",
    "served_model_name": "set the model's name and aliases instead",
    "revision": "set the model's revision instead",
    "max_model_len": "set the model's max_model_len instead",
    "tensor_parallel_size": "set the pool's tensor_parallel_size instead",
    "pipeline_parallel_size": "remove it; replicas live on one node: raise tensor_parallel_size",
    "data_parallel_size": "set the pool's replicas instead; Trireme balances between them",
    "max_num_seqs": "set the pool's max_num_seqs instead",
    "max_num_batched_tokens": "set the pool's max_num_batched_tokens instead",
    "max_num_queued_reqs": "set tiers.<tier>.max_queued instead; requests queue in the gateway",
    "max_num_queued_tokens": "set tiers.<tier>.max_queued instead; requests queue in the gateway",
    "gpu_memory_utilization": "set the pool's gpu_memory_utilization instead",
    "scheduling_policy": "set tiers.<tier>.priority instead; replicas schedule by priority",
    "stream_interval": "set gateway.stream_interval instead",
    "shutdown_timeout": "set the pool's drain_timeout_s instead",
    "distributed_executor_backend": "remove it; Trireme picks the executor",
    "device_ids": "remove it; Ray assigns the GPUs",
    "enable_log_requests": "remove it; prompts are never logged",
    "trust_remote_code": "remove it; no code that comes with weights is run",
    "code_revision": "remove it; no code that comes with weights is run",
    "enable_prompt_embeds": "remove it; prompts are text",
    "allowed_local_media_path": "remove it; prompts are text",
    "allowed_media_domains": "remove it; prompts are text",
    "hf_token": "put the token into the HF_TOKEN environment variable, not into a file",
}

SAFE_LOAD_FORMATS = frozenset(
    {"safetensors", "fastsafetensors", "instanttensor", "runai_streamer", "sharded_state", "dummy"}
    | {"runai_streamer_sharded"}
)
"""Of vLLM's, those that read safetensors only, or nothing."""

# Environment variables of an engine that others decide.
OWNED_ENV: dict[str, str] = {
    "CUDA_VISIBLE_DEVICES": "remove it; Ray assigns the GPUs",
    "VLLM_SYSTEM_START_DATE": "set gateway.system_start_date; the gateway renders prompts",
}


def refuse(faults: Iterable[Fault]) -> None:
    """Raise one pydantic error that carries all `faults`, if there are any.

    Paths are relative to the model at hand.
    """
    found = list(faults)
    if found:
        summary = "; ".join(str(fault) for fault in found)
        raise PydanticCustomError("faults", "{summary}", {"summary": summary, "faults": found})


def _iso_date(value: Any) -> Any:
    # YAML reads an unquoted 2026-01-31 as a date.
    return value.isoformat() if type(value) is date else value


def _numbers_as_text(value: Any) -> Any:
    # YAML reads `VLLM_CPU_KVCACHE_SPACE: 4` as a number, and an environment holds text.
    if not isinstance(value, dict):
        return value
    return {key: str(v) if type(v) in (int, float) else v for key, v in value.items()}


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def is_loopback(host: str) -> bool:
    """Whether `host` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OutputTokens(_Settings):
    """Mean output length per tier, in tokens."""

    low: float = Field(
        default=1300.0, gt=0, description="Mean at low effort (MLPerf's low-effort runs: 1,278)."
    )
    medium: float = Field(default=4000.0, gt=0, description="Mean at medium effort.")
    high: float = Field(default=13000.0, gt=0, description="Mean at high effort: ten times low.")

    def of(self, tier: Tier) -> float:
        """The mean for `tier`, in tokens."""
        return {"low": self.low, "medium": self.medium, "high": self.high}[tier]


class StepMilliseconds(_Settings):
    """What an engine step takes, in milliseconds; the sum of its parts."""

    base: float = Field(
        default=20.0, gt=0, allow_inf_nan=False, description="Every step, whatever it does."
    )
    experts: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="Reading all experts; a step reads the share 1 − (31/32)^tokens of them.",
    )
    request: float = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="Each request that writes a token."
    )
    context_1k: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="Each 1,000 tokens in the KV cache of those requests.",
    )
    prompt_1k: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="Each 1,000 prompt tokens that the step computes.",
    )


class SimulatedEngineConfig(_Settings):
    """The time and memory model of a simulated replica.

    Step times are those measured with gpt-oss-120b on `gpu` at the pool's tensor_parallel_size (see
    `cluster/steptime.py`), unless `step_ms` says others.
    """

    seed: int = Field(
        default=0,
        ge=0,
        description="Seed of output lengths and token ids: the same seed gives the same run.",
    )
    gpu: str = Field(
        default="H200",
        description="GPU whose step times the replica keeps: H100, H200 or B200.",
    )
    step_ms: StepMilliseconds | None = Field(
        default=None, description="Step times to keep instead of those measured on `gpu`."
    )
    kv_tokens: int = Field(
        default=1_500_000,
        ge=16,
        description="KV cache of a replica, in tokens; full means preemption.",
    )
    speed_factor: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="Divides every duration: 10 runs ten times as fast.",
    )
    output_tokens_mean: OutputTokens = Field(
        default_factory=OutputTokens,
        description="Mean output tokens per tier, of a log-normal distribution.",
    )
    output_sigma: float = Field(
        default=1.0,
        ge=0,
        le=3,
        description="Spread of the output length: σ of its logarithm. 0 makes lengths constant.",
    )
    max_waiting: int = Field(
        default=1024, ge=1, description="Requests that may wait inside a replica; more are refused."
    )


class PoolScalingConfig(_Settings):
    """Between which sizes the autoscaler moves a pool, and what its replicas take."""

    min_replicas: int = Field(
        default=1,
        ge=0,
        le=4096,
        description="Least replicas. 0: none after a long silence; the request that ends it waits "
        "in its gateway while one starts.",
    )
    max_replicas: int = Field(default=8, ge=1, le=4096, description="Most replicas.")
    schedules: list[str] = Field(
        default_factory=list,
        max_length=64,
        description="Bounds by the clock, such as `weekdays 08:00-19:00 >= 4` or "
        "`daily 22:00-06:00 <= 2`, in autoscaling.timezone. They tighten min_replicas and "
        "max_replicas.",
    )
    cold_start_s: Seconds = Field(
        default=300.0,
        description="Seconds from asking for a replica to its first request, until measured.",
    )
    gpu_cost_per_h: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="Cost of one of the pool's GPUs for an hour, in any currency: pools that serve "
        "the same tier grow in the order of what a request costs there.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse(self._faults())
        return self

    def _faults(self) -> Iterator[Fault]:
        if self.min_replicas > self.max_replicas:
            yield Fault(
                "max_replicas",
                f"{self.max_replicas} is less than min_replicas ({self.min_replicas})",
                f"write {self.min_replicas} or more",
            )
        for index, text in enumerate(self.schedules):
            try:
                parse_rule(text)
            except ValueError as error:
                yield Fault(f"schedules[{index}]", str(error), HOW_TO_SCHEDULE)


class PoolConfig(_Settings):
    """A set of identical replicas of one model: one Serve deployment."""

    name: Label = Field(
        default="main", description="Name of the pool, unique in the cluster; a metric label."
    )
    engine: EngineKind = Field(
        default="vllm",
        description="`vllm`, or `simulated`: a replica that only keeps time, for tests and sizing.",
    )
    replicas: int = Field(default=1, ge=1, le=4096, description="Replicas to start with.")
    scaling: PoolScalingConfig | None = Field(
        default=None,
        description="Bounds for the autoscaler, if autoscaling.enabled; None: always `replicas`.",
    )
    device: Device = Field(
        default="auto",
        description="What a replica runs on; `auto` takes GPUs where the cluster has them, else "
        "CPUs.",
    )
    gpu_type: str | None = Field(
        default=None,
        min_length=1,
        description="Ray accelerator type to run on, such as H100; None takes any.",
    )
    tensor_parallel_size: Literal[1, 2, 4, 8] = Field(
        default=1,
        description="GPUs of one replica. Must divide gpt-oss's 8 KV heads, so 1, 2, 4 or 8.",
    )
    max_num_seqs: int = Field(
        default=256,
        ge=1,
        le=8192,
        description="Requests that a replica runs at once. More share the GPU, each then slower.",
    )
    max_num_batched_tokens: int = Field(
        default=8192,
        ge=32,
        le=1_048_576,
        description="Tokens of one engine step. More makes prefill quicker, but pauses running "
        "streams longer and takes KV memory (twice this is held back for each request).",
    )
    gpu_memory_utilization: float = Field(
        default=0.9,
        gt=0,
        le=0.98,
        description="Share of GPU memory that the engine takes: weights, activations and KV cache.",
    )
    tiers: list[Tier] = Field(
        default_factory=lambda: list(TIERS), description="Tiers whose requests come here first."
    )
    lends_to: list[Tier] = Field(
        default_factory=lambda: list(TIERS),
        description="Tiers that may come here while their own pools are behind.",
    )
    num_cpus: float = Field(
        default=1.0,
        ge=0,
        le=1024,
        allow_inf_nan=False,
        description="CPUs that Ray sets aside for a replica.",
    )
    engine_args: dict[str, Any] = Field(
        default_factory=dict,
        description="Further arguments of vLLM's AsyncEngineArgs, as they are.",
    )
    env: Annotated[dict[str, str], BeforeValidator(_numbers_as_text)] = Field(
        default_factory=dict, description="Environment variables of the replica's process."
    )
    simulated: SimulatedEngineConfig = Field(
        default_factory=SimulatedEngineConfig, description="Read when engine is `simulated`."
    )
    startup_timeout_s: Seconds = Field(
        default=1800.0,
        description="Seconds from start to ready; loading 65 GB from a cold disk takes minutes.",
    )
    progress_timeout_s: Seconds = Field(
        default=60.0,
        description="An engine that has work and makes no step for so many seconds is unhealthy.",
    )
    drain_timeout_s: Seconds = Field(
        default=60.0,
        description="Seconds a leaving replica gets to hand its running requests to others.",
    )

    @field_validator("tensor_parallel_size", mode="before")
    @classmethod
    def _whole_kv_heads(cls, value: Any) -> Any:
        if type(value) is int and value not in TENSOR_PARALLEL_SIZES:
            sizes = ", ".join(map(str, TENSOR_PARALLEL_SIZES))
            problem = f"{value} does not divide the 8 KV heads of gpt-oss"
            refuse([Fault("", problem, f"write one of {sizes}")])
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse(self._faults())
        return self

    def _faults(self) -> Iterator[Fault]:
        if self.max_num_batched_tokens < self.max_num_seqs:
            yield Fault(
                "max_num_batched_tokens",
                f"{self.max_num_batched_tokens} is less than max_num_seqs ({self.max_num_seqs}), "
                "so a step could not serve all running requests",
                f"write {self.max_num_seqs} or more",
            )
        if not self.tiers and not self.lends_to:
            yield Fault(
                "tiers", "no tier may use this pool", f"name at least one of {', '.join(TIERS)}"
            )
        for field, tiers in (("tiers", self.tiers), ("lends_to", self.lends_to)):
            if len(set(tiers)) < len(tiers):
                yield Fault(field, "a tier is named twice", "name each tier once")
        if self.device == "cpu" and self.gpu_type is not None:
            yield Fault(
                "gpu_type", "the pool runs on CPUs", "remove gpu_type, or set device to gpu"
            )
        yield from self._simulation_faults()
        for arg in self.engine_args:
            plain = arg.removeprefix("--").replace("-", "_")
            if plain in OWNED_ENGINE_ARGS:
                remedy = OWNED_ENGINE_ARGS[plain]
                yield Fault(f"engine_args.{arg}", "Trireme sets this argument", remedy)
            elif plain != arg:
                yield Fault(f"engine_args.{arg}", "not the name of an argument", f"write {plain}")
        loading = self.engine_args.get("load_format", "safetensors")
        if loading not in SAFE_LOAD_FORMATS:
            yield Fault(
                "engine_args.load_format",
                f"'{loading}' may read formats that can hold code",
                f"write one of {', '.join(sorted(SAFE_LOAD_FORMATS))}, or remove it",
            )
        for variable in self.env:
            if variable in OWNED_ENV:
                yield Fault(f"env.{variable}", "Trireme sets this variable", OWNED_ENV[variable])

    def _simulation_faults(self) -> Iterator[Fault]:
        settings = self.simulated
        if self.engine != "simulated" or settings.step_ms is not None:
            return
        if step_model(settings.gpu, self.tensor_parallel_size) is None:
            known: dict[str, list[str]] = {}
            for gpu, tp in measured():
                known.setdefault(gpu, []).append(str(tp))
            names = ", ".join(f"{gpu} (TP {', '.join(sizes)})" for gpu, sizes in known.items())
            yield Fault(
                "simulated.gpu",
                f"{settings.gpu} at tensor_parallel_size {self.tensor_parallel_size} was not "
                "measured",
                f"write one of {names}, or set simulated.step_ms",
            )


class ModelConfig(_Settings):
    """A model that clients can ask for, and the pools that serve it."""

    name: ModelName = Field(
        default="gpt-oss-120b", description="Name that clients put into `model`."
    )
    source: str = Field(
        default="openai/gpt-oss-120b",
        min_length=1,
        description="Hugging Face id, local path, or `tiny`: the small test model that Trireme "
        "makes itself.",
    )
    revision: str | None = Field(
        default=None,
        min_length=1,
        description="Hugging Face revision; None is the newest. With access.mode `keys` a model "
        "that is fetched needs a commit (40 hexadecimal characters).",
    )
    manifest: str | None = Field(
        default=None,
        pattern=r"^/",
        description="File with the SHA-256 of every file of the model, as sha256sum writes it, "
        "absolute. `up` reads and compares them all before anything starts; None compares nothing.",
    )
    aliases: list[ModelName] = Field(
        default_factory=list,
        description="Further names. `<name>-low`, `<name>-medium` and `<name>-high` are always "
        "understood besides.",
    )
    max_model_len: int = Field(
        default=131_072,
        ge=256,
        le=1_048_576,
        description="Longest prompt plus output, in tokens. gpt-oss knows 131,072.",
    )
    pools: list[PoolConfig] = Field(
        default_factory=lambda: [PoolConfig()],
        min_length=1,
        description="The replicas that serve this model.",
    )

    def names(self) -> tuple[str, ...]:
        """Every name that means this model with no tier implied: `name`, then the aliases."""
        return (self.name, *self.aliases)

    def is_fetched(self) -> bool:
        """Whether its weights come from a repository of Hugging Face."""
        return self._is_remote() and any(pool.engine != "simulated" for pool in self.pools)

    def _is_remote(self) -> bool:
        return self.source != TINY_SOURCE and not self.source.startswith(("/", "."))

    def tier_aliases(self) -> dict[str, Tier]:
        """The names that mean this model at a given tier, `<name>-high` and so on."""
        return {f"{name}-{tier}": tier for name in self.names() for tier in TIERS}

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse(self._faults())
        return self

    def _faults(self) -> Iterator[Fault]:
        for tier in TIERS:
            if not any(tier in pool.tiers or tier in pool.lends_to for pool in self.pools):
                yield Fault(
                    "pools",
                    f"no pool takes requests of tier {tier}",
                    f"add {tier} to a pool's tiers or lends_to",
                )
        if self.manifest is not None and self._is_remote() and self.revision is None:
            yield Fault(
                "revision",
                "the newest revision would not stay what the manifest says",
                "write the commit that the manifest was made of",
            )
        facts = facts_for(self.source)
        if facts is None:
            return
        if self.max_model_len > facts.context_tokens:
            yield Fault(
                "max_model_len",
                f"{facts.name} knows {facts.context_tokens} tokens of context",
                f"write {facts.context_tokens} or less",
            )
        fitting = [tp for tp in TENSOR_PARALLEL_SIZES if facts.kv_heads % tp == 0]
        for index, pool in enumerate(self.pools):
            if pool.engine == "vllm" and pool.tensor_parallel_size not in fitting:
                yield Fault(
                    f"pools[{index}].tensor_parallel_size",
                    f"{pool.tensor_parallel_size} does not divide the {facts.kv_heads} KV heads of "
                    f"{facts.name}",
                    f"write {' or '.join(map(str, fitting))}",
                )


class SloConfig(_Settings):
    """Latency objectives of a tier: what the router keeps, and what attainment is measured by."""

    ttft_s: Seconds = Field(
        default=2.0, description="Seconds to the first token, queueing included."
    )
    tpot_ms: float = Field(
        default=25.0,
        gt=0,
        allow_inf_nan=False,
        description="Milliseconds per output token, on average over a request. A replica takes no "
        "more requests than it can serve at this pace (unless it could not for even a few).",
    )
    share: float = Field(
        default=0.99,
        gt=0,
        lt=1,
        description="Share of requests that are to keep each objective; alerts tell when the rest "
        "is used up too quickly.",
    )


class BrownOutConfig(_Settings):
    """Serving a tier at a lower effort while it is overloaded, rather than refusing it."""

    to: Tier = Field(
        default="low", description="The tier to serve at instead, lower than this one."
    )
    above_wait_s: Seconds = Field(
        default=10.0,
        description="Begins when the tier's oldest request has waited so many seconds, and ends "
        "when none has.",
    )


class RepetitionConfig(_Settings):
    """What counts as a loop: the last tokens are one pattern, so many times in a row."""

    max_pattern_tokens: int = Field(
        default=16,
        ge=1,
        le=256,
        description="Longest pattern that is looked for. Engines look for each length after every "
        "token: 0.3 µs for each length and running request (vLLM 0.32, on 2 shared cores).",
    )
    min_pattern_tokens: int = Field(default=1, ge=1, le=256, description="Shortest pattern.")
    min_count: int = Field(
        default=100,
        ge=2,
        le=100_000,
        description="Times in a row that make it a loop. A table, or a row of zeros, repeats "
        "itself too: fewer end more loops, and more tables.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_pattern_tokens > self.max_pattern_tokens:
            problem = f"{self.min_pattern_tokens} is more than max_pattern_tokens"
            remedy = f"write {self.max_pattern_tokens} or less"
            refuse([Fault("min_pattern_tokens", problem, remedy)])
        return self


class TierConfig(_Settings):
    """How requests of one tier queue, and what they are promised. Queues are per gateway."""

    priority: int = Field(
        default=10,
        ge=0,
        le=1000,
        description="Priority inside an engine: lower numbers run first and are preempted last.",
    )
    max_queued: int = Field(
        default=256,
        ge=1,
        le=1_000_000,
        description="Requests that may queue; the next is refused (429).",
    )
    max_queue_wait_s: Seconds = Field(
        default=60.0,
        description="Longest wait in the queue in seconds; then a request is refused.",
    )
    prior_output_tokens_mean: float = Field(
        default=4000.0,
        gt=0,
        description="Expected output tokens until enough requests were seen to learn it.",
    )
    prior_sigma: float = Field(
        default=1.0,
        gt=0,
        le=3,
        description="Spread of that expectation: σ of the logarithm of the length.",
    )
    slo: SloConfig = Field(
        default_factory=SloConfig, description="Latency objectives, for the router and the metrics."
    )
    brown_out: BrownOutConfig | None = Field(
        default=None,
        description="Lower effort under overload, told to clients in `x-trireme-tier` and "
        "`x-trireme-asked-tier`; None never does it.",
    )
    max_output_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Cap on output tokens where the request sets none; None leaves the model's "
        "context.",
    )
    max_analysis_tokens: int | None = Field(
        default=None,
        ge=1,
        description="A reply that has thought for so many tokens and still does ends there, as "
        "at a token limit (`length`, `incomplete`, `max_tokens`); None lets it think on.",
    )
    repetition_detection: RepetitionConfig | None = Field(
        default=None,
        description="A reply that loops ends, as at a token limit. A request that brings its own "
        "`repetition_detection` is looked at as that says. None looks for no loops.",
    )


# Low runs first, as its requests are short and someone waits for them; those who ask for high
# expect minutes.
TIER_DEFAULTS: dict[Tier, dict[str, Any]] = {
    "low": {
        "priority": 0,
        "max_queued": 512,
        "max_queue_wait_s": 30.0,
        "prior_output_tokens_mean": 1300.0,
        "slo": {"ttft_s": 1.0, "tpot_ms": 15.0},
    },
    "medium": {
        "priority": 10,
        "max_queued": 256,
        "max_queue_wait_s": 60.0,
        "prior_output_tokens_mean": 4000.0,
        "slo": {"ttft_s": 2.0, "tpot_ms": 25.0},
    },
    "high": {
        "priority": 20,
        "max_queued": 128,
        "max_queue_wait_s": 120.0,
        "prior_output_tokens_mean": 13000.0,
        "slo": {"ttft_s": 3.0, "tpot_ms": 80.0},
    },
}


def _filled(given: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    slo = given.get("slo")
    if isinstance(slo, dict):
        given = {**given, "slo": {**defaults["slo"], **slo}}
    return {**defaults, **given}


def _tier(tier: Tier) -> TierConfig:
    return TierConfig.model_validate(TIER_DEFAULTS[tier])


class TiersConfig(_Settings):
    """The three effort tiers."""

    low: TierConfig = Field(
        default_factory=lambda: _tier("low"), description="Short answers, first in the engine."
    )
    medium: TierConfig = Field(
        default_factory=lambda: _tier("medium"), description="The usual effort."
    )
    high: TierConfig = Field(
        default_factory=lambda: _tier("high"), description="Long reasoning, last in the engine."
    )
    default: Tier = Field(default="medium", description="Tier of a request that names no effort.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse(
            Fault(
                f"{tier}.brown_out.to",
                f"{brown_out.to} is not a lower effort than {tier}",
                f"write one of {', '.join(TIERS[:index])}" if index else "remove it",
            )
            for index, tier in enumerate(TIERS)
            if (brown_out := self.of(tier).brown_out) and brown_out.to not in TIERS[:index]
        )
        return self

    def of(self, tier: Tier) -> TierConfig:
        """The settings of `tier`."""
        return {"low": self.low, "medium": self.medium, "high": self.high}[tier]

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        # A tier given in part keeps its own defaults for the rest, not those of the class.
        if not isinstance(data, dict):
            return data
        return {
            key: _filled(value, TIER_DEFAULTS[key])
            if key in TIERS and isinstance(value, dict)
            else value
            for key, value in data.items()
        }


class GatewayTlsConfig(_Settings):
    """The certificate that callers see, in PEM. Renewed files are served within seconds."""

    cert_file: str = Field(
        default="/etc/trireme/gateway-tls/tls.crt",
        pattern=r"^/",
        description="The certificate, and those that lead from it to its authority.",
    )
    key_file: str = Field(
        default="/etc/trireme/gateway-tls/tls.key",
        pattern=r"^/",
        description="Its private key, without a password.",
    )


class GatewayConfig(_Settings):
    """The OpenAI-compatible front: where it listens and what it lets in."""

    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on.")
    port: Port = Field(default=8000, description="Port to listen on; 0 takes a free one.")
    tls: GatewayTlsConfig | None = Field(
        default=None,
        description="TLS 1.2 or 1.3 for callers, by HAProxy; None: plain HTTP.",
    )
    insecure_listen_without_auth: bool = Field(
        default=False,
        description="Allows a host other than loopback although access.mode is `none`: something "
        "in front of the gateways authenticates callers.",
    )
    replicas: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="Gateway processes. One renders some 7,000 tokens a second.",
    )
    num_cpus: float = Field(
        default=1.0,
        ge=0,
        le=64,
        allow_inf_nan=False,
        description="CPUs that Ray sets aside for a gateway.",
    )
    haproxy: bool = Field(
        default=True,
        description="Serve's HAProxy in front of the gateways; off uses Serve's own proxy, which "
        "is slower.",
    )
    max_body_bytes: int = Field(
        default=4 * MIB, ge=KIB, le=64 * MIB, description="Largest request body, in bytes."
    )
    max_unbroken_run_chars: int = Field(
        default=4000,
        ge=100,
        le=100_000,
        description="Longest run of letters or blanks without a break. Harmony's tokenizer is "
        "quadratic on such runs: "
        "100,000 characters stop the whole process for 11 to 28 s.",
    )
    max_stream_s: Seconds = Field(
        default=3600.0,
        description="Longest time that a response may take. Every time limit on its way (HAProxy, "
        "Ray Serve, a gateway that is replaced) follows from it.",
    )
    keep_alive_s: Seconds = Field(
        default=15.0,
        description="A stream that is silent for so many seconds gets an SSE comment, so that no "
        "proxy takes it for dead while the request waits.",
    )
    unread_s: Seconds = Field(
        default=120.0,
        description="A client that reads nothing for so many seconds of its stream is cut off.",
    )
    resume_s: float = Field(
        default=0.0,
        ge=0,
        le=3600,
        allow_inf_nan=False,
        description="For so many seconds after a stream was cut, its client may resume it with "
        "`Last-Event-ID`, on any gateway, if it asked for that (`x-trireme-resumable: 1`). Engines "
        "keep the tokens, never a prompt. 0: off.",
    )
    stream_interval: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Tokens of one streamed chunk. 4 saves 40 % of the gateway's CPU.",
    )
    system_start_date: Annotated[str | None, BeforeValidator(_iso_date)] = Field(
        default=None,
        description="Date in the model's system message (YYYY-MM-DD). None is the day on which "
        "the cluster starts, read "
        "once and handed to all gateways: a date that moved at midnight would empty every prefix "
        "cache, and gateways "
        "that disagreed would split it.",
    )

    @field_validator("system_start_date")
    @classmethod
    def _real_date(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                if len(value) != 10:
                    raise ValueError
                date.fromisoformat(value)
            except ValueError:
                refuse(
                    [
                        Fault(
                            "", f"'{value[:20]}' is no date", "write YYYY-MM-DD, such as 2026-01-31"
                        )
                    ]
                )
        return value


class JwtConfig(_Settings):
    """Tokens (JWT) of an identity provider (OpenID Connect), beside API keys."""

    issuer: str = Field(default="", description="The tokens' `iss`, exactly; needed.")
    audience: Annotated[list[str], BeforeValidator(_listed)] = Field(
        default_factory=list, description="The tokens' `aud` must name one of these; needed."
    )
    jwks_url: str = Field(
        default="",
        pattern=r"^$|^https?://[^/]",
        description="Where the provider publishes its keys (JWKS), by https (or http on this "
        "machine); needed.",
    )
    algorithms: list[JwtAlgorithm] = Field(
        default_factory=lambda: list(DEFAULT_JWT_ALGORITHMS),
        min_length=1,
        description="Signatures that are accepted. None of them works with a shared secret.",
    )
    tenant_claim: str = Field(
        default="tenant",
        min_length=1,
        description="Claim that names the tenant; `a.b` is b inside a.",
    )
    tenants: dict[str, str] = Field(
        default_factory=dict,
        description="Which tenant each value of that claim means; empty: the value is the tenant's "
        "name.",
    )
    team_claim: str | None = Field(default=None, description="Claim that names the team.")
    project_claim: str | None = Field(default=None, description="Claim that names the project.")
    tiers_claim: str | None = Field(
        default=None,
        description="Claim that lists the tiers that the bearer may use, of those that the tenant "
        "has; a token without it gets none. None: all that the tenant has.",
    )
    leeway_s: float = Field(
        default=30.0, ge=0, le=300, description="Seconds that clocks may disagree by."
    )
    refresh_s: float = Field(
        default=300.0,
        ge=10,
        le=86_400,
        description="Seconds after which the keys are fetched again; one that nobody knows is "
        "asked for at once.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse(self._faults())
        return self

    def _faults(self) -> Iterator[Fault]:
        for field in ("issuer", "audience", "jwks_url"):
            if not getattr(self, field):
                yield Fault(field, "without it no token can be checked", f"set {field}")
        url = urlsplit(self.jwks_url)
        if url.scheme == "http" and not is_loopback(url.hostname or ""):
            yield Fault(
                "jwks_url",
                "over http anybody on the way could put in keys of their own",
                "write https://",
            )


class AdminConfig(_Settings):
    """The admin API of each gateway: tenants, keys and the audit log over HTTP."""

    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on.")
    port: Port = Field(
        default=8090,
        description="Port to listen on; 0 takes a free one. Of several gateways on one machine, "
        "one has it.",
    )
    tokens_file: str | None = Field(
        default=None,
        pattern=r"^/",
        description="File with a line `name: token` for each administrator, absolute; None: the "
        "variable TRIREME_ADMIN_TOKENS. A token has 32 characters or more.",
    )


class AccessConfig(_Settings):
    """Who may call."""

    mode: Literal["none", "keys"] = Field(
        default="none",
        description="`none`: everybody who can reach the gateway, which therefore listens on "
        "loopback only; `keys`: API keys, and tokens if `jwt` is set.",
    )
    jwt: JwtConfig | None = Field(
        default=None, description="Tokens of an identity provider; None: API keys only."
    )
    store_url: str | None = Field(
        default=None,
        min_length=1,
        description="Database with tenants, keys, limits and usage: postgresql://… or "
        "sqlite:////path. None: the variable TRIREME_DATABASE_URL, else a SQLite file in the state "
        "folder. A URL with a password belongs into the variable.",
    )
    secret_file: str | None = Field(
        default=None,
        pattern=r"^/",
        description="File with the secret that keys are hashed with and cache salts are made of, "
        "absolute, the same for all gateways; whoever changes it makes all keys invalid. None: the "
        "variable TRIREME_ACCESS_SECRET, else one that is made in the state folder.",
    )
    refresh_s: float = Field(
        default=0.5,
        ge=0.05,
        le=1,
        description="Seconds between looks for changes in the store: a revoked key is refused "
        "everywhere after twice as long at most.",
    )
    public_metrics: bool = Field(
        default=True,
        description="Whether /metrics of the public port answers without a key. Each process's own "
        "listener has them in any case.",
    )
    admin: AdminConfig | None = Field(default=None, description="The admin API; None: off.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse(self._faults())
        return self

    def _faults(self) -> Iterator[Fault]:
        if self.store_url is not None and not STORE_URL.match(self.store_url):
            yield Fault(
                "store_url",
                "it is no URL of PostgreSQL or SQLite",
                "write postgresql://user@host/name or sqlite:////absolute/path.db",
            )
        if self.mode == "none":
            for field in ("jwt", "admin"):
                if getattr(self, field) is not None:
                    yield Fault(
                        field,
                        "nobody is authenticated while access.mode is none",
                        f"set access.mode to keys, or remove {field}",
                    )


class RouterConfig(_Settings):
    """How requests are spread over the replicas."""

    policy: PolicyName = Field(
        default="effort",
        description="`effort` keeps each tier's objectives; the others are what other routers do, "
        "to compare with.",
    )
    shadow: PolicyName | None = Field(
        default=None,
        description="A second policy that is asked for each request and not obeyed: metrics tell "
        "how often it would have chosen otherwise, and what it would have gained.",
    )


class FailoverConfig(_Settings):
    """What happens when replicas die, hang, get slow or leave."""

    hang_steps: float = Field(
        default=25.0,
        ge=2,
        allow_inf_nan=False,
        description="A replica that has work and makes no step for so many step times hangs; its "
        "requests go on elsewhere.",
    )
    hang_min_s: Seconds = Field(default=1.0, description="Least silence that counts as a hang.")
    hang_first_s: Seconds = Field(
        default=5.0,
        description="Least such silence while only first tokens are awaited: an engine may have "
        "to compile a grammar first.",
    )
    hang_max_s: Seconds = Field(default=20.0, description="A silence of so many seconds is one.")
    slow_factor: float = Field(
        default=2.5,
        gt=1,
        allow_inf_nan=False,
        description="A replica whose steps take so many times as long as its peers' is slow.",
    )
    slow_after_s: Seconds = Field(
        default=3.0, description="Seconds for which it must be; then it is put aside."
    )
    eject_s: Seconds = Field(
        default=10.0,
        description="For how long, times how often it was; then it is tried again.",
    )
    max_ejected_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of a model's replicas that may be put aside, at least one.",
    )
    drain_finish_s: Seconds = Field(
        default=15.0,
        description="Requests that a leaving replica is expected to end within so many seconds "
        "stay there; the others move at once.",
    )
    budget_share: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Share of a gateway's requests that may compute their prompts again at once "
        "because of faults; the others wait.",
    )
    budget_floor: int = Field(default=3, ge=1, description="So many may in any case.")
    max_pause_s: Seconds = Field(
        default=300.0, description="Longest pause of a request that lost its replica."
    )
    isolation_s: Seconds = Field(
        default=1.0,
        description="Longest wait of a request that was running on an engine that died, to be "
        "tried where no other such request is.",
    )
    quarantine_s: Seconds = Field(
        default=3600.0,
        description="A request of which two engines died is refused for so many seconds.",
    )


class ChannelTlsConfig(_Settings):
    """Certificates of the token channel, in PEM; every node has such files under these names.

    Both ends show theirs, and take only those of `ca_file`: have an authority of its own for this.
    """

    cert_file: str = Field(
        default="/etc/trireme/tls/tls.crt", pattern=r"^/", description="This node's certificate."
    )
    key_file: str = Field(
        default="/etc/trireme/tls/tls.key", pattern=r"^/", description="Its private key."
    )
    ca_file: str = Field(
        default="/etc/trireme/tls/ca.crt", pattern=r"^/", description="Who signs all of them."
    )


class ChannelConfig(_Settings):
    """The token channel between gateways and engine replicas."""

    host: str | None = Field(
        default=None,
        min_length=1,
        description="Address an engine listens on; None is its Ray node's address.",
    )
    tls: ChannelTlsConfig | None = Field(
        default=None, description="TLS 1.3 with certificates on both sides; None: plain TCP."
    )
    heartbeat_s: Seconds = Field(
        default=1.0, description="Seconds between signs of life on an idle connection."
    )
    dead_after_s: Seconds = Field(
        default=5.0, description="Seconds of silence after which the other side counts as lost."
    )
    connect_timeout_s: Seconds = Field(
        default=5.0, description="Seconds that opening a connection may take."
    )
    max_frame_bytes: int = Field(
        default=16 * MIB,
        ge=64 * KIB,
        le=1024 * MIB,
        description="Largest frame that is read; a larger one ends the connection.",
    )
    max_buffered_bytes: int = Field(
        default=8 * MIB,
        ge=64 * KIB,
        le=1024 * MIB,
        description="Unsent bytes of a connection at which its writer waits.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dead_after_s <= self.heartbeat_s:
            refuse(
                [
                    Fault(
                        "dead_after_s",
                        f"{self.dead_after_s:g} is not more than heartbeat_s "
                        f"({self.heartbeat_s:g}), so every idle "
                        "connection would count as lost",
                        f"write {3 * self.heartbeat_s:g} or more",
                    )
                ]
            )
        return self


class AutoscalingConfig(_Settings):
    """The autoscaler, which resizes the pools that have `scaling`."""

    enabled: bool = Field(default=False, description="Off: every pool keeps its `replicas`.")
    actuator: Literal["serve", "external"] = Field(
        default="serve",
        description="Who is told: `serve`, Ray Serve's own autoscaling, which reads the number; or "
        "`external`, the REST API of Serve's external scaler on Ray's dashboard.",
    )
    dashboard_url: str = Field(
        default="http://127.0.0.1:8265",
        pattern=r"^https?://",
        description="Ray's dashboard, for `external`.",
    )
    interval_s: float = Field(default=15.0, ge=1, le=300, description="Seconds between decisions.")
    collect_s: float = Field(
        default=2.0, ge=0.2, le=60, description="Seconds between questions to the gateways."
    )
    stale_after_s: Seconds = Field(
        default=10.0,
        description="A gateway that is silent for so many seconds is not known; nothing shrinks "
        "while any is not.",
    )
    target: float = Field(
        default=0.995,
        gt=0.5,
        lt=1,
        description="Share of requests that shall get their first token in time; headroom follows.",
    )
    forecast: bool = Field(
        default=True,
        description="Look ahead by what the same time of the day and week has brought before.",
    )
    hold_s: float = Field(
        default=1800.0,
        ge=0,
        le=86_400,
        description="Seconds for which a smaller size must have been enough before replicas go.",
    )
    reversals_per_h: float = Field(
        default=1.0,
        gt=0,
        le=3600,
        description="Changes of direction an hour, on average. Growing is never held up by it.",
    )
    idle_s: Seconds = Field(
        default=900.0, description="Seconds without any request before a pool goes to 0 replicas."
    )
    timezone: str = Field(
        default="UTC", description="Of schedules and of the day's shape, such as Europe/Berlin."
    )

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            problem = f"'{value[:40]}' is no time zone that this machine knows"
            refuse([Fault("", problem, "write a name such as UTC or Europe/Berlin")])
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.stale_after_s <= self.collect_s:
            refuse(
                [
                    Fault(
                        "stale_after_s",
                        f"{self.stale_after_s:g} is not more than collect_s ({self.collect_s:g}), "
                        "so no gateway would ever be known",
                        f"write {5 * self.collect_s:g} or more",
                    )
                ]
            )
        return self


class RayConfig(_Settings):
    """The Ray cluster to run on."""

    address: str | None = Field(
        default=None,
        min_length=1,
        description="Address of a running cluster (`auto`, host:port); None starts one here.",
    )
    num_cpus: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="CPUs of the cluster started here; None counts them.",
    )
    num_gpus: int | None = Field(
        default=None, ge=0, le=64, description="GPUs of the cluster started here; None counts them."
    )
    object_store_bytes: int = Field(
        default=80 * MIB,
        ge=75 * MIB,
        description="Shared memory of the cluster started here. Small, because tokens never pass "
        "through it; Ray wants "
        "75 MiB at least.",
    )
    temp_dir: str | None = Field(
        default=None,
        pattern=r"^/",
        max_length=40,
        description="Ray's folder, absolute; short, as socket paths end at 107 bytes.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.address is not None:
            refuse(
                Fault(
                    field,
                    "a cluster that already runs has its own",
                    f"remove {field}, or remove ray.address to start a cluster here",
                )
                for field in ("num_cpus", "num_gpus", "temp_dir")
                if getattr(self, field) is not None
            )
        return self


class TracingConfig(_Settings):
    """Traces of requests, sent to an OpenTelemetry collector (OTLP over HTTP)."""

    endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="The collector's URL for traces, such as http://collector:4318/v1/traces. None "
        "traces nothing and costs nothing.",
    )
    share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Share of requests that are traced, of those whose caller does not say; one "
        "that comes with a `traceparent` is traced as that says.",
    )
    timeout_s: Seconds = Field(
        default=5.0, description="Seconds that one transmission to the collector may take."
    )
    max_queued_spans: int = Field(
        default=4096,
        ge=64,
        le=1_000_000,
        description="Spans that wait for transmission in each process; more are dropped.",
    )


class TelemetryConfig(_Settings):
    """Logs, traces, and the listener for health and metrics that each process has."""

    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address of each process's listener for operators.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is logged."
    )
    tracing: TracingConfig = Field(default_factory=TracingConfig, description="Traces of requests.")


class TierFactors(_Settings):
    """A factor for each tier."""

    low: float = Field(default=1.0, ge=0, allow_inf_nan=False, description="Factor of low.")
    medium: float = Field(default=1.0, ge=0, allow_inf_nan=False, description="Factor of medium.")
    high: float = Field(default=1.0, ge=0, allow_inf_nan=False, description="Factor of high.")

    def of(self, tier: Tier) -> float:
        """The factor of `tier`."""
        return {"low": self.low, "medium": self.medium, "high": self.high}[tier]


class QuotasConfig(_Settings):
    """How the limits of tenants and keys are kept. The limits themselves are in the store."""

    redis_url: str | None = Field(
        default=None,
        pattern=r"^(redis|rediss|unix)://",
        description="Redis in which all gateways count together: redis://host:6379/0. None: the "
        "variable TRIREME_REDIS_URL, else each gateway counts for itself, which is exact only with "
        "one. A URL with a password belongs into the variable.",
    )
    timeout_s: Seconds = Field(
        default=0.25,
        description="A Redis that takes longer than so many seconds is away; each gateway then "
        "keeps to its share of the limits until it is back.",
    )
    lease_s: float = Field(
        default=15.0,
        ge=1,
        le=600,
        description="Seconds after which what a silent gateway had reserved counts no more.",
    )
    tier_weights: TierFactors = Field(
        default_factory=TierFactors,
        description="What a token of each tier counts in budgets of tokens per day and month.",
    )


class PriceConfig(_Settings):
    """What a model's tokens cost, in `usage.currency` for each million of them."""

    prompt: float = Field(default=0.0, ge=0, allow_inf_nan=False, description="Of the prompt.")
    cached: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="Of the prompt, where found in a prefix cache; None: as any other.",
    )
    output: float = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="Written, analysis included."
    )
    tiers: TierFactors = Field(
        default_factory=TierFactors, description="By which all three are multiplied, by tier."
    )


class UsageConfig(_Settings):
    """The account of who used what, kept in the store (`access.store_url`)."""

    enabled: bool | None = Field(
        default=None, description="None: whenever callers are told apart (`access.mode`)."
    )
    queue_dir: str | None = Field(
        default=None,
        pattern=r"^/",
        description="Folder in which a gateway keeps records until the store has them, absolute, "
        "on a disk that outlives the process. None: in the state folder.",
    )
    flush_s: float = Field(
        default=0.2,
        gt=0,
        le=60,
        description="Seconds between writes of that queue. A gateway that is killed loses the "
        "records of at most so long.",
    )
    max_queue_bytes: int = Field(
        default=256 * MIB,
        ge=MIB,
        description="Size of that queue in each gateway while the store is away: some million "
        "records. Beyond, records are dropped and counted.",
    )
    retain_days: int = Field(
        default=400, ge=1, le=36_500, description="Days after which records are deleted."
    )
    currency: str = Field(
        default="EUR", pattern=r"^[A-Z]{3}$", description="Of all prices and cost budgets."
    )
    prices: dict[str, PriceConfig] = Field(
        default_factory=dict,
        description="By model name; `*` is for all others. Without a price a model costs nothing.",
    )


class ContentLogConfig(_Settings):
    """A log of what callers ask and what they are answered. Off: no text is kept anywhere."""

    enabled: bool = Field(
        default=False, description="Keeps the text of requests and answers, with secrets redacted."
    )
    folder: str | None = Field(
        default=None,
        pattern=r"^/",
        description="Folder of the log, absolute; only its owner may enter. None: in the state "
        "folder.",
    )
    tenants: list[Annotated[str, Field(min_length=1, max_length=64)]] | None = Field(
        default=None, description="Tenants whose requests are kept; None: all requests."
    )
    redact: list[Annotated[str, Field(min_length=1, max_length=1000)]] = Field(
        default_factory=list,
        max_length=64,
        description="Patterns (of Python's `regex` package) that are redacted, on top of those "
        "that always are: e-mail addresses, keys, bearer tokens, private keys, numbers of 13 to 19 "
        "digits.",
    )
    retain_days: int = Field(
        default=30, ge=1, le=3650, description="Days after which a day's files are deleted."
    )
    max_bytes_per_record: int = Field(
        default=256 * KIB,
        ge=KIB,
        le=16 * MIB,
        description="Of a request, and of its answer, so much is kept, redacted; of text that is "
        "not ASCII, so many characters.",
    )
    max_queue_bytes: int = Field(
        default=64 * MIB,
        ge=MIB,
        description="What may wait for the disk in each gateway. Beyond, records are dropped and "
        "counted.",
    )

    @field_validator("redact")
    @classmethod
    def _patterns(cls, value: list[str]) -> list[str]:
        refuse(_pattern_faults(value))
        return value


def _pattern_faults(patterns: Iterable[str]) -> Iterator[Fault]:
    for index, pattern in enumerate(patterns):
        try:
            empty = regex.compile(pattern).fullmatch("", timeout=1.0) is not None
        except (regex.error, TimeoutError, OverflowError) as error:
            yield Fault(f"[{index}]", f"is no pattern: {error}", "correct it")
        else:
            if empty:
                yield Fault(f"[{index}]", "matches nothing at all, everywhere", "write what it is")


class TenantResponsesConfig(_Settings):
    """What is kept of one tenant's responses, where it differs."""

    enabled: bool = Field(default=True, description="False: nothing of this tenant is kept.")
    retain_days: int | None = Field(default=None, ge=1, le=36_500, description="None: as for all.")
    max_responses: int | None = Field(default=None, ge=1, description="None: as for all.")
    max_bytes: int | None = Field(default=None, ge=MIB, description="None: as for all.")


class BackgroundConfig(_Settings):
    """Responses with `background: true`, which their callers come back for."""

    max_open: int = Field(
        default=100,
        ge=1,
        le=100_000,
        description="Of one tenant that are not over; beyond, more are refused (429).",
    )
    max_concurrent: int = Field(
        default=32, ge=1, le=1024, description="That a gateway answers at a time."
    )
    window_s: float = Field(
        default=86_400.0,
        ge=60,
        le=86_400,
        description="Seconds after which one that found no room yet fails.",
    )
    lease_s: float = Field(
        default=30.0,
        ge=1,
        le=600,
        description="Seconds after which a response of a gateway that died is another's.",
    )


class ResponsesConfig(_Settings):
    """Responses kept for their callers, so that a conversation goes on from `previous_response_id`.

    Prompts and answers then lie in the store (`access.store_url`), which is for the operator to
    decide: off, nothing of any request's content is written anywhere.
    """

    enabled: bool = Field(
        default=False,
        description="Whether responses may be kept. Gateways on several machines need PostgreSQL "
        "for it: a SQLite file is on one of them only.",
    )
    store_by_default: bool = Field(
        default=True,
        description="Whether a response is kept where its request does not write `store`. True is "
        "OpenAI's way, which clients rely on; false: only where it writes `store: true`.",
    )
    retain_days: int = Field(
        default=30, ge=1, le=36_500, description="Days after which a response is deleted."
    )
    max_responses: int = Field(
        default=100_000, ge=1, description="Of one tenant; beyond, the oldest are deleted."
    )
    max_bytes: int = Field(
        default=1024 * MIB, ge=MIB, description="Of one tenant; beyond, the oldest are deleted."
    )
    max_turns: int = Field(
        default=200, ge=1, le=1024, description="Responses that one conversation may go on from."
    )
    max_conversation_bytes: int = Field(
        default=4 * MIB,
        ge=4096,
        le=64 * MIB,
        description="Size of the items that a conversation may go on from, as JSON.",
    )
    max_wait_s: float = Field(
        default=3.0,
        gt=0,
        le=60,
        description="Seconds that a request waits for the store, each way. Beyond, a conversation "
        "is refused (503), and an answer goes out as not kept (`store: false`).",
    )
    background: BackgroundConfig = Field(
        default_factory=BackgroundConfig,
        description="Responses that nobody waits for on a connection (`background: true`).",
    )
    tenants: dict[str, TenantResponsesConfig] = Field(
        default_factory=dict, description="Exceptions, by tenant."
    )


class BatchConfig(_Settings):
    """OpenAI's batches: files of requests that are answered in spare time, within 24 hours.

    Requests and answers then lie in `folder`, and until a batch is over in the store
    (`access.store_url`): off, nothing of any request's content is written anywhere.
    """

    enabled: bool = Field(
        default=False,
        description="Whether `/v1/files` and `/v1/batches` are served. Gateways on several "
        "machines need PostgreSQL and a `folder` that all of them reach.",
    )
    folder: str | None = Field(
        default=None,
        min_length=1,
        max_length=1024,
        description="Where files are: an absolute path, or a URL that fsspec knows, like "
        "s3://bucket/prefix (which needs the extra `s3`). None: in the state folder.",
    )
    max_concurrent_lines: int = Field(
        default=32,
        ge=1,
        le=1024,
        description="Requests of batches that a gateway runs at a time, while nothing waits in its "
        "queues.",
    )
    max_lines: int = Field(default=50_000, ge=1, le=1_000_000, description="Of one input file.")
    max_file_bytes: int = Field(
        default=200 * MIB, ge=KIB, le=1024 * MIB, description="Size of one input file."
    )
    max_open_batches: int = Field(
        default=20, ge=1, le=10_000, description="Batches of one tenant that are not over."
    )
    max_files: int = Field(default=1000, ge=1, le=1_000_000, description="Of one tenant.")
    max_bytes: int = Field(
        default=10 * 1024 * MIB,
        ge=MIB,
        description="Of one tenant's files; beyond, no more can be uploaded.",
    )
    retain_days: int = Field(
        default=30, ge=1, le=3650, description="Days after which files and batches are deleted."
    )
    lease_s: float = Field(
        default=30.0,
        ge=1,
        le=600,
        description="Seconds after which a request of a gateway that died is another's.",
    )
    max_wait_s: float = Field(
        default=5.0, gt=0, le=60, description="Seconds that a caller waits for the store."
    )

    @field_validator("folder")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        if value is not None and "://" not in value and not value.startswith("/"):
            problem = f"{value[:80]} is neither an absolute path nor a URL"
            refuse([Fault("", problem, "write one that begins with / or with s3://")])
        return value


class TriremeConfig(_Settings):
    """All of `trireme.yaml`."""

    name: Label = Field(
        default="trireme", description="Name of the cluster: Ray namespace, metric label."
    )
    models: list[ModelConfig] = Field(
        default_factory=lambda: [ModelConfig()],
        min_length=1,
        description="The models that are served.",
    )
    tiers: TiersConfig = Field(default_factory=TiersConfig, description="The effort tiers.")
    gateway: GatewayConfig = Field(default_factory=GatewayConfig, description="The HTTP front.")
    access: AccessConfig = Field(default_factory=AccessConfig, description="Who may call.")
    router: RouterConfig = Field(
        default_factory=RouterConfig, description="How requests are spread over replicas."
    )
    failover: FailoverConfig = Field(
        default_factory=FailoverConfig,
        description="What happens when replicas die, hang, get slow or leave.",
    )
    autoscaling: AutoscalingConfig = Field(
        default_factory=AutoscalingConfig, description="Pools that grow and shrink."
    )
    channel: ChannelConfig = Field(default_factory=ChannelConfig, description="The token channel.")
    quotas: QuotasConfig = Field(
        default_factory=QuotasConfig, description="How limits of tenants and keys are kept."
    )
    usage: UsageConfig = Field(
        default_factory=UsageConfig, description="The account of who used what."
    )
    content_log: ContentLogConfig = Field(
        default_factory=ContentLogConfig, description="A log of requests and answers, opt-in."
    )
    responses: ResponsesConfig = Field(
        default_factory=ResponsesConfig, description="Responses that are kept for their callers."
    )
    batch: BatchConfig = Field(
        default_factory=BatchConfig, description="Files of requests, answered in spare time."
    )
    ray: RayConfig = Field(default_factory=RayConfig, description="The Ray cluster.")
    telemetry: TelemetryConfig = Field(
        default_factory=TelemetryConfig, description="Logs and metrics."
    )

    def pools(self) -> Iterator[tuple[ModelConfig, PoolConfig]]:
        """Every pool with the model that it serves, in the order of the file."""
        for model in self.models:
            for pool in model.pools:
                yield model, pool

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse(self._faults())
        return self

    def _faults(self) -> Iterator[Fault]:
        pools: dict[str, str] = {}
        names: dict[str, str] = {}
        for i, model in enumerate(self.models):
            for j, pool in enumerate(model.pools):
                path = f"models[{i}].pools[{j}].name"
                if pool.name in pools:
                    yield Fault(
                        path,
                        f"'{pool.name}' is also the name of {pools[pool.name]}",
                        "give each pool its own",
                    )
                pools.setdefault(pool.name, path.removesuffix(".name"))
            own = [(f"models[{i}].name", model.name)]
            own += [(f"models[{i}].aliases[{k}]", alias) for k, alias in enumerate(model.aliases)]
            for path, name in own:
                if name in names:
                    yield Fault(
                        path,
                        f"'{name}' already means {names[name]}",
                        "give each model its own names",
                    )
                names.setdefault(name, path)
        yield from self._scaling_faults()
        yield from self._listening_faults()
        yield from self._tls_faults()
        if self.content_log.tenants is not None and self.access.mode == "none":
            yield Fault(
                "content_log.tenants",
                "callers are not told apart, so no request would be kept",
                "set access.mode to keys, or remove it",
            )
        for i, model in enumerate(self.models):
            for name in model.tier_aliases():
                if name in names:
                    yield Fault(
                        names[name],
                        f"'{name}' already means models[{i}] at that tier",
                        "choose a name without the tier",
                    )

    def _listening_faults(self) -> Iterator[Fault]:
        gateway = self.gateway
        if self.access.mode != "none" or gateway.insecure_listen_without_auth:
            return
        if not is_loopback(gateway.host):
            yield Fault(
                "gateway.host",
                f"{gateway.host} can be reached from other machines and callers are not "
                "authenticated",
                "write 127.0.0.1, or set access.mode to keys",
            )

    def _tls_faults(self) -> Iterator[Fault]:
        if self.gateway.tls is None:
            return
        if not self.gateway.haproxy:
            yield Fault(
                "gateway.tls",
                "it is HAProxy that speaks TLS: Serve's own proxy would not read a renewed "
                "certificate until it is restarted",
                "leave gateway.haproxy on, or put TLS in front",
            )
        if self.ray.address is not None:
            yield Fault(
                "gateway.tls",
                "the HAProxy of a Ray that others have started is not ours to configure",
                "remove ray.address, or put TLS in front",
            )

    def _scaling_faults(self) -> Iterator[Fault]:
        if not self.autoscaling.enabled:
            return
        found = False
        for i, model in enumerate(self.models):
            for j, pool in enumerate(model.pools):
                scaling, path = pool.scaling, f"models[{i}].pools[{j}].scaling"
                if scaling is None:
                    continue
                found = True
                if not scaling.min_replicas <= pool.replicas <= scaling.max_replicas:
                    yield Fault(
                        f"models[{i}].pools[{j}].replicas",
                        f"{pool.replicas} is not between the pool's min_replicas "
                        f"({scaling.min_replicas}) and max_replicas ({scaling.max_replicas})",
                        "start with a size between them",
                    )
                waits_s = min(self.tiers.of(tier).max_queue_wait_s for tier in TIERS)
                if scaling.min_replicas == 0 and waits_s < scaling.cold_start_s:
                    yield Fault(
                        f"{path}.min_replicas",
                        f"a request may queue for {waits_s:g} s, and a replica needs "
                        f"{scaling.cold_start_s:g} s to start, so that nothing that comes to an "
                        "empty pool would be served",
                        "raise every tier's max_queue_wait_s above cold_start_s, or write 1",
                    )
        if not found:
            yield Fault(
                "autoscaling.enabled",
                "no pool has `scaling`",
                "give a pool scaling: {min_replicas: 1, max_replicas: 8}, or turn autoscaling off",
            )


def json_schema() -> dict[str, Any]:
    """The JSON schema of `trireme.yaml`, for editors and for the Helm chart."""
    return TriremeConfig.model_json_schema()
