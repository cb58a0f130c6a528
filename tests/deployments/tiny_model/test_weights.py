"""The model directory: made once, safely, and with the real tokenizer."""

import json
import multiprocessing
import time
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from deployments.tiny_model import make_tiny_model
from tests.deployments.tiny_model.prompts import ENCODING, chat

_STRINGS = [
    "Hello, world! It's 3.14159 o'clock; don't we'll I'M",
    "  leading and   inner\tspaces \n\n\r\n and trailing  ",
    "你好，世界。漢字かな交じり文 한국어 조각",
    "🙂🚣‍♀️ família naïve Ελληνικά Русский العربية हिन्दी",
    "def f(x):\n    return x ** 2  # square\n",
    "<|not special|> <|end <|start|",
    "",
]


@pytest.fixture(scope="module")
def tokenizer(model_directory: Path) -> Tokenizer:
    return Tokenizer.from_file(str(model_directory / "tokenizer.json"))


@pytest.mark.parametrize("text", _STRINGS)
def test_the_tokenizer_equals_harmonys(tokenizer: Tokenizer, text: str) -> None:
    tokens = ENCODING.encode(text, disallowed_special=())
    assert tokenizer.encode(text).ids == tokens
    assert tokenizer.decode(tokens) == text


@given(text=st.text(max_size=60))
@settings(deadline=None)
def test_the_tokenizer_equals_harmonys_on_any_text(tokenizer: Tokenizer, text: str) -> None:
    # The one name that gpt-oss's own tokenizer has and oss-harmony has not.
    assume("<|endofprompt|>" not in text)
    assert tokenizer.encode(text).ids == ENCODING.encode(text, allowed_special="all")


def test_special_tokens_have_harmonys_ids(tokenizer: Tokenizer) -> None:
    prompt = chat("Row on!")
    rendered = ENCODING.decode(prompt)
    assert "<|start|>user<|message|>Row on!<|end|>" in rendered
    assert tokenizer.encode(rendered).ids == prompt
    assert tokenizer.decode(prompt, skip_special_tokens=False) == rendered
    for name, token in (("<|return|>", 200002), ("<|call|>", 200012), ("<|constrain|>", 200003)):
        assert tokenizer.token_to_id(name) == token


def test_stop_tokens_stand_in_the_generation_config(model_directory: Path) -> None:
    config = json.loads((model_directory / "generation_config.json").read_text())
    assert config["eos_token_id"] == [200002, 199999, 200012]


def test_a_complete_directory_is_reused(model_directory: Path) -> None:
    before = (model_directory / "model.safetensors").stat().st_mtime_ns
    begun_s = time.monotonic()
    assert make_tiny_model(model_directory) == model_directory
    assert time.monotonic() - begun_s < 0.5
    assert (model_directory / "model.safetensors").stat().st_mtime_ns == before


def test_two_processes_that_race_for_a_stale_directory_leave_one_good_copy(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "tiny_model.json").write_text('{"version": 0}')
    (directory / "leftover").touch()
    context = multiprocessing.get_context("spawn")
    racers = [context.Process(target=make_tiny_model, args=(directory,)) for _ in range(2)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(120)
    assert [racer.exitcode for racer in racers] == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    assert sorted(path.name for path in directory.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tiny_model.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert make_tiny_model(directory) == directory
