"""What a gateway may let through alone while Redis is away, by what it last knew of the others."""

from dataclasses import replace

from cluster.quotas.ledger import Book, Known, day_of, month_of
from cluster.quotas.work import local_share
from cluster.tenants.caller import Limits

WINDOW_S = 60.5
"""After so long, what others had in the window has left it."""


def share_of(limits: Limits, book: Book, gateways: int, now: float) -> Limits:
    """What this gateway may let through alone, by what is known of the others."""
    share = local_share(limits, gateways)
    known = book.known
    if known is None:
        return share
    if now < known.at + WINDOW_S:
        every, own = known.every, known.own
        share = replace(
            share,
            requests_per_minute=_rest(
                share.requests_per_minute,
                limits.requests_per_minute,
                every.requests - own.requests,
            ),
            tokens_per_minute=_rest(
                share.tokens_per_minute, limits.tokens_per_minute, every.tokens - own.tokens
            ),
        )
    return _budget_share(limits, share, known, gateways, now)


def _budget_share(limits: Limits, share: Limits, known: Known, parts: int, now: float) -> Limits:
    """Of what was left of a budget, this gateway's part, above what it had used itself."""
    every, own = known.every, known.own

    def part(limit: float | None, used: float, mine: float) -> float | None:
        return None if limit is None else mine + max(0.0, limit - used) / parts

    if known.day == day_of(now):
        tokens = part(limits.tokens_per_day, every.day_weighted, own.day_weighted)
        share = replace(
            share,
            tokens_per_day=None if tokens is None else int(tokens),
            cost_per_day=part(limits.cost_per_day, every.day_cost, own.day_cost),
        )
    if known.month == month_of(now):
        tokens = part(limits.tokens_per_month, every.month_weighted, own.month_weighted)
        share = replace(
            share,
            tokens_per_month=None if tokens is None else int(tokens),
            cost_per_month=part(limits.cost_per_month, every.month_cost, own.month_cost),
        )
    return share


def _rest(share: int | None, limit: int | None, others: int) -> int | None:
    """The share, as far as others have left it."""
    return None if share is None or limit is None else max(0, min(share, limit - others))


def used_since(known: Known, book: Book, day: int, month: int) -> tuple[float, float, float, float]:
    """What is known to have been used of the day and the month: by all then, by us since."""
    every, own = known.every, known.own
    found = [0.0, 0.0, 0.0, 0.0]
    if known.day == day == book.day:
        found[0] = every.day_weighted - every.held + book.day_used - (own.day_weighted - own.held)
        found[1] = every.day_cost - every.held_cost + book.day_cost - (own.day_cost - own.held_cost)
    if known.month == month == book.month:
        mine, my_cost = own.month_weighted - own.held, own.month_cost - own.held_cost
        found[2] = every.month_weighted - every.held + book.month_used - mine
        found[3] = every.month_cost - every.held_cost + book.month_cost - my_cost
    return found[0], found[1], found[2], found[3]
