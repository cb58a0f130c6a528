"""What carrying answers on leans on inside vLLM. When one of these fails, ``vllm_resume`` or
``vllm_resume_worker`` needs a change."""

import copy
import inspect
import itertools
import os
import time
from typing import Any

os.environ.setdefault("VLLM_TARGET_DEVICE", "cpu")

import pytest
import torch
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.engine import FinishReason
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler
from vllm.v1.structured_output import StructuredOutputManager
from vllm.v1.worker import gpu_model_runner

from deployments.compat import vllm as compat
from deployments.compat import vllm_resume, vllm_resume_worker
from deployments.engine.arguments import RESUME_ARGS
from deployments.tiny_model import make_tiny_model
from tests.deployments.compat.test_vllm_contract import a_request

BLOCK = 16
PROMPT = list(range(100, 140))
WRITTEN = list(range(300, 325))
RETURN = 200002


# ------------------------------------------------------------------------ noise


def drawn(generator: torch.Generator, tokens: int) -> list[int]:
    """Tokens that vLLM's CPU sampler draws from a wide, flat distribution."""
    sampler = TopKTopPSampler()
    logits = torch.zeros(2, 4096)
    return [
        int(sampler.forward(logits.clone(), {1: generator}, None, None)[0][1])
        for _ in range(tokens)
    ]


def fresh(seed: int = 11) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("written", [0, 1, 7, 623, 624, 5000])
def test_a_placed_generator_goes_on_with_the_noise_of_one_that_drew_every_token(
    written: int,
) -> None:
    uncut = fresh()
    drawn(uncut, written)
    placed = vllm_resume_worker.place_generator(fresh(), 11, [0] * written)
    assert drawn(placed, 5) == drawn(uncut, 5)


def test_without_being_placed_it_would_not() -> None:
    uncut = drawn(fresh(), 12)
    assert drawn(fresh(), 5) != uncut[7:]


def test_a_draw_that_gave_no_token_is_taken_back() -> None:
    tokens = [0] * 7
    placed = vllm_resume_worker.place_generator(fresh(), 11, tokens)
    for _ in range(3):  # three chunks of a prompt
        drawn(placed, 1)
        placed.set_offset(placed.get_offset() - vllm_resume_worker.OFFSET_PER_DRAW)
    assert drawn(placed, 3) == drawn(fresh(), 10)[7:]


def test_vllm_takes_draws_back_as_we_count_them() -> None:
    source = inspect.getsource(gpu_model_runner.GPUModelRunner._bookkeeping_sync)
    assert f"set_offset(gen.get_offset() - {vllm_resume_worker.OFFSET_PER_DRAW})" in source


def record(params: SamplingParams) -> Any:
    """A request as Model Runner V1 records it when it is new."""
    generator = None
    if params.seed is not None:
        generator = fresh(params.seed)
    return gpu_model_runner.CachedRequestState(
        req_id="7.1",
        prompt_token_ids=PROMPT,
        prompt_embeds=None,
        mm_features=[],
        sampling_params=params,
        pooling_params=None,
        generator=generator,
        block_ids=([],),
        num_computed_tokens=0,
        output_token_ids=[],
        lora_request=None,
    )


def test_model_runner_v1_records_a_request_with_what_was_written() -> None:
    runner = gpu_model_runner.GPUModelRunner._update_states
    assert "CachedRequestState" in runner.__code__.co_names
    params = SamplingParams(seed=11)
    vllm_resume.carry(params, WRITTEN)
    state = record(params)
    assert (state.num_prompt_tokens, state.num_tokens) == (40, 65)
    assert state.get_token_id(40) == WRITTEN[0]
    assert drawn(state.generator, 3) == drawn(fresh(), 28)[25:]
    new = record(SamplingParams(seed=11))
    assert (new.output_token_ids, drawn(new.generator, 3)) == ([], drawn(fresh(), 3))
    assert record(SamplingParams()).generator is None


# ------------------------------------------------------------------------ the request


def test_what_was_written_survives_the_way_to_the_engine_core() -> None:
    params = SamplingParams(max_tokens=90, prompt_logprobs=1, extra_args={"other": 1})
    request = a_request(sampling_params=params)
    compat.continue_answer(request, WRITTEN, resumes=True)
    back = compat.decode_request(compat.encode_request(request), "7.1", PROMPT)
    assert vllm_resume.carried(back.sampling_params) == WRITTEN
    assert back.sampling_params.extra_args["other"] == 1
    assert back.sampling_params.prompt_logprobs is None
    assert (back.prompt_token_ids, back.sampling_params.max_tokens) == (PROMPT, 90)


def test_only_a_gateway_says_what_was_written() -> None:
    request = a_request(
        sampling_params=SamplingParams(
            extra_args={vllm_resume.EXTRA_ARG: [1, 2]}, prompt_logprobs=1
        )
    )
    compat.continue_answer(request, [], resumes=True)
    assert vllm_resume.carried(request.sampling_params) == []
    assert request.sampling_params.extra_args is None
    assert request.sampling_params.prompt_logprobs == 1


def test_a_complete_answer_is_not_continued() -> None:
    request = a_request(sampling_params=SamplingParams(max_tokens=25))
    with pytest.raises(ValueError, match="complete"):
        compat.continue_answer(request, WRITTEN, resumes=True)


def test_an_engine_that_cannot_resume_gets_a_longer_prompt_and_new_noise() -> None:
    params = SamplingParams(max_tokens=90, min_tokens=30, seed=2**63 - 3, prompt_logprobs=1)
    request = a_request(sampling_params=params, prompt_token_ids=PROMPT)
    compat.continue_answer(request, WRITTEN, resumes=False)
    assert request.prompt_token_ids == [*PROMPT, *WRITTEN]
    assert (params.max_tokens, params.min_tokens, params.seed) == (65, 5, 22)
    assert params.prompt_logprobs is None
    assert vllm_resume.carried(params) == []


def test_such_an_engine_does_not_go_on_with_structured_output() -> None:
    params = SamplingParams(max_tokens=90, structured_outputs=StructuredOutputsParams(regex="a*"))
    with pytest.raises(ValueError, match="structured"):
        compat.continue_answer(a_request(sampling_params=params), WRITTEN, resumes=False)


# ------------------------------------------------------------------------ the scheduler


class World:
    """A real scheduler as an engine of ours gets it; the test plays the model runner."""

    def __init__(
        self, config: Any, *, asynchronous: bool = False, batched_tokens: int = 64
    ) -> None:
        self.config = config
        config.scheduler_config.async_scheduling = asynchronous
        config.scheduler_config.max_num_batched_tokens = batched_tokens
        config.cache_config.num_gpu_blocks = 100
        spec = FullAttentionSpec(
            block_size=BLOCK, num_kv_heads=1, head_size=16, dtype=torch.float32
        )
        self.grammars = StructuredOutputManager(config)
        self.scheduler: Any = config.scheduler_config.get_scheduler_cls()(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(100, [], [KVCacheGroupSpec(["layer"], spec)]),
            structured_output_manager=self.grammars,
            block_size=BLOCK,
            log_stats=True,
        )
        hash_function = get_hash_fn_by_name("sha256")
        init_none_hash(hash_function)
        self._hasher = get_request_block_hasher(BLOCK, hash_function)
        self._numbers = itertools.count()

    def add(self, written: list[int], **params: Any) -> Request:
        sampling = SamplingParams(**{"max_tokens": 30, **params})
        sampling.update_from_generation_config({"eos_token_id": [RETURN]}, RETURN)
        core_request = a_request(
            request_id=f"7.{next(self._numbers)}",
            prompt_token_ids=list(PROMPT),
            sampling_params=sampling,
        )
        compat.continue_answer(core_request, written, resumes=True)
        request = Request.from_engine_core_request(core_request, self._hasher)
        if request.use_structured_output:
            self.grammars.grammar_init(request)
        self.scheduler.add_request(request)
        return request

    def step(self, tokens: dict[str, int] | None = None) -> tuple[Any, list[Any]]:
        """(what was scheduled, outputs) of a step that writes ``tokens`` by request."""
        scheduled = self.scheduler.schedule()
        ids = list(scheduled.num_scheduled_tokens)
        sampled = [[tokens[each]] if tokens and each in tokens else [] for each in ids]
        places = {each: place for place, each in enumerate(ids)}
        result = ModelRunnerOutput(req_ids=ids, req_id_to_index=places, sampled_token_ids=sampled)
        outputs = self.scheduler.update_from_output(scheduled, result)
        return scheduled, outputs[0].outputs if 0 in outputs else []


@pytest.fixture(scope="module")
def made_config(request: pytest.FixtureRequest) -> Any:
    cache = request.config.cache
    assert cache is not None
    return AsyncEngineArgs(
        model=str(make_tiny_model(cache.mkdir("tiny_model") / "model")),
        max_model_len=1024,
        max_num_seqs=8,
        max_num_batched_tokens=64,
        enforce_eager=True,
        **RESUME_ARGS,
    ).create_engine_config()


@pytest.fixture
def config(made_config: Any) -> Any:
    return copy.deepcopy(made_config)


def test_the_arguments_name_what_is_here(config: Any) -> None:
    assert vllm_resume.is_set_up(config)
    assert RESUME_ARGS["worker_extension_cls"] == vllm_resume.WORKER_EXTENSION
    assert (
        f"{vllm_resume_worker.__name__}.{vllm_resume_worker.ResumesAnswers.__name__}"
    ) == vllm_resume.WORKER_EXTENSION
    assert vllm_resume.samples_exactly(config, "cpu")
    assert not vllm_resume.samples_exactly(config, "xpu")
    config.scheduler_config.scheduler_cls = None
    assert not vllm_resume.samples_exactly(config, "cpu")


def test_the_scheduler_is_the_one_that_vllm_would_have_chosen(config: Any) -> None:
    assert type(World(config).scheduler).__name__ == "ResumingScheduler"
    assert isinstance(World(config, asynchronous=True).scheduler, AsyncScheduler)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_was_written_counts_as_output_and_is_computed_in_chunks(
    config: Any, asynchronous: bool
) -> None:
    world = World(config, asynchronous=asynchronous)
    request = world.add(WRITTEN, max_tokens=27)
    assert (request.num_prompt_tokens, request.num_output_tokens) == (40, 25)
    first, outputs = world.step()
    (new,) = first.scheduled_new_reqs
    assert new.prompt_token_ids == PROMPT
    assert (first.num_scheduled_tokens, outputs) == ({"7.0": 64}, [])
    second, (output,) = world.step({"7.0": 500})
    assert second.num_scheduled_tokens == {"7.0": 1}
    assert (output.new_token_ids, output.finish_reason) == ([500], None)
    assert output.prefill_stats.num_prompt_tokens == 40
    _, (output,) = world.step({"7.0": 501})
    assert (output.new_token_ids, output.finish_reason) == ([501], FinishReason.LENGTH)
    assert list(request.output_token_ids) == [*WRITTEN, 500, 501]


def test_the_prefix_cache_serves_it_and_is_reported_for_the_prompt(config: Any) -> None:
    world = World(config, batched_tokens=128)
    world.add(WRITTEN)
    world.step({"7.0": 500})
    world.add(WRITTEN)
    scheduled, outputs = world.step({"7.0": 501, "7.1": 500})
    assert scheduled.num_scheduled_tokens == {"7.0": 1, "7.1": 1}
    (stats,) = (each.prefill_stats for each in outputs if each.request_id == "7.1")
    assert (stats.num_prompt_tokens, stats.num_cached_tokens) == (40, 40)


SCHEMA = StructuredOutputsParams(regex="[0-9]{3}-[a-z]{4}")


def encoded(config: Any, text: str) -> list[int]:
    from vllm.tokenizers import cached_tokenizer_from_config

    ids: list[int] = cached_tokenizer_from_config(config.model_config).encode(text)
    return ids


def allowed(world: World, scheduled: Any) -> set[int]:
    """Tokens that the grammar lets the first scheduled request write."""
    bits = world.scheduler.get_grammar_bitmask(scheduled).grammar_bitmask[0].view("uint32")
    return {i for i in range(200_000) if bits[i // 32] >> (i % 32) & 1}


def wait_for_grammar(world: World) -> Any:
    for _ in range(1000):
        scheduled = world.scheduler.schedule()
        if scheduled.num_scheduled_tokens:
            return scheduled
        time.sleep(0.01)
    raise AssertionError("never scheduled")


def test_a_grammar_is_led_over_what_was_written(config: Any) -> None:
    SCHEMA._backend = "xgrammar"
    world = World(config)
    written = encoded(config, "012-a")
    world.add(written, structured_outputs=SCHEMA)
    after = allowed(world, wait_for_grammar(world))
    fresh_world = World(config)
    fresh_world.add([], structured_outputs=SCHEMA)
    at_first = allowed(fresh_world, wait_for_grammar(fresh_world))
    assert encoded(config, "bcd")[0] in after - at_first
    assert encoded(config, "012")[0] in at_first - after


def test_a_long_answer_is_led_over_in_several_steps(
    config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_resume, "REPLAYED_TOKENS", 2)
    SCHEMA._backend = "xgrammar"
    world = World(config)
    written = [encoded(config, each)[0] for each in "012-a"]
    request = world.add(written, structured_outputs=SCHEMA)
    (replay,) = world.scheduler._replays
    replay.compiled.result(20)
    for led in (2, 4):
        assert not world.scheduler.schedule().num_scheduled_tokens
        assert list(request.output_token_ids) == written[:led]
    assert world.scheduler.schedule().num_scheduled_tokens == {"7.0": 45}
    assert not world.scheduler._replays


def test_an_answer_outside_its_grammar_fails_alone(config: Any) -> None:
    SCHEMA._backend = "xgrammar"
    world = World(config)
    world.add(encoded(config, "012+"), structured_outputs=SCHEMA)
    (replay,) = world.scheduler._replays
    replay.compiled.result(20)
    _, outputs = world.step()
    assert [(each.request_id, each.finish_reason) for each in outputs] == [
        ("7.0", FinishReason.ERROR)
    ]
    assert not world.scheduler._replays


def test_a_request_that_goes_while_its_grammar_is_made_leaves_nothing(config: Any) -> None:
    from vllm.v1.request import RequestStatus

    SCHEMA._backend = "xgrammar"
    world = World(config)
    world.add(encoded(config, "012"), structured_outputs=SCHEMA)
    world.scheduler.finish_requests("7.0", RequestStatus.FINISHED_ABORTED)
    assert not world.scheduler.schedule().num_scheduled_tokens
    assert not world.scheduler._replays
    assert world.scheduler.get_num_unfinished_requests() == 0
