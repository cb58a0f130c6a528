"""Clients that ask again."""

from random import Random

from msgspec.structs import replace

from autoscaling.simulator.work import Arrival, Outcome
from autoscaling.simulator.workloads.settings import Retry

TURNED_AWAY = frozenset({"refused", "expired", "failed"})


class Retries:
    """What a client does when it is turned away, as OpenAI's SDK would."""

    def __init__(self, settings: Retry, seed: int) -> None:
        self._settings = settings
        self._seed = seed

    def after(self, outcome: Outcome, now: float) -> Arrival | None:
        """The next attempt; None for a client that has its answer or gives up."""
        settings, asked = self._settings, outcome.arrival
        if outcome.status not in TURNED_AWAY or asked.attempt >= settings.attempts:
            return None
        wait_s = self._wait_s(asked, outcome.retry_after_s)
        if wait_s is None:
            return None
        since_s = now + wait_s - asked.at_s
        if since_s >= asked.patience_s:
            return None
        return replace(
            asked,
            at_s=now + wait_s,
            attempt=asked.attempt + 1,
            waited_s=asked.waited_s + since_s,
            patience_s=asked.patience_s - since_s,
        )

    def _wait_s(self, asked: Arrival, retry_after_s: float) -> float | None:
        settings = self._settings
        if settings.honours_retry_after and retry_after_s > 0:  # False for NaN
            return retry_after_s if retry_after_s <= settings.retry_after_max_s else None
        # Powers beyond the longest wait would overflow a float.
        doubled = settings.backoff_s * 2.0 ** min(asked.attempt, 60)
        # The chance is the request's own, so that it does not depend on who else is turned away.
        rng = Random(hash((self._seed, asked.client, asked.at_s, asked.prompt_tokens)))
        return min(doubled, settings.backoff_max_s) * (1.0 - 0.25 * rng.random())
