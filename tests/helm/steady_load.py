"""A steady load whose every token is checked: streams, streams that come back, whole answers.

Its clients do what is written in their requests and nothing else: they keep their connections, as
SDKs do, but never try again by themselves. Only a stream that was cut comes back, with the id of
its last event, as ``docs/failover.md`` says.
"""

import asyncio
import itertools
import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import httpx

from cluster.config import SimulatedEngineConfig, Tier
from deployments.engine.simulated import reply

CLIENTS = {"streams": 4, "resumable": 3, "whole": 2}
TIERS: tuple[Tier, ...] = ("low", "medium", "high")
RETURNS = 12
"""How often a stream that was cut tries to come back, half a second apart."""

TIMEOUT_S = 180.0


class Broken(Exception):
    """A client saw something else than a good answer. ``str()`` says what."""


@dataclass
class Answer:
    """What a client has of one answer; ``tokens`` only where they were asked for."""

    prompt: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    reasoning: str = ""
    content: str = ""
    finish: str = ""
    usage: tuple[int, int] = (0, 0)

    def add(self, event: dict[str, Any]) -> None:
        if "error" in event:
            raise Broken(f"an error in the stream: {event['error']}")
        self.prompt = event.get("prompt_token_ids") or self.prompt
        if usage := event.get("usage"):
            self.usage = usage["prompt_tokens"], usage["completion_tokens"]
        for choice in event["choices"]:
            part = choice.get("delta") or choice.get("message") or {}
            self.tokens += choice.get("token_ids") or []
            self.reasoning += part.get("reasoning") or ""
            self.content += part.get("content") or ""
            if choice.get("finish_reason"):
                if self.finish:
                    raise Broken("two ends")
                self.finish = choice["finish_reason"]

    def text(self) -> tuple[str, str, str, tuple[int, int]]:
        return self.reasoning, self.content, self.finish, self.usage


@dataclass
class Phase:
    """What was seen while the cluster went through something."""

    ended: Counter[str] = field(default_factory=Counter)
    came_back: int = 0
    longest_pause_s: float = 0.0
    failed: list[str] = field(default_factory=list)

    def told(self) -> dict[str, Any]:
        pause_s = round(self.longest_pause_s, 2)
        return {**vars(self), "ended": dict(self.ended), "longest_pause_s": pause_s}


class Load:
    """Asks ``url`` from a thread of its own, until ``stop``; ``begin`` names what comes now."""

    def __init__(self, url: str, model: str, engine: SimulatedEngineConfig) -> None:
        self._url = url
        self._model = model
        self._engine = engine
        self._asks = [self._body(number, tier) for number, tier in enumerate(TIERS * 2)]
        self._right: list[Answer] = []
        self._phase = "before"
        self._phases: dict[str, Phase] = defaultdict(Phase)
        self._held: set[str] = set()
        self._running: Counter[str] = Counter()
        self._asking = True
        self._ready = threading.Event()
        # Of a trial that fails nothing must stay behind and ask for ever.
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def _body(self, number: int, tier: Tier) -> dict[str, Any]:
        question = {"role": "user", "content": f"Tell me of voyage number {number}."}
        return {"model": self._model, "messages": [question], "reasoning_effort": tier,
                "seed": number}  # fmt: skip

    # -------------------------------------------------------------- from other threads

    def start(self) -> None:
        """Returns when every answer is known and everybody asks."""
        self._thread.start()
        if not self._ready.wait(TIMEOUT_S):
            raise SystemExit("the load did not start")

    def begin(self, phase: str) -> None:
        self._phase = phase

    def hold(self, kind: str) -> None:
        """Nobody of this kind asks again. Returns when the last one has ended."""
        self._held.add(kind)
        ends = time.monotonic() + TIMEOUT_S
        while self._running[kind]:
            if time.monotonic() > ends:
                raise SystemExit(f"{kind} have not ended")
            time.sleep(0.05)

    def release(self, kind: str) -> None:
        self._held.discard(kind)

    def stop(self) -> dict[str, dict[str, Any]]:
        """Everybody gets the end of what they asked for. What was seen, by phase."""
        self._asking = False
        self._thread.join(2 * TIMEOUT_S)
        return {name: phase.told() for name, phase in self._phases.items()}

    # -------------------------------------------------------------- the clients

    async def _run(self) -> None:
        async with httpx.AsyncClient(
            base_url=self._url, timeout=TIMEOUT_S, trust_env=False
        ) as client:
            known = (self._stream(client, body) for body in self._asks)
            self._right = list(await asyncio.gather(*known))
            for body, answer in zip(self._asks, self._right, strict=True):
                expected = reply(
                    answer.prompt, body["reasoning_effort"], body["seed"], self._engine
                )
                assert answer.tokens == expected
                assert answer.usage[1] == len(expected)
            kinds = {"streams": self._stream, "resumable": self._resumable, "whole": self._whole}
            tasks = [
                asyncio.create_task(self._keep_asking(client, kind, kinds[kind], first))
                for kind, count in CLIENTS.items()
                for first in range(count)
            ]
            self._ready.set()
            await asyncio.gather(*tasks)

    async def _keep_asking(
        self,
        client: httpx.AsyncClient,
        kind: str,
        ask: Callable[[httpx.AsyncClient, dict[str, Any]], Coroutine[Any, Any, Answer]],
        first: int,
    ) -> None:
        for number in itertools.count(first):
            while kind in self._held and self._asking:
                await asyncio.sleep(0.05)
            if not self._asking:
                return
            which = number % len(self._asks)
            self._running[kind] += 1
            try:
                answer = await ask(client, self._asks[which])
                self._check(kind, answer, self._right[which])
                self._phases[self._phase].ended[kind] += 1
            except (Broken, httpx.HTTPError) as error:
                self._phases[self._phase].failed.append(f"{kind}: {error!r}")
                await asyncio.sleep(0.2)
            finally:
                self._running[kind] -= 1

    @staticmethod
    def _check(kind: str, got: Answer, right: Answer) -> None:
        if got.text() != right.text():
            raise Broken(f"got {got.text()}, expected {right.text()}")
        if kind == "streams" and got.tokens != right.tokens:
            raise Broken(f"got {got.tokens}, expected {right.tokens}")

    async def _whole(self, client: httpx.AsyncClient, body: dict[str, Any]) -> Answer:
        response = await client.post("/v1/chat/completions", json=body)
        if response.status_code != 200:
            raise Broken(f"{response.status_code}: {response.text[:300]}")
        answer = Answer()
        answer.add(response.json())
        return answer

    async def _stream(self, client: httpx.AsyncClient, body: dict[str, Any]) -> Answer:
        answer = Answer()
        streamed = {"stream": True, "stream_options": {"include_usage": True}}
        request = {**body, **streamed, "return_token_ids": True}
        if not await self._read(client, request, {}, answer):
            raise Broken("the stream broke off")
        return answer

    async def _resumable(self, client: httpx.AsyncClient, body: dict[str, Any]) -> Answer:
        answer = Answer()
        request = {**body, "stream": True, "stream_options": {"include_usage": True}}
        headers = {"x-trireme-resumable": "1"}
        if await self._read(client, request, headers, answer):
            return answer
        for _ in range(RETURNS):
            self._phases[self._phase].came_back += 1
            if await self._read(client, request, headers, answer):
                return answer
            await asyncio.sleep(0.5)
        raise Broken("the stream could not be resumed")

    async def _read(
        self,
        client: httpx.AsyncClient,
        request: dict[str, Any],
        headers: dict[str, str],
        answer: Answer,
    ) -> bool:
        """Whether the stream came to its end; ``headers`` get the id of its last whole event."""
        began = False
        at = time.monotonic()
        data = event_id = ""
        try:
            async with client.stream(
                "POST", "/v1/chat/completions", json=request, headers=headers
            ) as response:
                if response.status_code != 200:
                    text = (await response.aread()).decode()[:300]
                    raise Broken(f"{response.status_code}: {text}")
                async for line in response.aiter_lines():
                    name, _, value = line.partition(": ")
                    if name == "data":
                        data = value
                    elif name == "id":
                        event_id = value
                    if line:
                        continue
                    now = time.monotonic()
                    if began:
                        phase = self._phases[self._phase]
                        phase.longest_pause_s = max(phase.longest_pause_s, now - at)
                    began, at = True, now
                    if data == "[DONE]":
                        return True
                    if data:
                        answer.add(json.loads(data))
                    if event_id:
                        headers["Last-Event-ID"] = event_id
                    data = event_id = ""
        except httpx.TransportError:
            # Before its first event HAProxy asks again, so that nobody sees it.
            if "Last-Event-ID" not in headers:
                raise
        return False
