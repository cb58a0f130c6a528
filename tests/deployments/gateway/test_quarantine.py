"""The quarantine: who is in it, for how long, and that it cannot grow without end."""

from deployments.engine.channel.frames import Poison
from deployments.gateway.quarantine import Quarantine, fingerprint


def poison(print_: str, request_id: str = "", left_s: float = 100.0) -> Poison:
    return Poison(print_, "model", "low", request_id, left_s)


def test_a_fingerprint_is_that_of_prompt_parameters_and_model_under_a_secret() -> None:
    one = fingerprint("secret", "model", [1, 2, 3], b"temperature 1")
    assert one == fingerprint("secret", "model", [1, 2, 3], b"temperature 1")
    others = {
        fingerprint("secret", "model", [1, 2, 4], b"temperature 1"),
        fingerprint("secret", "model", [1, 2, 3], b"temperature 0"),
        fingerprint("secret", "other", [1, 2, 3], b"temperature 1"),
        fingerprint("guess", "model", [1, 2, 3], b"temperature 1"),
        fingerprint("secret" * 20, "model", [1, 2, 3], b"temperature 1"),
    }
    assert len(others | {one}) == 6
    assert len(one) == 32


def test_an_entry_stands_for_its_time_and_a_repeated_death_begins_it_anew() -> None:
    quarantine = Quarantine(ttl_s=100.0)
    quarantine.add(poison("a", "request 1"), 0.0)
    quarantine.add(poison("b", "request 2"), 50.0)
    quarantine.expire(99.0)
    assert "a" in quarantine
    quarantine.add(poison("a", "request 3"), 99.0)
    quarantine.expire(151.0)
    assert "a" in quarantine
    assert "b" not in quarantine
    assert quarantine.listed(151.0) == [
        {
            "fingerprint": "a",
            "model": "model",
            "tier": "low",
            "request_id": "request 3",
            "left_s": 48.0,
        }
    ]
    quarantine.expire(199.0)
    assert not quarantine


def test_the_oldest_are_forgotten_when_there_are_too_many() -> None:
    quarantine = Quarantine(ttl_s=100.0, max_entries=3)
    for number in range(10):
        quarantine.add(poison(str(number)), 0.0)
    assert len(quarantine) == 3
    assert [entry["fingerprint"] for entry in quarantine.listed(0.0)] == ["9", "8", "7"]


def test_what_others_have_told_goes_when_its_time_is_over_also_behind_a_longer_one() -> None:
    quarantine = Quarantine(ttl_s=100.0)
    quarantine.add(poison("own"), 0.0)
    quarantine.add(poison("told", left_s=30.0), 0.0)
    quarantine.expire(29.0)
    assert list(quarantine.standing(29.0)) == [
        poison("own", left_s=71.0),
        poison("told", left_s=1.0),
    ]
    quarantine.expire(31.0)
    assert list(quarantine.standing(31.0)) == [poison("own", left_s=69.0)]


def test_what_another_gateway_tells_stands_no_longer_than_here() -> None:
    quarantine = Quarantine(ttl_s=100.0)
    quarantine.add(poison("told", left_s=1e6), 0.0)
    quarantine.expire(100.0)
    assert not quarantine
