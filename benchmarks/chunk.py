"""CPU of the gateway for one streamed chunk of a chat: vLLM's own way against Trireme's.

vLLM's front-end runs over a scripted core behind the gateway's door, both ways by turns in this one
process, so that both meet the same machine. Counted is the CPU of the event loop's thread from the
core's outputs to the bytes of the response; the HTTP server is not in it. The figures are medians
of rounds.

Run: ``python -m benchmarks.chunk [--quick]``.
"""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import arguments, report
from deployments.compat import vllm as compat
from deployments.compat import vllm_chunks, vllm_harmony, vllm_streams
from deployments.gateway.context import RequestContext
from deployments.tiny_model import make_tiny_model
from tests.deployments.gateway.contract.door_world import CHAT, HELLO, Script, World, make_world

OPENING, ANALYSIS, BETWEEN, ANSWER, END = HELLO[:3], 976, HELLO[5:11], 1354, HELLO[-1:]
CASES = {"short analysis": (20, 400), "long analysis": (3_000, 400)}
"""Tokens of analysis, tokens of the answer."""


def writes(analysis: int, answer: int, marks: list[float]) -> Script:
    """The model thinks, then answers; ``marks`` gets the CPU time at which the answer began."""

    async def script(core: Any, request: Any, context: RequestContext) -> None:
        async def say(token: int) -> None:
            finish = compat.FinishReason.STOP if [token] == END else None
            output = compat.EngineCoreOutput(request.request_id, [token], finish_reason=finish)
            core.steps.put_nowait(compat.EngineCoreOutputs(outputs=[output]))
            # Each token of its own, as a step of the engine would bring it.
            for _ in range(6):
                await asyncio.sleep(0)

        context.settled = True
        for token in [*OPENING, *[ANALYSIS] * analysis, *BETWEEN]:
            await say(token)
        marks.append(time.thread_time())
        for token in [*[ANSWER] * answer, *END]:
            await say(token)

    return script


async def per_chunk_s(world: World, analysis: int, answer: int) -> float:
    """Of the chunks of one answer."""
    world.reset()
    marks: list[float] = []
    world.core.script = writes(analysis, answer, marks)
    body = {**CHAT, "stream": True}
    response = await world.post("/v1/chat/completions", body)
    spent_s = time.thread_time() - marks[0]
    chunks = response.text.count('"content":" there"')
    if chunks != answer:
        raise RuntimeError(f"{chunks} chunks instead of {answer}")
    return spent_s / answer


def vllms_way() -> None:
    vllm_chunks.write_chunks_as_vllm_does()
    vllm_harmony.undo()
    vllm_streams.send_chunks_as_vllm_does()


def our_way() -> None:
    vllm_chunks.write_chunks_fast()
    vllm_harmony.repair()
    vllm_streams.send_chunks_straight()


async def measure(rounds: int) -> dict[str, float]:
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as home:
        world = await make_world(make_tiny_model(Path(home) / "model"))
        await per_chunk_s(world, 10, 10)
        for case, (analysis, answer) in CASES.items():
            times: dict[str, list[float]] = {"vLLM": [], "Trireme": []}
            for _ in range(rounds):
                for name, way in (("vLLM", vllms_way), ("Trireme", our_way)):
                    way()
                    times[name].append(await per_chunk_s(world, analysis, answer))
            for name, spent in times.items():
                figures[f"{case}, {name}, us"] = 1e6 * statistics.median(spent)
    return figures


def main() -> None:
    options = arguments((__doc__ or "").splitlines()[0]).parse_args()
    figures = asyncio.run(measure(3 if options.quick else 9))
    rows = []
    for case in CASES:
        theirs, ours = figures[f"{case}, vLLM, us"], figures[f"{case}, Trireme, us"]
        rows.append([case, f"{theirs:.0f}", f"{ours:.0f}", f"{theirs / ours:.2f}"])
    columns = ["answer after", "vLLM", "Trireme", "ratio"]
    report("CPU of one streamed chunk, µs", columns, rows, figures, options.json)


if __name__ == "__main__":
    main()
