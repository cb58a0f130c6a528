"""Who holds which prompt prefix: the longest is found, the oldest forgotten, memory is bounded."""

from collections import OrderedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from deployments.router import prefixes
from deployments.router.prefixes import BLOCK_TOKENS, PrefixIndex, block_hashes

ROOMY = 10**9


def prompt(*parts: int) -> list[int]:
    """A prompt of whole blocks, and one token more."""
    return [token for part in parts for token in [part] * BLOCK_TOKENS] + [0]


def blocks(*parts: int) -> tuple[int, ...]:
    return block_hashes(prompt(*parts))


# ------------------------------------------------------------------ hashes


@settings(max_examples=200)
@given(st.lists(st.integers(0, 200_000), max_size=6 * BLOCK_TOKENS))
def test_each_whole_block_before_the_last_token_has_a_hash(tokens: list[int]) -> None:
    assert len(block_hashes(tokens)) == max(0, len(tokens) - 1) // BLOCK_TOKENS


@settings(max_examples=200)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=6),
    st.lists(st.integers(0, 3), min_size=1, max_size=6),
)
def test_hashes_are_equal_as_far_as_the_prefixes_are(one: list[int], other: list[int]) -> None:
    common = 0
    while common < min(len(one), len(other)) and one[common] == other[common]:
        common += 1
    for index, (first, second) in enumerate(zip(blocks(*one), blocks(*other), strict=False)):
        assert (first == second) == (index < common)


def test_prompts_of_different_salts_share_no_block() -> None:
    tokens = prompt(1, 2, 3)
    plain, one, other = (block_hashes(tokens, salt) for salt in ("", "one", "other"))
    assert len(plain) == len(one) == 3
    assert not set(plain) & set(one)
    assert not set(one) & set(other)
    assert block_hashes(tokens, "one") == one


def test_the_same_block_after_another_beginning_is_another_block() -> None:
    assert blocks(1, 7)[1] != blocks(2, 7)[1]


def test_a_change_inside_a_block_changes_it_and_all_that_follow() -> None:
    tokens = prompt(1, 2, 3)
    changed = list(tokens)
    changed[BLOCK_TOKENS + 5] += 1
    before, after = block_hashes(tokens), block_hashes(changed)
    assert before[0] == after[0]
    assert before[1] != after[1]
    assert before[2] != after[2]


# ------------------------------------------------------------------ matches


def test_each_replica_is_matched_as_far_as_it_holds_the_prompt() -> None:
    index = PrefixIndex()
    index.record(blocks(1, 2, 3, 4), "whole", ROOMY)
    index.record(blocks(1, 2, 9), "half", ROOMY)
    index.record(blocks(8, 2, 3), "other", ROOMY)
    found = index.match(blocks(1, 2, 3, 4, 5))
    assert found == {"whole": 4 * BLOCK_TOKENS, "half": 2 * BLOCK_TOKENS}
    assert index.match(blocks(5)) == {}
    assert index.match(()) == {}


def test_a_replica_that_is_forgotten_matches_nothing_and_leaves_the_others() -> None:
    index = PrefixIndex()
    index.record(blocks(1, 2), "a", ROOMY)
    index.record(blocks(1), "b", ROOMY)
    index.forget("a")
    assert index.match(blocks(1, 2)) == {"b": BLOCK_TOKENS}
    assert len(index) == 1
    index.forget("a")
    index.forget("nobody")
    index.forget("b")
    assert (len(index), index.match(blocks(1, 2))) == (0, {})


# ------------------------------------------------------------------ bounds


def test_a_replica_holds_no_more_than_its_kv_cache_and_the_oldest_goes_first() -> None:
    index = PrefixIndex()
    for part in range(10):
        index.record(blocks(part), "a", 4 * BLOCK_TOKENS)
    assert len(index) == 4
    held = [part for part in range(10) if index.match(blocks(part))]
    assert held == [6, 7, 8, 9]


def test_of_a_prompt_that_is_too_long_the_beginning_is_kept() -> None:
    index = PrefixIndex()
    index.record(blocks(1, 2, 3, 4, 5), "a", 3 * BLOCK_TOKENS)
    assert index.match(blocks(1, 2, 3, 4, 5)) == {"a": 3 * BLOCK_TOKENS}


def test_what_is_used_again_is_kept() -> None:
    index = PrefixIndex()
    for part in (1, 2, 3, 1, 4):
        index.record(blocks(part), "a", 3 * BLOCK_TOKENS)
    assert [part for part in (1, 2, 3, 4) if index.match(blocks(part))] == [1, 3, 4]


def test_one_replicas_bound_does_not_make_another_forget() -> None:
    index = PrefixIndex()
    index.record(blocks(1), "a", ROOMY)
    for part in range(1, 9):
        index.record(blocks(part), "b", 2 * BLOCK_TOKENS)
    assert index.match(blocks(1)) == {"a": BLOCK_TOKENS}


def test_memory_is_bounded_however_large_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "MAX_BLOCKS_PER_REPLICA", 50)
    index = PrefixIndex()
    for part in range(0, 2_000, 4):
        index.record(blocks(part, part + 1, part + 2, part + 3), f"r{part % 3}", ROOMY)
    assert len(index) == 150
    assert len(index._holders) <= 150


class IndexMachine(RuleBasedStateMachine):
    """Against a plain model: for each replica, its blocks in the order of their last use."""

    def __init__(self) -> None:
        super().__init__()
        self.index = PrefixIndex()
        self.held: dict[str, OrderedDict[int, None]] = {}

    @rule(
        parts=st.lists(st.integers(0, 2), min_size=1, max_size=5),
        replica_id=st.sampled_from("abc"),
        room=st.sampled_from([0, 2, 6]),
    )
    def record(self, parts: list[int], replica_id: str, room: int) -> None:
        self.index.record(blocks(*parts), replica_id, room * BLOCK_TOKENS)
        held = self.held.setdefault(replica_id, OrderedDict())
        for block in reversed(blocks(*parts)):  # the end of a prompt is forgotten first
            held[block] = None
            held.move_to_end(block)
        while len(held) > room:
            held.popitem(last=False)

    @rule(replica_id=st.sampled_from("abcd"))
    def forget(self, replica_id: str) -> None:
        self.index.forget(replica_id)
        self.held.pop(replica_id, None)

    @rule(parts=st.lists(st.integers(0, 2), min_size=1, max_size=5))
    def match(self, parts: list[int]) -> None:
        expected = {}
        for replica_id, held in self.held.items():
            depth = 0
            for block in blocks(*parts):
                if block not in held:
                    break
                depth += 1
            if depth:
                expected[replica_id] = depth * BLOCK_TOKENS
        assert self.index.match(blocks(*parts)) == expected

    @invariant()
    def nothing_is_kept_beyond_what_is_held(self) -> None:
        assert len(self.index) == sum(map(len, self.held.values()))
        distinct = {block for held in self.held.values() for block in held}
        assert set(self.index._holders) == distinct


TestIndexMachine = IndexMachine.TestCase
TestIndexMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
