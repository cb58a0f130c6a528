"""What the tiny model says: the whole reply to a prompt, as token ids.

A pure function of the prompt, the seed and the structured output asked for. The prompt may end in
the middle of a reply: what stands there after the turn's opening counts as spoken, so a reply that
was cut off anywhere and sent back as prompt goes on exactly where it stopped.
"""

import functools
import hashlib
import json
import random
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from deployments.tiny_model import harmony, orders, words
from deployments.tiny_model.constraint import Constraint, Content
from deployments.tiny_model.harmony import Effort, Turn
from deployments.tiny_model.json_values import Hints, Unsatisfiable, value_for
from deployments.tiny_model.offered_tools import Tool, read_tools
from deployments.tiny_model.pattern_text import text_matching

ANALYSIS_TOKENS: dict[Effort, int] = {"low": 10, "medium": 60, "high": 300}
"""Length of the analysis by effort, before it varies by up to 30 % from request to request."""

_VARIATION = 0.3
# A cut back to the end of a word costs no more tokens than this.
_WORD_TOKENS = 8
_ASKS_FOR_A_TOOL = re.compile(r"\bcall\b|\buse (?:an?|the|your) (?:\w+ )?(?:tool|function)s?\b")

_TO_ANALYSIS = [harmony.CHANNEL, harmony.ANALYSIS, harmony.MESSAGE]
_TO_NEXT_MESSAGE = [harmony.END, harmony.START, harmony.ASSISTANT]


@dataclass(frozen=True)
class Script:
    """A reply: its tokens (the last one ends it), and how many of them the prompt already holds."""

    tokens: tuple[int, ...]
    spoken_tokens: int

    def token(self, place: int) -> int:
        """The token at a place of the reply; after its end, filler words for ever."""
        if place < len(self.tokens):
            return self.tokens[place]
        filler = _filler()
        return filler[(place - len(self.tokens)) % len(filler)]


@dataclass(frozen=True)
class _Answer:
    """The last message of a reply. `elastic` if filler words may be added to its body."""

    header: list[int]
    body: list[int]
    end: int
    elastic: bool = False


def write_script(
    prompt: Sequence[int],
    seed: int = 0,
    constraint: Constraint | None = None,
    *,
    min_tokens: int = 0,
    endless: bool = False,
) -> Script:
    """The reply to `prompt`, deterministic in all arguments.

    `min_tokens` counts from the end of the prompt, as vLLM's does. With `endless` the reply has no
    end token where it may do without.
    """
    turn = harmony.read_turn(prompt)
    if not turn.framed and turn.spoken:
        script = _write(turn, seed, constraint, min_tokens, endless)
        if all(script.token(place) == token for place, token in enumerate(turn.spoken)):
            return script
        turn = harmony.whole_plain(prompt)  # The mark was the writer's own.
    return _write(turn, seed, constraint, min_tokens, endless)


def _write(
    turn: Turn, seed: int, constraint: Constraint | None, min_tokens: int, endless: bool
) -> Script:
    chance = random.Random(_digest(turn.base, seed))
    from_tool = turn.tool_result is not None
    phrases = words.phrases_of(turn.tool_result if turn.tool_result is not None else turn.user_text)
    least = len(turn.spoken) + min_tokens
    length = round(ANALYSIS_TOKENS[turn.effort] * chance.uniform(1 - _VARIATION, 1 + _VARIATION))
    thoughts = words.thoughts(phrases.topic, from_tool, chance)
    if constraint is not None and constraint.bare is not None:
        answer = _Answer([], _content(constraint.bare, phrases, turn, chance), harmony.RETURN)
        return Script((*answer.body, answer.end), len(turn.spoken))
    if not turn.framed:
        text = harmony.RAW_OPENING + chance.choice(words.ECHOES).format(quote=phrases.quote)
        answer = _Answer([], harmony.encode(text), harmony.RETURN, elastic=True)
        return Script(_stretched([], answer, least, endless), len(turn.spoken))
    answer = _answer(turn, constraint, phrases, chance)
    if min_tokens and not answer.elastic:
        frame = len(_TO_ANALYSIS) + len(_TO_NEXT_MESSAGE) + len(answer.header) + len(answer.body)
        length = max(length, least - frame + _WORD_TOKENS)
    analysis = _heard_analysis(turn.spoken) or _analysis(thoughts, length)
    opening = [*_TO_ANALYSIS, *analysis, *_TO_NEXT_MESSAGE]
    tokens = _stretched(opening, answer, least, endless)
    if not _same_frame(tokens, turn.spoken):
        tokens = (*turn.spoken, *_going_on(turn.spoken, answer))
    return Script(tokens, len(turn.spoken))


def _digest(base: Sequence[int], seed: int) -> int:
    hashed = hashlib.blake2b(array("I", base).tobytes(), digest_size=8)
    hashed.update(str(seed).encode())
    return int.from_bytes(hashed.digest(), "little")


@functools.cache
def _filler() -> tuple[int, ...]:
    return tuple(harmony.encode(words.FILLER))


def _stretched(opening: list[int], answer: _Answer, least: int, endless: bool) -> tuple[int, ...]:
    """Opening and answer, with filler words before the end token as far as they are asked for."""
    tokens = [*opening, *answer.header, *answer.body]
    if answer.elastic:
        if endless:
            return tuple(tokens)  # `Script.token` goes on with filler.
        filler = _filler()
        tokens += [filler[place % len(filler)] for place in range(least - len(tokens))]
    return (*tokens, answer.end)


def _analysis(sentences: list[str], length: int) -> list[int]:
    """So many tokens of thinking: whole words, closed by a full stop."""
    sentence_tokens = [harmony.encode(sentence) for sentence in sentences]
    tokens = sentence_tokens[0]
    following = 1
    while len(tokens) < length:
        tokens = tokens + sentence_tokens[following]
        following = following % (len(sentences) - 1) + 1
    cut = length - 1
    while cut > 1 and harmony.decode([tokens[cut]])[:1] not in (" ", "."):
        cut -= 1
    return [*tokens[:cut], *harmony.encode(".")]


def _heard_analysis(spoken: Sequence[int]) -> list[int]:
    """The analysis, if it was spoken to its end: whatever its length, the answer follows it."""
    if list(spoken[:3]) != _TO_ANALYSIS or harmony.END not in spoken:
        return []
    return list(spoken[3 : spoken.index(harmony.END)])


def _answer(
    turn: Turn, constraint: Constraint | None, phrases: words.Phrases, chance: random.Random
) -> _Answer:
    """The message after the analysis: a function call, constrained content, or an answer."""
    tool = _tool_to_call(turn, constraint)
    if tool is not None:
        return _call(tool, turn, phrases, chance)
    final = constraint.final if constraint is not None else None
    if final is not None and final.kind != "any":
        body = _content(final, phrases, turn, chance)
        header = harmony.final_header(as_json=final.kind == "json")
        return _Answer(header, body, harmony.RETURN)
    ordered = orders.text_to_say(turn.user_text) if turn.tool_result is None else None
    text = ordered or words.answer(phrases, turn.tool_result is not None, chance)
    header = harmony.final_header(as_json=False)
    return _Answer(header, harmony.encode(text), harmony.RETURN, elastic=True)


def _call(tool: Tool, turn: Turn, phrases: words.Phrases, chance: random.Random) -> _Answer:
    content = Content("json", schema=tool.parameters)
    body = _content(content, phrases, turn, chance, tool=tool.name)
    return _Answer(harmony.call_header(tool.name), body, harmony.CALL)


def _content(
    content: Content,
    phrases: words.Phrases,
    turn: Turn,
    chance: random.Random,
    tool: str | None = None,
) -> list[int]:
    """The tokens of constrained content (of a call of ``tool``); for what cannot be written, the
    nearest that can."""
    text: str | None = None
    if content.kind == "json":
        hints = Hints(phrases.hints, phrases.numbers, turn.user_text, chance)
        try:
            ordered = orders.json_to_say(turn.user_text, content.schema, tool)
            value = value_for(content.schema, hints) if ordered is None else ordered
            text = json.dumps(value, ensure_ascii=False)
        except (Unsatisfiable, RecursionError):
            text = "{}"
    elif content.kind == "choice":
        text = _choice(content.choices, turn.user_text, chance)
    elif content.kind == "pattern":
        text = text_matching(content.pattern, chance)
    return harmony.encode(phrases.quote if text is None else text)


def _choice(choices: tuple[str, ...], text: str, chance: random.Random) -> str:
    mentioned = [choice for choice in choices if choice and choice.lower() in text.lower()]
    return chance.choice(mentioned or choices)


def _tool_to_call(turn: Turn, constraint: Constraint | None) -> Tool | None:
    """The tool that the reply is to call: one that it must, or one that the user asks for."""
    offered = {tool.name: tool for tool in read_tools(turn.tools_text)} if turn.tools_text else {}
    calls = constraint.calls if constraint is not None else {}
    must_call = bool(calls) and constraint is not None and constraint.final is None
    if constraint is not None:
        # The grammar says which tools may be called, and knows the schemas better than the prompt.
        offered = {
            name: _with_schema(offered.get(name, Tool(name)), content)
            for name, content in calls.items()
        } or ({} if constraint.final is not None else offered)
    if not offered or (turn.tool_result is not None and not must_call):
        return None
    text = turn.user_text.lower()
    said = {word.rstrip("s") for word in re.findall(r"[a-z0-9]+", text)}
    scores = {name: _mentions(tool, text, said) for name, tool in offered.items()}
    best = max(scores, key=lambda name: scores[name])
    if scores[best] > 0 or must_call or _ASKS_FOR_A_TOOL.search(text):
        return offered[best]
    return None


def _with_schema(tool: Tool, content: Content) -> Tool:
    if content.kind == "json" and isinstance(content.schema, dict):
        return Tool(tool.name, tool.description, content.schema)
    return tool


def _mentions(tool: Tool, text: str, said: set[str]) -> int:
    """How strongly a text speaks of a tool: by its name, words of its name, of its description."""
    if re.search(rf"(?<!\w){re.escape(tool.name.lower())}(?!\w)", text):
        return 100
    name = re.findall(r"[a-z0-9]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", tool.name).lower())
    described = re.findall(r"[a-z0-9]+", tool.description.lower())
    return 5 * len(_telling(name) & said) + len(_telling(described) & said)


def _telling(texts: list[str]) -> set[str]:
    return {text.rstrip("s") for text in texts if len(text) > 2 and text not in words.COMMON_WORDS}


def _same_frame(tokens: tuple[int, ...], spoken: Sequence[int]) -> bool:
    """Whether what was spoken has the script's first header, and all its special tokens in place.

    Other tokens may differ: a bias or a ban can have changed a word on the way.
    """
    if tokens[: min(3, len(spoken))] != tuple(spoken[:3]):
        return False
    first = harmony.FIRST_SPECIAL
    script = [token if token >= first else 0 for token in tokens[: len(spoken)]]
    heard = [token if token >= first else 0 for token in spoken]
    return script + [0] * (len(heard) - len(script)) == heard


def _going_on(spoken: Sequence[int], answer: _Answer) -> list[int]:
    """What follows a beginning that is not of this script: the rest of that message, an answer."""
    last = [*answer.header, *answer.body, answer.end]
    if list(spoken[-2:]) == [harmony.START, harmony.ASSISTANT]:
        return last
    if spoken[-1] == harmony.START:
        return [harmony.ASSISTANT, *last]
    if spoken[-1] == harmony.END:
        return [harmony.START, harmony.ASSISTANT, *last]
    if spoken[-1] == harmony.CHANNEL:
        return [harmony.FINAL, harmony.MESSAGE, *answer.body, harmony.RETURN]
    channels = [place for place, token in enumerate(spoken) if token == harmony.CHANNEL]
    header = channels[-1] if channels else 0
    if harmony.MESSAGE not in spoken[header:]:
        return [harmony.MESSAGE, *answer.body, harmony.RETURN]
    if harmony.ANALYSIS in spoken[header : header + 2]:
        return [*_TO_NEXT_MESSAGE, *last]
    return [*answer.body, answer.end]
