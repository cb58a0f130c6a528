"""The workloads of a scenario as types: who asks, how often, for what, and with what patience."""

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cluster.config import TIERS, Label, Tier, refuse
from cluster.errors import Fault
from cluster.facts import GPT_OSS_120B

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Sigma = Annotated[float, Field(ge=0, le=3)]
Share = Annotated[float, Field(ge=0, le=1)]
Tokens = Annotated[int, Field(ge=1, le=GPT_OSS_120B.context_tokens)]


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def filled(data: Any, defaults: dict[Tier, dict[str, Any]]) -> Any:
    """`data` where a tier that is given in part keeps its own defaults for the rest."""
    if not isinstance(data, dict):
        return data
    return {
        key: {**defaults[key], **value} if key in TIERS and isinstance(value, dict) else value
        for key, value in data.items()
    }


class TierTraffic(Settings):
    """How many requests of a tier come, and how much the model writes for them."""

    weight: Amount = Field(description="Share of the requests, relative to the other tiers'.")
    output_tokens_mean: Positive = Field(
        description="Mean output tokens (reasoning and answer), of a log-normal distribution."
    )
    output_sigma: Sigma = Field(
        default=1.0, description="σ of the logarithm of the output tokens; 0 makes them constant."
    )
    answer_share: Share = Field(
        default=0.28,
        description="Part of the output that is the answer, after the reasoning. 0.28 is what is "
        "left of DeepSeek-R1's outputs in ServeGen's trace, where reasoning is 0.72.",
    )
    max_tokens: Tokens = Field(
        default=GPT_OSS_120B.context_tokens,
        description="Limit on output tokens that these requests ask for.",
    )


# The mix of the routing experiment in the project's research: half short answers, one in seven long
# reasoning. The means are assumptions: nobody publishes gpt-oss's output tokens by effort.
TRAFFIC_DEFAULTS: dict[Tier, dict[str, Any]] = {
    "low": {"weight": 0.5, "output_tokens_mean": 400.0},
    "medium": {"weight": 0.35, "output_tokens_mean": 1500.0},
    "high": {"weight": 0.15, "output_tokens_mean": 6000.0},
}


def _traffic(tier: Tier) -> TierTraffic:
    return TierTraffic.model_validate(TRAFFIC_DEFAULTS[tier])


class MixShift(Settings):
    """From some time on the tiers have other weights."""

    at_s: Amount = Field(description="Seconds after the start when the weights begin to change.")
    over_s: Amount = Field(
        default=0.0, description="Seconds that the change takes, linearly; 0 is at once."
    )
    low: Amount = Field(default=0.0, description="Weight of the low tier afterwards.")
    medium: Amount = Field(default=0.0, description="Weight of the medium tier afterwards.")
    high: Amount = Field(default=0.0, description="Weight of the high tier afterwards.")

    def weights(self) -> tuple[float, float, float]:
        return self.low, self.medium, self.high

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not any(self.weights()):
            refuse([Fault("", "no tier has a weight", "give at least one of low, medium, high")])
        return self


class Mix(Settings):
    """The tiers that are asked for."""

    low: TierTraffic = Field(default_factory=lambda: _traffic("low"), description="Low effort.")
    medium: TierTraffic = Field(
        default_factory=lambda: _traffic("medium"), description="Medium effort."
    )
    high: TierTraffic = Field(default_factory=lambda: _traffic("high"), description="High effort.")
    shifts: list[MixShift] = Field(
        default_factory=list, description="Later weights, in the order of time."
    )

    def of(self, tier: Tier) -> TierTraffic:
        """What comes of `tier`."""
        return {"low": self.low, "medium": self.medium, "high": self.high}[tier]

    def weights(self) -> tuple[float, float, float]:
        """The weights at the start, in the order of TIERS."""
        return self.low.weight, self.medium.weight, self.high.weight

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        return filled(data, TRAFFIC_DEFAULTS)

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse(self._faults())
        return self

    def _faults(self) -> Iterator[Fault]:
        if not any(self.weights()):
            yield Fault("", "no tier has a weight", "give at least one tier a weight above 0")
        until = 0.0
        for index, shift in enumerate(self.shifts):
            if shift.at_s < until:
                yield Fault(
                    f"shifts[{index}].at_s",
                    f"{shift.at_s:g} is before the end of the shift before it ({until:g})",
                    f"write {until:g} or more",
                )
            until = shift.at_s + shift.over_s


class Prompts(Settings):
    """How long prompts are, and what they begin with."""

    tokens_mean: Positive = Field(
        default=1200.0,
        description="Mean tokens of a prompt's own part, of a log-normal distribution.",
    )
    sigma: Sigma = Field(
        default=1.0, description="σ of the logarithm of these tokens; 0 makes them constant."
    )
    tokens_max: Tokens = Field(
        default=100_000, description="Longest own part in tokens; longer draws count as this."
    )
    system_prompts: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="How many system prompts each tenant has; every prompt begins with one of "
        "them. 0: prompts share no beginning.",
    )
    system_tokens: Tokens = Field(
        default=1000,
        description="Tokens of a system prompt; they come on top of the own part.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        longest = self.tokens_max + (self.system_tokens if self.system_prompts else 0)
        if longest >= GPT_OSS_120B.context_tokens:
            problem = f"with the system prompt that is {longest} tokens, and no room for output"
            refuse([Fault("tokens_max", problem, "lower tokens_max or system_tokens")])
        return self


class Tenant(Settings):
    """One of those who send requests; prompts share beginnings only within a tenant."""

    name: Label = Field(description="Name of the tenant, unique in the workload.")
    share: Positive = Field(
        default=1.0, description="Its part of the requests, relative to the other tenants'."
    )


class Patience(Settings):
    """Clients that leave before they have their whole answer."""

    share: Share = Field(default=0.0, description="Part of the requests that may be given up.")
    mean_s: Positive = Field(
        default=30.0, description="Mean seconds they wait, of a log-normal distribution."
    )
    sigma: Sigma = Field(default=1.0, description="σ of the logarithm of these seconds.")


class Retry(Settings):
    """Clients that ask again when they are turned away. The defaults are OpenAI's SDK's, but off.

    SDK: two further attempts, 0.5 s doubling to 8 s less up to a quarter by chance, a Retry-After
    of up to 120 s is honoured and a longer one ends the attempts (openai 3.50 `_base_client.py`).
    """

    attempts: int = Field(
        default=0, ge=0, le=100, description="Further attempts after the first; 0 never retries."
    )
    backoff_s: Positive = Field(
        default=0.5, description="Wait before the second attempt; it doubles with each."
    )
    backoff_max_s: Positive = Field(default=8.0, description="Longest such wait, in seconds.")
    honours_retry_after: bool = Field(
        default=True, description="Whether the wait that the server asked for counts instead."
    )
    retry_after_max_s: Positive = Field(
        default=120.0, description="A client told to wait longer gives up, in seconds."
    )


class RatePoint(Settings):
    """A corner of the rate's shape."""

    at_s: Amount = Field(description="Seconds after the start (or after each period's).")
    factor: Amount = Field(description="The rate then, as a multiple of rate_per_s.")


class Arrivals(Settings):
    """When requests (or sessions) begin, whatever becomes of earlier ones."""

    rate_per_s: Positive = Field(default=1.0, description="Requests a second, where factor is 1.")
    cv: Annotated[float, Field(ge=0, le=50)] = Field(
        default=1.0,
        description="Coefficient of variation of the gaps: 1 is Poisson, 0 a metronome, more than "
        "1 comes in bursts (Gamma-distributed gaps).",
    )
    shape: list[RatePoint] = Field(
        default_factory=list,
        description="The rate over time, straight between these points and constant outside; two "
        "points at one time make a step. Empty: constant.",
    )
    period_s: Positive | None = Field(
        default=None, description="The shape repeats after so many seconds, 86400 for a day's."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse(self._faults())
        return self

    def _faults(self) -> Iterator[Fault]:
        if self.shape and not any(point.factor for point in self.shape):
            yield Fault("shape", "the rate is always 0", "give a point a factor above 0")
        for index, (one, two) in enumerate(pairwise(self.shape), 1):
            if two.at_s < one.at_s:
                yield Fault(
                    f"shape[{index}].at_s",
                    f"{two.at_s:g} is before the point before it ({one.at_s:g})",
                    "write the points in the order of time",
                )
        if self.period_s is not None:
            if not self.shape:
                yield Fault("period_s", "there is no shape to repeat", "remove it, or add a shape")
            elif self.period_s < self.shape[-1].at_s:
                last = self.shape[-1].at_s
                yield Fault(
                    "period_s",
                    f"{self.period_s:g} is before the shape's last point ({last:g})",
                    f"write {last:g} or more",
                )


class _Asking(Settings):
    """What all kinds of workload have."""

    tenants: list[Tenant] = Field(
        default_factory=list, description="Who the requests come from; empty is one nameless tenant"
    )
    patience: Patience = Field(
        default_factory=Patience, description="How long clients wait for the whole answer."
    )
    retry: Retry = Field(default_factory=Retry, description="What clients do when turned away.")

    @model_validator(mode="after")
    def _check_tenants(self) -> Self:
        names = [tenant.name for tenant in self.tenants]
        refuse(
            Fault(f"tenants[{i}].name", f"'{name}' is written twice", "give each its own name")
            for i, name in enumerate(names)
            if name in names[:i]
        )
        return self


class OpenLoop(_Asking):
    """Requests that come however the cluster fares."""

    arrivals: Arrivals = Field(default_factory=Arrivals, description="When they come.")
    mix: Mix = Field(default_factory=Mix, description="Their tiers and outputs.")
    prompts: Prompts = Field(default_factory=Prompts, description="Their prompts.")


class ClosedLoop(_Asking):
    """Clients that send the next request only after the last one has ended."""

    clients: int = Field(default=8, ge=1, le=1_000_000, description="How many there are.")
    think_s: Amount = Field(
        default=0.0, description="Mean seconds between an end and the next request (exponential)."
    )
    ramp_s: Amount = Field(
        default=0.0, description="Seconds over which the clients start, evenly spread."
    )
    mix: Mix = Field(default_factory=Mix, description="The tiers and outputs of their requests.")
    prompts: Prompts = Field(default_factory=Prompts, description="Their prompts.")


class Sessions(_Asking):
    """Conversations: each prompt is the one before, its answer, and something new."""

    arrivals: Arrivals = Field(default_factory=Arrivals, description="When sessions begin.")
    turns_mean: Annotated[float, Field(ge=1, le=10_000)] = Field(
        default=5.0, description="Mean turns of a session (geometric distribution)."
    )
    think_s: Amount = Field(
        default=20.0, description="Mean seconds from an answer to the next turn (exponential)."
    )
    added_tokens_mean: Positive = Field(
        default=150.0, description="Mean tokens that a turn adds besides the answer (log-normal)."
    )
    added_sigma: Sigma = Field(default=1.0, description="σ of the logarithm of these tokens.")
    keeps_reasoning: bool = Field(
        default=False,
        description="Whether earlier reasoning stays in later prompts. Harmony drops it.",
    )
    mix: Mix = Field(default_factory=Mix, description="Tiers of the sessions; outputs a turn.")
    prompts: Prompts = Field(default_factory=Prompts, description="The prompt of the first turn.")


class Replay(_Asking):
    """Requests as a CSV file records them."""

    file: str = Field(
        min_length=1,
        description="The trace, relative to the scenario's file. Columns: time (or t_s) in "
        "seconds, prompt_tokens (or input_tokens), output_tokens; where it has them also "
        "answer_tokens, tier (or reasoning_effort), tenant, prefix and prefix_tokens. Others are "
        "left alone.",
    )
    rate_factor: Positive = Field(
        default=1.0, description="2 replays twice as fast, so at twice the rate."
    )
    skips_too_long: bool = Field(
        default=False,
        description="Leave out rows whose prompt does not fit the model's context, which a "
        "gateway would refuse; otherwise they are faults.",
    )
    mix: Mix = Field(
        default_factory=Mix,
        description="Tiers of the rows that name none, and each tier's answer_share and "
        "max_tokens; outputs are the file's.",
    )


class WorkloadSettings(Settings):
    """Everyone who sends requests. The lists may be combined."""

    open_loop: list[OpenLoop] = Field(
        default_factory=list, description="Requests that come however the cluster fares."
    )
    closed_loop: list[ClosedLoop] = Field(
        default_factory=list, description="Clients that wait for each answer."
    )
    sessions: list[Sessions] = Field(
        default_factory=list, description="Conversations with growing prompts."
    )
    replay: list[Replay] = Field(default_factory=list, description="Traces from files.")

    def all(self) -> tuple[OpenLoop | ClosedLoop | Sessions | Replay, ...]:
        """Every workload, in the order of the fields."""
        return (*self.open_loop, *self.closed_loop, *self.sessions, *self.replay)

    def at_rate(self, factor: float) -> Self:
        """The same with `factor` times the arrivals; clients of a closed loop in proportion."""
        return self.model_copy(
            update={
                "open_loop": _faster(self.open_loop, factor),
                "sessions": _faster(self.sessions, factor),
                "closed_loop": [
                    each.model_copy(update={"clients": max(1, round(each.clients * factor))})
                    for each in self.closed_loop
                ],
                "replay": [
                    each.model_copy(update={"rate_factor": each.rate_factor * factor})
                    for each in self.replay
                ],
            }
        )


def _faster(workloads: Iterable[OpenLoop | Sessions], factor: float) -> list[OpenLoop | Sessions]:
    if not (factor > 0 and math.isfinite(factor)):
        raise ValueError(f"a rate's factor must be above 0 and finite, not {factor}")
    return [
        each.model_copy(
            update={
                "arrivals": each.arrivals.model_copy(
                    update={"rate_per_s": each.arrivals.rate_per_s * factor}
                )
            }
        )
        for each in workloads
    ]
