"""Conversations: each prompt is the one before, its answer, and something new."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from msgspec.structs import replace

from autoscaling.simulator.work import Arrival, Outcome
from autoscaling.simulator.workloads.arrivals import arrival_times
from autoscaling.simulator.workloads.requests import (
    CONTEXT_TOKENS,
    TEXTS_PER_WORKLOAD,
    Outputs,
    PatienceDraw,
    PromptDraw,
    TenantDraw,
    TierDraw,
    lognormal,
)
from autoscaling.simulator.workloads.retries import Retries
from autoscaling.simulator.workloads.settings import Sessions
from cluster.config import Tier


@dataclass(frozen=True, slots=True)
class _Turn:
    prompt_tokens: int
    output_tokens: int
    answer_tokens: int
    patience_s: float
    think_s: float


class SessionWorkload:
    """Sessions that begin as an open loop, and whose turns follow each other.

    A session is drawn whole when it begins, so its turns are the same whatever becomes of others;
    it ends early if a turn does not finish or the context is full. Dropped reasoning (the default)
    lay before the answer, so what a cache holds of the answer's tokens counts as reusable although
    a real cache would compute them again: at most one answer a turn.
    """

    def __init__(self, settings: Sessions, workload: int, seed: int, until_s: float) -> None:
        self._settings = settings
        self._workload = workload
        self._seed = seed
        self._until_s = until_s
        self._tier = TierDraw(settings.mix)
        self._output = Outputs(settings.mix)
        self._tenant = TenantDraw(settings.tenants)
        self._patience = PatienceDraw(settings.patience)
        self._prompt = PromptDraw(settings.prompts, workload)
        self._added_law = lognormal(settings.added_tokens_mean, settings.added_sigma)
        self._retries = Retries(settings.retry, seed)
        self._coming: dict[int, Iterator[_Turn]] = {}

    def first(self) -> Iterator[Arrival]:
        times = arrival_times(self._settings.arrivals, Random(self._seed), self._until_s)
        rng = Random(self._seed + 1)
        base = self._workload * TEXTS_PER_WORKLOAD
        for number, at_s in enumerate(times, 1):
            yield self._begin(rng, at_s, base + number)

    def after(self, outcome: Outcome, now: float) -> Sequence[Arrival]:
        retry = self._retries.after(outcome, now)
        if retry is not None:
            return (retry,)
        asked = outcome.arrival
        turns = self._coming.get(asked.session)
        turn = None if turns is None or outcome.status != "finished" else next(turns, None)
        if turn is None:
            self._coming.pop(asked.session, None)
            return ()
        return (self._ask(asked, turn, now + turn.think_s),)

    def _begin(self, rng: Random, at_s: float, session: int) -> Arrival:
        tier = self._tier(rng, at_s)
        number, tenant = self._tenant(rng)
        prompt_tokens, shared, shared_tokens = self._prompt(rng, number)
        turns = iter(self._plan(rng, tier, prompt_tokens))
        start = Arrival(
            at_s,
            tier,
            prompt_tokens,
            1,
            tenant=tenant,
            session=session,
            shared=shared,
            shared_tokens=shared_tokens,
            max_tokens=self._settings.mix.of(tier).max_tokens,
            workload=self._workload,
        )
        self._coming[session] = turns
        return self._ask(start, next(turns), at_s)

    def _plan(self, rng: Random, tier: Tier, prompt_tokens: int) -> list[_Turn]:
        settings, (mu, sigma) = self._settings, self._added_law
        limit = settings.mix.of(tier).max_tokens
        go_on = 1.0 - 1.0 / settings.turns_mean
        turns: list[_Turn] = []
        while prompt_tokens < CONTEXT_TOKENS and (not turns or rng.random() < go_on):
            output = min(self._output(rng, tier), CONTEXT_TOKENS - prompt_tokens)
            answer = self._output.answer(tier, output)
            think_s = rng.expovariate(1.0) * settings.think_s
            turns.append(_Turn(prompt_tokens, output, answer, self._patience(rng), think_s))
            stays = min(output, limit) if settings.keeps_reasoning else min(answer, limit)
            prompt_tokens += stays + max(1, round(math.exp(mu + sigma * rng.gauss())))
        return turns

    @staticmethod
    def _ask(like: Arrival, turn: _Turn, at_s: float) -> Arrival:
        return replace(
            like,
            at_s=at_s,
            prompt_tokens=turn.prompt_tokens,
            output_tokens=turn.output_tokens,
            answer_tokens=turn.answer_tokens,
            patience_s=turn.patience_s,
            attempt=0,
            waited_s=0.0,
        )
