"""Replies that think for too long, or loop, end as at a token limit."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

os.environ.setdefault("VLLM_TARGET_DEVICE", "cpu")

import httpx
import pytest
from pydantic import ValidationError
from vllm import SamplingParams
from vllm.sampling_params import RepetitionDetectionParams
from vllm.v1.engine import EngineCoreOutput

from cluster.config import RepetitionConfig, TiersConfig
from deployments.compat import vllm as compat
from deployments.engine.channel.frames import LENGTH, REPETITION, STOP, Load, Output, Sampling, Step
from deployments.engine.simulated import reply
from deployments.gateway.context import RequestContext, current_request
from deployments.gateway.contract.door import Door
from deployments.gateway.contract.limits import Limits
from deployments.gateway.fleet_client import FleetClient
from deployments.gateway.gauges import FleetMetrics
from deployments.gateway.model_core import ModelCore
from deployments.gateway.runaway import RunawayGuard
from deployments.gateway.streams import AnswerWatch, Stream
from deployments.router import Request
from deployments.router.tiers import served_names
from deployments.tiny_model import make_tiny_model
from tests.deployments.engine.channel_world import link_settings, quick_engine
from tests.deployments.gateway.test_fleet_client import (
    MODEL,
    POOL,
    World,
    _stop_hosts,
    make_router,
    slow_engine,
    until,
)

CAP = 5
HEADER = 3  # tokens: channel, name, message
RUNAWAYS = "trireme_runaway_generations_total"
LOOPS = RepetitionConfig(max_pattern_tokens=8, min_count=20)


@asynccontextmanager
async def guarded(guard: RunawayGuard) -> AsyncIterator[World]:
    metrics = FleetMetrics((MODEL,), ((MODEL, POOL),))
    client = FleetClient(make_router(1000, 30.0), link_settings(), metrics, guard=guard)
    client.start()
    made = World(client)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(_stop_hosts, made)
        stack.push_async_callback(client.stop)
        yield made


# ------------------------------------------------------------------ analysis


async def test_a_reply_that_thinks_for_too_long_ends_there_and_its_replica_is_free() -> None:
    async with guarded(RunawayGuard({"high": CAP})) as it:
        engine = quick_engine()
        host = await it.add("a", engine)
        it.submit("thinks", "high")
        it.submit("other", "medium")  # a tier without a cap
        await until(lambda: len(it.front_end.finished) == 2)
        whole = reply(it.prompt_of("thinks"), "high", 0, engine.config)
        assert it.front_end.tokens["thinks"] == whole[: HEADER + CAP]
        assert it.front_end.finished == {"thinks": LENGTH, "other": STOP}
        assert it.value(RUNAWAYS, tier="high", cause="analysis") == 1
        assert it.value(RUNAWAYS, tier="medium", cause="analysis") == 0
        await it.until_idle()
        assert host.tokens_out < len(whole) + len(it.front_end.tokens["other"])


async def test_such_an_end_says_nothing_of_how_long_replies_are() -> None:
    async with guarded(RunawayGuard({"high": CAP})) as it:
        await it.add("a", quick_engine())
        predictor = it.client.router.predictor
        key = predictor.key("high", False, 10, "")
        before = predictor.expected(key, 100_000)
        for n in range(20):
            it.submit(f"g{n}", "high")
        await until(lambda: len(it.front_end.finished) == 20)
        assert predictor.expected(key, 100_000) == pytest.approx(before, rel=0.01)
        await it.until_idle()


async def test_a_reply_that_answers_in_time_is_left_alone() -> None:
    async with guarded(RunawayGuard({"low": 1000})) as it:
        engine = quick_engine()
        await it.add("a", engine)
        it.submit("g")
        await until(lambda: it.front_end.finished)
        assert it.front_end.tokens["g"] == reply(it.prompt_of("g"), "low", 0, engine.config)
        assert it.front_end.finished == {"g": STOP}
        assert it.value(RUNAWAYS, tier="low", cause="analysis") == 0


async def test_the_count_goes_on_after_a_lost_replica() -> None:
    async with guarded(RunawayGuard({"high": 12})) as it:
        engines = {name: slow_engine() for name in ("a", "b")}
        for name, engine in engines.items():
            await it.add(name, engine)
        it.submit("moves", "high")
        await it.until_begun(["moves"], 6)
        first = it.home_of("moves")
        assert first is not None
        await it.kill(first)
        await until(lambda: it.front_end.finished)
        assert it.home_of("moves") != first
        whole = reply(it.prompt_of("moves"), "high", 0, engines["a"].config)
        assert it.front_end.tokens["moves"] == whole[: HEADER + 12]
        assert it.front_end.finished == {"moves": LENGTH}
        await it.until_idle()


ANALYSIS, FINAL = [200005, 35644, 200008], [200005, 17196, 200008]
CALL = [200005, 12606, 815, 316, 28, 200003, 4108, 200008]  # a function call's header
TURN = [200007, 200006, 173781]


def cut_at(tokens: list[int], cap: int | None, chunk: int) -> int | None:
    """After how many tokens a reply is cut."""
    watch = AnswerWatch(cap)
    for start in range(0, len(tokens), chunk):
        if watch.feed(tokens[start : start + chunk]) is not None:
            return None
        if watch.seen >= watch.limit:
            return watch.seen
    return None


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_text_in_analysis_channels_counts_together_and_nothing_else_does(chunk: int) -> None:
    words = [290] * 6
    calls = [*ANALYSIS, *words, *TURN, *CALL, *([328] * 500), 200012]
    assert cut_at(calls, 7, chunk) is None
    assert cut_at([*ANALYSIS, *words, *TURN, *FINAL, *([328] * 500)], 7, chunk) is None
    again = [*ANALYSIS, *words, *TURN, *CALL, *words, *TURN, *ANALYSIS, *words]
    cut = cut_at(again, 8, chunk)
    assert cut is not None
    assert 0 <= cut - (len(again) - 4) < chunk
    assert cut_at(again, None, chunk) is None
    assert cut_at([290] * 500, 8, chunk) is None  # no Harmony: an answer from the first token


# ------------------------------------------------------------------ loops


@pytest.mark.parametrize(("ours", "told"), [(True, LENGTH), (False, REPETITION)])
async def test_a_loop_that_an_engine_saw_is_told_as_a_limit_unless_its_client_looks_for_loops(
    ours: bool, told: int
) -> None:
    async with guarded(RunawayGuard()) as it:
        await it.add("a", slow_engine())
        it.submit("loops", "high")
        it.front_end.contexts["loops"].guarded = ours
        await it.until_begun(["loops"])
        link, stream = it.client._links["a"], it.client._streams["loops"]
        output = Output(stream.number, [290], REPETITION, "repetition_detected")
        it.client.on_step(link, Step(Load(), [output]))
        link.abort([stream.number])  # the engine believes that it goes on
        assert it.front_end.finished == {"loops": told}
        assert (output.stop_reason is None) is ours
        assert it.value(RUNAWAYS, tier="high", cause="repetition") == 1
        await it.until_idle()


class Fleet:
    """Takes what it is given, and keeps the parameters that an engine would read."""

    def __init__(self) -> None:
        self.metering = None
        self.guard = RunawayGuard(repetition={"high": LOOPS})
        self.asked: list[SamplingParams] = []

    def submit(
        self, request_id: str, tokens: list[int], sampling: Sampling, encoded: bytes, *_: Any
    ) -> None:
        params = compat.decode_request(encoded, request_id, tokens).sampling_params
        assert params is not None
        self.asked.append(params)


async def test_engines_look_for_loops_as_the_tier_says_or_else_the_request() -> None:
    fleet: Any = Fleet()
    core = ModelCore(MODEL, fleet)
    own = RepetitionDetectionParams(max_pattern_size=2, min_count=3)
    shared = SamplingParams(temperature=0.0, max_tokens=10)
    guarded = []
    for tier, params in (
        ("high", shared),
        ("low", shared),
        ("high", SamplingParams(max_tokens=10, repetition_detection=own)),
    ):
        context = RequestContext("r", MODEL, tier, None, 0.0)  # type: ignore[arg-type]
        current_request.set(context)
        await core.add_request_async(
            compat.EngineCoreRequest(
                request_id="r",
                prompt_token_ids=[1, 2, 3],
                mm_features=None,
                sampling_params=params,
                pooling_params=None,
                arrival_time=0.0,
                lora_request=None,
                cache_salt=None,
                data_parallel_rank=None,
            )
        )
        guarded.append(context.guarded)
    ours = RepetitionDetectionParams(max_pattern_size=8, min_pattern_size=1, min_count=20)
    assert [params.repetition_detection for params in fleet.asked] == [ours, None, own]
    assert guarded == [True, False, False]
    assert shared.repetition_detection is None  # vLLM's own object is as it was


def test_an_output_with_log_probabilities_ends_as_the_fleet_says() -> None:
    fleet: Any = Fleet()
    core = ModelCore(MODEL, fleet)
    asked = Request("r", MODEL, "high", 3, 10)
    context = RequestContext("r", MODEL, "high", None, 0.0)
    stream = Stream(asked, 1, [1, 2, 3], Sampling(10), b"", context, core, bytes)
    for made in (
        EngineCoreOutput("theirs", [9]),
        EngineCoreOutput(
            "theirs",
            [9],
            finish_reason=compat.FinishReason.REPETITION,
            stop_reason="repetition_detected",
        ),
    ):
        told = core._core_output(
            stream, Output(1, [9], LENGTH, None, 2, compat.encode_output(made))
        )
        assert (told.finish_reason, told.stop_reason) == (compat.FinishReason.LENGTH, None)


# ------------------------------------------------------------------ settings


def test_the_guard_is_off_unless_configured_and_one_of_each_tier() -> None:
    assert RunawayGuard.of(TiersConfig()) == RunawayGuard()
    high = {"max_analysis_tokens": 30_000, "repetition_detection": {"min_count": 40}}
    tiers = TiersConfig.model_validate({"high": high})
    loops = RepetitionConfig(max_pattern_tokens=16, min_pattern_tokens=1, min_count=40)
    assert RunawayGuard.of(tiers) == RunawayGuard({"high": 30_000}, {"high": loops})
    assert tiers.high.priority == 20  # what is not named stays the tier's own


def test_a_pattern_cannot_be_longer_than_the_longest() -> None:
    with pytest.raises(ValidationError, match="more than max_pattern_tokens"):
        RepetitionConfig(min_count=40, max_pattern_tokens=4, min_pattern_tokens=5)


# ------------------------------------------------------------------ through vLLM's front-end


@asynccontextmanager
async def endpoint(directory: str, guard: RunawayGuard) -> AsyncIterator[tuple[Any, World]]:
    """Door, vLLM's front-end, fleet client, channel and a simulated engine."""
    namespace = compat.parse_args(
        directory,
        {
            "served_model_name": MODEL,
            "max_model_len": 8192,
            "max_num_seqs": 16,
            "max_num_batched_tokens": 2048,
            "enforce_eager": True,
            "tool_call_parser": "openai",
            "enable_auto_tool_choice": True,
            "scheduling_policy": "priority",
        },
    )
    async with guarded(guard) as it:
        core = ModelCore(MODEL, it.client)
        front_end = await asyncio.to_thread(compat.make_front_end, namespace, core)
        core.attach(front_end)
        door = Door(
            {MODEL: await compat.front_end_app(namespace, front_end)},
            served_names({MODEL: ()}),
            default_tier="high",
            limits=Limits(1_000_000, 4000),
            max_model_len={MODEL: 8192},
            ready=lambda: True,
            metrics=no_metrics,
            clock=asyncio.get_running_loop().time,
            on_done=lambda context, status: None,
        )
        await it.add("a", quick_engine())
        transport = httpx.ASGITransport(door)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            yield http, it
        front_end.shutdown()


async def no_metrics() -> tuple[bytes, str]:
    return b"", "text/plain"


async def test_every_api_ends_as_at_a_token_limit(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.cache is not None
    tiny = make_tiny_model(pytestconfig.cache.mkdir("tiny_model") / "model")
    turns = [{"role": "user", "content": "hi"}]
    async with endpoint(str(tiny), RunawayGuard({"high": CAP})) as (http, it):

        async def ask(path: str, **body: Any) -> httpx.Response:
            found = await http.post(path, json={"model": MODEL, **body}, timeout=20)
            assert found.status_code == 200, found.text
            answer: httpx.Response = found
            return answer

        chat = (await ask("/v1/chat/completions", messages=turns)).json()
        choice = chat["choices"][0]
        assert choice["finish_reason"] == "length"
        assert choice["message"]["reasoning"].strip()
        assert not choice["message"]["content"]
        assert chat["usage"]["completion_tokens"] == HEADER + CAP

        streamed = (await ask("/v1/chat/completions", messages=turns, stream=True)).text
        assert '"finish_reason":"length"' in streamed
        assert streamed.endswith("data: [DONE]\n\n")

        both = (await ask("/v1/chat/completions", messages=turns, n=2)).json()["choices"]
        assert [each["finish_reason"] for each in both] == ["length"] * 2

        response = (await ask("/v1/responses", input="hi")).json()
        assert response["status"] == "incomplete"
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}

        events = (await ask("/v1/responses", input="hi", stream=True)).text
        assert "event: response.incomplete" in events
        assert "event: response.completed" not in events

        message = (await ask("/v1/messages", messages=turns, max_tokens=1000)).json()
        assert message["stop_reason"] == "max_tokens"

        # A completion of a plain prompt is what its prompt makes it; here, Harmony too.
        completion = (await ask("/v1/completions", prompt="hi", max_tokens=1000)).json()
        assert completion["choices"][0]["finish_reason"] == "length"

        assert it.value(RUNAWAYS, tier="high", cause="analysis") == 8
        await it.until_idle()
