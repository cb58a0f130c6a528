"""Which replicas hang, and which are much slower than their peers: from their reports alone.

A replica *hangs* when it has work of ours and counts no step for many times as long as a step
takes. How long a step takes is known from the replica itself: its measured pace, the prompts that
await their turn, and the longest silence that it has come back from lately. It is trusted again
once it makes steps.

A replica is *slow* when its steps take several times as long as its peers', each measured against
its own batch. It is put aside for a time that grows each time, and then tried again.

At most a share of a model's replicas is put aside, and never the last one that serves: from a
replica that has no peers, nobody could take over.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from deployments.router.fleet import FRESH_S, Fleet, Replica

LONGEST_BEAT_S = 0.2
"""More than this between two looks is not held against a replica: then it was this process that
did nothing, and the replica's frames may lie unread."""

CHUNK_TOKENS = 8192
"""Prompt tokens that one step computes at most, in vLLM as we start it."""

CHUNKS = 4.0
"""A step that computes such a chunk may take so many times what the step model says."""

PEAKS = 3.0
PEAK_MEMORY_S = 60.0
"""A silence may be so many times the longest one of about the last minute."""

FORGIVEN_S = 300.0
"""A replica that did well for so long begins anew."""

LAST_RESORT = 10.0
"""After so many times its ejection time, a replica that shows no steps is tried all the same."""


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """A silence of ``hang_steps`` steps is a hang, within ``hang_min_s`` and ``hang_max_s``. While
    nothing but first tokens is awaited, ``hang_first_s`` and more at each attempt: an engine may
    have to compile a grammar before its first step.

    Steps ``slow_factor`` times as long as the peers' for ``slow_after_s`` are slow. ``eject_s`` is
    how long a replica is put aside, times how often it was. ``max_ejected_share``: of a model's.
    """

    hang_steps: float = 25.0
    hang_min_s: float = 1.0
    hang_first_s: float = 5.0
    hang_max_s: float = 20.0
    slow_factor: float = 2.5
    slow_after_s: float = 3.0
    eject_s: float = 10.0
    max_ejected_share: float = 0.5


@dataclass(slots=True)
class _Record:
    """What is known of a replica. Times are seconds on the caller's clock."""

    steps: int = 0
    silent_s: float = 0.0
    peak_s: float = 0.0
    aside: str = ""  # "hung" or "slow" while it is put aside
    aside_since_s: float = 0.0
    aside_steps: int = 0
    times: int = 0
    slow_since_s: float | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """What a look has found: replicas to put aside, and those to trust again."""

    hung: Sequence[Replica] = ()
    slow: Sequence[Replica] = ()
    well: Sequence[Replica] = ()


class Watch:
    """Look often (several times ``hang_min_s``): silence is counted look by look."""

    def __init__(self, limits: WatchLimits) -> None:
        self.limits = limits
        self._records: dict[str, _Record] = {}
        self._looked_s = math.nan

    def aside(self, replica_id: str) -> str:
        """Why a replica is put aside: ``hung``, ``slow``, or nothing."""
        record = self._records.get(replica_id)
        return "" if record is None else record.aside

    def forget(self, replica_id: str) -> None:
        """It is gone; who comes back under its name begins anew."""
        self._records.pop(replica_id, None)

    def look(self, fleet: Fleet, now: float) -> Findings:
        """What has changed. The caller puts replicas aside, or trusts them, as the findings say."""
        beat_s = now - self._looked_s if self._looked_s == self._looked_s else 0.0
        self._looked_s = now
        beat_s = min(LONGEST_BEAT_S, beat_s)
        here = {replica.replica_id: replica for replica in fleet}
        for gone in self._records.keys() - here.keys():
            del self._records[gone]
        hung: list[Replica] = []
        well: list[Replica] = []
        slow: list[Replica] = []
        for replica in here.values():
            record = self._records.setdefault(replica.replica_id, _Record(replica.load.steps))
            self._listen(record, replica, beat_s, now)
            if record.aside:
                if self._is_well(record, replica, now):
                    self._trust(record, now)
                    well.append(replica)
            elif self._hangs(record, replica) and self._may_go(replica, fleet):
                self._put_aside(record, replica, "hung", now)
                hung.append(replica)
            elif self._is_slow(record, replica, fleet, now) and self._may_go(replica, fleet):
                self._put_aside(record, replica, "slow", now)
                slow.append(replica)
        return Findings(hung, slow, well)

    # -------------------------------------------------------------- silence

    def _listen(self, record: _Record, replica: Replica, beat_s: float, now: float) -> None:
        steps = replica.load.steps
        if steps != record.steps:
            record.steps = steps
            if not record.aside:
                faded_s = record.peak_s * math.exp(-beat_s / PEAK_MEMORY_S)
                record.peak_s = max(record.silent_s, faded_s)
            record.silent_s = 0.0
        elif replica.flights:
            record.silent_s += beat_s
        else:
            record.silent_s = 0.0
        if record.times and not record.aside and now - record.aside_since_s > FORGIVEN_S:
            record.times = 0

    def _hangs(self, record: _Record, replica: Replica) -> bool:
        limits = self.limits
        if record.silent_s < limits.hang_min_s or not replica.flights:
            return False
        return record.silent_s >= self._patience_s(record, replica)

    def _patience_s(self, record: _Record, replica: Replica) -> float:
        limits = self.limits
        fresh = [flight for flight in replica.flights.values() if not flight.emitted]
        if len(fresh) == len(replica.flights):
            attempts = max(flight.request.attempts for flight in fresh)
            return min(limits.hang_max_s, limits.hang_first_s * max(1, attempts))
        if not replica.paced:
            return limits.hang_max_s
        patience_s = max(limits.hang_steps * replica.next_step_s, PEAKS * record.peak_s)
        if replica.awaiting_prefill:
            chunk = min(CHUNK_TOKENS, replica.awaiting_prefill)
            pairs = float(chunk) * max(flight.request.prompt_tokens for flight in fresh)
            steps, context = replica.traits.steps, replica.load.kv_use * replica.traits.kv_tokens
            step_s = steps.step_s(len(replica.flights), context, chunk, pairs)
            patience_s = max(patience_s, CHUNKS * replica.pace * step_s)
        return min(limits.hang_max_s, max(limits.hang_min_s, patience_s))

    # -------------------------------------------------------------- pace

    def _is_slow(self, record: _Record, replica: Replica, fleet: Fleet, now: float) -> bool:
        own = stretch_of(replica, now)
        pool = replica.traits.pool
        peers = [
            stretch
            for each in fleet
            if each is not replica and each.traits.pool == pool
            if (stretch := stretch_of(each, now)) is not None
        ]
        if own is None or not peers or own < self.limits.slow_factor * statistics.median(peers):
            record.slow_since_s = None
            return False
        if record.slow_since_s is None:
            record.slow_since_s = now
        return now - record.slow_since_s >= self.limits.slow_after_s

    # -------------------------------------------------------------- aside and back

    def _may_go(self, replica: Replica, fleet: Fleet) -> bool:
        """Whether others can take over, and not too many are put aside already."""
        model = replica.traits.model
        peers = [each for each in fleet if each.traits.model == model]
        aside = sum(each.shunned or bool(self.aside(each.replica_id)) for each in peers)
        serving = sum(
            each is not replica
            and not each.shunned
            and not self.aside(each.replica_id)
            and not each.load.draining
            for each in peers
        )
        most = max(1, int(self.limits.max_ejected_share * len(peers)))
        return serving > 0 and aside < most

    def _put_aside(self, record: _Record, replica: Replica, why: str, now: float) -> None:
        record.aside, record.aside_since_s, record.slow_since_s = why, now, None
        record.aside_steps = replica.load.steps
        record.times += 1

    def _is_well(self, record: _Record, replica: Replica, now: float) -> bool:
        since_s = now - record.aside_since_s
        if record.aside == "slow":
            return since_s >= self.limits.eject_s * record.times
        if since_s >= LAST_RESORT * self.limits.eject_s * record.times:
            return now - replica.reported_s < FRESH_S
        stepped = replica.load.steps != record.aside_steps
        return stepped and since_s >= self.limits.eject_s * (record.times - 1)

    def _trust(self, record: _Record, now: float) -> None:
        record.aside, record.aside_since_s, record.silent_s = "", now, 0.0


def stretch_of(replica: Replica, now: float) -> float | None:
    """How many times as long as the step model says a decode step takes there now; None while that
    is not being measured."""
    load = replica.load
    if load.running <= 0 or load.step_s <= 0.0 or now - replica.reported_s > FRESH_S:
        return None
    traits = replica.traits
    return load.step_s / traits.steps.step_s(load.running, load.kv_use * traits.kv_tokens)
