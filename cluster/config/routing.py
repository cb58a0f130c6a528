"""Settings of the router and of failover."""

from typing import Literal, get_args

from pydantic import Field

from cluster.config.base import Seconds, Settings

PolicyName = Literal["effort", "least-requests", "round-robin", "power-of-two", "prefix-affinity"]
POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)


class RouterConfig(Settings):
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


class FailoverConfig(Settings):
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
