"""A gateway's whole HTTP side for clients of other makers: door and vLLM's front-end on a socket.

In place of engines, a model that does what the last message of its prompt says, so that every
client can be made to meet every case:

- ``SAY text``: answers with the text, after a thought.
- ``CALL name json``: calls the function, and when its result is there says it.
- ``BUSY key n``: refuses the first n attempts of that key with 429.
- anything else: says hello.

Run: ``python -m tests.conformance.server DIRECTORY``; the base URL is written to standard output.
"""

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import uvicorn
from openai_harmony import HarmonyEncodingName, load_harmony_encoding

from cluster.errors import Overloaded
from deployments.compat import vllm as compat
from deployments.gateway.context import RequestContext
from tests.deployments.gateway.contract.door_world import ScriptedCore, make_world

ENCODING = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
CONTEXT = 131_072
THOUGHT = "<|channel|>analysis<|message|>The user wants this.<|end|><|start|>assistant"

refusals: Counter[str] = Counter()


def last_message(prompt: list[int]) -> tuple[str, str]:
    """(who says it, what) of the last whole message."""
    text = ENCODING.decode(prompt[-20_000:])
    message = text.rpartition("<|end|>")[0].rpartition("<|start|>")[2]
    head, _, said = message.partition("<|message|>")
    return head, said


def reply_to(prompt: list[int]) -> str:
    """What the model writes, in Harmony."""
    head, said = last_message(prompt)
    if head.startswith("functions."):
        return f"{THOUGHT}<|channel|>final<|message|>The function said: {said}<|return|>"
    verb, _, rest = said.strip().partition(" ")
    if verb == "CALL":
        name, _, arguments = rest.partition(" ")
        json.loads(arguments)
        call = f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
        return f"{THOUGHT}{call}{arguments}<|call|>"
    answer = rest if verb == "SAY" else "Hello from the tiny model."
    return f"{THOUGHT}<|channel|>final<|message|>{answer}<|return|>"


async def obey(core: ScriptedCore, request: Any, context: RequestContext) -> None:
    verb, _, rest = last_message(request.prompt_token_ids)[1].strip().partition(" ")
    if verb == "BUSY":
        key, _, times = rest.partition(" ")
        refusals[key] += 1
        if refusals[key] <= int(times):
            error = Overloaded("The queue is full.", retry_after_s=1)
            context.fail(error)
            compat.fail_request(core.client, request.request_id, error)
            return
    context.replica_id, context.settled = "scripted", True
    tokens = ENCODING.encode(reply_to(request.prompt_token_ids), allowed_special="all")
    allowed = tokens[: request.sampling_params.max_tokens]
    for token in allowed[:-1]:
        await core.say(request, token)
    cut = len(allowed) < len(tokens)
    finish = compat.FinishReason.LENGTH if cut else compat.FinishReason.STOP
    await core.write(request, allowed[-1], finish)


async def main(directory: Path) -> None:
    world = await make_world(directory, CONTEXT, 4 * 1024 * 1024)
    world.core.script = obey
    config = uvicorn.Config(world.door, port=0, lifespan="off", log_level="warning")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    print(f"http://127.0.0.1:{port}", flush=True)
    await serving


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
