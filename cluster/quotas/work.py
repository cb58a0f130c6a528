"""What a request asks of the subjects that it is held to, and what they have used already."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, get_args

from cluster.config import Tier
from cluster.tenants.caller import Limited, Limits

Kind = Literal[
    "requests_per_minute",
    "tokens_per_minute",
    "concurrent_requests",
    "tokens_per_day",
    "tokens_per_month",
    "cost_per_day",
    "cost_per_month",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""The bounds of ``Limits``, in the order in which they are checked."""

ROUNDING = 1e-9
"""Costs are sums of floats; so much of a limit is not worth a refusal."""


class Work(NamedTuple):
    """Of a request: 1 for itself (0 for what it asks for besides), its tokens, the same weighted
    by tier for the budgets, and their cost."""

    requests: int
    tokens: int
    weighted: float
    cost: float


class Uses(NamedTuple):
    """Of a subject: in the last minute, at present, in this day and month with what is ``held``
    (reserved) of the budgets.

    ``newest_slot`` is the last that something was booked in, 0 for none.
    """

    requests: int = 0
    tokens: int = 0
    concurrent: int = 0
    day_weighted: float = 0.0
    month_weighted: float = 0.0
    day_cost: float = 0.0
    month_cost: float = 0.0
    newest_slot: int = 0
    held: float = 0.0
    held_cost: float = 0.0


@dataclass(frozen=True, slots=True)
class Subject:
    """A ``Limited``'s counters by ``name``: those of one tier are apart from those of all.

    ``bounds`` are the limits that are set: place in ``KINDS`` (and in ``Uses``), and the limit.
    ``told`` is the name and all limits in the order of ``KINDS``, -1 for none.
    """

    name: str
    limits: Limits
    bounds: tuple[tuple[int, float], ...] = field(init=False, repr=False, compare=False)
    told: tuple[str | float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        limits = [getattr(self.limits, kind) for kind in KINDS]
        found = tuple((index, limit) for index, limit in enumerate(limits) if limit is not None)
        object.__setattr__(self, "bounds", found)
        told = (self.name, *(-1 if limit is None else limit for limit in limits))
        object.__setattr__(self, "told", told)


@dataclass(frozen=True, slots=True)
class Refused:
    """``name``'s bound ``kind`` has no room; some may be free after ``wait_s`` seconds.

    ``never``: the request alone is larger than the limit.
    """

    name: str
    kind: Kind
    limit: float
    wait_s: float
    never: bool = False


class Verdict(NamedTuple):
    """``refused`` None: all of it is booked in ``slot``. ``uses``, one a subject, are then with
    it; of a refused request, without. ``now`` is the books' clock, in unix seconds."""

    refused: Refused | None
    uses: tuple[Uses, ...]
    slot: int
    now: float


def subjects_of(limited: tuple[Limited, ...], tier: Tier) -> tuple[Subject, ...]:
    """Those that a request of ``tier`` counts for."""
    return tuple(
        Subject(each.subject if each.tier is None else f"{each.subject}/{tier}", each.limits)
        for each in limited
        if each.tier is None or each.tier == tier
    )


def exceeded(subject: Subject, uses: Uses, work: Work) -> tuple[Kind, float] | None:
    """The first bound that has no room for ``work``, and its limit.

    What is larger than the limit fits when nothing is used: the length of an answer is only
    predicted, and a tenant with a small limit gets answers too.
    """
    asks = asks_of(work)
    for index, limit in subject.bounds:
        asked = asks[index]
        if asked > 0:
            used: float = uses[index]
            if limit <= 0 or used + min(asked, limit) > limit * (1.0 + ROUNDING):
                return KINDS[index], limit
    return None


def asks_of(work: Work) -> tuple[float, ...]:
    """What ``work`` asks of every bound, in the order of ``KINDS``."""
    requests, tokens, weighted, cost = work
    return requests, tokens, requests, weighted, weighted, cost, cost


def is_behind(subject: Subject, uses: Uses) -> bool:
    """Whether a bound is used from its soft share on (``uses`` with the request's own)."""
    share = subject.limits.soft_share
    for index, limit in subject.bounds:  # noqa: SIM110 - a generator would cost twice as much
        if uses[index] > share * limit:
            return True
    return False


def used_share(subjects: Sequence[Subject], uses: Sequence[Uses], of: str) -> float:
    """The highest share of any bound that the subjects named ``of`` (with a tier or not) use."""
    most = 0.0
    for subject, each in zip(subjects, uses, strict=True):
        if subject.name.startswith(of) and subject.name[len(of) : len(of) + 1] in ("", "/"):
            for index, limit in subject.bounds:
                if limit > 0:
                    most = max(most, each[index] / limit)
    return most


def local_share(limits: Limits, gateways: int) -> Limits:
    """What one of ``gateways`` may let through by itself: its part, and at least one request."""

    def part(limit: int | None) -> int | None:
        return None if limit is None else max(min(limit, 1), limit // gateways)

    def cost_part(limit: float | None) -> float | None:
        return None if limit is None else limit / gateways

    return replace(
        limits,
        requests_per_minute=part(limits.requests_per_minute),
        tokens_per_minute=part(limits.tokens_per_minute),
        concurrent_requests=part(limits.concurrent_requests),
        tokens_per_day=part(limits.tokens_per_day),
        tokens_per_month=part(limits.tokens_per_month),
        cost_per_day=cost_part(limits.cost_per_day),
        cost_per_month=cost_part(limits.cost_per_month),
    )
