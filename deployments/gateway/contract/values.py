"""Values that vLLM takes although they are wrong, or fails on. Only what is cheap and clear.

Each check stands for a fault that was seen in vLLM 0.32: an empty conversation and dropped images
answered with 200, tool names that open a new turn in the prompt, caps of 10⁴⁰ tokens, a 500 for a
bad ``logit_bias``.
"""

import re
from collections.abc import Iterator
from typing import Any

from cluster.errors import InvalidRequest, clipped
from deployments.gateway.contract.constraints import check_constraints
from deployments.gateway.contract.routes import Kind

MAX_CHOICES = 128
"""OpenAI's limit of ``n``; it also bounds prompts × n of a completion."""
MAX_TOP_LOGPROBS = 20
MAX_TOOLS = 1024
MAX_LOGIT_BIAS = 1024
MAX_STOPS = 16
MAX_STOP_CHARS = 1_000
"""Every stop is looked for after every token. OpenAI takes 4."""
MAX_BAD_WORDS = 128
MAX_TOKEN_IDS = 1024
MAX_TOKEN_ID = 201_087
"""The last of Harmony's vocabulary."""
MAX_REPETITION_SIZE = 256
"""Tokens that are compared after each."""
MAX_TURNS = 1024
"""Messages, or items of a Responses input; and content parts of all of them together. vLLM takes
64 µs of the event loop for each message: 20,000 of them held it up for 1.3 s (measured on 2 shared
cores)."""

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_TEXT_PARTS = frozenset(
    """
    text input_text output_text refusal thinking redacted_thinking reasoning_text summary_text
    tool_use tool_result tool_reference
    """.split()  # noqa: SIM905
)
_TOOL_TYPES = frozenset({"function", "custom", "namespace"})
"""The caller runs these. All others would run here, or be fetched from here."""
_CHOICE_TYPES = _TOOL_TYPES | {"allowed_tools", "auto", "any", "none", "tool"}
_ROLES = ("developer", "system", "user", "assistant", "tool")
_TOKEN_CAPS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


def check_values(kind: Kind, body: dict[str, Any], max_model_len: int | None) -> None:
    """Raises ``InvalidRequest``, with ``param`` set, for the first value that cannot be served."""
    _check_flags(body)
    _check_objects(body)
    _check_numbers(body, max_model_len)
    _check_logit_bias(body)
    _check_stops(body)
    _check_token_ids(body)
    _check_parts(body.get("system"), "system")
    check_constraints(body)
    if kind in ("chat", "messages") or (kind == "tokenize" and "messages" in body):
        _check_conversation(body, "messages")
    elif kind == "responses":
        _check_responses(body)
    elif kind == "completions":
        _check_prompts(body)
    elif "prompt" not in body:
        raise _wrong("prompt", "either `prompt` or `messages` is required")
    _check_tools(body)


def _wrong(param: str, problem: str, code: str = "invalid_value") -> InvalidRequest:
    return InvalidRequest(f"Invalid `{param}`: {problem}.", param=param, code=code)


def _check_flags(body: dict[str, Any]) -> None:
    for field in ("stream", "store", "ignore_eos", "parallel_tool_calls", "include_reasoning"):
        if field in body and not isinstance(body[field], bool):
            raise _wrong(field, "it must be true or false", "invalid_type")


def _check_objects(body: dict[str, Any]) -> None:
    for field in ("structured_outputs", "response_format", "stream_options", "metadata", "text"):
        if field in body and not isinstance(body[field], dict):
            raise _wrong(field, "it must be an object", "invalid_type")


def _check_numbers(body: dict[str, Any], max_model_len: int | None) -> None:
    for field in _TOKEN_CAPS:
        _check_integer(body, field, 1, max_model_len)
    _check_integer(body, "n", 1, MAX_CHOICES)
    _check_integer(body, "top_logprobs", 0, MAX_TOP_LOGPROBS)
    _check_integer(body, "max_tool_calls", 1, None)
    most = next((body[each] for each in _TOKEN_CAPS if body.get(each) is not None), max_model_len)
    _check_integer(body, "min_tokens", 0, most)
    repetition = body.get("repetition_detection")
    if isinstance(repetition, dict):
        for field in ("max_pattern_size", "min_pattern_size", "min_count"):
            _check_integer(repetition, field, 0, MAX_REPETITION_SIZE)
    if not isinstance(body.get("logprobs", False), bool):
        _check_integer(body, "logprobs", 0, MAX_TOP_LOGPROBS)


def _check_integer(body: dict[str, Any], field: str, least: int, most: int | None) -> None:
    value = body.get(field)
    if value is None:
        return
    if type(value) is not int:
        raise _wrong(field, "it must be an integer", "invalid_type")
    if value < least or (most is not None and value > most):
        limits = f"{least} or more" if most is None else f"between {least} and {most}"
        raise _wrong(field, f"it must be {limits}")


def _check_stops(body: dict[str, Any]) -> None:
    for field, limit in (
        ("stop", MAX_STOPS),
        ("stop_sequences", MAX_STOPS),
        ("bad_words", MAX_BAD_WORDS),
    ):
        stops = body.get(field)
        if isinstance(stops, str):
            stops = [stops]
        if not isinstance(stops, list):
            continue
        if len(stops) > limit:
            raise _wrong(field, f"it may have {limit} entries at most", "array_above_max_length")
        if any(isinstance(each, str) and len(each) > MAX_STOP_CHARS for each in stops):
            raise _wrong(field, f"an entry may have {MAX_STOP_CHARS} characters at most")


def _check_token_ids(body: dict[str, Any]) -> None:
    for field in ("stop_token_ids", "allowed_token_ids"):
        ids = body.get(field)
        if not isinstance(ids, list):
            continue
        if len(ids) > MAX_TOKEN_IDS:
            raise _wrong(
                field, f"it may have {MAX_TOKEN_IDS} entries at most", "array_above_max_length"
            )
        if any(type(each) is not int or not 0 <= each <= MAX_TOKEN_ID for each in ids):
            raise _wrong(field, f"its entries must be token ids, 0 to {MAX_TOKEN_ID}")


def _check_logit_bias(body: dict[str, Any]) -> None:
    bias = body.get("logit_bias")
    if bias is None:
        return
    if not isinstance(bias, dict) or len(bias) > MAX_LOGIT_BIAS:
        raise _wrong("logit_bias", f"it must be an object with at most {MAX_LOGIT_BIAS} keys")
    for token, value in bias.items():
        # Longer than any token id, and `int` of a very long one would fail.
        if not (token.isascii() and token.isdigit() and len(token) <= 9):
            raise _wrong("logit_bias", "its keys must be token ids")
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 100:
            raise _wrong("logit_bias", "its values must be numbers between -100 and 100")


def _check_conversation(body: dict[str, Any], field: str) -> None:
    turns = body.get(field)
    if not isinstance(turns, list) or not turns:
        raise _wrong(field, "it must be a list with at least one message")
    _check_count(turns, field, "content")
    for index, turn in enumerate(turns):
        param = f"{field}.[{index}]"
        if not isinstance(turn, dict):
            raise _wrong(param, "it must be an object", "invalid_type")
        if turn.get("role") not in _ROLES:
            raise _wrong(f"{param}.role", f"it must be one of {', '.join(_ROLES)}")
        _check_parts(turn.get("content"), f"{param}.content")
        for call in _objects(turn.get("tool_calls")):
            function = call.get("function")
            if isinstance(function, dict):
                _check_name(function.get("name"), f"{param}.tool_calls")


def _check_responses(body: dict[str, Any]) -> None:
    if "input" not in body:
        raise _wrong("input", "it is required", "missing_required_parameter")
    items = body["input"]
    if not isinstance(items, str):
        if not isinstance(items, list) or not items:
            raise _wrong("input", "it must be a string or a list with at least one item")
        _check_count(items, "input", "content", "output")
        for index, item in enumerate(items):
            param = f"input.[{index}]"
            if not isinstance(item, dict):
                raise _wrong(param, "it must be an object", "invalid_type")
            _check_parts(item.get("content"), f"{param}.content")
            _check_parts(item.get("output"), f"{param}.output")
            if item.get("type") == "function_call":
                _check_name(item.get("name"), f"{param}.name")


def _check_count(turns: list[Any], field: str, *lists: str) -> None:
    if len(turns) > MAX_TURNS:
        raise _wrong(field, f"it may have {MAX_TURNS} entries at most", "array_above_max_length")
    held = (
        turn[name] for turn in turns if isinstance(turn, dict) for name in lists if name in turn
    )
    if sum(len(each) for each in held if isinstance(each, list)) > MAX_TURNS:
        raise _wrong(
            field, f"it may have {MAX_TURNS} content parts at most", "array_above_max_length"
        )


def _check_parts(content: Any, param: str) -> None:
    """vLLM drops parts that are not text without a word; this answers 400."""
    for part in _objects(content):
        kind = part.get("type", "text")
        if not isinstance(kind, str) or kind not in _TEXT_PARTS:
            name = clipped(kind, 40) if isinstance(kind, str) else "that are not text"
            raise _wrong(param, f"this model takes text only, no parts of type '{name}'")
        if kind == "tool_use":
            _check_name(part.get("name"), param)
        if kind == "tool_result":
            _check_parts(part.get("content"), param)


def _check_prompts(body: dict[str, Any]) -> None:
    prompt = body.get("prompt")
    if not isinstance(prompt, str | list) or not prompt:
        raise _wrong("prompt", "it must be a string, or a list of strings or of token ids")
    prompts = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
    if prompts * body.get("n", 1) > MAX_CHOICES:
        raise _wrong("prompt", f"prompts times `n` must be {MAX_CHOICES} at most")


def _check_tools(body: dict[str, Any]) -> None:
    tools = body.get("tools")
    if tools is not None:
        if not isinstance(tools, list) or len(tools) > MAX_TOOLS:
            raise _wrong("tools", f"it must be a list of at most {MAX_TOOLS} tools")
        for index, tool in enumerate(tools):
            if not isinstance(tool, dict):
                raise _wrong(f"tools.[{index}]", "it must be an object", "invalid_type")
            _check_tool_type(tool, _TOOL_TYPES, f"tools.[{index}]")
            _check_tool_name(tool, f"tools.[{index}]")
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        _check_tool_type(choice, _CHOICE_TYPES, "tool_choice")
        _check_tool_name(choice, "tool_choice")


def _check_tool_type(tool: dict[str, Any], known: frozenset[str], param: str) -> None:
    kind = tool.get("type")
    if isinstance(kind, str) and kind not in known:
        raise _wrong(
            f"{param}.type",
            f"there is no tool '{clipped(kind, 40)}' here; the caller runs its own functions",
            "unsupported_value",
        )


def _check_tool_name(tool: dict[str, Any], param: str) -> None:
    function = tool.get("function")
    if isinstance(function, dict):
        _check_name(function.get("name"), f"{param}.function.name")
    elif tool.get("name") is not None:
        _check_name(tool["name"], f"{param}.name")
    for nested in _objects(tool.get("tools")):
        _check_tool_name(nested, param)


def _check_name(name: Any, param: str) -> None:
    # The name stands between Harmony's control tokens in the prompt.
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise _wrong(param, f"a name must match {_NAME.pattern}")


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        yield from (each for each in value if isinstance(each, dict))
