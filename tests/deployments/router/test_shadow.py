"""A shadow policy: asked about every placement, obeyed in none, its gain added up."""

import pytest

from cluster.config import POLICIES, TIERS, PolicyName
from deployments.router import Router
from deployments.router.shadow import Shadow
from tests.deployments.router.router_world import (
    ROOMY,
    join,
    load_of,
    make_router,
    occupy,
    placed_on,
    request,
)


def shadow_of(router: Router) -> Shadow:
    assert router.shadow is not None
    return router.shadow


def unequal(policy: PolicyName, shadow: PolicyName | None) -> Router:
    """One replica has more requests, the other takes longer."""
    router = make_router(ROOMY, policy, shadow)
    for name in ("busy", "slow"):
        join(router, name, max_num_seqs=50)
    router.on_load("busy", load_of((3, 0, 0)), 0.0)
    router.on_load("slow", load_of((0, 1, 0), step_s=0.0126), 0.0)  # three times the model's
    return router


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("shadow", POLICIES)
def test_a_shadow_never_changes_a_placement(policy: PolicyName, shadow: PolicyName) -> None:
    homes = []
    for watched in (None, shadow):
        router = unequal(policy, watched)
        homes.append(
            [
                placed_on(
                    router,
                    request(TIERS[n % 3], request_id=f"q{n}", blocks=(n % 4, 10 + n % 2)),
                    0.1 * n,
                )
                for n in range(30)
            ]
        )
    assert homes[0] == homes[1]


def test_the_same_policy_in_the_shadow_never_differs() -> None:
    router = unequal("effort", "effort")
    for n in range(20):
        placed_on(router, request(blocks=(n % 3,)), 0.1 * n)
    count = shadow_of(router).count
    assert (count.decisions, count.differing, count.regret_s) == (20, 0, 0.0)


def test_a_better_choice_of_the_shadow_is_counted_with_what_it_would_have_gained() -> None:
    router = unequal("least-requests", "effort")
    assert placed_on(router, request(max_tokens=1000)) == "slow"
    count = shadow_of(router).count
    assert (count.decisions, count.differing) == (1, 1)
    (decision,) = router.decisions
    finish_s = {each.replica_id: after_s for each, after_s, _ in decision.choice.considered}
    assert count.regret_s == pytest.approx(finish_s["slow"] - finish_s["busy"])
    assert count.regret_s > 0.0


def test_a_worse_choice_of_the_shadow_counts_against_it() -> None:
    router = unequal("effort", "least-requests")
    assert placed_on(router, request()) == "busy"
    count = shadow_of(router).count
    assert count.differing == 1
    assert count.regret_s < 0.0


def test_a_shadow_that_would_have_waited_differs_at_no_regret() -> None:
    router = make_router(ROOMY, "least-requests", "effort")
    join(router, "a", max_num_seqs=50, kv_tokens=5_000)
    occupy(router, "a", ["low"])
    assert placed_on(router, request("high")) == "a"  # 13,000 tokens have no room
    count = shadow_of(router).count
    assert (count.decisions, count.differing, count.regret_s) == (1, 1, 0.0)


def test_agreeing_on_a_replica_gains_nothing_whatever_either_knows_of_its_cache() -> None:
    router = make_router(ROOMY, "least-requests", "effort")
    join(router, "a", max_num_seqs=50)
    blocks = tuple(range(100))
    for _ in range(5):
        placed_on(router, request(prompt_tokens=7_000, blocks=blocks))
    count = shadow_of(router).count
    assert (count.decisions, count.differing) == (5, 0)
    assert count.regret_s == 0.0


def test_a_shadow_remembers_the_caches_as_the_acting_policy_filled_them() -> None:
    router = make_router(ROOMY, "round-robin", "effort")
    for name in ("a", "b"):
        join(router, name, max_num_seqs=50)
    blocks = tuple(range(100))
    homes = [placed_on(router, request(prompt_tokens=7_000, blocks=blocks)) for _ in range(2)]
    assert sorted(map(str, homes)) == ["a", "b"]
    shadow = shadow_of(router)
    choice = shadow.policy.choose(
        request(prompt_tokens=7_000, blocks=blocks, request_id="x"), router.fleet, 0.0
    )
    assert choice is not None
    assert choice.cached_tokens == 100 * 64
    router.on_replica_lost("a", 1.0)
    router.on_replica_lost("b", 1.0)
    join(router, "a", max_num_seqs=50)
    choice = shadow.policy.choose(
        request(prompt_tokens=7_000, blocks=blocks, request_id="y"), router.fleet, 1.0
    )
    assert choice is not None
    assert choice.cached_tokens == 0


def test_without_a_shadow_nothing_is_compared() -> None:
    assert make_router().shadow is None
