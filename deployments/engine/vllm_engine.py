"""A real engine: vLLM's engine core with its TP group, tokens in and token deltas out.

The engine core's own outputs are forwarded as they come, one batch a step. There is no generator,
task or detokeniser per request on this side; the gateway does that work (docs/decisions.md has the
measurement of both ways).
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from deployments.compat import vllm as compat
from deployments.engine.channel.frames import Output, Submit
from deployments.engine.death import came_from_outside, exit_code, oom_kills
from deployments.engine.engine import (
    CoreOutput,
    EngineDead,
    EngineInfo,
    EngineStats,
    EngineStep,
    RequestRefused,
)


class VllmEngine:
    """``source`` is a path or Hugging Face id, ``args`` are ``AsyncEngineArgs`` fields."""

    def __init__(self, source: str, args: Mapping[str, Any]) -> None:
        self._core = compat.EngineCore(compat.parse_args(source, args))
        self._oom_kills: int | None = None

    async def start(self) -> EngineInfo:
        self._oom_kills = oom_kills()
        await asyncio.to_thread(self._core.start)
        core = self._core
        return EngineInfo(
            core.max_num_seqs, core.max_model_len, core.kv_tokens, core.exact_sampling
        )

    async def submit(self, request_id: str, submit: Submit) -> None:
        try:
            request = compat.decode_request(submit.request, request_id, submit.prompt_token_ids)
        except Exception as error:
            raise RequestRefused(f"undecodable request: {error}", retryable=False) from error
        written = len(submit.emitted)
        if written and len(submit.prompt_token_ids) + written >= self._core.max_model_len:
            # vLLM checks lengths in its front-end alone; this one would take the whole core down.
            raise RequestRefused("the answer fills the context", retryable=False)
        try:
            compat.continue_answer(request, submit.emitted, resumes=self._core.resumes)
        except ValueError as error:
            raise RequestRefused(str(error), retryable=False) from error
        request.priority = submit.priority
        try:
            await self._core.add(request)
        except compat.EngineDeadError as error:
            raise self._dead(error) from error

    async def abort(self, request_ids: list[str]) -> None:
        await self._core.abort(request_ids)

    async def next_step(self) -> EngineStep:
        try:
            step = await self._core.outputs()
        except compat.EngineDeadError as error:
            raise self._dead(error) from error
        stats = step.scheduler_stats
        return EngineStep(
            step.outputs,
            stats
            and EngineStats(
                stats.num_running_reqs,
                stats.num_waiting_reqs + stats.num_skipped_waiting_reqs,
                stats.kv_cache_usage,
                self._core.preemptions,
            ),
        )

    def pack(self, output: CoreOutput, stream: int) -> Output:
        assert isinstance(output, compat.EngineCoreOutput)
        prefill = output.prefill_stats
        plain = output.new_logprobs is None and output.new_prompt_logprobs_tensors is None
        return Output(
            stream,
            output.new_token_ids,
            None if output.finish_reason is None else int(output.finish_reason),
            output.stop_reason,
            None if prefill is None else prefill.num_cached_tokens,
            None if plain else compat.encode_output(output),
        )

    def check(self) -> None:
        if self._core.dead or any(exit_code(pid) is not None for pid in self._core.pids):
            raise self._dead("vLLM's engine core is dead")

    def _dead(self, error: Exception | str) -> EngineDead:
        heard = self._core.exit_codes
        codes = [heard.get(pid, exit_code(pid)) for pid in self._core.pids]
        blameless = came_from_outside(codes, self._oom_kills, oom_kills())
        return EngineDead(f"{error} (exit codes: {codes})", blameless=blameless)

    def stop(self) -> None:
        self._core.shutdown()
