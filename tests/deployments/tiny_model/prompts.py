"""Harmony prompts as vLLM renders them, and replies as a Harmony parser reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from openai_harmony import (
    Author,
    Conversation,
    DeveloperContent,
    HarmonyEncodingName,
    Message,
    ReasoningEffort,
    RenderConversationConfig,
    Role,
    StreamableParser,
    SystemContent,
    ToolDescription,
    load_harmony_encoding,
)

ENCODING = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)

WEATHER = ToolDescription.new(
    "get_weather",
    "Current weather for a city",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "The city\nto look at"},
            "days": {"type": "integer", "minimum": 0},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
        },
        "required": ["city", "days"],
    },
)


@dataclass(frozen=True)
class Spoken:
    """One message of a reply."""

    channel: str | None
    recipient: str | None
    content_type: str | None
    text: str


def chat(
    user: str,
    effort: str = "low",
    tools: Sequence[ToolDescription] = (),
    instructions: str | None = None,
    more: Sequence[Message] = (),
) -> list[int]:
    """A prompt for one user message, then `more`, up to the assistant's turn."""
    system = (
        SystemContent.new()
        .with_reasoning_effort(ReasoningEffort[effort.upper()])
        .with_conversation_start_date("2026-11-21")
    )
    messages = [Message.from_role_and_content(Role.SYSTEM, system)]
    if tools or instructions:
        developer = DeveloperContent.new()
        if instructions:
            developer = developer.with_instructions(instructions)
        if tools:
            developer = developer.with_function_tools(list(tools))
        messages.append(Message.from_role_and_content(Role.DEVELOPER, developer))
    messages += [Message.from_role_and_content(Role.USER, user), *more]
    tokens: list[int] = ENCODING.render_conversation_for_completion(
        Conversation.from_messages(messages),
        Role.ASSISTANT,
        config=RenderConversationConfig(auto_drop_analysis=False),
    )
    return tokens


def called(name: str, arguments: str, result: str) -> list[Message]:
    """A finished tool call: what the assistant thought and called, and what came back."""
    return [
        Message.from_role_and_content(Role.ASSISTANT, "I will look.").with_channel("analysis"),
        Message.from_role_and_content(Role.ASSISTANT, arguments)
        .with_channel("commentary")
        .with_recipient(f"functions.{name}")
        .with_content_type("json"),
        Message.from_author_and_content(Author.new(Role.TOOL, f"functions.{name}"), result)
        .with_channel("commentary")
        .with_recipient("assistant"),
    ]


def parse(tokens: Sequence[int]) -> list[Spoken]:
    """The messages of a reply. Raises `HarmonyError` where it is not well formed."""
    parser = StreamableParser(ENCODING, role=Role.ASSISTANT, strict=True)
    for token in tokens:
        parser.process(token)
    parser.process_eos()
    return [
        _spoken(message.channel, message.recipient, message.content_type, _text(message.content))
        for message in parser.messages
    ]


def _spoken(
    channel: str | None, recipient: str | None, content_type: str | None, text: str
) -> Spoken:
    """A message, put right as vLLM's parser does: oss-harmony 0.0.11 reads the content type of a
    final message as its recipient."""
    if recipient and recipient.startswith("<|constrain|>"):
        recipient, content_type = None, recipient
    return Spoken(channel, recipient, content_type, text)


def _text(content: list[Any]) -> str:
    return "".join(part.text for part in content)
