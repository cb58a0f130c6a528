"""Placements with their reasons: what an operator reads, and how much is kept."""

import json

from deployments.router import Decision, Router
from deployments.router.decisions import KEPT, Decisions
from deployments.router.policies import Choice, Verdict
from deployments.router.prefixes import BLOCK_TOKENS
from tests.deployments.router.router_world import (
    ROOMY,
    admitted,
    join,
    load_of,
    make_router,
    occupy,
    placed,
    request,
)


def decision_of(router: Router, **changes: object) -> Decision:
    found = placed(router, request(**changes))  # type: ignore[arg-type]
    assert found is not None
    return found.decision


def test_a_decision_names_the_choice_and_every_candidate() -> None:
    router = make_router()
    for name in ("free", "full", "slow"):
        join(router, name, max_num_seqs=2 if name == "full" else 8)
    occupy(router, "full", ["high", "high"])
    router.on_load("slow", load_of((0, 1, 0), step_s=0.2), 0.0)
    decision = decision_of(router, tier="medium", prompt_tokens=1000)
    assert decision.replica_id == "free"
    told = decision.as_dict()
    assert told["replica"] == "free"
    assert told["tier"] == "medium"
    assert told["policy"] == "effort"
    assert told["verdict"] == "home"
    assert told["predicted_tokens"] == round(decision.predicted_tokens)
    considered = told["considered"]
    assert isinstance(considered, list)
    assert {each["replica"] for each in considered} == {"free", "full", "slow"}
    verdicts = {each["replica"]: each["verdict"] for each in considered}
    assert verdicts["free"] == "home"
    assert verdicts["full"] == "full"
    assert json.loads(json.dumps(told)) == told


def test_the_predicted_finish_is_that_of_prefill_and_decode() -> None:
    router = make_router()
    replica = join(router, "a")
    step_s = replica.next_step_s
    decision = decision_of(router, tier="medium", prompt_tokens=1000)
    expected_s = 1000 * 0.00003 + decision.predicted_tokens * step_s
    assert abs(decision.choice.finish_s - expected_s) < 1e-9


def test_a_line_tells_all_of_it_at_a_glance() -> None:
    router = make_router()
    for name in ("a", "b", "c"):
        join(router, name, max_num_seqs=1)
    occupy(router, "c", ["low"])
    blocks = tuple(range(15))
    first = decision_of(router, blocks=blocks, prompt_tokens=1000, request_id="one")
    assert "cached=0; " in first.line()
    router.on_finished("one", 0.0, complete=True)
    again = decision_of(router, blocks=blocks, prompt_tokens=1000)
    assert again.replica_id == first.replica_id
    fields = dict(part.split("=") for part in again.line().split("; "))
    assert fields["policy"] == "effort"
    assert fields["verdict"] == "home"
    assert fields["cached"] == str(15 * BLOCK_TOKENS)
    assert fields["open"] == "2/3"
    assert abs(float(fields["finish"]) - again.choice.finish_s) < 0.001


def test_the_time_in_the_queue_is_told() -> None:
    router = make_router()
    each = request("medium")
    admitted(router, each, now=3.0)
    join(router, "a")
    ((waited),) = router.placements(5.5)
    assert waited.waited_s == waited.decision.waited_s == 2.5
    assert waited.decision.at_s == 5.5
    assert "waited=2.500" in waited.decision.line()


def test_the_newest_come_first_and_old_ones_are_dropped() -> None:
    router = make_router(ROOMY)
    replica = join(router, "a", max_num_seqs=10_000, kv_tokens=10**9)
    choice = Choice(replica, 1.0, Verdict.HOME, [(replica, 1.0, Verdict.HOME)])
    kept = Decisions()
    for n in range(KEPT + 50):
        kept.add(Decision(f"r{n}", "m", "low", "effort", float(n), 0.0, 1, 1.0, choice))
    assert len(kept) == KEPT
    names = [each.request_id for each in kept]
    assert names[0] == f"r{KEPT + 49}"
    assert names[-1] == "r50"


def test_a_router_keeps_its_placements() -> None:
    router = make_router(ROOMY)
    join(router, "a")
    for n in range(3):
        decision_of(router, request_id=f"q{n}")
    assert [each.request_id for each in router.decisions] == ["q2", "q1", "q0"]
