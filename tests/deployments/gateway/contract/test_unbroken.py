"""What the run check lets through must be cheap for Harmony's real tokenizer."""

import base64
import json
import random
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai_harmony import HarmonyEncodingName, load_harmony_encoding

from cluster.errors import InvalidRequest
from deployments.gateway.contract.body import texts_of
from deployments.gateway.contract.unbroken import UnbrokenRuns

LIMIT = 4000

TRICKS = {
    "accents": "é" * 100_000,
    "combining marks": "e\u0301" * 50_000,
    "marks alone": "\u0301" * 100_000,
    "marks on punctuation": "!\u0301" * 50_000,
    "han": "漢" * 100_000,
    "letters of a new Unicode": "漢\U000323b0" * 50_000,
    "spaces": " " * 100_000,
    "other blanks": "\u3000\t" * 50_000,
    "letters": "x" * 100_000,
    "capitals": "X" * 100_000,
    "thai": "ก" * 100_000,
    "emoji": "😀" * 100_000,
    "punctuation": "!?" * 50_000,
    "dashes": "-" * 100_000,
    "newlines": "\n" * 100_000,
    "blank lines": " \n" * 50_000,
    "slashes and newlines": "!" + "/\n" * 50_000,
    "within prose": "Some prose. " * 1000 + "漢" * 4001 + " and more." * 1000,
    "many that are just allowed": ("漢" * LIMIT + " ") * 20,
    "very many shorter ones": ("漢" * 300 + " ") * 4000,
}

PROSE = (
    "The quick brown fox, which had never been seen before in these woods, jumped over 13 lazy "
    "dogs; nobody (not even the farmer's wife) could say why. "
)
HARMLESS: dict[str, Callable[[], str]] = {
    "prose": lambda: PROSE * 5000,
    "chinese prose": lambda: "人工智能正在改变世界，我们需要理解它的影响。" * 5000,
    "japanese prose": lambda: (
        "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。" * 5000
    ),
    "thai prose": lambda: "ภาษาไทยเป็นภาษาที่มีระดับเสียงของคำแน่นอนหรือวรรณยุกต์ " * 3000,
    "german": lambda: (
        "Donaudampfschifffahrtsgesellschaftskapitän und Rindfleischetikettierung, " * 3000
    ),
    "code": lambda: "    def f(self, x: int) -> list[int]:\n        return [x] * 3\n\n" * 5000,
    "indented": lambda: (" " * 120 + "x\n") * 2000,
    "minified json": lambda: json.dumps(
        [{"id": i, "name": f"n{i}", "ok": True} for i in range(20_000)], separators=(",", ":")
    ),
    "base64": lambda: base64.b64encode(random.Random(5).randbytes(300_000)).decode(),
    "hex": lambda: random.Random(5).randbytes(200_000).hex(),
    "digits": lambda: "0123456789" * 30_000,
    "rules": lambda: ("=" * 100 + "\n") * 2000,
    "url": lambda: "https://example.org/" + "/".join(f"part{i}" for i in range(20_000)),
    "one long word": lambda: "x" * LIMIT,
}


def check(text: str) -> None:
    UnbrokenRuns(LIMIT, "messages").check([text])


@pytest.mark.parametrize("name", TRICKS)
def test_what_stalls_the_tokenizer_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check(TRICKS[name])
    assert caught.value.code == "unbroken_run_too_long"
    assert caught.value.param == "messages"
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("name", HARMLESS)
def test_what_people_write_passes(name: str) -> None:
    check(HARMLESS[name]())


def test_the_limit_is_exact() -> None:
    for before in (0, 1, 127, 128, 129, 4001):
        check("a " * before + "x" * LIMIT + " a" * 300)
        with pytest.raises(InvalidRequest):
            check("a " * before + "x" * (LIMIT + 1) + " a" * 300)


def test_a_million_characters_are_checked_in_milliseconds() -> None:
    for text in (PROSE * 7000, "人工智能正在改变世界，我们需要理解它的影响。" * 48_000):
        spent = []
        for _ in range(5):
            start = time.perf_counter()
            check(text[:1_000_000])
            spent.append(time.perf_counter() - start)
        assert min(spent) < 0.03


ALPHABET = "aZé漢ก\u0301\U000323b0 \u3000\t\n\r/!?-_'7½😀"
PIECES = st.lists(
    st.tuples(st.text(ALPHABET, min_size=1, max_size=4), st.integers(1, LIMIT)), max_size=12
)


@pytest.fixture(scope="module")
def encode() -> Callable[[str], object]:
    encoding = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
    return lambda text: encoding.encode(text, disallowed_special=())


@settings(max_examples=150, deadline=None)
@given(PIECES)
def test_what_passes_is_encoded_at_once(
    encode: Callable[[str], object], pieces: list[tuple[str, int]]
) -> None:
    text = "".join(unit * times for unit, times in pieces)
    try:
        check(text)
    except InvalidRequest:
        return
    start = time.thread_time()
    encode(text)
    # The budget of long runs is some 0.4 s, ordinary text takes 0.1 s a megabyte.
    assert time.thread_time() - start < 1.5


def test_texts_come_from_everywhere_and_parts_come_joined() -> None:
    body = {
        "a": "1",
        "b": [{"text": "2", "c": {"d": ["3", "4"]}}, {"text": "5"}],
        "c": [{"thinking": "6"}, 7, {"thinking": "8"}],
    }
    texts = set(texts_of(body))
    assert {"a", "b", "text", "1", "2", "3", "4", "5", "6", "8"} <= texts
    assert {"25", "34", "68"} <= texts


def test_a_deep_body_is_refused() -> None:
    body: dict[str, object] = {}
    for _ in range(200):
        body = {"a": [body]}
    with pytest.raises(InvalidRequest, match="nested"):
        list(texts_of(body))
