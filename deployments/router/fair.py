"""The queue of one tier, shared fairly between tenants by the work that each was given."""

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

from msgspec import Struct

from deployments.router.fleet import Request

PROMPT_WORK, OUTPUT_WORK = 1.0, 2.0
"""What a prompt token and an output token count as work: the weights of Sheng et al. (OSDI 2024),
who follow the prices that providers ask."""


@dataclass(slots=True)
class Waiting:
    """A queued request. ``due_s`` orders the tiers; at ``expires_s`` it has waited too long.

    Both are the end of the tier's longest wait, except for a request that lost its replica: that
    one is due at once, and has the whole wait before it again.
    """

    request: Request
    since_s: float
    due_s: float
    predicted_tokens: float
    expires_s: float

    @property
    def work(self) -> float:
        return work(self.request.prompt_tokens, self.predicted_tokens)


@dataclass(slots=True, eq=False)
class Account:
    """A tenant's standing in a tier. ``counter`` is the work that it was given, over its weight.

    ``visit`` counts its returns from idle. ``standing`` is its counter at the last of them less
    what everybody's was then, negative if it was lifted. ``number`` orders equal counters.
    """

    tenant: str
    weight: float
    counter: float
    queue: OrderedDict[str, Waiting]
    number: int = 0
    visit: int = 0
    standing: float = 0.0
    queued_work: float = 0.0

    @property
    def place(self) -> tuple[float, int]:
        return self.counter, self.number


class Charge(Struct, frozen=True):
    """What a tenant was charged for a request when it was dispatched, as work."""

    account: Account
    visit: int
    work: float
    prompt_tokens: int
    weight: float


def work(prompt_tokens: int, output_tokens: float) -> float:
    """A request's work, in weighted tokens."""
    return PROMPT_WORK * prompt_tokens + OUTPUT_WORK * output_tokens


class FairQueue:
    """Serves the backlogged tenant with the smallest counter; within a tenant, first come first.

    This is the Virtual Token Counter of Sheng et al., "Fairness in Serving Large Language Models"
    (OSDI 2024), with the charge at dispatch, by the predicted output, and settled by the real one
    when the request ends. A tenant that comes back from idle is lifted to the smallest counter of
    those that are backlogged, so that it cannot save up its share.

    What it guarantees. Let *a* be the largest work of one request, *e* the most by which charges
    and real work of one tenant's requests in flight differ, and *q* the quantum within which
    ``heads`` offers tenants out of turn (as Deficit Longest Prefix Match does, Cao et al., arXiv
    2501.14312). Over any time in which two tenants of equal weight are both backlogged, the real
    work of what they had dispatched differs by at most 2·(a + q + 2·e): a tenant is dispatched only
    while its counter is at most q above the other's, a counter is at most e off what it would be
    with every output known, and a dispatch adds at most a. That bounds the difference to
    a + q + 2·e either way, and the time may begin at one end and close at the other. Tokens
    written by a given moment can differ by what is then in flight besides. The paper's bound, for
    charges that follow each token and without a quantum, is twice the larger of the longest
    prompt's work and that of all tokens in flight.

    Requests that lost a replica stand before all tenants and belong to ``front``; those that have
    waited too long to be in time (``demote``) stand behind all and belong to ``late``: so under
    overload some are served in time, and not all of them late. Those that must not go yet are
    ``held``. ``predicted_tokens`` leaves the late and the held ones out.
    """

    def __init__(self, weights: Mapping[str, float], max_tenants: int) -> None:
        self._weights = weights
        self._max_tenants = max_tenants
        self._accounts: dict[str, Account] = {}
        self._idle: OrderedDict[str, Account] = OrderedDict()
        """Those without a request here; the one last heard of is the last."""
        self._line: list[tuple[tuple[float, int], Account]] = []
        """The backlogged tenants by counter. Finding a place takes O(log tenants) comparisons, and
        moving the rest is one copy of pointers, at most as many as requests may be queued."""
        self._returns = 0
        self._floor = 0.0
        self.arrivals: OrderedDict[str, Waiting] = OrderedDict()
        self.front: OrderedDict[str, Waiting] = OrderedDict()
        self.late: OrderedDict[str, Waiting] = OrderedDict()
        self.held: OrderedDict[str, Waiting] = OrderedDict()
        self.predicted_tokens = 0.0

    def __len__(self) -> int:
        return len(self.arrivals) + len(self.front) + len(self.late) + len(self.held)

    @property
    def tenants(self) -> int:
        """Tenants remembered, backlogged or not."""
        return len(self._accounts)

    def counter(self, tenant: str) -> float:
        """The tenant's work so far over its weight, at least the smallest of the backlogged."""
        account = self._accounts.get(tenant)
        return self._lowest() if account is None else max(account.counter, self._lowest())

    # -------------------------------------------------------------- requests come and go

    def push(self, waiting: Waiting) -> None:
        """Queue behind the tenant's others."""
        account = self._account(waiting.request.tenant)
        if not account.queue:
            self._join(account)
        account.queue[waiting.request.request_id] = waiting
        account.queued_work += waiting.work
        self.arrivals[waiting.request.request_id] = waiting
        self.predicted_tokens += waiting.predicted_tokens

    def push_front(self, waiting: Waiting) -> None:
        """Queue before everything."""
        self.front[waiting.request.request_id] = waiting
        self.front.move_to_end(waiting.request.request_id, last=False)
        self.predicted_tokens += waiting.predicted_tokens

    def demote(self, before_s: float) -> None:
        """Those that came before ``before_s`` go behind all others, the oldest first."""
        while self.arrivals:
            request_id, waiting = next(iter(self.arrivals.items()))
            if waiting.since_s >= before_s:
                return
            self.late[request_id] = self.remove(request_id)

    def remove(self, request_id: str) -> Waiting:
        """Take out a request that is queued here, without a charge."""
        aside = self.late.pop(request_id, None) or self.held.pop(request_id, None)
        if aside is not None:
            return aside
        waiting = self.front.pop(request_id, None)
        if waiting is None:
            waiting = self.arrivals.pop(request_id)
            account = self._accounts[waiting.request.tenant]
            del account.queue[request_id]
            account.queued_work -= waiting.work
            if not account.queue:
                account.queued_work = 0.0
                self._leave(account)
                self._floor = max(self._floor, account.counter)
                self._rest(account)
        left = self.predicted_tokens - waiting.predicted_tokens
        self.predicted_tokens = left if self.arrivals or self.front else 0.0
        return waiting

    def heads(self, most: int, quantum: float) -> list[Waiting]:
        """Who may be next: a retried request alone, or up to ``most`` tenants' first requests.

        The tenant with the smallest counter first; the others' are at most ``quantum`` above it.
        Late ones only when there are no others.
        """
        if self.front:
            return [next(iter(self.front.values()))]
        if not self._line:
            return list(islice(self.late.values(), most))
        limit = self._line[0][1].counter + quantum
        return [
            next(iter(account.queue.values()))
            for (counter, _), account in islice(self._line, most)
            if counter <= limit
        ]

    def longest(self, tenant: str | None = None) -> Waiting | None:
        """The last request of the tenant that has the most queued here for its weight.

        None where ``tenant``, with one more, would have as much."""
        if not self._line:
            return None
        most = max((each for _, each in self._line), key=lambda each: len(each.queue) / each.weight)
        if tenant is not None:
            account = self._accounts.get(tenant)
            own = 1 + (len(account.queue) if account is not None else 0)
            if len(most.queue) / most.weight <= own / self._weights.get(tenant, 1.0):
                return None
        return next(reversed(most.queue.values()))

    def queued_work(self) -> float:
        """Predicted work of what stands here in time. O(backlogged tenants)."""
        lost = sum(waiting.work for waiting in self.front.values())
        return lost + sum(account.queued_work for _, account in self._line)

    @property
    def waits(self) -> bool:
        """Whether anything stands in line, late or not."""
        return bool(self.arrivals or self.front or self.late)

    @property
    def in_time(self) -> Waiting | None:
        """The oldest of those that are not late: a retried one, or an arrival."""
        if self.front:
            return next(iter(self.front.values()))
        return next(iter(self.arrivals.values())) if self.arrivals else None

    @property
    def first_late(self) -> Waiting | None:
        """The first of those that are late."""
        return next(iter(self.late.values())) if self.late else None

    def oldest_wait_s(self, now: float) -> float:
        oldest = (
            next(iter(self.late.values()), None)
            or next(iter(self.arrivals.values()), None)
            or next(iter(self.front.values()), None)
        )
        return 0.0 if oldest is None else now - oldest.since_s

    def work_before(self, tenant: str) -> float:
        """Predicted work that would be dispatched before one more request of ``tenant``."""
        account = self._accounts.get(tenant)
        own = account.queued_work if account is not None else 0.0
        turn = self.counter(tenant) + own / self._weights.get(tenant, 1.0)
        ahead = sum(
            min(other.queued_work, max(0.0, turn - other.counter) * other.weight)
            for _, other in self._line
            if other is not account
        )
        return own + ahead + sum(waiting.work for waiting in self.front.values())

    # -------------------------------------------------------------- work is charged

    def charge(self, waiting: Waiting, predicted_tokens: float, prompt_tokens: int) -> Charge:
        """Charge the tenant for a request that is dispatched."""
        account = self._account(waiting.request.tenant)
        charged = work(prompt_tokens, predicted_tokens)
        self._book(account, charged / account.weight)
        return Charge(account, account.visit, charged, prompt_tokens, account.weight)

    def settle(self, charge: Charge, real_work: float) -> None:
        """Replace what was charged by the ``real_work``.

        For work of before the tenant's last return, the counter becomes what it would be had this
        been known then: a tenant that was lifted would have been lifted by less or more. So a
        refund cannot turn idle time into credit.
        """
        account = charge.account
        # At the weight of the charge, so that a refund is never more than what was charged.
        change = (real_work - charge.work) / charge.weight
        if charge.visit != account.visit:
            before = max(0.0, account.standing)
            account.standing += change
            change = max(0.0, account.standing) - before
        self._book(account, change)

    def _book(self, account: Account, change: float) -> None:
        if account.queue:
            self._leave(account)
        account.counter += change
        if account.queue:
            insort(self._line, (account.place, account))

    # -------------------------------------------------------------- tenants come and go

    def weigh(self, weights: Mapping[str, float]) -> None:
        """New weights for what is dispatched from now on; counters stay as they are."""
        self._weights = weights
        for account in self._accounts.values():
            account.weight = weights.get(account.tenant, 1.0)

    def _account(self, tenant: str) -> Account:
        account = self._accounts.get(tenant)
        if account is None:
            account = Account(tenant, self._weights.get(tenant, 1.0), self._lowest(), OrderedDict())
            self._accounts[tenant] = account
        if not account.queue:
            self._rest(account)
        return account

    def _rest(self, account: Account) -> None:
        """Note that an idle tenant was heard of, and forget others beyond the limit.

        Those with requests here stay; there are at most as many as requests may be queued."""
        self._idle[account.tenant] = account
        self._idle.move_to_end(account.tenant)
        while len(self._accounts) > self._max_tenants and len(self._idle) > 1:
            forgotten, _ = self._idle.popitem(last=False)
            del self._accounts[forgotten]

    def _lowest(self) -> float:
        """The smallest counter of the backlogged; with none, that of the last that was."""
        return self._line[0][1].counter if self._line else self._floor

    def _join(self, account: Account) -> None:
        """The tenant was idle and is backlogged: lift it."""
        lowest = self._lowest()
        self._idle.pop(account.tenant)
        account.visit += 1
        account.standing = account.counter - lowest
        account.counter = max(account.counter, lowest)
        self._returns += 1
        account.number = self._returns
        insort(self._line, (account.place, account))

    def _leave(self, account: Account) -> None:
        at = bisect_left(self._line, account.place, key=lambda each: each[0])
        assert self._line[at][1] is account
        del self._line[at]
