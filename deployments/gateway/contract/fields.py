"""Which fields of a body go on to vLLM.

Four kinds. *Passed*: the API's own fields that vLLM acts on, and vLLM's harmless sampling extras.
*Stripped*: vLLM's extras that steer its scheduler, its cache or its rendering. They are the
operator's; the answer to the same question is the same without them, so the request is served and
the header ``x-trireme-ignored`` names them. *Refused*: a caller who sends one expects another
answer than he would get; to drop it would be a lie. *Dropped*: everything else, OpenAI's fields
without effect here (``metadata`` of chat, ``prompt_cache_key``, …) and what nobody knows: a newer
vLLM may give a meaning to a field that this table has never seen.
"""

from collections.abc import Mapping
from typing import Any

from cluster.errors import InvalidRequest
from deployments.gateway.contract.routes import Kind


def _fields(names: str) -> frozenset[str]:
    return frozenset(names.split())


_SAMPLING = _fields("""
    allowed_token_ids bad_words frequency_penalty ignore_eos include_stop_str_in_output logit_bias
    min_p min_tokens presence_penalty repetition_detection repetition_penalty return_token_ids
    return_tokens_as_token_ids seed skip_special_tokens spaces_between_special_tokens stop
    stop_token_ids stream stream_interval stream_options structured_outputs temperature top_k top_p
""")

PASSED: Mapping[Kind, frozenset[str]] = {
    "chat": _SAMPLING
    | _fields("""
        include_reasoning logprobs max_completion_tokens max_tokens messages model n
        parallel_tool_calls reasoning_effort response_format tool_choice tools top_logprobs user
    """),
    "completions": _SAMPLING
    | _fields("echo logprobs max_tokens model n prompt response_format suffix user"),
    "responses": _fields("""
        background frequency_penalty ignore_eos include include_reasoning include_stop_str_in_output
        input instructions logit_bias max_output_tokens max_tool_calls metadata min_p model
        parallel_tool_calls presence_penalty previous_response_id prompt_cache_key reasoning
        repetition_penalty seed skip_special_tokens stop stop_token_ids store stream
        structured_outputs temperature text tool_choice tools top_k top_logprobs top_p user
    """),
    "messages": _fields("""
        max_tokens messages metadata model output_config stop_sequences stream system temperature
        thinking tool_choice tools top_k top_p
    """),
    "tokenize": _fields("add_special_tokens messages model prompt return_token_strs tools"),
}

STRIPPED = _fields("""
    add_generation_prompt cache_salt chat_template chat_template_kwargs data_parallel_rank
    ec_transfer_params kv_transfer_params media_io_kwargs mm_processor_kwargs priority request_id
    session_id thinking_token_budget vllm_xargs watermarking
""")
"""Dropped and told. Some could do harm: ``kv_transfer_params`` can replace the rendered prompt, and
with it the effort; ``priority`` would pass the queue."""

_PROMPT = "the prompt is always rendered in the model's own format"
_TEXT = "this model takes text only"
_OLD = "it is deprecated; send `structured_outputs`"
_NO_SERVERS = "there are no tool servers here"

REFUSED: Mapping[str, str] = {
    "continue_final_message": _PROMPT,
    "documents": _PROMPT,
    "echo": _PROMPT,
    "previous_input_messages": _PROMPT,
    "truncate_prompt_tokens": "cutting the prompt would cut the effort out of it",
    "truncation_side": "cutting the prompt would cut the effort out of it",
    "prompt_embeds": _TEXT,
    "audio": _TEXT,
    "use_beam_search": "one request would run many",
    "prompt_logprobs": "it makes every token of the prompt cost like one of the output",
    "logprob_token_ids": "log-probabilities are those of the likeliest tokens",
    "best_of": "one request would run many; send `n`",
    "guided_choice": _OLD,
    "guided_grammar": _OLD,
    "guided_json": _OLD,
    "guided_regex": _OLD,
    "mcp_servers": _NO_SERVERS,
    "container": _NO_SERVERS,
    "functions": "it is deprecated; send `tools`",
    "function_call": "it is deprecated; send `tool_choice`",
    "web_search_options": "there is no web search here",
    "background": "it is for `/v1/responses`",
    "conversation": "there are no conversations by that name; send `previous_response_id`, where "
    "responses are stored, or the whole conversation",
    "prompt": "prompt templates are not stored here",
}
"""Field → why. A field with the value ``null`` or ``false`` asks for nothing and is dropped."""


def keep_known_fields(kind: Kind, body: dict[str, Any]) -> tuple[str, ...]:
    """Leave in ``body`` what goes on to vLLM; returns the names that were stripped.

    Raises ``InvalidRequest`` for a refused field.

    A field with the value ``null`` counts as absent, on every route and also in each message:
    clients send whole messages of earlier answers back, ``"tool_calls": null`` and all.
    """
    passed = PASSED[kind]
    stripped = []
    for field in list(body):
        value = body[field]
        if value is not None and field in passed:
            continue
        if value is not None and field in STRIPPED:
            stripped.append(field)
        elif value is not None and value is not False and field in REFUSED:
            raise InvalidRequest(
                f"`{field}` cannot be set here: {REFUSED[field]}.",
                param=field,
                code="unsupported_parameter",
            )
        del body[field]
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, dict):
            for field in [field for field, value in message.items() if value is None]:
                del message[field]
    return tuple(sorted(stripped))
