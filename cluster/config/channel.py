"""Settings of the token channel."""

from typing import Self

from pydantic import Field, model_validator

from cluster.config.base import KIB, MIB, Seconds, Settings, refuse
from cluster.errors import Fault


class ChannelTlsConfig(Settings):
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


class ChannelConfig(Settings):
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
