"""The clients: a closed loop, and an open loop of a mix of tiers, over streamed completions.

Prompts are random token ids and outputs are of a set length (``ignore_eos``): random weights speak
no Harmony, so chats would have no text. The closed loop is the one that ``benchmarks.stepfit``
plays with the engine model, request by request.
"""

import asyncio
import contextlib
import json
import random
import re
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from autoscaling.simulator.summary import quantile
from autoscaling.simulator.workloads import Traffic
from autoscaling.simulator.workloads.settings import WorkloadSettings
from benchmarks.gpu.servers import Look, Server
from benchmarks.gpu.setups import Shape, TierMix
from benchmarks.measure import cpu_s
from benchmarks.stepfit import BURST_GAP_S, lengths
from cluster.config import TIERS, Tier

TOKENS = range(1000, 190_000)
"""Ordinary tokens of gpt-oss's vocabulary."""

LOOK_S = 0.5
REQUEST_TIMEOUT_S = 560.0

_WRITTEN = re.compile(rb'"completion_tokens": ?(\d+)')
_TAIL_BYTES = 2000


@dataclass(frozen=True)
class Asked:
    """One request. ``number`` makes its prompt; without a ``tier`` the side's default is taken."""

    number: int
    prompt_tokens: int
    output_tokens: int
    tier: Tier | None = None
    at_s: float = 0.0


@dataclass(frozen=True)
class Answered:
    """Seconds of one clock; ``error`` is empty where all tokens came."""

    asked: Asked
    sent_s: float
    first_s: float
    last_s: float
    tokens: int
    error: str = ""

    @property
    def ttft_ms(self) -> float:
        return 1e3 * (self.first_s - self.sent_s)

    @property
    def tpot_ms(self) -> float:
        return 1e3 * (self.last_s - self.first_s) / max(1, self.tokens - 1)


class Client:
    """Asks one server."""

    def __init__(self, url: str, model: str, salt: str) -> None:
        self._url = f"{url}/v1/completions"
        self._model = model
        self._salt = salt
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=timeout, trust_env=False
        )

    async def close(self) -> None:
        await self._http.close()

    async def ask(self, asked: Asked) -> Answered:
        """One streamed completion from its first byte to its last."""
        body = json.dumps(self._body(asked)).encode()
        headers = {"content-type": "application/json"}
        sent_s = first_s = last_s = time.monotonic()
        tail, error, chunks = b"", "", 0
        try:
            async with self._http.post(self._url, data=body, headers=headers) as response:
                async for data in response.content.iter_any():
                    last_s = time.monotonic()
                    first_s = first_s if chunks else last_s
                    chunks += 1
                    tail = (tail + data)[-_TAIL_BYTES:]
                if response.status != 200:
                    error = f"{response.status}: {tail[-200:]!r}"
        except (aiohttp.ClientError, TimeoutError) as failure:
            error = f"{type(failure).__name__}: {failure}"
        written = _WRITTEN.findall(tail)
        tokens = int(written[-1]) if written else 0
        if not error and tokens != asked.output_tokens:
            error = f"{tokens} tokens of {asked.output_tokens} came: {tail[-200:]!r}"
        return Answered(asked, sent_s, first_s, last_s, tokens, error)

    def _body(self, asked: Asked) -> dict[str, Any]:
        rng = random.Random(f"{self._salt}/{asked.number}")
        return {
            "model": f"{self._model}-{asked.tier}" if asked.tier else self._model,
            "prompt": rng.choices(TOKENS, k=asked.prompt_tokens),
            "max_tokens": asked.output_tokens,
            "ignore_eos": True,
            "temperature": 1.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


class Watch:
    """Looks at a server now and then, for as long as it is entered."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.looks: list[Look] = []
        self.cpu_s = 0.0

    async def __aenter__(self) -> "Watch":
        self._before = {each.pid: cpu_s([each.pid]) for each in self._server.processes()}
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        for each in self._server.processes():
            self.cpu_s += cpu_s([each.pid]) - self._before.get(each.pid, 0.0)

    async def _run(self) -> None:
        while True:
            # A look that fails tells nothing; whether requests fail is told by them.
            with contextlib.suppress(Exception):
                self.looks.append(await asyncio.to_thread(self._server.look))
            await asyncio.sleep(LOOK_S)


async def closed_loop(
    server: Server, model: str, shape: Shape, concurrency: int, requests_a_client: int
) -> dict[str, Any]:
    """``concurrency`` clients that each send a request when the one before it has ended."""
    todo = iter(
        Asked(number, *each)
        for number, each in enumerate(lengths(shape.isl, shape.osl, concurrency, requests_a_client))
    )
    client = Client(server.url, model, f"{shape.name}/{concurrency}")
    answers: list[Answered] = []

    async def one(place: int) -> None:
        await asyncio.sleep(place * BURST_GAP_S)
        for asked in todo:
            answers.append(await client.ask(asked))

    try:
        async with Watch(server) as watch:
            await asyncio.gather(*map(one, range(concurrency)))
    finally:
        await client.close()
    return {
        "isl": shape.isl,
        "osl": shape.osl,
        "concurrency": concurrency,
        "requests_a_client": requests_a_client,
        **figures(answers, watch),
    }


def arrivals(mix: TierMix, seed: int = 1) -> list[Asked]:
    """The open loop's requests, drawn as the simulator draws its own."""
    settings = WorkloadSettings.model_validate(
        {
            "open_loop": [
                {
                    "arrivals": {"rate_per_s": mix.rate_per_s},
                    "mix": {
                        tier: {
                            "weight": mix.weights[tier],
                            "output_tokens_mean": mix.means[tier],
                            "output_sigma": mix.sigma,
                        }
                        for tier in TIERS
                    },
                    "prompts": {
                        "tokens_mean": mix.prompt_tokens,
                        "sigma": mix.sigma,
                        "tokens_max": 4 * mix.prompt_tokens,
                    },
                }
            ]
        }
    )
    longest = 4 * max(mix.means.values())
    return [
        Asked(number, each.prompt_tokens, min(each.output_tokens, longest), each.tier, each.at_s)
        for number, each in enumerate(Traffic(settings, seed, mix.duration_s).first())
    ]


async def tier_mix(server: Server, model: str, mix: TierMix) -> dict[str, Any]:
    """Every request of ``arrivals`` when it is due; by tier what became of them."""
    client = Client(server.url, model, "mix")
    started_s = time.monotonic()

    async def one(asked: Asked) -> Answered:
        await asyncio.sleep(max(0.0, started_s + asked.at_s - time.monotonic()))
        return await client.ask(asked)

    try:
        async with Watch(server) as watch:
            answers = await asyncio.gather(*map(one, arrivals(mix)))
    finally:
        await client.close()
    tiers = {tier: figures([each for each in answers if each.asked.tier == tier]) for tier in TIERS}
    return {"rate_per_s": mix.rate_per_s, **figures(answers, watch), "tiers": tiers}


def figures(answers: Sequence[Answered], watch: Watch | None = None) -> dict[str, Any]:
    """Times in ms over the requests without an error, rates per second of the whole run."""
    good = [each for each in answers if not each.error]
    errors = [each.error for each in answers if each.error]
    found: dict[str, Any] = {"requests": len(answers), "errors": len(errors)}
    if errors:
        found["first_error"] = errors[0]
    if good:
        took_s = max(each.last_s for each in good) - min(each.sent_s for each in good)
        tokens = sum(each.tokens for each in good)
        found |= {
            "took_s": took_s,
            "tokens_per_s": tokens / took_s,
            "ttft_ms": _spread(each.ttft_ms for each in good),
            "tpot_ms": _spread(each.tpot_ms for each in good),
        }
        if watch is not None:
            found["cpu_us_a_token"] = 1e6 * watch.cpu_s / tokens
            found["cpus_used"] = watch.cpu_s / took_s
    if watch is not None and watch.looks:
        found["running_max"] = max(look.running for look in watch.looks)
        found["waiting_max"] = max(look.waiting for look in watch.looks)
        found["kv_use_max"] = max(look.kv_use for look in watch.looks)
    return found


def _spread(values: Iterable[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "mean": statistics.fmean(ordered),
        **{f"p{share}": quantile(ordered, share / 100) for share in (50, 90, 99)},
    }
