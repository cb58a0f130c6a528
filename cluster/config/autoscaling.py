"""Settings of the autoscaler."""

from typing import Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from cluster.config.base import Seconds, Settings, refuse
from cluster.errors import Fault


class AutoscalingConfig(Settings):
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
        default=1200.0,
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
