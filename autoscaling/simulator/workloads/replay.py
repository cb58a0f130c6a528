"""Requests as a CSV file records them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

from autoscaling.simulator.work import Arrival, Outcome
from autoscaling.simulator.workloads.requests import (
    CONTEXT_TOKENS,
    TEXTS_PER_WORKLOAD,
    Outputs,
    PatienceDraw,
    TenantDraw,
    TierDraw,
)
from autoscaling.simulator.workloads.retries import Retries
from autoscaling.simulator.workloads.settings import Replay
from autoscaling.simulator.workloads.trace import Row, read_trace


class ReplayWorkload:
    """A trace, read while it is replayed; what the file leaves open is drawn.

    Rows of one tenant with the same `prefix` begin alike: over `prefix_tokens` where the file has
    that column (a system prompt), else as far as both go (turns of a conversation).
    """

    def __init__(self, settings: Replay, workload: int, seed: int, until_s: float) -> None:
        self._settings = settings
        self._workload = workload
        self._seed = seed
        self._until_s = until_s
        self._tier = TierDraw(settings.mix)
        self._output = Outputs(settings.mix)
        self._tenant = TenantDraw(settings.tenants)
        self._patience = PatienceDraw(settings.patience)
        self._retries = Retries(settings.retry, seed)

    def first(self) -> Iterator[Arrival]:
        rng = Random(self._seed)
        texts: dict[tuple[str, str], int] = {}
        settings = self._settings
        rows = read_trace(Path(settings.file), skips_too_long=settings.skips_too_long)
        for row in rows:
            at_s = row.at_s / settings.rate_factor
            if at_s >= self._until_s:
                return
            yield self._arrival(row, at_s, rng, texts)

    def after(self, outcome: Outcome, now: float) -> Sequence[Arrival]:
        retry = self._retries.after(outcome, now)
        return () if retry is None else (retry,)

    def _arrival(
        self, row: Row, at_s: float, rng: Random, texts: dict[tuple[str, str], int]
    ) -> Arrival:
        # All is drawn for every row, so that filling in a cell changes no other row.
        drawn_tier, (_, drawn_tenant) = self._tier(rng, at_s), self._tenant(rng)
        tier = row.tier or drawn_tier
        tenant = drawn_tenant if row.tenant is None else row.tenant
        output = min(row.output_tokens, CONTEXT_TOKENS - row.prompt_tokens)
        answer = self._output.answer(tier, output)
        if row.answer_tokens is not None:
            answer = min(max(row.answer_tokens, 1), output)
        text = 0
        if row.prefix:
            text = texts.setdefault((tenant, row.prefix), len(texts) + 1)
            text += self._workload * TEXTS_PER_WORKLOAD
        return Arrival(
            at_s,
            tier,
            row.prompt_tokens,
            output,
            answer_tokens=answer,
            tenant=tenant,
            session=0 if row.prefix_tokens else text,
            shared=text if row.prefix_tokens else 0,
            shared_tokens=min(row.prefix_tokens, row.prompt_tokens) if text else 0,
            max_tokens=self._settings.mix.of(tier).max_tokens,
            patience_s=self._patience(rng),
            workload=self._workload,
        )
