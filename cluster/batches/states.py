"""The life of a batch, and whose lines are next. Pure: no clock, no store.

A batch goes validating → running → ending → done. Its ``outcome`` is known before it is done: a
batch that is cancelled or has expired starts no more lines, waits for those that are running, and
then gets its files like one that is complete.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Phase = Literal["validating", "running", "ending", "done"]
Outcome = Literal["", "completed", "failed", "expired", "cancelled"]
Status = Literal[
    "validating",
    "in_progress",
    "finalizing",
    "completed",
    "failed",
    "expired",
    "cancelling",
    "cancelled",
]

MAX_ATTEMPTS = 3
"""Of a line that fails by a fault of ours; after that its error is its answer."""

MIN_PAUSE_S = 1.0
MAX_PAUSE_S = 60.0
"""Bounds of the wait before a line is tried again."""


def status_of(phase: Phase, outcome: Outcome) -> Status:
    """What OpenAI calls it."""
    if phase == "done":
        return "completed" if outcome == "" else outcome
    if outcome == "cancelled":
        return "cancelling"
    if phase == "running":
        return "in_progress"
    return "validating" if phase == "validating" else "finalizing"


def is_over(phase: Phase) -> bool:
    """Nothing about the batch changes any more."""
    return phase == "done"


def may_cancel(phase: Phase, outcome: Outcome) -> bool:
    """Whether a cancellation still changes anything."""
    return phase in ("validating", "running") and outcome == ""


def why_over(outcome: Outcome) -> tuple[str, str]:
    """Code and message of a line that was not answered before its batch ended."""
    if outcome == "cancelled":
        return "batch_cancelled", "This request was not executed: the batch was cancelled."
    return "batch_expired", "This request could not be executed before the batch expired."


@dataclass(frozen=True, slots=True)
class Waiting:
    """A batch with lines that nobody works on. ``created_at`` orders batches of one tenant."""

    batch_id: str
    tenant: str
    created_at: float
    free_lines: int


def next_lines(waiting: Iterable[Waiting], running: Mapping[str, int], room: int) -> dict[str, int]:
    """How many lines of which batch to start, at most ``room`` in all.

    ``running`` are the lines of each tenant in work, at all gateways. The tenant that has the
    fewest gets the next place; of its batches the oldest goes first.
    """
    lines: dict[str, list[str]] = {}
    count = dict(running)
    left: dict[str, int] = {}
    for batch in sorted(waiting, key=lambda each: (each.created_at, each.batch_id)):
        if batch.free_lines > 0:
            lines.setdefault(batch.tenant, []).append(batch.batch_id)
            left[batch.batch_id] = batch.free_lines
    chosen: dict[str, int] = {}
    for _ in range(room):
        if not lines:
            break
        tenant = min(lines, key=lambda each: (count.get(each, 0), each))
        batch_id = lines[tenant][0]
        chosen[batch_id] = chosen.get(batch_id, 0) + 1
        count[tenant] = count.get(tenant, 0) + 1
        left[batch_id] -= 1
        if not left[batch_id]:
            lines[tenant].pop(0)
            if not lines[tenant]:
                del lines[tenant]
    return chosen


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a line after one attempt: an answer (``ok`` or an error), or another attempt
    after ``pause_s``, which counts against ``MAX_ATTEMPTS`` or not."""

    ok: bool = False
    pause_s: float | None = None
    counted: bool = False


def judge(
    status: int, *, attempts: int, retry_after_s: float | None = None, may_retry: bool = True
) -> Verdict:
    """``attempts`` that were counted before this one. ``may_retry`` false: the answer forbids it.

    Who finds no room (429, 503) comes again until the batch expires; a fault of ours is tried
    ``MAX_ATTEMPTS`` times; what the caller must change is final.
    """
    if 200 <= status < 300:
        return Verdict(ok=True)
    pause_s = min(MAX_PAUSE_S, max(MIN_PAUSE_S, retry_after_s or 2.0 ** min(attempts + 1, 6)))
    if not may_retry:
        return Verdict()
    if status in (408, 429, 499, 503):
        return Verdict(pause_s=pause_s)
    if status >= 500 and attempts + 1 < MAX_ATTEMPTS:
        return Verdict(pause_s=pause_s, counted=True)
    return Verdict()
