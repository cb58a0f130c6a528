"""The rules of batches: whose line is next, what an attempt comes to, what a batch is called."""

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from cluster.batches.states import (
    MAX_ATTEMPTS,
    MAX_PAUSE_S,
    Outcome,
    Phase,
    Status,
    Waiting,
    judge,
    next_lines,
    status_of,
    why_over,
)


def test_every_state_has_one_of_openais_names() -> None:
    told = {status_of(phase, outcome) for phase in get_args(Phase) for outcome in get_args(Outcome)}
    assert told == set(get_args(Status))
    assert status_of("running", "") == "in_progress"
    assert status_of("running", "cancelled") == status_of("ending", "cancelled") == "cancelling"
    assert status_of("ending", "expired") == "finalizing"


def test_the_tenant_with_the_fewest_lines_in_work_goes_first() -> None:
    waiting = [
        Waiting("old", "a", 1.0, 100),
        Waiting("new", "a", 2.0, 100),
        Waiting("only", "b", 3.0, 100),
    ]
    assert next_lines(waiting, {}, 10) == {"old": 5, "only": 5}
    assert next_lines(waiting, {"a": 4}, 10) == {"only": 7, "old": 3}
    assert next_lines(waiting, {}, 0) == {}
    assert next_lines([], {"a": 4}, 10) == {}


def test_the_oldest_batch_of_a_tenant_is_emptied_first() -> None:
    waiting = [Waiting("new", "a", 2.0, 5), Waiting("old", "a", 1.0, 3), Waiting("no", "a", 0, 0)]
    assert next_lines(waiting, {}, 7) == {"old": 3, "new": 4}


BATCHES = st.lists(
    st.builds(
        Waiting,
        st.uuids().map(str),
        st.sampled_from("abc"),
        st.floats(0, 1e9),
        st.integers(0, 30),
    ),
    max_size=12,
    unique_by=lambda each: each.batch_id,
)


@given(BATCHES, st.dictionaries(st.sampled_from("abc"), st.integers(0, 50)), st.integers(0, 64))
def test_no_place_stays_empty_and_no_line_is_given_twice(
    waiting: list[Waiting], running: dict[str, int], room: int
) -> None:
    chosen = next_lines(waiting, running, room)
    free = {each.batch_id: each.free_lines for each in waiting}
    assert sum(chosen.values()) == min(room, sum(free.values()))
    assert all(0 < count <= free[batch_id] for batch_id, count in chosen.items())
    # Nobody with lines left is more than one place behind a tenant that got one.
    given_to: dict[str, int] = {}
    left: dict[str, int] = {}
    for each in waiting:
        got = chosen.get(each.batch_id, 0)
        given_to[each.tenant] = given_to.get(each.tenant, 0) + got
        left[each.tenant] = left.get(each.tenant, 0) + each.free_lines - got
    for poor, remaining in left.items():
        for rich, got in given_to.items():
            if remaining and got and rich != poor:
                poors = running.get(poor, 0) + given_to[poor]
                assert running.get(rich, 0) + got <= poors + 1


def test_an_answer_is_final_and_a_refusal_for_now_is_not() -> None:
    assert judge(200, attempts=0).ok
    for status in (400, 401, 403, 404, 413, 422):
        verdict = judge(status, attempts=0)
        assert not verdict.ok
        assert verdict.pause_s is None
    for status in (408, 429, 499, 503):
        for attempts in (0, 2, 1000):
            verdict = judge(status, attempts=attempts, retry_after_s=7.0)
            assert (verdict.pause_s, verdict.counted) == (7.0, False)


@given(st.integers(100, 599), st.integers(0, 5000), st.one_of(st.none(), st.floats(0, 1e9)))
def test_a_fault_of_ours_is_tried_so_often_and_no_pause_is_long(
    status: int, attempts: int, retry_after_s: float | None
) -> None:
    verdict = judge(status, attempts=attempts, retry_after_s=retry_after_s)
    assert verdict.pause_s is None or 0 < verdict.pause_s <= MAX_PAUSE_S
    if status >= 500 and status != 503:
        assert (verdict.pause_s is None) == (attempts + 1 >= MAX_ATTEMPTS)
    forbidden = judge(status, attempts=attempts, retry_after_s=retry_after_s, may_retry=False)
    assert forbidden.pause_s is None


def test_a_line_without_an_answer_says_why() -> None:
    assert why_over("cancelled")[0] == "batch_cancelled"
    assert why_over("expired")[0] == "batch_expired"
