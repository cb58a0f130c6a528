"""An engine without servers: how long its steps take, and whether cut answers go on the same."""

import asyncio
import itertools
import math
import os
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.continuation import CHAT, FrontEnd, sampled, seeded, submission, tally
from benchmarks.gpu.load import TOKENS
from benchmarks.gpu.servers import model_and_pool
from benchmarks.gpu.setups import Setup
from deployments.engine.arguments import engine_args
from deployments.engine.channel.frames import Submit
from deployments.engine.vllm_engine import VllmEngine

KV_SHARE = 0.9
"""Of the KV cache; larger batches are left out, as they would preempt each other."""


async def measure_steps(setup: Setup, source: Path) -> dict[str, Any]:
    """Seconds of decode steps by batch and KV, and of prompts that are computed alone."""
    model, pool = model_and_pool(setup, source)
    front_end = await FrontEnd.make(model)
    engine = VllmEngine(str(source), engine_args(model, pool))
    started = time.monotonic()
    info = await engine.start()
    start_s = time.monotonic() - started
    plan = setup.steps
    meter = Meter(engine, front_end, setup)
    try:
        await meter.decode(1, min(plan.contexts), plan.decoded)  # warms up
        prefill = [await meter.prefill(tokens) for tokens in plan.prompts]
        decode = [
            await meter.decode(batch, context, plan.decoded)
            for context, batch in itertools.product(plan.contexts, plan.batches)
            if batch <= setup.max_num_seqs
            and batch * (context + meter.output_tokens(batch, context, plan.decoded))
            <= KV_SHARE * info.kv_tokens
        ]
    finally:
        engine.stop()
    return {
        "start_s": start_s,
        "kv_tokens": info.kv_tokens,
        "decode": decode,
        "prefill": prefill,
    }


class Meter:
    """Puts requests into an engine and times what comes out, step by step."""

    REPEATS = 5

    def __init__(self, engine: VllmEngine, front_end: FrontEnd, setup: Setup) -> None:
        self._engine = engine
        self._front_end = front_end
        self._model = setup.name
        self._step_tokens = setup.max_num_batched_tokens
        self._rng = random.Random(1)
        self._numbers = itertools.count()

    def output_tokens(self, batch: int, context: int, steps: int) -> int:
        """Enough that the first request still writes while the last one is timed: it writes in each
        of the steps that compute the others' prompts."""
        return 2 * math.ceil(batch * context / self._step_tokens) + 2 * steps + 20

    async def decode(self, batch: int, context: int, steps: int) -> dict[str, float]:
        """``steps`` steps of ``batch`` requests that begin with ``context`` tokens each."""
        submits = [
            await self._submit(context, self.output_tokens(batch, context, steps))
            for _ in range(batch)
        ]
        names = await self._put(submits)
        written = dict.fromkeys(names, 0)
        gaps: list[float] = []
        before_s, kv_tokens = 0.0, 0.0
        while len(gaps) < steps:
            step = await self._engine.next_step()
            now = time.monotonic()
            # Some of the batch before may have been on their way when they were aborted.
            outputs = [each for each in step.outputs if each.request_id in written]
            all_ran = before_s > 0 and len(outputs) == batch
            if all_ran and min(written.values()) >= 2:
                gaps.append(now - before_s)
                kv_tokens += batch * context + sum(written.values())
            for output in outputs:
                packed = self._engine.pack(output, 0)
                written[output.request_id] += len(packed.tokens)
                if packed.finish is not None:
                    raise RuntimeError(f"a request of {batch} ended before all were timed")
            before_s = now
        await self._engine.abort(names)
        await asyncio.sleep(0.1)  # so that none of them is in the next batch's first steps
        return {
            "batch": batch,
            "kv_tokens": kv_tokens / steps,
            "step_ms": 1e3 * statistics.median(gaps),
            "step_ms_mean": 1e3 * statistics.fmean(gaps),
            "steps": steps,
        }

    async def prefill(self, tokens: int) -> dict[str, float]:
        """From a prompt to its first token, the median of some."""
        times = []
        for _ in range(self.REPEATS):
            submit = await self._submit(tokens, 1)
            started = time.monotonic()
            (name,) = await self._put([submit])
            while not any(o.request_id == name for o in (await self._engine.next_step()).outputs):
                pass
            times.append(time.monotonic() - started)
        return {"prompt_tokens": tokens, "first_token_ms": 1e3 * statistics.median(times)}

    async def _put(self, submits: Sequence[Submit]) -> list[str]:
        names = [str(next(self._numbers)) for _ in submits]
        for name, submit in zip(names, submits, strict=True):
            await self._engine.submit(name, submit)
        return names

    async def _submit(self, prompt_tokens: int, output_tokens: int) -> Submit:
        body = {
            "model": self._model,
            "prompt": self._rng.choices(TOKENS, k=prompt_tokens),
            "max_tokens": output_tokens,
            "ignore_eos": True,
            "temperature": 1.0,
        }
        return submission(await self._front_end.request("/v1/completions", body))


# ------------------------------------------------------------------------ cut and continued


def greedy(number: int) -> tuple[str, dict[str, Any]]:
    """Among the tokens that no script speaks, so that a tiny model's computes for real too."""
    return CHAT, sampled(number, temperature=0.0)


async def measure_exactness(setup: Setup, source: Path, *, invariant: bool) -> dict[str, Any]:
    """Answers cut at each token and continued, as `benchmarks.continuation` does it."""
    os.environ["VLLM_BATCH_INVARIANT"] = "1" if invariant else "0"
    model, pool = model_and_pool(setup, source)
    front_end = await FrontEnd.make(model)
    args = {**engine_args(model, pool), **setup.exact_args}
    engine = VllmEngine(str(source), args)
    try:
        info = await engine.start()
    except Exception as error:
        # Whether this model and this GPU can do it at all is a result.
        return {"refused": f"{type(error).__name__}: {str(error)[-500:]}"}
    found: dict[str, Any] = {"exact_sampling": info.exact_sampling, "cases": {}}
    try:
        for name, case in (("greedy", greedy), ("seeded", seeded)):
            asked = []
            for number in range(setup.continued):
                path, body = case(number)
                asked.append(await front_end.request(path, {**body, "model": setup.name}))
            counts = await tally(engine, asked)
            found["cases"][name] = {
                "prompts": counts.prompts,
                "cuts": counts.cuts,
                "tokens": counts.tokens,
                "wrong": len(counts.wrong),
            }
    finally:
        engine.stop()
    return found
