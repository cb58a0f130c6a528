"""A live cluster of simulated replicas keeps the simulator's time: same arrivals, same paces."""

import pytest

from benchmarks.live import Load, drawn, live, scenario_of, simulated, summed
from cluster.config import TIERS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

# Light: a machine that is busy with something else must still keep up.
LOAD = Load(
    20.0, {"low": 0.4, "medium": 0.3, "high": 0.3}, {"low": 60, "medium": 120, "high": 240},
    0.5, 12.0, 2.0, 0.0, 30.0,
)  # fmt: skip


def test_live_replicas_write_every_token_at_the_simulators_pace() -> None:
    scenario = scenario_of(LOAD, replicas=2)
    arrivals = drawn(scenario, 1)
    outcomes = live(scenario, ["effort"], arrivals)["effort"].outcomes

    assert [each.status for each in outcomes] == ["finished"] * len(arrivals)
    assert [each.tokens for each in outcomes] == [each.output_tokens for each in arrivals]
    assert len({each.replica for each in outcomes}) == 2
    lived = summed(outcomes, scenario)
    foretold = summed(simulated(scenario, "effort", arrivals), scenario)
    for tier in TIERS:
        seen, said = lived.tiers[tier], foretold.tiers[tier]
        assert seen.requests == said.requests > 20
        assert seen.tpot.p50 == pytest.approx(said.tpot.p50, rel=0.25), tier
