"""Figures by tenant, for as many tenants as a label may have: the busiest by name, then `other`."""

from dataclasses import dataclass

from prometheus_client import Counter, Gauge

from cluster.config import TIERS, Tier
from cluster.metrics import NAMED_TENANTS, OTHER_TENANTS, Metrics

MOST_KNOWN = 10_000
"""Tenants whose tokens are counted to find the busiest; more wait for the next choice."""

MEMORY = 0.5
"""What a minute's tokens count for in the next one."""

OUTCOMES = ("ok", "refused", "invalid", "failed", "cancelled")
KINDS = ("prompt", "cached", "analysis", "final")


class TopTenants:
    """Who is told apart: at first whoever comes, and from each ``choose`` on the busiest."""

    def __init__(self, most: int = NAMED_TENANTS) -> None:
        self._most = most
        self._tokens: dict[str, float] = {}
        self._named: set[str] = set()

    def label(self, tenant: str) -> str:
        """The tenant's name or `other`; never more names than ``most`` between two choices."""
        if tenant in self._named:
            return tenant
        if len(self._named) < self._most and tenant != OTHER_TENANTS:
            self._named.add(tenant)
            return tenant
        return OTHER_TENANTS

    def add(self, tenant: str, tokens: int) -> None:
        if tenant in self._tokens or len(self._tokens) < MOST_KNOWN:
            self._tokens[tenant] = self._tokens.get(tenant, 0.0) + tokens

    def choose(self) -> set[str]:
        """Name the busiest from now on. Returns those that are named no more.

        One that is named stays unless another has more: names that change cost series."""
        ranked = sorted(
            self._tokens, key=lambda each: (self._tokens[each], each in self._named), reverse=True
        )
        chosen = {each for each in ranked[: self._most] if each != OTHER_TENANTS}
        left = self._named - chosen
        self._named = chosen
        self._tokens = {
            each: MEMORY * tokens for each, tokens in self._tokens.items() if tokens >= 1.0
        }
        return left


@dataclass(frozen=True)
class _Children:
    requests: dict[str, Counter]
    tokens: dict[tuple[Tier, str], Counter]
    cost: Counter
    used: Gauge


class TenantMetrics:
    """The rows with a `tenant` label; ``choose`` is to be called once a minute."""

    def __init__(self, metrics: Metrics) -> None:
        self._top = TopTenants()
        self._requests = metrics.counter("trireme_tenant_requests")
        self._tokens = metrics.counter("trireme_tenant_tokens")
        self._cost = metrics.counter("trireme_tenant_cost")
        self._used = metrics.gauge("trireme_tenant_quota_used_ratio")
        self._children: dict[str, _Children] = {}
        self._shares: dict[str, float] = {}

    def done(
        self,
        tenant: str,
        tier: Tier,
        outcome: str,
        tokens: tuple[int, int, int, int],
        cost: float,
    ) -> None:
        """A request has ended. ``tokens``: prompt, cached (a part of it), analysis, final."""
        prompt, cached, analysis, final = tokens
        self._top.add(tenant, prompt + analysis + final)
        children = self._of(tenant)
        children.requests[outcome].inc()
        children.tokens[tier, "prompt"].inc(prompt)
        children.tokens[tier, "cached"].inc(cached)
        children.tokens[tier, "analysis"].inc(analysis)
        children.tokens[tier, "final"].inc(final)
        children.cost.inc(cost)

    def used(self, tenant: str, share: float) -> None:
        """So much of the limit of which the tenant has used most, at an admission."""
        label = self._top.label(tenant)
        if label == OTHER_TENANTS:
            share = max(share, self._shares.get(label, 0.0))
        self._shares[label] = share
        self._of(tenant).used.set(share)

    def choose(self) -> None:
        """Who is named from now on; the series of others go. A tenant that has asked for nothing
        since the last time has 0 of its limits in use, as far as this gateway can tell."""
        for label, children in self._children.items():
            if label not in self._shares:
                children.used.set(0.0)
        self._shares = {}
        for label in self._top.choose():
            children_left = self._children.pop(label, None)
            if children_left is not None:
                self._remove(label)

    def _remove(self, label: str) -> None:
        for outcome in OUTCOMES:
            self._requests.remove(label, outcome)
        for tier in TIERS:
            for kind in KINDS:
                self._tokens.remove(label, tier, kind)
        self._cost.remove(label)
        self._used.remove(label)

    def _of(self, tenant: str) -> _Children:
        label = self._top.label(tenant)
        children = self._children.get(label)
        if children is None:
            children = self._children[label] = _Children(
                {outcome: self._requests.labels(label, outcome) for outcome in OUTCOMES},
                {(t, kind): self._tokens.labels(label, t, kind) for t in TIERS for kind in KINDS},
                self._cost.labels(label),
                self._used.labels(label),
            )
        return children
