"""Settings of models and of the pools that serve them."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from cluster.config.base import TIERS, Label, Seconds, Settings, Tier, refuse
from cluster.config.simulated import SimulatedEngineConfig
from cluster.errors import Fault
from cluster.facts import TENSOR_PARALLEL_SIZES, facts_for
from cluster.schedule import HOW_TO_SCHEDULE, parse_rule
from cluster.steptime import measured, step_model

Device = Literal["auto", "gpu", "cpu"]
EngineKind = Literal["vllm", "simulated"]

TINY_SOURCE = "tiny"
"""The `source` that means the small GptOss model which Trireme makes itself."""
MODEL_NAME_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._:/-]*[A-Za-z0-9])?$"
ModelName = Annotated[str, Field(pattern=MODEL_NAME_PATTERN, max_length=128)]

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


def _numbers_as_text(value: Any) -> Any:
    # YAML reads `VLLM_CPU_KVCACHE_SPACE: 4` as a number, and an environment holds text.
    if not isinstance(value, dict):
        return value
    return {key: str(v) if type(v) in (int, float) else v for key, v in value.items()}


class PoolScalingConfig(Settings):
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


class PoolConfig(Settings):
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


class ModelConfig(Settings):
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
