"""Settings of who may call."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, model_validator

from cluster.config.base import STORE_URL, Port, Settings, is_loopback, refuse
from cluster.errors import Fault

JwtAlgorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]
"""Asymmetric ones only: with another, who can check a token could also make one."""
DEFAULT_JWT_ALGORITHMS: tuple[JwtAlgorithm, ...] = ("RS256", "ES256")


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class JwtConfig(Settings):
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


class AdminConfig(Settings):
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


class AccessConfig(Settings):
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
