"""GPU-seconds of a generation: its share of the steps that it was in, and its prompt.

Nothing here runs once a token or once a frame: replicas are looked at 20 times a second, and when a
generation begins or ends.
"""

import time
from collections.abc import Callable, Iterable

from deployments.router import Replica


class GpuTime:
    """``share_s`` of a replica grows by what each of the requests in it is given of every step:
    step time, less what prompts take of it, over the requests that run. ``clock`` is monotonic: a
    replica is not busy for longer than the time that has passed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._steps: dict[str, tuple[int, float]] = {}
        self._shares: dict[str, float] = {}

    def share_s(self, replica: Replica) -> float:
        """As of now. Only differences mean anything."""
        load, replica_id = replica.load, replica.replica_id
        now = self._clock()
        before, at = self._steps.get(replica_id, (load.steps, now))
        self._steps[replica_id] = load.steps, now
        share = self._shares.get(replica_id, 0.0)
        if load.steps > before:
            busy_s = min(now - at, (load.steps - before) * load.step_s)
            share += busy_s * (1.0 - replica.prefill_share) / max(1, load.running)
        self._shares[replica_id] = share
        return share

    @staticmethod
    def prompt_s(replica: Replica, prompt_tokens: int, cached_tokens: int) -> float:
        """What computing the prompt takes there, by the step model and the replica's pace."""
        new = max(0, prompt_tokens - cached_tokens)
        steps = replica.traits.steps
        pairs = new * (cached_tokens + new / 2.0)
        pace = replica.pace if replica.paced else 1.0
        return pace * (steps.prefill_token_s * new + steps.prefill_pair_s * pairs)

    def look(self, fleet: Iterable[Replica]) -> None:
        """At all replicas, and forget those that are gone."""
        living = set()
        for replica in fleet:
            living.add(replica.replica_id)
            self.share_s(replica)
        for replica_id in self._steps.keys() - living:
            del self._steps[replica_id]
            self._shares.pop(replica_id, None)
