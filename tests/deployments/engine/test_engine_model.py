"""The engine model: leaps equal steps, tokens and blocks are conserved, vLLM's order is kept."""

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.steptime import StepModel
from deployments.engine.model import (
    EngineFull,
    EngineLimits,
    EngineModel,
    Event,
    EventKind,
    PromptText,
    TooLarge,
    Work,
)
from deployments.engine.model.engine_model import _DECODING, _PREFILLING
from deployments.engine.model.terms import WINDOW_BLOCKS

FIRST, FINISHED, PREEMPTED = EventKind.FIRST_TOKEN, EventKind.FINISHED, EventKind.PREEMPTED
BLOCK = 16

STEPS = StepModel(0.004, 0.008, 3e-5, 5.5e-9, 2e-5, 0.003, 2e-10)
CONSTANT = StepModel(1.0)
ROOMY = EngineLimits(256, 8192, kv_blocks=100_000)


def work(
    number: int,
    prompt: int = 100,
    output: int = 10,
    priority: int = 0,
    text: PromptText | None = None,
    continues: bool = False,
    at_s: float = 0.0,
) -> Work:
    return Work(number, prompt, output, priority, at_s, text, continues)


def run(model: EngineModel, *, checked: bool = True) -> list[Event]:
    """To the end, event by event, with the books checked at each."""
    events: list[Event] = []
    while model.next_event_s() < math.inf:
        events += model.advance(model.next_event_s())
        if checked:
            check_books(model)
    return events


def check_books(model: EngineModel) -> None:
    """Every block is free or held, by one request of its own or as part of a text."""
    cache, window = model.cache, model.limits.window_blocks
    if cache.prefix_caching:
        cache._pop()
    chunks = {id(each): tokens for each, tokens in model._chunks}
    own, decoding, kv = 0, 0, 0
    begins = [0] * BLOCK
    here = [*model._works.values(), *model._leaving]
    for each in here:
        if each.state not in (_DECODING, _PREFILLING):
            continue
        if each.state == _DECODING:
            tokens = each.computed + model._step - each.decode_origin
            decoding, kv = decoding + 1, kv + tokens
            begins[(model._step - tokens) % BLOCK] += 1
            tokens += 1  # the blocks of the plan's first step are taken with the plan
        else:
            tokens = each.computed + chunks.get(id(each), 0)
        own += -(-tokens // BLOCK) + window + each.duplicates - sum(each.shared or ())
    texts = cache._texts.values()
    assert (decoding, kv, begins) == (model._decoding, model._kv_tokens, model._begins)
    assert cache.free + own + sum(text.held for text in texts) == cache.total
    assert cache.free >= 0
    if cache.prefix_caching:
        assert sum(piece.high - piece.low for piece in cache._queue) == cache.free
    for text in texts:
        assert text.held == max(text.users, default=0) <= text.length
        pieces = sorted((piece.low, piece.high) for piece in text.pieces)
        assert sum(high - low for low, high in pieces) == text.length - text.held
        assert not pieces or (pieces[0][0], pieces[-1][1]) == (text.held, text.length)
    backlog = sum(each.to_compute - each.computed for each in here if each.state != _DECODING)
    assert model._prefill_backlog == backlog


# ------------------------------------------------------------------ a random life of a replica


@dataclass
class Act:
    gap_s: float
    kind: str
    number: int = 0
    prompt: int = 1
    output: int = 1
    priority: int = 0
    text: PromptText | None = None
    continues: bool = False
    factor: float = 1.0


def texts() -> st.SearchStrategy[PromptText | None]:
    part = st.tuples(st.sampled_from(["x", "y"]), st.integers(1, 12))
    session = st.tuples(st.integers(0, 3), st.integers(1, 20))
    blocks = st.integers(1, 20).map(lambda n: tuple((("block", i), 1) for i in range(n)))
    return st.one_of(st.none(), st.tuples(part, session), st.tuples(session), blocks)


def acts() -> st.SearchStrategy[list[Act]]:
    # Gaps from a continuous range: the ends of steps are never met exactly, where the last bit of a
    # sum would decide.
    gap_s = st.floats(1e-5, 1.5).map(lambda x: x * 0.761803398874)
    submit = st.builds(
        Act,
        gap_s,
        st.just("submit"),
        prompt=st.integers(1, 500),
        output=st.integers(1, 150),
        priority=st.integers(0, 2),
        text=texts(),
        continues=st.booleans(),
    )
    abort = st.builds(Act, gap_s, st.just("abort"), number=st.integers(0, 30))
    slow = st.builds(Act, gap_s, st.just("slow"), factor=st.sampled_from([0.5, 1.0, 4.0]))
    hang = st.builds(Act, gap_s, st.sampled_from(["halt", "resume"]))
    return st.lists(st.one_of(submit, submit, submit, submit, abort, slow, hang), max_size=20)


@dataclass
class Life:
    """What a model did under a list of acts."""

    events: list[Event] = field(default_factory=list)
    aborted: dict[int, int] = field(default_factory=dict)
    seen: list[int] = field(default_factory=list)
    works: list[Work] = field(default_factory=list)


def live(model: EngineModel, plan: list[Act]) -> Life:
    life, now = Life(), 0.0
    for act in plan:
        now += act.gap_s
        life.events += model.advance(now)
        check_books(model)
        seen = [model.emitted(each, now) for each in life.works]
        assert model.emitted_by_each(life.works, now) == seen
        life.seen += seen
        if act.kind == "submit":
            # A text is only part of the prompt.
            new = work(
                len(life.works), act.prompt, act.output, act.priority, act.text, act.continues, now
            )
            life.works.append(new)
            model.submit(new, now)
        elif act.kind == "abort" and act.number < len(life.works):
            life.aborted.setdefault(act.number, model.abort(act.number, now))
        elif act.kind == "slow":
            model.set_slowdown(act.factor, now)
        elif act.kind == "halt":
            model.halt(now)
        elif act.kind == "resume":
            model.resume(now)
        check_books(model)
    model.resume(now)
    life.events += run(model, checked=model._max_leap > 1)
    return life


@st.composite
def replicas(draw: st.DrawFn) -> EngineLimits:
    return EngineLimits(
        draw(st.sampled_from([1, 3, 16])),
        draw(st.sampled_from([16, 64, 512])),
        kv_blocks=draw(st.sampled_from([72, 100, 300, 5000])),
        prefix_caching=draw(st.booleans()),
    )


@settings(max_examples=200, deadline=None)
@given(replicas(), acts())
def test_leaping_gives_the_same_events_as_step_by_step(
    limits: EngineLimits, plan: list[Act]
) -> None:
    leaping, stepping = EngineModel(STEPS, limits), EngineModel(STEPS, limits, max_leap=1)
    one, other = live(leaping, plan), live(stepping, plan)
    assert [(e.kind, e.work.work_id, e.tokens) for e in one.events] == [
        (e.kind, e.work.work_id, e.tokens) for e in other.events
    ]
    for a, b in zip(one.events, other.events, strict=True):
        assert a.at_s == pytest.approx(b.at_s, abs=1e-9)
    assert one.aborted == other.aborted
    assert one.seen == other.seen
    assert leaping._step == stepping._step


@settings(max_examples=200, deadline=None)
@given(replicas(), acts())
def test_every_request_ends_once_with_all_its_tokens_and_no_block_is_lost(
    limits: EngineLimits, plan: list[Act]
) -> None:
    model = EngineModel(STEPS, limits)
    life = live(model, plan)
    finished = [event for event in life.events if event.kind is FINISHED]
    ends = [event.work.work_id for event in finished]
    gone = {number for number in life.aborted if number not in ends}
    assert sorted(map(str, [*ends, *gone])) == sorted(map(str, range(len(life.works))))
    for event in finished:
        assert event.tokens == event.work.output_tokens == event.work.written
        assert event.work.first_token_s <= event.at_s
    for number in gone:
        assert life.aborted[number] <= life.works[number].output_tokens
    firsts = [event.work.work_id for event in life.events if event.kind is FIRST]
    assert len(set(firsts)) == len(firsts)
    assert set(ends) <= set(firsts)
    times = [event.at_s for event in life.events]
    assert times == sorted(times)
    lost = [event.work.work_id for event in life.events if event.kind is PREEMPTED]
    assert all(each.preemptions == lost.count(each.work_id) for each in life.works)
    assert not model.busy
    assert model.next_event_s() == math.inf
    assert model.cache.free == model.cache.total


# ------------------------------------------------------------------ single rules


def test_an_idle_engine_begins_at_once_and_writes_a_token_a_step() -> None:
    model = EngineModel(CONSTANT, ROOMY)
    one = work(1, output=5)
    model.submit(one, 10.0)
    events = run(model)
    assert [(e.kind, e.at_s, e.tokens) for e in events] == [(FIRST, 11.0, 1), (FINISHED, 15.0, 5)]


def test_tokens_so_far_are_known_in_the_middle_of_a_leap() -> None:
    model = EngineModel(CONSTANT, ROOMY)
    one = work(1, output=50)
    model.submit(one, 0.0)
    model.advance(1.0)
    assert [model.emitted(one, at) for at in (1.0, 1.9, 2.0, 30.5)] == [1, 1, 2, 30]
    assert model.next_event_s() == 50.0


def test_who_comes_in_the_middle_of_a_step_sits_out_the_next_one_too() -> None:
    model = EngineModel(CONSTANT, ROOMY)
    model.submit(work(1, output=50), 0.0)
    model.advance(10.5)
    late = work(2)
    model.submit(late, 10.5)
    model.advance(100.0)
    # In flight until 11; then the step that was scheduled meanwhile; then its own.
    assert late.first_token_s == 13.0


def test_a_long_prompt_is_computed_in_chunks_beside_the_decoding_requests() -> None:
    model = EngineModel(CONSTANT, EngineLimits(8, 100, kv_blocks=10_000))
    one, long = work(1, prompt=50, output=200), work(2, prompt=950, output=3)
    model.submit(one, 0.0)
    model.submit(long, 0.5)
    model.advance(1e3)
    # One of a step's 100 tokens is the other's: 950 take 10 steps, from 2 on.
    assert long.first_token_s == 12.0


def test_a_step_takes_what_the_step_model_says() -> None:
    model = EngineModel(STEPS, ROOMY)
    one, two = work(1, prompt=1000, output=3), work(2, prompt=500, output=3)
    model.submit(one, 0.0)
    model.submit(two, 0.0)
    first_s = STEPS.step_s(0, 0, 1000, 500_000)
    second_s = STEPS.step_s(1, 1000)
    third_s = STEPS.step_s(1, 1001, 500, 125_000)
    events = run(model)
    assert [event.at_s for event in events[:3]] == pytest.approx(
        [first_s, first_s + second_s + third_s, first_s + second_s + third_s]
    )
    assert [(e.kind, e.work.work_id) for e in events[:3]] == [(FIRST, 1), (FINISHED, 1), (FIRST, 2)]


def test_waiting_requests_begin_by_priority_then_by_arrival() -> None:
    model = EngineModel(CONSTANT, EngineLimits(1, 8192, kv_blocks=10_000))
    model.submit(work(0, output=10), 0.0)
    for number, priority in ((1, 2), (2, 0), (3, 1), (4, 0)):
        model.advance(0.1 * number)
        model.submit(work(number, priority=priority, at_s=0.1 * number), 0.1 * number)
    firsts = [e.work.work_id for e in run(model) if e.kind is FIRST]
    assert firsts == [0, 2, 4, 3, 1]


def test_without_blocks_the_latest_of_the_lowest_priority_is_computed_again() -> None:
    # 40 blocks for 2 requests that grow to 21 + 9 each, and one of higher priority.
    model = EngineModel(CONSTANT, EngineLimits(8, 8192, kv_blocks=46, prefix_caching=False))
    high = work(0, prompt=100, output=230, priority=0)
    low = work(1, prompt=100, output=230, priority=1, at_s=0.1)
    model.submit(high, 0.0)
    model.submit(low, 0.1)
    events = run(model)
    assert (high.preemptions, low.preemptions) == (0, 1)
    lost = next(event for event in events if event.kind is PREEMPTED)
    assert lost.work is low
    assert 0 < lost.tokens < 230
    # It waits for the other's blocks, computes prompt and tokens again, and goes on where it was.
    ends = [event for event in events if event.kind is FINISHED]
    assert [event.work for event in ends] == [high, low]
    assert ends[1].at_s - ends[0].at_s == 230 - lost.tokens


def test_preempted_tokens_count_as_prompt_again() -> None:
    made: list[tuple[int, int]] = []
    limits = EngineLimits(8, 8192, kv_blocks=46, prefix_caching=False)
    model = EngineModel(
        CONSTANT, limits, watch=lambda seqs, kv, prefill, pairs, steps: made.append((seqs, prefill))
    )
    model.submit(work(0, prompt=100, output=230), 0.0)
    model.submit(work(1, prompt=100, output=230, priority=1), 0.1)
    (lost,) = (event for event in run(model) if event.kind is PREEMPTED)
    assert [prefill for _, prefill in made if prefill] == [100, 100, 100 + lost.tokens]


@pytest.mark.parametrize(
    "text",
    [
        (("system", 20), ("session", 42)),
        tuple((("block", number), 1) for number in range(62)),
    ],
    ids=["texts", "block hashes"],
)
def test_a_prompt_that_begins_like_an_earlier_one_is_computed_in_part(text: PromptText) -> None:
    model = EngineModel(STEPS, ROOMY)
    first, second = work(1, prompt=1000, text=text), work(2, prompt=1000, text=text)
    model.submit(first, 0.0)
    run(model)
    model.submit(second, 100.0)
    run(model)
    assert (first.cached_tokens, second.cached_tokens) == (0, 62 * BLOCK)
    assert second.first_token_s - 100.0 < 0.5 * first.first_token_s


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    model = EngineModel(STEPS, ROOMY)
    for number in (1, 2):
        model.submit(work(number, prompt=4 * BLOCK, text=(("x", 4),)), 10.0 * number)
        run(model)
    assert model.cache.match((("x", 4),), 4) == (4, 4)
    again = work(3, prompt=4 * BLOCK, text=(("x", 4),))
    model.submit(again, 100.0)
    run(model)
    assert again.cached_tokens == 3 * BLOCK


def test_a_session_finds_its_own_answer_again() -> None:
    model = EngineModel(STEPS, ROOMY)
    model.submit(work(1, prompt=160, output=161, text=((7, 10),), continues=True), 0.0)
    run(model)
    turn = work(2, prompt=500, output=10, text=((7, 31),), continues=True)
    model.submit(turn, 100.0)
    run(model)
    assert turn.cached_tokens == 320  # the last token was written, but is not in the cache


def test_requests_at_the_same_time_share_the_blocks_of_a_prefix() -> None:
    model = EngineModel(STEPS, ROOMY)
    model.submit(work(0, prompt=1600, output=500, text=(("x", 100),)), 0.0)
    model.advance(1.0)
    for number in range(1, 5):
        model.submit(work(number, prompt=1610, output=500, text=(("x", 100),)), 1.0)
    model.advance(2.0)
    check_books(model)
    used = model.cache.total - model.cache.free
    assert used < 100 + 5 * (WINDOW_BLOCKS + 14)


def test_what_was_used_longest_ago_is_forgotten_first_and_ends_before_beginnings() -> None:
    model = EngineModel(CONSTANT, EngineLimits(4, 8192, kv_blocks=100))
    cache = model.cache
    for number, name in enumerate("abc"):
        model.submit(work(number, prompt=20 * BLOCK, output=1, text=((name, 20),)), 10.0 * number)
        run(model)
    kept = {name: cache.match(((name, 20),), 20)[0] for name in "abc"}
    assert kept["a"] < kept["b"] <= kept["c"] == 20
    # A prompt that needs 60 blocks more leaves less of them, the newest last.
    model.submit(work(9, prompt=60 * BLOCK, output=1), 100.0)
    run(model)
    left = {name: cache.match(((name, 20),), 20)[0] for name in "abc"}
    assert left["a"] == 0
    assert left["b"] <= left["c"]


def test_without_prefix_caching_nothing_is_found_again() -> None:
    model = EngineModel(STEPS, EngineLimits(8, 8192, kv_blocks=1000, prefix_caching=False))
    for number in (1, 2):
        again = work(number, prompt=1000, text=(("x", 62),))
        model.submit(again, 100.0 * number)
        run(model)
        assert again.cached_tokens == 0


@pytest.mark.parametrize("at_s", [0.5, 5.5, 200.0])
def test_an_abort_frees_what_a_request_holds_after_the_step_in_flight(at_s: float) -> None:
    # At 0.5 s its prompt is being computed, at 5.5 s it decodes; 2 waits for its seat.
    model = EngineModel(CONSTANT, EngineLimits(1, 8192, kv_blocks=100))
    one, two = work(1, output=100), work(2, output=100)
    model.submit(one, 0.0)
    model.submit(two, 0.1)
    assert model.abort(3, 0.2) == 0
    events = model.advance(at_s)
    assert model.abort(1, at_s) == (int(at_s) if at_s < 100 else 0)
    assert model.abort(1, at_s) == 0
    events += run(model)
    finished = {event.work.work_id: event.at_s for event in events if event.kind is FINISHED}
    assert (1 in finished) == (at_s > 100)
    if at_s < 100:
        assert two.first_token_s == math.ceil(at_s) + 1
    assert model.cache.free == model.cache.total


def test_an_abort_of_one_that_waits_leaves_the_others_alone() -> None:
    model = EngineModel(CONSTANT, EngineLimits(1, 8192, kv_blocks=100))
    for number in range(4):
        model.submit(work(number, output=10), 0.1 * number)
    model.abort(1, 0.5)  # not seen by the scheduler yet
    model.advance(5.0)
    model.abort(2, 5.5)
    assert model.load(5.5).waiting == 1
    finished = [event.work.work_id for event in run(model) if event.kind is FINISHED]
    assert finished == [0, 3]


def test_a_slow_replica_takes_longer_from_the_next_step_on() -> None:
    model = EngineModel(CONSTANT, ROOMY)
    model.submit(work(1, output=10), 0.0)
    model.advance(3.5)
    model.set_slowdown(3.0, 3.5)
    assert run(model)[-1].at_s == 4.0 + 6 * 3.0


def test_a_hanging_replica_goes_on_where_it_was() -> None:
    model = EngineModel(CONSTANT, ROOMY)
    one = work(1, output=10)
    model.submit(one, 0.0)
    model.advance(3.5)
    model.halt(3.5)
    assert model.next_event_s() == math.inf
    assert model.advance(100.0) == []
    assert model.emitted(one, 100.0) == 3
    model.submit(work(2, output=1), 50.0)
    model.resume(1000.0)
    assert [event.at_s for event in run(model) if event.work is one] == [1006.5]


def test_requests_that_come_while_it_hangs_run_when_it_goes_on() -> None:
    model = EngineModel(CONSTANT, ROOMY)
    model.halt(0.0)
    one = work(1, output=2)
    model.submit(one, 5.0)
    assert model.next_event_s() == math.inf
    model.resume(10.0)
    run(model)
    assert one.first_token_s == 11.0


def test_a_request_that_never_fits_is_refused_and_so_is_one_too_many() -> None:
    model = EngineModel(CONSTANT, EngineLimits(1, 64, kv_blocks=20, max_waiting=1))
    with pytest.raises(TooLarge):
        model.submit(work(1, prompt=1, output=11 * BLOCK + 1), 0.0)
    model.submit(work(2, prompt=1, output=11 * BLOCK), 0.0)
    model.submit(work(3), 0.0)
    with pytest.raises(EngineFull):
        model.submit(work(4), 0.0)
    with pytest.raises(ValueError, match="already"):
        model.submit(work(2), 0.0)
    assert [e.work.work_id for e in run(model) if e.kind is FINISHED] == [2, 3]


def test_the_load_tells_who_runs_and_waits_and_what_is_left_to_compute() -> None:
    model = EngineModel(CONSTANT, EngineLimits(2, 100, kv_blocks=200))
    for number in range(4):
        model.submit(work(number, prompt=150, output=50), 0.0)
    assert model.load(0.5).running == 1
    model.advance(10.5)
    load = model.load(10.5)
    assert (load.running, load.waiting, load.prefill_tokens) == (2, 2, 300)
    assert load.step_s == pytest.approx(1.0)
    assert load.kv_use == pytest.approx(1 - load.kv_free_tokens / BLOCK / 200)
    blocks = 2 * WINDOW_BLOCKS + 2 * -(-160 // BLOCK)
    assert load.kv_use == pytest.approx(blocks / 200, abs=2 / 200)
    run(model)
    load = model.load(1e9)
    assert (load.running, load.waiting, load.kv_use, load.prefill_tokens) == (0, 0, 0.0, 0)
