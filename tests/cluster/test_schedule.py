"""Schedules in words, and what they mean at a moment."""

from datetime import datetime

import pytest

from cluster.schedule import bounds, parse_rule


@pytest.mark.parametrize(
    ("text", "at", "holds"),
    [
        ("weekdays 08:00-19:00 >= 4", "2026-01-05 08:00", True),
        ("weekdays 08:00-19:00 >= 4", "2026-01-05 19:00", False),
        ("weekdays 08:00–19:00 ≥ 4", "2026-01-10 12:00", False),
        ("weekends 00:00-24:00 <= 2", "2026-01-10 23:59", True),
        ("daily 22:00-06:00 <= 2", "2026-01-05 05:59", True),
        ("daily 22:00-06:00 <= 2", "2026-01-05 12:00", False),
        ("monday 22:00-06:00 >= 2", "2026-01-06 03:00", True),
        ("monday 22:00-06:00 >= 2", "2026-01-05 03:00", False),
        ("sunday 22:00-24:00 >= 2", "2026-01-11 23:00", True),
    ],
)
def test_a_rule_holds_in_its_hours_on_its_days(text: str, at: str, holds: bool) -> None:
    assert parse_rule(text).holds(datetime.fromisoformat(at)) is holds


@pytest.mark.parametrize(
    "text", ["", "weekdays >= 4", "someday 08:00-19:00 >= 4", "daily 8-19 >= 4",
             "daily 25:00-26:00 >= 1", "daily 08:00-19:00 == 4", "daily 08:00-19:00 >= -1"],
)  # fmt: skip
def test_what_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_rule(text)


def test_rules_tighten_the_bounds_and_the_least_wins() -> None:
    noon = datetime(2026, 1, 5, 12)
    rules = tuple(parse_rule(text) for text in ("daily 08:00-19:00 >= 6", "daily 00:00-24:00 <= 4"))
    found = bounds(rules, 1, 10, noon)
    assert (found.at_least, found.at_most, found.least_by) == (6, 6, rules[0].text)
    night = bounds(rules, 1, 10, datetime(2026, 1, 5, 3))
    assert (night.at_least, night.at_most, night.most_by) == (1, 4, rules[1].text)
    assert bounds(rules, 1, 5, noon).at_least == 5
