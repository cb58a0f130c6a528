"""The readable English of the tiny model: what it thinks, what it answers, and how it goes on."""

import random
import re
from dataclasses import dataclass

_MAX_WORD_CHARACTERS = 32
_MAX_QUOTE_CHARACTERS = 90
_MAX_TOPIC_CHARACTERS = 24
_QUOTED = re.compile(r"[\"“']([^\"“”']{2,60})[\"”']")
_NUMBER = re.compile(r"(?<![\w.,])\d{1,9}(?![\w]|[.,]\d)")
_MARKUP = re.compile(r"<\|[^|]*\|>|[<>|⇒]")

_COMMON = """
about after again also and any are ask at back be been but by call can could current did do does
each for from function get gets give given has have her here him his how if in into is it its
just let like list make many me more most much must my name need new no not now of on one only
or our out over please put return returns see set she should show so some such take tell than
that the their them then there these they this those to tool tools up us use used uses user
using value very want was we were what when where which who why will with without would you your
"""
COMMON_WORDS = frozenset(_COMMON.split())
"""Words that say nothing about what a text is about, and those by which one asks for a tool."""

_THOUGHTS = (
    " I should read the question once more and see what they really want.",
    " A short and clear answer will help most here.",
    " Let me think about the parts of this one by one.",
    " There may be more than one way to look at it.",
    " First I check what is known and what is not.",
    " Then I weigh what matters and leave out the rest.",
    " Nothing in the request speaks against a plain reply.",
    " An example could make the point easier to follow.",
    " I want to be careful not to claim more than I know.",
    " That seems right so far, but I will check it again.",
    " The words of the user give the best hint.",
    " I could go into detail, yet the main idea comes first.",
)
_ANSWERS = (
    "You asked about “{quote}”. I am a very small model with a large heart, so all that I can "
    "truly say is that I heard you.",
    "You said “{quote}”. That is a good thing to ask, and this is my short answer to it.",
    "On “{quote}”: this reply comes from a tiny test model, yet every token of it went the "
    "whole way through the engine.",
    "About “{quote}”: I have thought it over, and I would say it depends on what you need.",
)
_RESULTS = (
    "The tool answered “{quote}”. That is what I can tell you.",
    "Here is what came back: “{quote}”.",
    "I looked it up and got “{quote}”.",
)
ECHOES = (
    " you wrote “{quote}” and so do I.",
    " “{quote}” is what I read.",
    " and that was “{quote}”.",
)
FILLER = (
    " And so it goes on, one word after the other, as the oars dip and rise and the ship moves on."
    " Row after row they pull, and there is always another stroke to come."
)


@dataclass(frozen=True)
class Phrases:
    """What can be quoted of a text."""

    quote: str
    topic: str
    hints: list[str]
    numbers: list[int]


def thoughts(topic: str, after_tool: bool, chance: random.Random) -> list[str]:
    """Sentences to think in, the first about the request, the others in a random order."""
    first = "The tool has answered." if after_tool else f"The user asks about {topic}."
    return [first, *chance.sample(_THOUGHTS, len(_THOUGHTS))]


def answer(phrases: Phrases, from_tool: bool, chance: random.Random) -> str:
    """A sentence or two that repeats something of the user's words or of a tool's result."""
    return chance.choice(_RESULTS if from_tool else _ANSWERS).format(quote=phrases.quote)


def phrases_of(text: str) -> Phrases:
    """The last words of a text, and the words in it that look as if they mattered most."""
    text = readable(text)
    words = [word[:_MAX_WORD_CHARACTERS] for word in text.split()[-400:]]
    clean = [stripped for word in words if (stripped := word.strip(".,;:!?()[]{}\"'“”…*`#"))]
    content = [word for word in clean if len(word) > 2 and word.lower() not in COMMON_WORDS]
    named = [word for word in content[1:] if word[0].isupper()]
    hints = [*_QUOTED.findall(text)[-3:], *named[-3:], *reversed(content[-6:])]
    quote = _last_within(words, _MAX_QUOTE_CHARACTERS).strip(' .,;:!?"“”')
    return Phrases(
        quote=quote or "your words",
        topic=_last_within(content, _MAX_TOPIC_CHARACTERS) or "something",
        hints=list(dict.fromkeys(hints)) or [quote or "something"],
        numbers=[int(digits) for digits in _NUMBER.findall(text)[-4:]],
    )


def readable(text: str) -> str:
    """The text on one line, without marks that Harmony or a grammar could take for their own."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return _MARKUP.sub(" ", printable.replace("\ufffd", " "))


def _last_within(words: list[str], characters: int) -> str:
    """The last words that together are no longer than so many characters."""
    kept: list[str] = []
    for word in reversed(words):
        characters -= len(word) + 1
        if characters < 0:
            break
        kept.append(word)
    return " ".join(reversed(kept))
