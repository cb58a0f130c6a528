"""Which of vLLM's internals we lean on. When one of these fails, `deployments/compat/vllm.py` needs
a change; our features are not at fault."""

import ast
import inspect
import textwrap

import numpy as np
import pytest
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256_cbor
from vllm.v1.core import kv_cache_utils
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreEvent, EngineCoreEventType, async_llm
from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector, RequestState
from vllm.v1.outputs import LogprobsLists
from vllm.v1.request import Request

from deployments.compat import vllm as compat
from deployments.engine.arguments import PARSERS
from deployments.engine.channel import frames

OURS = {name for name in dir(compat.FrontEndCore) if not name.startswith("_")}
OURS |= set(compat.FrontEndCore.__annotations__)

ON_OUR_WAY = (
    "__init__",
    "generate",
    "add_request",
    "_add_request",
    "_run_output_handler",
    "abort",
    "get_supported_tasks",
    "errored",
    "dead_error",
    "check_health",
    "shutdown",
)
"""Methods of ``AsyncLLM`` that a request, or the front-end's start and end, passes through."""


def uses_of_the_core(method: str) -> set[str]:
    """Attributes of ``engine_core`` that the source of ``AsyncLLM.<method>`` reads."""
    member = inspect.getattr_static(async_llm.AsyncLLM, method)
    source = inspect.getsource(member.fget if isinstance(member, property) else member)
    used = set()
    for node in ast.walk(ast.parse(textwrap.dedent(source))):
        if isinstance(node, ast.Attribute):
            inner = node.value
            name = inner.attr if isinstance(inner, ast.Attribute) else getattr(inner, "id", None)
            if name == "engine_core":
                used.add(node.attr)
    return used


@pytest.mark.parametrize("method", ON_OUR_WAY)
def test_async_llm_asks_its_core_for_no_more_than_ours_has(method: str) -> None:
    assert uses_of_the_core(method) <= OURS


def test_the_check_above_sees_what_async_llm_uses() -> None:
    used = set().union(*map(uses_of_the_core, ON_OUR_WAY))
    assert {"add_request_async", "get_output_async", "abort_requests_async"} <= used


def test_async_llm_looks_its_core_up_where_we_put_ours() -> None:
    source = inspect.getsource(async_llm.AsyncLLM.__init__)
    assert "EngineCoreClient.make_async_mp_client(" in source
    assert async_llm.EngineCoreClient is not None


def test_finish_reasons_have_the_channels_numbers() -> None:
    reasons = [reason.name for reason in compat.FinishReason]
    assert reasons == ["STOP", "LENGTH", "ABORT", "ERROR", "REPETITION"]
    codes = [frames.STOP, frames.LENGTH, frames.ABORTED, frames.ERROR, frames.REPETITION]
    assert codes == [int(reason) for reason in compat.FinishReason]


def test_an_error_in_a_requests_queue_reaches_its_generator() -> None:
    collector = RequestOutputCollector.put
    assert "Exception" in inspect.signature(collector).parameters["output"].annotation.__repr__()
    assert "queue" in inspect.signature(RequestState.__init__).parameters
    assert "self.request_states" in inspect.getsource(OutputProcessor.__init__)


def a_request(**changes: object) -> compat.EngineCoreRequest:
    values: dict[str, object] = {
        "request_id": "chatcmpl-1",
        "prompt_token_ids": [1, 2, 3],
        "mm_features": None,
        "sampling_params": SamplingParams(max_tokens=7, seed=3, stop=["x"], logprobs=2),
        "pooling_params": None,
        "arrival_time": 1.0,
        "lora_request": None,
        "cache_salt": None,
        "data_parallel_rank": None,
    }
    return compat.EngineCoreRequest(**{**values, **changes})


def test_a_request_survives_the_wire_with_its_prompt_beside_it() -> None:
    request = a_request(priority=5, reasoning_ended=False)
    encoded = compat.encode_request(request)
    assert request.prompt_token_ids == [1, 2, 3]
    back = compat.decode_request(encoded, "7.1", [1, 2, 3])
    assert (back.request_id, back.prompt_token_ids, back.priority) == ("7.1", [1, 2, 3], 5)
    assert back.reasoning_ended is False
    assert back.sampling_params.max_tokens == 7
    assert back.sampling_params.seed == 3
    assert back.sampling_params.logprobs == 2


def test_a_request_with_tensors_is_refused() -> None:
    import torch

    with pytest.raises(ValueError, match="text only"):
        compat.encode_request(a_request(prompt_embeds=torch.zeros(64, 64)))


@pytest.mark.parametrize("candidates", [2, 500], ids=["inline", "own buffers"])
def test_log_probabilities_survive_the_wire(candidates: int) -> None:
    logprobs = LogprobsLists(
        np.arange(candidates, dtype=np.int32).reshape(1, -1),
        np.linspace(-1, 0, candidates, dtype=np.float32).reshape(1, -1),
        np.array([1], dtype=np.int32),
        None,
    )
    output = compat.EngineCoreOutput("7.1", [42], new_logprobs=logprobs)
    back = compat.decode_output(compat.encode_output(output))
    assert back.new_token_ids == [42]
    np.testing.assert_array_equal(back.new_logprobs.logprob_token_ids, logprobs.logprob_token_ids)
    np.testing.assert_array_equal(back.new_logprobs.logprobs, logprobs.logprobs)


def test_prefill_stats_carry_the_cached_tokens() -> None:
    stats = compat.prefill_stats(100, 64)
    assert (stats.num_prompt_tokens, stats.num_cached_tokens) == (100, 64)


def test_vllms_parser_reads_our_arguments() -> None:
    namespace = compat.parse_args(
        "some/model",
        {
            "served_model_name": "gpt-oss",
            "max_num_seqs": 8,
            "enforce_eager": True,
            "enable_prefix_caching": False,
            "speculative_config": {"method": "ngram", "num_speculative_tokens": 2},
            "logits_processors": ["a.b:C"],
            "revision": None,
        },
        *PARSERS,
    )
    assert namespace.model == "some/model"
    assert namespace.served_model_name in ("gpt-oss", ["gpt-oss"])
    assert namespace.max_num_seqs == 8
    assert namespace.enforce_eager is True
    assert namespace.enable_prefix_caching is False
    assert namespace.logits_processors == ["a.b:C"]
    assert namespace.tool_call_parser == "openai"


def test_bad_engine_arguments_are_named_each_with_its_fault() -> None:
    faults = compat.bad_engine_args(
        {"kv_cache_dtype": "fp9", "swop_space": 4, "load_format": "auto", "seed": "seven"}
    )
    assert [name for name, _ in faults] == ["kv_cache_dtype", "seed", "swop_space"]
    assert "fp9" in dict(faults)["kv_cache_dtype"]
    assert "no such" in dict(faults)["swop_space"]


def test_a_preemption_is_told_as_an_event_of_the_requests_next_output() -> None:
    assert "events" in compat.EngineCoreOutput.__struct_fields__
    preempt = inspect.getsource(Scheduler._preempt_request)
    assert "record_event(EngineCoreEventType.PREEMPTED" in preempt
    event = EngineCoreEvent.new_event(EngineCoreEventType.PREEMPTED)
    output = compat.EngineCoreOutput("r", [1], events=[event])
    read = compat.decode_output(compat.encode_output(output))
    assert [each.type for each in read.events or ()] == [EngineCoreEventType.PREEMPTED]


def test_blocks_of_the_prefix_cache_are_another_salts_no_more() -> None:
    """The salt is in the first block's hash, and each hash has the one before it in it."""
    kv_cache_utils.init_none_hash(sha256_cbor)
    hasher = kv_cache_utils.get_request_block_hasher(16, sha256_cbor)

    def hashes(salt: str | None) -> list[bytes]:
        made = Request(
            "r",
            list(range(64)),
            SamplingParams(max_tokens=1),
            None,
            cache_salt=salt,
            block_hasher=hasher,
        )
        return list(made.block_hashes)

    plain, one, other = hashes(None), hashes("one"), hashes("other")
    assert len(plain) == len(one) == 4
    assert hashes("one") == one
    assert not set(one) & set(other)
    assert not set(one) & set(plain)
