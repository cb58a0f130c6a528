"""Settings of a simulated engine: how long it writes and what its steps take."""

from pydantic import Field

from cluster.config.base import Settings, Tier


class OutputTokens(Settings):
    """Mean output length per tier, in tokens."""

    low: float = Field(
        default=1300.0, gt=0, description="Mean at low effort (MLPerf's low-effort runs: 1,278)."
    )
    medium: float = Field(default=4000.0, gt=0, description="Mean at medium effort.")
    high: float = Field(default=13000.0, gt=0, description="Mean at high effort: ten times low.")

    def of(self, tier: Tier) -> float:
        """The mean for `tier`, in tokens."""
        return {"low": self.low, "medium": self.medium, "high": self.high}[tier]


class StepMilliseconds(Settings):
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


class SimulatedEngineConfig(Settings):
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
