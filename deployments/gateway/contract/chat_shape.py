"""What vLLM leaves out of chat completions, and what it adds that is none of OpenAI's.

All repairs are byte replacements: in JSON text every quote of a string is escaped, so a pattern
with bare quotes matches structure only. A stream whose caller asked for none of it passes as it is.
"""

import re
from dataclasses import dataclass
from typing import Any

_LOGPROBS = b'"logprobs":{"content":'
_LOGPROBS_WHOLE = b'"logprobs":{"refusal":null,"content":'
_NO_SERVICE_TIER = b'"service_tier":null'
_USAGE = b'"usage":'
_END = b"}\n\n"
# vLLM's own, of no use to a caller who did not ask for them (then they are not null), and those of
# OpenAI's that its schema has whole or not at all.
_NULLS = re.compile(
    rb',"(?:ec_transfer_params|kv_transfer_params|metrics|prompt_logprobs|prompt_text'
    rb"|prompt_token_ids|routed_experts|token_ids|annotations|audio|function_call"
    rb'|prompt_tokens_details|completion_tokens_details)":null'
)


@dataclass(frozen=True, slots=True)
class ChatShape:
    """What the caller of one request asked for. ``service_tier`` is the one that is used, None if
    he did not ask."""

    usage_in_stream: bool = False
    logprobs: bool = False
    service_tier: str | None = None

    @classmethod
    def of(cls, body: dict[str, Any], service_tier: str | None) -> "ChatShape":
        """Of a checked request body."""
        options = body.get("stream_options") or {}
        return cls(bool(options.get("include_usage")), bool(body.get("logprobs")), service_tier)

    @property
    def changes_chunks(self) -> bool:
        """Whether the chunks of a stream need ``chunk``."""
        return self.usage_in_stream or self.logprobs or self.service_tier is not None

    def whole(self, body: bytes) -> bytes:
        """A unary response."""
        body = _NULLS.sub(b"", body)
        if self.logprobs:
            body = body.replace(_LOGPROBS, _LOGPROBS_WHOLE)
        if self.service_tier is not None:
            told = f'"service_tier":"{self.service_tier}"'.encode()
            body = body.replace(_NO_SERVICE_TIER, told, 1)
        return body

    def chunk(self, event: bytes) -> bytes:
        """One event of a stream. OpenAI's say ``"usage":null`` until the last, if it was asked for,
        and the service tier in each."""
        if not event.endswith(_END):
            return event
        if self.logprobs:
            event = event.replace(_LOGPROBS, _LOGPROBS_WHOLE)
        more = b""
        if self.service_tier is not None:
            more = f',"service_tier":"{self.service_tier}"'.encode()
        if self.usage_in_stream and _USAGE not in event:
            more += b',"usage":null'
        return event[: -len(_END)] + more + _END if more else event
