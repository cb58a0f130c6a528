"""What a request asks for: tier, lengths, tenant, shared beginning, patience."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from random import Random

from autoscaling.simulator.work import Arrival
from autoscaling.simulator.workloads.settings import Mix, Patience, Prompts, Tenant
from cluster.config import TIERS, Tier
from cluster.facts import GPT_OSS_120B

CONTEXT_TOKENS = GPT_OSS_120B.context_tokens

TEXTS_PER_WORKLOAD = 1 << 40
"""Workload number w numbers its texts from w times this, so that no two share one by chance."""


def lognormal(mean: float, sigma: float) -> tuple[float, float]:
    """μ and σ of the logarithm, for a log-normal distribution of that mean."""
    return math.log(mean) - sigma * sigma / 2.0, sigma


class TierDraw:
    """Draws tiers by weights that may shift over time."""

    def __init__(self, mix: Mix) -> None:
        corners = [(0.0, mix.weights())]
        for shift in mix.shifts:
            corners.append((shift.at_s, corners[-1][1]))
            corners.append((shift.at_s + shift.over_s, shift.weights()))
        self._corners = [(at_s, _normal(weights)) for at_s, weights in corners]
        self._times = [at_s for at_s, _ in corners]

    def __call__(self, rng: Random, at_s: float) -> Tier:
        low, medium = self._shares(at_s)
        draw = rng.random()
        return "low" if draw < low else "medium" if draw < low + medium else "high"

    def _shares(self, at_s: float) -> tuple[float, float]:
        index = bisect_right(self._times, at_s) - 1
        start_s, (low, medium) = self._corners[index]
        if index + 1 == len(self._corners):
            return low, medium
        end_s, (low_then, medium_then) = self._corners[index + 1]
        part = (at_s - start_s) / (end_s - start_s)
        return low + (low_then - low) * part, medium + (medium_then - medium) * part


def _normal(weights: tuple[float, float, float]) -> tuple[float, float]:
    low, medium, high = weights
    total = low + medium + high
    return low / total, medium / total


class Outputs:
    """Draws output lengths of each tier."""

    def __init__(self, mix: Mix) -> None:
        self._laws = {
            tier: lognormal(mix.of(tier).output_tokens_mean, mix.of(tier).output_sigma)
            for tier in TIERS
        }
        self._answers = {tier: mix.of(tier).answer_share for tier in TIERS}

    def __call__(self, rng: Random, tier: Tier) -> int:
        """Output tokens, at least 1 and at most what a context holds."""
        mu, sigma = self._laws[tier]
        return min(max(round(math.exp(mu + sigma * rng.gauss())), 1), CONTEXT_TOKENS)

    def answer(self, tier: Tier, output_tokens: int) -> int:
        """How many of them are the answer: at least one."""
        return max(1, round(self._answers[tier] * output_tokens))


class TenantDraw:
    """Draws tenants by their shares: the number and the name of one."""

    def __init__(self, tenants: Sequence[Tenant]) -> None:
        self._names = [tenant.name for tenant in tenants] or [""]
        self._bounds = list(accumulate(tenant.share for tenant in tenants))

    def __call__(self, rng: Random) -> tuple[int, str]:
        if len(self._names) == 1:
            return 0, self._names[0]
        index = bisect_right(self._bounds, rng.random() * self._bounds[-1])
        index = min(index, len(self._names) - 1)
        return index, self._names[index]


class PatienceDraw:
    """Draws how long a client waits: infinity for most."""

    def __init__(self, patience: Patience) -> None:
        self._share = patience.share
        self._law = lognormal(patience.mean_s, patience.sigma)

    def __call__(self, rng: Random) -> float:
        if self._share == 0 or rng.random() >= self._share:
            return math.inf
        mu, sigma = self._law
        return math.exp(mu + sigma * rng.gauss())


class PromptDraw:
    """Draws prompt lengths, and which system prompt is their beginning."""

    def __init__(self, prompts: Prompts, workload: int) -> None:
        self._law = lognormal(prompts.tokens_mean, prompts.sigma)
        self._longest = prompts.tokens_max
        self._system_prompts = prompts.system_prompts
        self._system_tokens = prompts.system_tokens if prompts.system_prompts else 0
        self._base = workload * TEXTS_PER_WORKLOAD + 1

    def __call__(self, rng: Random, tenant: int) -> tuple[int, int, int]:
        """Tokens of the whole prompt, the number of its system prompt (0: none), its tokens."""
        mu, sigma = self._law
        own = min(max(round(math.exp(mu + sigma * rng.gauss())), 1), self._longest)
        if not self._system_prompts:
            return own, 0, 0
        which = int(rng.random() * self._system_prompts)
        shared = self._base + tenant * self._system_prompts + which
        return own + self._system_tokens, shared, self._system_tokens


class RequestDraw:
    """Draws whole requests that have nothing to do with each other."""

    def __init__(
        self,
        mix: Mix,
        prompts: Prompts,
        tenants: Sequence[Tenant],
        patience: Patience,
        workload: int,
    ) -> None:
        self._workload = workload
        self._tier = TierDraw(mix)
        self._output = Outputs(mix)
        self._tenant = TenantDraw(tenants)
        self._patience = PatienceDraw(patience)
        self._prompt = PromptDraw(prompts, workload)
        self._limits = {tier: mix.of(tier).max_tokens for tier in TIERS}

    def __call__(self, rng: Random, at_s: float, client: int = 0) -> Arrival:
        tier = self._tier(rng, at_s)
        number, tenant = self._tenant(rng)
        prompt_tokens, shared, shared_tokens = self._prompt(rng, number)
        output_tokens = min(self._output(rng, tier), CONTEXT_TOKENS - prompt_tokens)
        return Arrival(
            at_s,
            tier,
            prompt_tokens,
            output_tokens,
            answer_tokens=self._output.answer(tier, output_tokens),
            tenant=tenant,
            shared=shared,
            shared_tokens=shared_tokens,
            max_tokens=self._limits[tier],
            patience_s=self._patience(rng),
            workload=self._workload,
            client=client,
        )
