"""The autoscaler of a configuration: what it takes in and says, and which settings it refuses."""

import math
from datetime import datetime, timedelta
from typing import Any

import pytest

from autoscaling.autoscaler import Autoscaler, replica_kind
from autoscaling.coldstart import ColdStarts, Start
from cluster.accounts import GatewayAccount, TierAccount
from cluster.config import TriremeConfig
from cluster.errors import ConfigError
from cluster.loading import load_as
from deployments.application import _size
from deployments.gateway.account import Account
from deployments.router import RemoteLoad, Request, Router, Slo, Traits
from deployments.router.settings import tier_policies

POOL: dict[str, Any] = {
    "engine": "simulated",
    "scaling": {"min_replicas": 1, "max_replicas": 20, "cold_start_s": 30},
}
SETTINGS: dict[str, Any] = {"enabled": True, "hold_s": 60, "forecast": False}
NOON = datetime(2026, 1, 5, 12)


def config(pools: list[dict[str, Any]] | None = None, **settings: Any) -> TriremeConfig:
    return TriremeConfig.model_validate(
        {"models": [{"pools": pools or [POOL]}], "autoscaling": {**SETTINGS, **settings}}
    )


def account(arrived: int) -> GatewayAccount:
    tier = TierAccount(
        "gpt-oss-120b", "medium", arrived, placed=arrived, prompt_tokens=1000.0 * arrived,
        expected_tokens=1500.0 * arrived, answered=arrived, first_in_time=arrived,
    )  # fmt: skip
    return GatewayAccount("g", (tier,))


def driven(scaler: Autoscaler, per_s: int, seconds: int, now: float = 0.0) -> list[int]:
    """A gateway that tells of so many requests a second; the sizes of the first pool."""
    sizes = []
    for step in range(0, seconds, 15):
        at = now + step
        scaler.take(account(int(per_s * at)), at)
        scaler.listed("main", [f"r{index}" for index in range((sizes or [1])[-1])], at)
        resizes = scaler.decide(at, NOON + timedelta(seconds=at))
        sizes.append(resizes[0].wanted)
    return sizes


def test_load_that_comes_makes_the_pool_grow_and_silence_keeps_it() -> None:
    scaler = Autoscaler(config())
    sizes = driven(scaler, 60, 900)
    assert sizes[-1] > 5
    assert scaler.decide(3600.0, NOON)[0].wanted == sizes[-1]
    assert scaler.log()[0]["freshness"] != "fresh"


def test_a_pool_without_scaling_is_never_resized() -> None:
    fixed = {"name": "fixed", "engine": "simulated", "replicas": 3}
    scaler = Autoscaler(config([fixed, {**POOL, "name": "main"}]))
    scaler.take(account(0), 0.0)
    assert [each.pool for each in scaler.decide(15.0, NOON)] == ["main"]
    assert scaler.models["gpt-oss-120b"].decision is not None
    assert scaler.models["gpt-oss-120b"].decision.of("fixed").wanted == 3


def test_an_autoscaler_that_was_restarted_keeps_what_was_asked_for() -> None:
    scaler = Autoscaler(config())
    scaler.restore({"main": 9, "gone": 4})
    scaler.take(account(0), 0.0)
    assert scaler.decide(15.0, NOON)[0].wanted == 9


def test_a_gateway_that_serve_no_longer_lists_is_not_waited_for() -> None:
    scaler = Autoscaler(config())
    scaler.take(account(0), 0.0)
    scaler.gateways([], ["g"])
    scaler.decide(1.0, NOON)
    assert scaler.log()[0]["freshness"] == "missing"


def test_cold_starts_are_measured_from_the_asking() -> None:
    starts = ColdStarts()
    assert math.isnan(starts.expected_s)
    starts.listed(["a"], 0.0)
    starts.asked(2, 10.0)
    assert starts.listed(["a", "b"], 70.0) == {"b": 10.0}
    starts.note(Start(60.0, 25.0))
    starts.note(Start(80.0))
    assert starts.expected_s == 80.0
    assert starts.phases() == {"whole": 70.0, "place": 35.0, "engine": 25.0}
    assert starts.overdue_s(100.0) == 90.0
    starts.asked(-1, 100.0)
    assert starts.overdue_s(200.0) == 0.0


def test_a_replica_that_only_replaces_another_is_no_measurement() -> None:
    starts = ColdStarts()
    starts.listed(["a"], 0.0)
    assert starts.listed(["b"], 5.0) == {}


def test_what_serve_begins_with_is_no_measurement_and_not_awaited() -> None:
    """The first decision asks for the replica that is there: the next start is not measured from
    then."""
    scaler = Autoscaler(config())
    scaler.listed("main", ["r0"], 0.0)
    assert driven(scaler, 0, 300)[-1] == 1
    assert scaler.starts["main"].overdue_s(300.0) == 0.0
    scaler.starts["main"].asked(1, 400.0)
    assert scaler.listed("main", ["r0", "r1"], 410.0) == {"r1": 400.0}


def test_what_is_given_up_is_not_taken_for_a_start() -> None:
    starts = ColdStarts()
    starts.listed([], 0.0)
    starts.asked(1, 0.0)
    assert starts.listed(["a"], 8000.0) == {}


@pytest.mark.parametrize(
    ("pool", "tokens"),
    [
        ({"gpu_type": "H200", "tensor_parallel_size": 2}, 3_000_000),
        ({"gpu_type": "unheard-of"}, 900_000),
        ({"engine": "simulated", "simulated": {"kv_tokens": 5000}}, 4000),
    ],
)
def test_a_replica_is_known_before_one_runs(pool: dict[str, Any], tokens: int) -> None:
    (found,) = config([{**pool, "scaling": {}}]).pools()
    assert replica_kind(*found).kv_tokens >= tokens


def test_serve_is_told_a_policy_or_a_number() -> None:
    scaled = config()
    ((_, pool),) = scaled.pools()
    told = _size(scaled, pool)["autoscaling_config"]
    assert (told["min_replicas"], told["initial_replicas"], told["max_replicas"]) == (1, 1, 20)
    assert told["policy"]["policy_kwargs"] == {"key": "trireme/main/wanted"}
    assert _size(config(actuator="external"), pool) == {"num_replicas": 1}
    off = TriremeConfig.model_validate({"models": [{"pools": [POOL]}]})
    assert _size(off, pool) == {"num_replicas": 1}


@pytest.mark.parametrize(
    ("pools", "settings", "told"),
    [
        ([{"engine": "simulated"}], {}, "autoscaling.enabled: no pool has `scaling`"),
        ([{**POOL, "replicas": 40}], {}, "models[0].pools[0].replicas: 40 is not between"),
        ([{**POOL, "scaling": {"min_replicas": 9}}], {}, "max_replicas: 8 is less than"),
        ([{**POOL, "scaling": {"schedules": ["at noon"]}}], {}, "'at noon' is no schedule"),
        (
            [{**POOL, "scaling": {"min_replicas": 0}}],
            {},
            "a request may queue for 30 s, and a replica needs 300 s to start",
        ),
        ([POOL], {"timezone": "Mars/Olympus"}, "is no time zone"),
        ([POOL], {"stale_after_s": 1}, "1 is not more than collect_s (2)"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_a_remedy(
    pools: list[dict[str, Any]], settings: dict[str, Any], told: str, tmp_path: Any
) -> None:
    import yaml

    file = tmp_path / "t.yaml"
    tree = {"models": [{"pools": pools}], "autoscaling": {**SETTINGS, **settings}}
    file.write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError) as error:
        load_as(TriremeConfig, file)
    assert any(told in str(fault) for fault in error.value.faults), error.value.faults


def test_an_account_tells_what_its_gateway_did() -> None:
    settings = config()
    router = Router(("gpt-oss-120b",), tier_policies(settings.tiers))
    book = Account(
        "g", ["gpt-oss-120b"], {tier: Slo(1.0, 0.02) for tier in ("low", "medium", "high")}
    )  # type: ignore[misc]
    ((model, pool),) = settings.pools()
    kind = replica_kind(model, pool)
    everyone = frozenset(("low", "medium", "high"))
    router.on_replica_joined(
        Traits("r", model.name, pool.name, everyone, everyone, 4, 1000, 10_000, kind.steps)  # type: ignore[arg-type]
    )
    router.on_load("r", RemoteLoad(), 0.0)
    for number in range(6):
        assert router.admit(Request(str(number), model.name, "low", 100, 50), 0.0) is None
    for placed in router.placements(0.0):
        book.placed(placed.flight.request)
    book.first_token(model.name, "low", 0.5)
    book.first_token(model.name, "low", 1.5)
    book.ended(model.name, "low", 0.03)
    book.refused(model.name, "low")
    book.refused("a model that nobody serves", "low")
    found = book.read(router, 1.0)
    low = next(each for each in found.tiers if each.tier == "low")
    assert low.placed + low.queued == 6
    assert low.arrived == 7
    assert (low.answered, low.first_in_time, low.ended, low.paced_in_time) == (2, 1, 1, 0)
    assert low.prompt_tokens == 100.0 * low.placed
    assert low.running == low.placed
    assert low.running_tokens > 0
    assert found.replicas[0].in_flight == low.placed
    # One that hangs up in the queue has come all the same.
    waiting = [str(n) for n in range(6) if str(n) not in dict.fromkeys(_placed_ids(router))]
    for request_id in waiting:
        router.on_finished(request_id, 2.0, complete=False)
    assert next(e for e in book.read(router, 2.0).tiers if e.tier == "low").arrived == 7


def _placed_ids(router: Any) -> list[str]:
    return [request_id for replica in router.fleet for request_id in replica.flights]
