"""Settings of quotas, usage and the content log."""

from collections.abc import Iterable, Iterator
from typing import Annotated

import regex  # type: ignore[import-untyped]
from pydantic import Field, field_validator

from cluster.config.base import KIB, MIB, Seconds, Settings, Tier, refuse
from cluster.errors import Fault


class TierFactors(Settings):
    """A factor for each tier."""

    low: float = Field(default=1.0, ge=0, allow_inf_nan=False, description="Factor of low.")
    medium: float = Field(default=1.0, ge=0, allow_inf_nan=False, description="Factor of medium.")
    high: float = Field(default=1.0, ge=0, allow_inf_nan=False, description="Factor of high.")

    def of(self, tier: Tier) -> float:
        """The factor of `tier`."""
        return {"low": self.low, "medium": self.medium, "high": self.high}[tier]


class QuotasConfig(Settings):
    """How the limits of tenants and keys are kept. The limits themselves are in the store."""

    redis_url: str | None = Field(
        default=None,
        pattern=r"^(redis|rediss|unix)://",
        description="Redis in which all gateways count together: redis://host:6379/0. None: the "
        "variable TRIREME_REDIS_URL, else each gateway counts for itself, which is exact only with "
        "one. A URL with a password belongs into the variable.",
    )
    timeout_s: Seconds = Field(
        default=0.25,
        description="A Redis that takes longer than so many seconds is away; each gateway then "
        "keeps to its share of the limits until it is back.",
    )
    lease_s: float = Field(
        default=15.0,
        ge=1,
        le=600,
        description="Seconds after which what a silent gateway had reserved counts no more.",
    )
    tier_weights: TierFactors = Field(
        default_factory=TierFactors,
        description="What a token of each tier counts in budgets of tokens per day and month.",
    )


class PriceConfig(Settings):
    """What a model's tokens cost, in `usage.currency` for each million of them."""

    prompt: float = Field(default=0.0, ge=0, allow_inf_nan=False, description="Of the prompt.")
    cached: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="Of the prompt, where found in a prefix cache; None: as any other.",
    )
    output: float = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="Written, analysis included."
    )
    tiers: TierFactors = Field(
        default_factory=TierFactors, description="By which all three are multiplied, by tier."
    )


class UsageConfig(Settings):
    """The account of who used what, kept in the store (`access.store_url`)."""

    enabled: bool | None = Field(
        default=None, description="None: whenever callers are told apart (`access.mode`)."
    )
    queue_dir: str | None = Field(
        default=None,
        pattern=r"^/",
        description="Folder in which a gateway keeps records until the store has them, absolute, "
        "on a disk that outlives the process. None: in the state folder.",
    )
    flush_s: float = Field(
        default=0.2,
        gt=0,
        le=60,
        description="Seconds between writes of that queue. A gateway that is killed loses the "
        "records of at most so long.",
    )
    max_queue_bytes: int = Field(
        default=256 * MIB,
        ge=MIB,
        description="Size of that queue in each gateway while the store is away: some million "
        "records. Beyond, records are dropped and counted.",
    )
    retain_days: int = Field(
        default=400, ge=1, le=36_500, description="Days after which records are deleted."
    )
    currency: str = Field(
        default="EUR", pattern=r"^[A-Z]{3}$", description="Of all prices and cost budgets."
    )
    prices: dict[str, PriceConfig] = Field(
        default_factory=dict,
        description="By model name; `*` is for all others. Without a price a model costs nothing.",
    )


class ContentLogConfig(Settings):
    """A log of what callers ask and what they are answered. Off: no text is kept anywhere."""

    enabled: bool = Field(
        default=False, description="Keeps the text of requests and answers, with secrets redacted."
    )
    folder: str | None = Field(
        default=None,
        pattern=r"^/",
        description="Folder of the log, absolute; only its owner may enter. None: in the state "
        "folder.",
    )
    tenants: list[Annotated[str, Field(min_length=1, max_length=64)]] | None = Field(
        default=None, description="Tenants whose requests are kept; None: all requests."
    )
    redact: list[Annotated[str, Field(min_length=1, max_length=1000)]] = Field(
        default_factory=list,
        max_length=64,
        description="Patterns (of Python's `regex` package) that are redacted, on top of those "
        "that always are: e-mail addresses, keys, bearer tokens, private keys, numbers of 13 to 19 "
        "digits.",
    )
    retain_days: int = Field(
        default=30, ge=1, le=3650, description="Days after which a day's files are deleted."
    )
    max_bytes_per_record: int = Field(
        default=256 * KIB,
        ge=KIB,
        le=16 * MIB,
        description="Of a request, and of its answer, so much is kept, redacted; of text that is "
        "not ASCII, so many characters.",
    )
    max_queue_bytes: int = Field(
        default=64 * MIB,
        ge=MIB,
        description="What may wait for the disk in each gateway. Beyond, records are dropped and "
        "counted.",
    )

    @field_validator("redact")
    @classmethod
    def _patterns(cls, value: list[str]) -> list[str]:
        refuse(_pattern_faults(value))
        return value


def _pattern_faults(patterns: Iterable[str]) -> Iterator[Fault]:
    for index, pattern in enumerate(patterns):
        try:
            empty = regex.compile(pattern).fullmatch("", timeout=1.0) is not None
        except (regex.error, TimeoutError, OverflowError) as error:
            yield Fault(f"[{index}]", f"is no pattern: {error}", "correct it")
        else:
            if empty:
                yield Fault(f"[{index}]", "matches nothing at all, everywhere", "write what it is")
