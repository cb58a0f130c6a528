"""The label `tenant` is bounded, whoever comes."""

import random

from hypothesis import given
from hypothesis import strategies as st

from cluster.metrics import GATEWAY_METRICS, NAMED_TENANTS, Metrics
from deployments.gateway.tenant_metrics import TenantMetrics, TopTenants


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 1000), st.booleans()), max_size=300))
def test_no_more_names_are_alive_than_may_be(events: list[tuple[int, int, bool]]) -> None:
    top, alive = TopTenants(5), set[str]()
    for number, tokens, choose in events:
        top.add(f"t{number}", tokens)
        alive.add(top.label(f"t{number}"))
        if choose:
            alive -= top.choose()
        assert len(alive - {"other"}) <= 5


def test_the_busiest_are_named_after_a_choice() -> None:
    top = TopTenants(3)
    for number in range(10):
        top.add(f"t{number}", 100 * number)
        top.label(f"t{number}")
    assert top.choose() == {"t0", "t1", "t2"}
    assert [top.label(f"t{number}") for number in (9, 8, 7, 6)] == ["t9", "t8", "t7", "other"]


def test_a_tenant_that_calls_itself_other_is_counted_with_them() -> None:
    assert TopTenants(3).label("other") == "other"


def test_series_stay_bounded_while_tenants_come_and_go() -> None:
    metrics, rng = Metrics(GATEWAY_METRICS), random.Random(1)
    tenants, seen = TenantMetrics(metrics), set[str]()
    for minute in range(5):
        for _ in range(300):
            number = 30 * minute + rng.randint(0, 60)
            tenants.done(f"t{number}", "high", "ok", (10, 5, 20, number), 0.5)
            tenants.used(f"t{number}", number / 200)
        tenants.choose()
        alive = {
            sample.labels["tenant"]
            for family in metrics.registry.collect()
            if family.name.startswith("trireme_tenant")
            for sample in family.samples
        }
        assert len(alive - {"other"}) <= NAMED_TENANTS
        seen |= alive
    assert len(seen) > NAMED_TENANTS + 1  # they did change


def test_who_asks_for_nothing_uses_nothing() -> None:
    metrics = Metrics(GATEWAY_METRICS)
    tenants = TenantMetrics(metrics)
    tenants.done("a", "low", "ok", (1, 0, 1, 1), 0.0)
    tenants.used("a", 0.7)
    name, labels = "trireme_tenant_quota_used_ratio", {"tenant": "a"}
    assert metrics.registry.get_sample_value(name, labels) == 0.7
    tenants.choose()
    tenants.choose()
    assert metrics.registry.get_sample_value(name, labels) in (0.0, None)
