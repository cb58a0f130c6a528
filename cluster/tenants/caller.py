"""Who sends a request, as the gateway knows it once the credentials are checked."""

from dataclasses import dataclass
from typing import Literal, get_args

from cluster.config import Tier

Scope = Literal["generate", "usage"]
"""What a key is for: to generate (and list models, tokenize), or to read its tenant's usage."""

SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds of one subject; None: no bound. Tokens are prompt and output tokens.

    Cost is in the unit of the configured prices. From ``soft_share`` of any bound on, requests are
    served behind those of others; at the bound they are refused.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    cost_per_day: float | None = None
    cost_per_month: float | None = None
    soft_share: float = 0.9


@dataclass(frozen=True, slots=True)
class Limited:
    """``subject`` is held to ``limits``, over all its requests (``tier`` None) or one tier's.

    A subject is ``tenant:NAME`` or ``key:ID``; its counters live under that name.
    """

    subject: str
    tier: Tier | None
    limits: Limits


@dataclass(frozen=True, slots=True)
class Caller:
    """A tenant's team's project, through one of its keys or a token of the identity provider.

    ``key_id`` names the key (never the secret); for a token of an identity provider it is
    ``jwt:SUBJECT``. ``models`` None: all. ``weight`` is the tenant's share of a queue;
    ``priority``: its requests may go ahead of all others'. ``limits`` all hold at once.
    ``cache_group``: callers of one group share prefix-cache entries, others do not.
    """

    tenant: str
    key_id: str
    team: str = ""
    project: str = ""
    scopes: frozenset[Scope] = frozenset(SCOPES)
    tiers: frozenset[Tier] = frozenset(get_args(Tier))
    models: frozenset[str] | None = None
    default_tier: Tier | None = None
    weight: float = 1.0
    priority: bool = False
    limits: tuple[Limited, ...] = ()
    cache_group: str = ""
