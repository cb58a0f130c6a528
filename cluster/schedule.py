"""Sizes by the clock: ``weekdays 08:00-19:00 >= 4``."""

import re
from dataclasses import dataclass
from datetime import datetime, time

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_GROUPS = {
    "daily": frozenset(range(7)),
    "weekdays": frozenset(range(5)),
    "weekends": frozenset((5, 6)),
    **{name: frozenset((index,)) for index, name in enumerate(DAYS)},
}

_RULE = re.compile(
    r"(?P<days>[a-z]+)\s+(?P<from>\d\d:\d\d)\s*[-–]\s*(?P<to>\d\d:\d\d)\s*"
    r"(?P<sign>>=|<=|≥|≤)\s*(?P<count>\d{1,4})"
)

HOW_TO_SCHEDULE = (
    "write it as 'weekdays 08:00-19:00 >= 4' (or daily, weekends, a day's name; or <= 4)"
)


@dataclass(frozen=True, slots=True)
class Rule:
    """On ``days`` (0: Monday) from ``start`` until before ``end``; over midnight if that is
    earlier, and then it belongs to the day on which it begins. Equal times mean the whole day."""

    days: frozenset[int]
    start: time
    end: time
    at_least: int | None
    at_most: int | None
    text: str

    def holds(self, at: datetime) -> bool:
        clock, day = at.time(), at.weekday()
        if self.start == self.end:
            return day in self.days
        if self.start < self.end:
            return day in self.days and self.start <= clock < self.end
        return (day in self.days and clock >= self.start) or (
            (day - 1) % 7 in self.days and clock < self.end
        )


def parse_rule(text: str) -> Rule:
    """Raises ``ValueError`` that says what is wrong with the text."""
    found = _RULE.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError(f"'{text[:60]}' is no schedule")
    days = _GROUPS.get(found["days"])
    if days is None:
        raise ValueError(f"'{found['days']}' is no day")
    count = int(found["count"])
    least = found["sign"] in (">=", "≥")
    return Rule(
        days,
        _time(found["from"]),
        _time(found["to"]),
        count if least else None,
        None if least else count,
        text.strip(),
    )


def _time(text: str) -> time:
    hours, minutes = (int(each) for each in text.split(":"))
    if hours == 24 and minutes == 0:
        return time(0, 0)
    if hours > 23 or minutes > 59:
        raise ValueError(f"'{text}' is no time of the day")
    return time(hours, minutes)


@dataclass(frozen=True, slots=True)
class Bounds:
    """The least and the most replicas now, and what says so."""

    at_least: int
    at_most: int
    least_by: str = "min_replicas"
    most_by: str = "max_replicas"


def bounds(rules: tuple[Rule, ...], at_least: int, at_most: int, now: datetime) -> Bounds:
    """``at_least`` and ``at_most`` as the rules that hold ``now`` tighten them. Where two rules
    exclude each other, the least wins: it is there to keep a promise, the most to save money."""
    least, most, least_by, most_by = at_least, at_most, "min_replicas", "max_replicas"
    for rule in rules:
        if not rule.holds(now):
            continue
        if rule.at_least is not None and rule.at_least > least:
            least, least_by = rule.at_least, rule.text
        if rule.at_most is not None and rule.at_most < most:
            most, most_by = rule.at_most, rule.text
    least = min(least, at_most)
    return Bounds(least, max(least, most), least_by, most_by)
