"""The grammars that vLLM makes of chat requests, and scripts run through them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xgrammar
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.parser import ParserManager
from vllm.sampling_params import StructuredOutputsParams

from deployments.tiny_model.constraint import read_constraint
from deployments.tiny_model.script import Script, write_script
from tests.deployments.tiny_model.prompts import Spoken, parse

_STOP_TOKENS = [200002, 199999, 200012]


def _chat_request(request: dict[str, Any]) -> ChatCompletionRequest:
    messages = [{"role": "user", "content": "x"}]
    whole = {"model": "gpt-oss-120b", "messages": messages, **request}
    return ChatCompletionRequest.model_validate(whole)


class Grammars:
    """vLLM's way from a chat request to an xgrammar matcher."""

    def __init__(self, directory: Path) -> None:
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(directory)
        info = xgrammar.TokenizerInfo.from_huggingface(self.tokenizer, vocab_size=201088)
        self.compiler = xgrammar.GrammarCompiler(info, max_threads=2, cache_enabled=False)
        self.parser_class = ParserManager.get_parser(
            tool_parser_name="openai",
            reasoning_parser_name="openai_gptoss",
            enable_auto_tools=True,
            is_harmony=True,
        )

    def structured_outputs(self, **request: Any) -> StructuredOutputsParams:
        """What vLLM's parser for gpt-oss makes of a chat request."""
        asked = _chat_request(request)
        assert self.parser_class is not None
        adjusted = self.parser_class(self.tokenizer, asked.tools).adjust_request(asked)
        params = adjusted.extract_structured_outputs()
        assert params is not None
        return params

    def reply(
        self, prompt: list[int], params: StructuredOutputsParams, seed: int = 0
    ) -> list[Spoken]:
        """The script's reply under the grammar; fails at the first token that it forbids."""
        assert params.structural_tag is not None
        script = write_script(prompt, seed, read_constraint(structural_tag=params.structural_tag))
        self.accept(script, self.compiler.compile_structural_tag(params.structural_tag))
        return parse(script.tokens)

    def read_as_vllm_does(
        self, tokens: Sequence[int], **request: Any
    ) -> tuple[str | None, str | None, list[Any] | None]:
        """Reasoning, content and tool calls, as the server would answer them."""
        asked = _chat_request(request)
        assert self.parser_class is not None
        parser = self.parser_class(self.tokenizer, asked.tools)
        found: tuple[str | None, str | None, list[Any] | None] = parser.parse(
            "", asked, enable_auto_tools=True, model_output_token_ids=tokens
        )
        return found

    def accept(self, script: Script, grammar: xgrammar.CompiledGrammar) -> None:
        """Run the whole script through a grammar."""
        matcher = xgrammar.GrammarMatcher(grammar, override_stop_tokens=_STOP_TOKENS)
        for place, token in enumerate(script.tokens):
            said = self.tokenizer.decode(list(script.tokens[: place + 1]))
            assert matcher.accept_token(token), said
        assert matcher.is_terminated()
