"""Settings of the gateways: where they listen, and their limits."""

from datetime import date
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from cluster.config.base import KIB, MIB, Port, Seconds, Settings, refuse
from cluster.errors import Fault


def _iso_date(value: Any) -> Any:
    # YAML reads an unquoted 2026-01-31 as a date.
    return value.isoformat() if type(value) is date else value


class GatewayTlsConfig(Settings):
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


class GatewayConfig(Settings):
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
