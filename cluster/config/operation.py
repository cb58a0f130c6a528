"""Settings of Ray, of traces, logs and metrics."""

from typing import Literal, Self

from pydantic import Field, model_validator

from cluster.config.base import MIB, Seconds, Settings, refuse
from cluster.errors import Fault


class RayConfig(Settings):
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


class TracingConfig(Settings):
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


class TelemetryConfig(Settings):
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
