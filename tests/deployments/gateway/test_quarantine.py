"""The quarantine: who is in it, for how long, and that it cannot grow without end."""

from deployments.gateway.quarantine import Entry, Quarantine, fingerprint


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
    quarantine.add("a", Entry("model", "low", 100.0, "request 1"))
    quarantine.add("b", Entry("model", "high", 150.0, "request 2"))
    quarantine.expire(99.0)
    assert "a" in quarantine
    quarantine.add("a", Entry("model", "low", 199.0, "request 3"))
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
        quarantine.add(str(number), Entry("model", "low", 100.0, ""))
    assert len(quarantine) == 3
    assert [entry["fingerprint"] for entry in quarantine.listed(0.0)] == ["9", "8", "7"]


def test_what_others_have_told_goes_when_its_time_is_over_also_behind_a_longer_one() -> None:
    quarantine = Quarantine(ttl_s=100.0)
    quarantine.add("own", Entry("model", "low", 100.0, ""))
    quarantine.add("told", Entry("model", "low", 30.0, ""))
    quarantine.expire(31.0)
    assert [print_ for print_, _ in quarantine.standing()] == ["own"]
