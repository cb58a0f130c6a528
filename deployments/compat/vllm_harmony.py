"""Two repairs of vLLM's Harmony parser: no control token in an answer, no message read in vain.

When the output ends inside a message's header (the cap fell between ``<|channel|>`` and
``<|message|>``), vLLM 0.32 and 0.33 give the caller the raw tokens of that header as content:
``<|channel|>analysis``. No text was written yet, so there is none to give.

After every token they also ask Harmony for all complete messages, and Harmony writes these as JSON
and reads them again: with a long analysis, each token of the answer costs as much as that analysis
is long. A message is only ever completed by a control token.
"""

from collections.abc import Sequence
from typing import Any

from vllm.entrypoints.openai.parser.harmony_utils import get_encoding
from vllm.parser.harmony import HarmonyParser

MESSAGE = 200008
"""o200k_harmony's id of ``<|message|>``, which ends a header."""

_vllms_flush = HarmonyParser.flush


_vllms_process_chunk = HarmonyParser.process_chunk


def repair() -> None:
    """Patch vLLM's class. It may be called again."""
    HarmonyParser.flush = _flush
    HarmonyParser.process_chunk = _process_chunk


def undo() -> None:
    """Leave the class as vLLM has it, to compare."""
    HarmonyParser.flush = _vllms_flush
    HarmonyParser.process_chunk = _vllms_process_chunk


def _process_chunk(parser: Any, token_ids: Sequence[int]) -> Any:
    """vLLM's own, without the question for complete messages where there can be none."""
    special = get_encoding().is_special_token
    if any(special(token) for token in token_ids):
        return _vllms_process_chunk(parser, token_ids)
    parser._poll_completed_message = _no_message
    try:
        return _vllms_process_chunk(parser, token_ids)
    finally:
        del parser._poll_completed_message


def _no_message() -> None:
    return None


def _flush(parser: Any) -> Any:
    if not _ends_in_a_header(parser._current_message_tokens):
        return _vllms_flush(parser)
    parser._parser = None
    parser._num_processed_messages = 0
    parser._current_message_tokens.clear()
    return []


def _ends_in_a_header(tokens: Sequence[int]) -> bool:
    special = get_encoding().is_special_token
    for token in reversed(tokens):
        if special(token):
            return token != MESSAGE
    return False
