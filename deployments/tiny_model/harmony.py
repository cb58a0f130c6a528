"""Harmony as token ids: the vocabulary, and reading a prompt up to the turn to be spoken."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

RETURN = 200002
CONSTRAIN = 200003
CHANNEL = 200005
START = 200006
END = 200007
MESSAGE = 200008
CALL = 200012
FIRST_SPECIAL = 199998
"""Ids from here up are special tokens (openai/gpt-oss-120b, tokenizer.json)."""

# One-token words of Harmony headers in the o200k vocabulary.
ASSISTANT = 173781
ANALYSIS = 35644
FINAL = 17196
_SYSTEM = 17360
_DEVELOPER = 77944
_USER = 1428

# A reply to plain text opens with this one-token mark, so that it can be found again in a prompt.
RAW_OPENING = " ⇒"

Effort = Literal["low", "medium", "high"]
_EFFORT_LINE = re.compile(r"^Reasoning: (low|medium|high)$", re.MULTILINE)
_TOOLS_OPENING = "namespace functions {"

# How much of a message's end is read: enough for anybody's last words, and little work.
_TAIL_TOKENS = 2000


@functools.cache
def _encoding() -> Any:
    from openai_harmony import HarmonyEncodingName, load_harmony_encoding

    return load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)


def encode(text: str) -> list[int]:
    """Text as tokens; what looks like a special token stays ordinary text."""
    tokens: list[int] = _encoding().encode(text, disallowed_special=())
    return tokens


def decode(tokens: Sequence[int]) -> str:
    """Tokens as text, special tokens left out, broken UTF-8 replaced."""
    text: str = _encoding().decode([token for token in tokens if token < FIRST_SPECIAL])
    return text


@dataclass(frozen=True)
class Turn:
    """What a prompt says, and how much of the reply already stands at its end.

    `base` is the prompt up to and with the `<|start|>assistant` that opens the turn; `spoken` is
    what follows it: empty for a fresh request, the reply so far after a failover.
    """

    base: Sequence[int]
    spoken: Sequence[int]
    framed: bool
    effort: Effort = "medium"
    user_text: str = ""
    tool_result: str | None = None
    tools_text: str = ""


def read_turn(prompt: Sequence[int]) -> Turn:
    """Read a prompt: Harmony if it ends in an open assistant turn, else plain text."""
    starts = [place for place, token in enumerate(prompt) if token == START]
    opening = _opening(prompt, starts)
    if opening is None:
        return _read_plain(prompt)
    base, spoken = prompt[: opening + 2], prompt[opening + 2 :]
    messages = [place for place in starts if place < opening]
    last_user = _last(prompt, messages, _USER)
    return Turn(
        base=base,
        spoken=spoken,
        framed=True,
        effort=_effort(prompt, messages),
        user_text="" if last_user is None else decode(_content(prompt, last_user)[-_TAIL_TOKENS:]),
        tool_result=_tool_result(prompt, messages),
        tools_text=_tools_text(prompt, messages),
    )


def final_header(as_json: bool) -> list[int]:
    """From after `<|start|>assistant` to the content of a final message."""
    if as_json:
        return [CHANNEL, FINAL, *encode(" "), CONSTRAIN, *encode("json"), MESSAGE]
    return [CHANNEL, FINAL, MESSAGE]


def call_header(name: str) -> list[int]:
    """From after `<|start|>assistant` to the arguments of a function call."""
    to = encode(f"commentary to=functions.{name} ")
    return [CHANNEL, *to, CONSTRAIN, *encode("json"), MESSAGE]


def _opening(prompt: Sequence[int], starts: list[int]) -> int | None:
    """Where the turn to be spoken opens: the place of its first `<|start|>`, or None.

    A reply holds a second `<|start|>assistant` after its analysis. So an analysis message right
    before the last start belongs to the same turn.
    """
    if not starts:
        return None
    last = starts[-1]
    cut_after_start = last == len(prompt) - 1
    if not cut_after_start and prompt[last + 1] != ASSISTANT:
        return None
    before = starts[-2] if len(starts) > 1 else None
    if before is not None and prompt[last - 1] == END:
        header = list(prompt[before + 1 : before + 5])
        if header == [ASSISTANT, CHANNEL, ANALYSIS, MESSAGE]:
            return before
    return None if cut_after_start else last


def _content(prompt: Sequence[int], start: int) -> Sequence[int]:
    """The content of the message that opens at `start`."""
    try:
        begin = prompt.index(MESSAGE, start) + 1
    except ValueError:
        return ()
    for end in range(begin, len(prompt)):
        if prompt[end] in (END, CALL, RETURN, START):
            return prompt[begin:end]
    return prompt[begin:]


def _last(prompt: Sequence[int], messages: list[int], role: int) -> int | None:
    return next((place for place in reversed(messages) if prompt[place + 1] == role), None)


def _effort(prompt: Sequence[int], messages: list[int]) -> Effort:
    """The effort in the system message. The last match: an identity text may come before it."""
    if messages and prompt[messages[0] + 1] == _SYSTEM:
        found = _EFFORT_LINE.findall(decode(_content(prompt, messages[0])))
        if found:
            effort: Effort = found[-1]
            return effort
    return "medium"


def _tool_result(prompt: Sequence[int], messages: list[int]) -> str | None:
    """The content of the last message before the turn, if a tool wrote it."""
    if not messages or prompt[messages[-1] + 1] in (ASSISTANT, _SYSTEM, _DEVELOPER, _USER):
        return None
    return decode(_content(prompt, messages[-1])[-_TAIL_TOKENS:])


def _tools_text(prompt: Sequence[int], messages: list[int]) -> str:
    """The rendering of the offered function tools, or an empty text."""
    for place in messages:
        if prompt[place + 1] == _DEVELOPER:
            text = decode(_content(prompt, place))
            if _TOOLS_OPENING in text:
                return text[text.index(_TOOLS_OPENING) + len(_TOOLS_OPENING) :]
    return ""


def _read_plain(prompt: Sequence[int]) -> Turn:
    """A prompt of plain text. Only the opening mark tells where a reply begins."""
    (mark,) = encode(RAW_OPENING)
    places = [place for place, token in enumerate(prompt) if token == mark]
    return _plain(prompt, places[-1] if places else len(prompt))


def whole_plain(prompt: Sequence[int]) -> Turn:
    """A prompt of plain text that holds nothing of a reply."""
    return _plain(prompt, len(prompt))


def _plain(prompt: Sequence[int], cut: int) -> Turn:
    return Turn(
        base=prompt[:cut],
        spoken=prompt[cut:],
        framed=False,
        user_text=decode(prompt[:cut][-_TAIL_TOKENS:]),
    )
