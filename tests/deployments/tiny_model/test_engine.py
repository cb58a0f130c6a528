"""The script on a real vLLM engine on the CPU."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import pytest_asyncio

from deployments.tiny_model.script import write_script
from tests.deployments.tiny_model.prompts import ENCODING, WEATHER, chat, parse

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput
    from vllm.v1.engine.async_llm import AsyncLLM

# The engine and its worker each import vLLM: up to three minutes on a busy machine of two cores.
pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),
]

_numbers = itertools.count()
_ROOT = Path(__file__).parents[3]
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "maximum": 5}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(model_directory: Path) -> AsyncIterator["AsyncLLM"]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("PYTHONPATH", str(_ROOT))  # The workers import the logits processor.

        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = AsyncEngineArgs(
            model=str(model_directory),
            dtype="bfloat16",
            enforce_eager=True,
            block_size=32,
            max_model_len=4096,
            max_num_seqs=8,
            max_num_batched_tokens=4096,
            distributed_executor_backend="mp",
            logits_processors=["deployments.tiny_model.processor:HarmonyScript"],
            disable_log_stats=True,
        )
        engine = AsyncLLM.from_engine_args(arguments)
        try:
            yield engine
        finally:
            engine.shutdown()


async def _speak(engine: "AsyncLLM", prompt: Sequence[int], **parameters: Any) -> "RequestOutput":
    """The finished output of one request."""
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input
    from vllm.sampling_params import RequestOutputKind

    params = SamplingParams(output_kind=RequestOutputKind.FINAL_ONLY, **parameters)
    outputs = engine.generate(tokens_input(list(prompt)), params, f"request-{next(_numbers)}")
    output = await anext(outputs)
    assert output.finished
    return output


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_the_engine_speaks_the_script_and_stops(
    engine: "AsyncLLM", temperature: float
) -> None:
    prompt = chat("Weather in Paris?", "medium", tools=[WEATHER])
    output = await _speak(
        engine, prompt, seed=3, temperature=temperature, max_tokens=2000, logprobs=2
    )
    (completion,) = output.outputs
    assert tuple(completion.token_ids) == write_script(prompt, 3).tokens
    assert completion.finish_reason == "stop"
    assert completion.logprobs is not None
    assert len(completion.logprobs) == len(completion.token_ids)


async def test_a_reply_cut_anywhere_goes_on_exactly_there(engine: "AsyncLLM") -> None:
    prompt = chat("Tell me of the sea", "low")
    whole = write_script(prompt, 1).tokens
    cuts = range(1, len(whole), 9)
    resumed = await asyncio.gather(
        *(_speak(engine, [*prompt, *whole[:cut]], seed=1, max_tokens=500) for cut in cuts)
    )
    for cut, output in zip(cuts, resumed, strict=True):
        assert tuple(output.outputs[0].token_ids) == whole[cut:]


async def test_requests_of_a_batch_do_not_mix(engine: "AsyncLLM") -> None:
    """Twelve requests on eight places: different prompts, efforts, seeds and penalties."""
    penalties: list[dict[str, float]] = [
        {"repetition_penalty": 1.8},
        {"frequency_penalty": 2.0, "presence_penalty": 2.0},
        {"temperature": 0.0},
        {"top_p": 0.5, "top_k": 3, "min_p": 0.2, "temperature": 1.9},
    ]
    prompts = [
        chat(f"Tale {number} of the sea", "medium" if number % 5 == 0 else "low")
        for number in range(12)
    ]
    outputs = await asyncio.gather(
        *(
            _speak(engine, prompt, seed=number, max_tokens=2000, **penalties[number % 4])
            for number, prompt in enumerate(prompts)
        )
    )
    for number, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
        assert tuple(output.outputs[0].token_ids) == write_script(prompt, number).tokens


async def test_the_children_of_one_request_differ_by_their_seeds(engine: "AsyncLLM") -> None:
    prompt = chat("Tell me of the sea", "medium")
    output = await _speak(engine, prompt, n=2, seed=10, max_tokens=2000)
    spoken = [tuple(completion.token_ids) for completion in output.outputs]
    assert spoken == [write_script(prompt, seed).tokens for seed in (10, 11)]
    assert spoken[0] != spoken[1]


async def test_bare_json_obeys_its_schema_under_vllms_own_grammar(engine: "AsyncLLM") -> None:
    from vllm.sampling_params import StructuredOutputsParams

    asked = StructuredOutputsParams(json=_SCHEMA)
    prompt = chat("Row to Piraeus in 3 days")
    output = await _speak(engine, prompt, structured_outputs=asked, max_tokens=500)
    value = json.loads(ENCODING.decode(output.outputs[0].token_ids[:-1]))
    jsonschema.validate(value, _SCHEMA)
    assert value == {"city": "Piraeus", "days": 3}
    assert output.outputs[0].finish_reason == "stop"


async def test_a_chats_json_obeys_its_schema_inside_harmony(
    engine: "AsyncLLM", model_directory: Path
) -> None:
    from tests.deployments.tiny_model.grammars import Grammars

    params = Grammars(model_directory).structured_outputs(
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": _SCHEMA}}
    )
    prompt = chat("Row to Piraeus in 3 days", "medium")
    output = await _speak(engine, prompt, structured_outputs=params, max_tokens=500)
    analysis, final = parse(output.outputs[0].token_ids)
    assert (analysis.channel, final.channel) == ("analysis", "final")
    jsonschema.validate(json.loads(final.text), _SCHEMA)


async def test_under_a_grammar_that_it_cannot_write_a_reply_stays_legal(
    engine: "AsyncLLM",
) -> None:
    from vllm.sampling_params import StructuredOutputsParams

    asked = StructuredOutputsParams(grammar='root ::= "oar" [0-9]{3} ("!" | "")')
    output = await _speak(engine, chat("Row!"), structured_outputs=asked, max_tokens=50)
    text = ENCODING.decode(output.outputs[0].token_ids[:-1])
    assert text[:3] == "oar"
    assert text[3:6].isdigit()
    assert output.outputs[0].finish_reason == "stop"


async def test_a_reply_is_as_long_as_it_must_be(engine: "AsyncLLM") -> None:
    prompt = chat("Tell me of the sea")
    longer = await _speak(engine, prompt, min_tokens=150, max_tokens=2000)
    assert len(longer.outputs[0].token_ids) > 150
    assert parse(longer.outputs[0].token_ids)[-1].channel == "final"
    endless = await _speak(engine, prompt, ignore_eos=True, max_tokens=200)
    assert len(endless.outputs[0].token_ids) == 200
    assert endless.outputs[0].finish_reason == "length"


async def test_banned_words_are_not_forced(engine: "AsyncLLM") -> None:
    prompt = chat("Tell me of the sea")
    script = write_script(prompt).tokens
    banned = [script[4], script[-5]]
    allowed = [token for token in set(script) if token not in banned] + [1000]
    # Without `min_tokens`, chance could end the reply where a banned token would have stood.
    output = await _speak(
        engine,
        prompt,
        allowed_token_ids=allowed,
        min_tokens=len(script) - 1,
        max_tokens=500,
    )
    spoken = output.outputs[0].token_ids
    assert len(spoken) == len(script)
    differing = {old for old, new in zip(script, spoken, strict=True) if old != new}
    assert differing == set(banned)


async def test_plain_prompts_are_echoed(engine: "AsyncLLM") -> None:
    output = await _speak(engine, ENCODING.encode("The wine-dark sea"), max_tokens=100)
    assert "The wine-dark sea" in output.outputs[0].text
    assert output.outputs[0].finish_reason == "stop"
