"""What vLLM's front-end hands to the fleet, and what it gets back: seeds, and what goes on."""

import os
from collections.abc import Callable
from typing import Any, cast

os.environ.setdefault("VLLM_TARGET_DEVICE", "cpu")

import pytest
from vllm import SamplingParams
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest

from deployments.compat import vllm as compat
from deployments.engine.channel.frames import Output, Sampling
from deployments.gateway.context import RequestContext, current_request
from deployments.gateway.fleet_client import FleetClient
from deployments.gateway.model_core import ModelCore
from deployments.gateway.runaway import RunawayGuard
from deployments.gateway.streams import Stream
from deployments.router import Request

MODEL = "org/tiny"
PROMPT = [1, 2, 3]


class Fleet:
    """Keeps what it is asked for."""

    def __init__(self) -> None:
        self.metering = None
        self.guard = RunawayGuard()
        self.asked: list[tuple[Sampling, EngineCoreRequest, Callable[[], bytes]]] = []

    def submit(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        sampling: Sampling,
        encoded: bytes,
        context: RequestContext,
        front_end: Any,
        variant: Callable[[], bytes],
    ) -> None:
        decoded = compat.decode_request(encoded, request_id, prompt_token_ids)
        self.asked.append((sampling, decoded, variant))


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def core(fleet: Fleet) -> ModelCore:
    current_request.set(RequestContext("r", MODEL, "low", None, 0.0))
    return ModelCore(MODEL, cast(FleetClient, fleet))


def request(params: SamplingParams, request_id: str = "r") -> EngineCoreRequest:
    return EngineCoreRequest(
        request_id=request_id,
        prompt_token_ids=list(PROMPT),
        mm_features=None,
        sampling_params=params,
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )


async def test_a_request_that_samples_without_a_seed_gets_one_of_its_own(
    core: ModelCore, fleet: Fleet
) -> None:
    shared = SamplingParams(temperature=1.0, max_tokens=10)
    for name in ("0_r", "1_r"):  # as vLLM splits n=2: two requests with the same parameters
        await core.add_request_async(request(shared, name))
    seeds = [sampling.seed for sampling, _, _ in fleet.asked]
    assert None not in seeds
    assert len(set(seeds)) == 2
    assert all(0 <= cast(int, seed) < 2**63 for seed in seeds)
    for sampling, decoded, _ in fleet.asked:
        assert decoded.sampling_params is not None
        assert decoded.sampling_params.seed == sampling.seed
    assert shared.seed is None


async def test_a_clients_seed_stays_and_greedy_decoding_needs_none(
    core: ModelCore, fleet: Fleet
) -> None:
    await core.add_request_async(request(SamplingParams(temperature=0.5, seed=7)))
    await core.add_request_async(request(SamplingParams(temperature=0.0)))
    assert [sampling.seed for sampling, _, _ in fleet.asked] == [7, None]


async def test_requests_that_ask_for_the_same_are_variants_of_the_same(
    core: ModelCore, fleet: Fleet
) -> None:
    for params in (
        SamplingParams(temperature=1.0, max_tokens=10),
        SamplingParams(temperature=1.0, max_tokens=10),
        SamplingParams(temperature=1.0, max_tokens=11),
        SamplingParams(temperature=1.0, max_tokens=10, logit_bias={5: 1.0}),
    ):
        await core.add_request_async(request(params))
    first, same, *others = (variant() for _, _, variant in fleet.asked)
    assert first == same
    assert len({first, *others}) == 3


def stream(core: ModelCore, written: int) -> Stream:
    asked = Request("r", MODEL, "low", len(PROMPT) + written, 10, written=written)
    context = RequestContext("r", MODEL, "low", None, 0.0)
    return Stream(asked, 1, PROMPT, Sampling(10), b"", context, core, bytes)


@pytest.mark.parametrize("detailed", [False, True])
def test_cached_tokens_are_told_with_the_first_tokens_of_the_answer_only(
    core: ModelCore, detailed: bool
) -> None:
    made = EngineCoreOutput("theirs", [9], prefill_stats=compat.prefill_stats(3, 2))
    details = compat.encode_output(made) if detailed else None
    output = Output(1, [9], None, None, 2, details)
    first = core._core_output(stream(core, 0), output)
    assert first.request_id == "r"
    assert first.prefill_stats is not None
    assert first.prefill_stats.num_cached_tokens == 2
    later = core._core_output(stream(core, 4), output)
    assert later.new_token_ids == [9]
    assert later.prefill_stats is None


async def test_the_callers_salt_goes_to_the_engine_with_the_request(fleet: Fleet) -> None:
    core = ModelCore(MODEL, cast(FleetClient, fleet))
    for salt in ("", "ab" * 32):
        context = RequestContext("r", MODEL, "low", None, 0.0)
        context.cache_salt = salt
        current_request.set(context)
        await core.add_request_async(request(SamplingParams(temperature=0.0, max_tokens=10)))
    assert [decoded.cache_salt for _, decoded, _ in fleet.asked] == [None, "ab" * 32]
