"""The common chunk of a streamed chat, written with less work and the same bytes.

vLLM builds three pydantic models for each token and serialises them. Here the two outer ones are
plain objects, and the chunk that nearly every token is (one choice, a piece of text or of
reasoning, nothing else) is written into a template. Any other chunk is built and serialised by
vLLM's own classes.
"""

from json.encoder import encode_basestring
from typing import Any

from vllm.entrypoints.openai.chat_completion import serving
from vllm.entrypoints.openai.chat_completion.protocol import (
    ChatCompletionResponseStreamChoice,
    ChatCompletionStreamResponse,
)

try:
    from vllm.entrypoints.generate.base.protocol import DeltaMessage
except ImportError:  # 0.26
    from vllm.entrypoints.openai.engine.protocol import DeltaMessage

_CHUNK_FIELDS = {"id", "object", "created", "choices", "model"}
_TEXT_FIELDS = ({"content"}, {"reasoning"})
_END = '},"logprobs":null,"finish_reason":null,"token_ids":null}]}'


def write_chunks_fast() -> None:
    """Have vLLM's chat serving build our chunks. It may be called again."""
    serving.ChatCompletionResponseStreamChoice = StreamChoice
    serving.ChatCompletionStreamResponse = StreamChunk


def write_chunks_as_vllm_does() -> None:
    """Undo ``write_chunks_fast``, to compare."""
    serving.ChatCompletionResponseStreamChoice = ChatCompletionResponseStreamChoice
    serving.ChatCompletionStreamResponse = ChatCompletionStreamResponse


class StreamChoice:
    """Stands for vLLM's ``ChatCompletionResponseStreamChoice``."""

    __slots__ = ("_more", "delta", "finish_reason", "index", "logprobs", "plain")

    def __init__(
        self, *, index: int, delta: Any, logprobs: Any, finish_reason: str | None, **more: Any
    ) -> None:
        self.index = index
        self.delta = delta
        self.logprobs = logprobs
        self.finish_reason = finish_reason
        self._more = more
        self.plain = (
            logprobs is None
            and finish_reason is None
            and len(more) == 1
            and more.get("token_ids", more) is None
        )

    @property
    def tool_calls(self) -> Any:
        """vLLM takes an object that it does not know for a delta."""
        return self.delta.tool_calls

    @tool_calls.setter
    def tool_calls(self, value: Any) -> None:
        self.delta.tool_calls = value

    def vllms(self) -> ChatCompletionResponseStreamChoice:
        return ChatCompletionResponseStreamChoice(
            index=self.index,
            delta=self.delta,
            logprobs=self.logprobs,
            finish_reason=self.finish_reason,
            **self._more,
        )


class StreamChunk:
    """Stands for vLLM's ``ChatCompletionStreamResponse``."""

    __slots__ = ("_fields",)

    _fields: dict[str, Any]
    _head: tuple[Any, ...] = ()
    _text = ""

    def __init__(self, **fields: Any) -> None:
        object.__setattr__(self, "_fields", fields)

    def __setattr__(self, name: str, value: Any) -> None:
        self._fields[name] = value

    def model_dump_json(self, *, exclude_unset: bool = False, exclude_none: bool = False) -> str:
        fields = self._fields
        choices = fields["choices"]
        if (
            exclude_unset
            and not exclude_none
            and len(choices) == 1
            and choices[0].plain
            and fields.keys() == _CHUNK_FIELDS
        ):
            text = _text_of(choices[0].delta)
            if text is not None:
                return f"{self._opening(choices[0].index)}{text}{_END}"
        whole = ChatCompletionStreamResponse(
            **{**fields, "choices": [choice.vllms() for choice in choices]}
        )
        written: str = whole.model_dump_json(exclude_unset=exclude_unset, exclude_none=exclude_none)
        return written

    def _opening(self, index: int) -> str:
        """What comes before the delta: the same for all chunks of a choice, so the last one made is
        kept."""
        fields = self._fields
        head = (fields["id"], fields["object"], fields["created"], fields["model"], index)
        if StreamChunk._head != head:
            request_id, kind, created, model, _ = head
            StreamChunk._text = (
                f'{{"id":{encode_basestring(request_id)},"object":{encode_basestring(kind)}'
                f',"created":{created},"model":{encode_basestring(model)}'
                f',"choices":[{{"index":{index},"delta":{{'
            )
            StreamChunk._head = head
        return StreamChunk._text


def _text_of(delta: DeltaMessage) -> str | None:
    """The inside of a delta's object, None if it is more than a piece of text."""
    told = delta.model_fields_set
    if told == _TEXT_FIELDS[0]:
        name, text = "content", delta.content
    elif told == _TEXT_FIELDS[1]:
        name, text = "reasoning", delta.reasoning
    else:
        return None
    if not isinstance(text, str) or delta.model_extra:
        return None
    # A lone surrogate is no JSON: vLLM's class says so in its words.
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        return None
    return f'"{name}":{encode_basestring(text)}'
