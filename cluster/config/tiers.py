"""Settings of the effort tiers: objectives, queues, guards."""

from typing import Any, Self

from pydantic import Field, model_validator

from cluster.config.base import TIERS, Seconds, Settings, Tier, refuse
from cluster.errors import Fault


class SloConfig(Settings):
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


class BrownOutConfig(Settings):
    """Serving a tier at a lower effort while it is overloaded, rather than refusing it."""

    to: Tier = Field(
        default="low", description="The tier to serve at instead, lower than this one."
    )
    above_wait_s: Seconds = Field(
        default=10.0,
        description="Begins when the tier's oldest request has waited so many seconds, and ends "
        "when none has.",
    )


class RepetitionConfig(Settings):
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


class TierConfig(Settings):
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


class TiersConfig(Settings):
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
