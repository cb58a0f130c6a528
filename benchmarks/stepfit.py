"""Measured points of gpt-oss-120b, the engine model run as they were measured, and the fit.

Every time that a closed loop measures is a sum of whole engine steps, and a step's time is linear
in the coefficients. So the fit runs the loop, counts what went on between a request's moments, and
solves a linear least-squares problem; then again, as other step times make other batches.
"""

import csv
import heapq
import math
import random
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster.steptime import (
    OVERHEAD_S,
    OVERHEAD_TOKEN_S,
    StepModel,
    kv_token_s,
    prefill_pair_s,
    touched_experts,
)
from deployments.engine.model import EngineLimits, EngineModel, Event, EventKind, Work

POINTS = Path(__file__).parent / "points" / "gpt_oss_120b.csv"

LIMITS = EngineLimits(1024, 8192, kv_blocks=1_000_000, prefix_caching=False)
"""As measured, but for the KV cache: it never filled up, so any large one does."""

REQUESTS_A_CLIENT = 10
"""In the published runs; `benchmarks.gpu` has fewer where that many would take too long."""

RANGE = 0.8
"""Prompts and outputs have between this share of their nominal length and all of it."""

BURST_GAP_S = 0.0005
"""Between the first requests of the loop's clients, which start together."""

TTFT_WEIGHT = 0.3
"""A relative error of TTFT counts so much of one of TPOT, which repeats far better."""

LARGE_TPOT, LARGE_TTFT = 0.04, 0.12
"""Relative errors beyond these count only linearly: single points were measured on slow nodes."""

ROUNDS = 6

SINGULAR = 1e-12
"""A pivot below this, of columns scaled to about 1, is rounding."""

Coefficient = Literal["base", "experts", "seq", "prefill", "mixed"]
FITTED: tuple[Coefficient, ...] = ("base", "experts", "seq", "prefill", "mixed")

Use = Literal["fit", "client-queue", "slow-node", "older"]


@dataclass(frozen=True)
class Point:
    """One measured run: means over its requests, in milliseconds."""

    gpu: str
    tp: int
    isl: int
    osl: int
    concurrency: int
    ttft_ms: float
    tpot_ms: float
    vllm: str
    use: str
    requests_a_client: int = REQUESTS_A_CLIENT

    @property
    def replica(self) -> tuple[str, int]:
        return self.gpu, self.tp

    @property
    def workload(self) -> tuple[int, int]:
        return self.isl, self.osl


@dataclass(frozen=True)
class Known:
    """The coefficients of a step model that are not fitted, in seconds."""

    kv_token_s: float
    prefill_pair_s: float
    overhead_s: float = OVERHEAD_S
    overhead_token_s: float = OVERHEAD_TOKEN_S


def known_of(gpu: str, tp: int) -> Known:
    """Of gpt-oss-120b, by the GPU's data sheet. Raises ``KeyError`` for a GPU without one."""
    return Known(kv_token_s(gpu, tp), prefill_pair_s(gpu, tp))


def read_points(use: Use = "fit") -> list[Point]:
    """The points of that use, as the file orders them."""
    with POINTS.open() as lines:
        rows = csv.DictReader(line for line in lines if not line.startswith("#"))
        points = [
            Point(
                row["gpu"],
                int(row["tp"]),
                int(row["isl"]),
                int(row["osl"]),
                int(row["concurrency"]),
                float(row["ttft_ms"]),
                float(row["tpot_ms"]),
                row["vllm"],
                row["use"],
            )
            for row in rows
        ]
    return [point for point in points if point.use == use]


class Counts:
    """What the engine has done so far, in the units of the coefficients, and in seconds for those
    that are not fitted."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: tuple[float, ...] = (0.0,) * 7

    def add(self, seqs: int, kv_tokens: float, prefill: int, pairs: float, steps: int) -> None:
        touched = touched_experts(seqs + prefill)
        kv = steps * kv_tokens + seqs * steps * (steps - 1) / 2
        news = (steps, steps * touched, steps * seqs, prefill, 1 if prefill else 0, kv, pairs)
        self.values = tuple(a + b for a, b in zip(self.values, news, strict=True))


@dataclass(frozen=True)
class Measured:
    """Mean seconds, and the mean counts that make them up, of a closed loop."""

    ttft_s: float
    tpot_s: float
    ttft_p50_s: float
    requests_per_s: float
    ttft_counts: tuple[float, ...]
    tpot_counts: tuple[float, ...]
    outside_s: float


class ClosedLoop:
    """``point.concurrency`` clients that each send a request when the one before it has ended."""

    def __init__(
        self, steps: StepModel, point: Point, seed: int, shortest: float, limits: EngineLimits
    ) -> None:
        self.steps = steps
        self.counts = Counts()
        self.model = EngineModel(steps, limits, watch=self.counts.add)
        self._todo = lengths(
            point.isl, point.osl, point.concurrency, point.requests_a_client, seed, shortest
        )
        self._next = 0
        self._pending: list[tuple[float, int, Work]] = []
        self._sent: dict[object, tuple[float, tuple[float, ...] | None, float]] = {}
        self._first: dict[object, tuple[float, tuple[float, ...]]] = {}
        self._ttft_s: list[float] = []
        self._tpot_s: list[float] = []
        self._ttft_counts: list[tuple[float, ...]] = []
        self._tpot_counts: list[tuple[float, ...]] = []
        self._outside_s = 0.0
        self._ended_s = 0.0
        for client in range(point.concurrency):
            self._send(client * BURST_GAP_S, None)

    def run(self) -> Measured:
        while True:
            due_s = self.model.next_event_s()
            if self._pending and self._pending[0][0] < due_s:
                at_s, _, work = heapq.heappop(self._pending)
                self.model.submit(work, at_s)
            elif due_s == math.inf:
                break
            else:
                for event in self.model.advance(due_s):
                    self._note(event)
        requests = len(self._todo)
        assert len(self._tpot_s) == requests
        return Measured(
            sum(self._ttft_s) / requests,
            sum(self._tpot_s) / requests,
            statistics.median(self._ttft_s),
            requests / self._ended_s,
            _mean(self._ttft_counts),
            _mean(self._tpot_counts),
            self._outside_s / requests,
        )

    def _send(self, now: float, counts: tuple[float, ...] | None) -> None:
        """``counts``: where the engine stood when the client got its last answer."""
        if self._next == len(self._todo):
            return
        number = self._next
        self._next += 1
        prompt, output = self._todo[number]
        outside_s = self.steps.request_overhead_s(prompt)
        work = Work(number, prompt, output, 0, now)
        heapq.heappush(self._pending, (now + outside_s, number, work))
        self._sent[number] = now, counts, outside_s

    def _note(self, event: Event) -> None:
        number, now, counts = event.work.work_id, event.at_s, self.counts.values
        if event.kind is EventKind.FIRST_TOKEN:
            self._first[number] = now, counts
            sent_s, before, outside_s = self._sent.pop(number)
            self._ttft_s.append(now - sent_s)
            if before is None:
                # The engine was idle: what passed outside of it is not in its steps.
                self._outside_s += outside_s
                before = (0.0,) * len(counts)
            self._ttft_counts.append(_less(counts, before, 1.0))
        elif event.kind is EventKind.FINISHED:
            first_s, before = self._first.pop(number)
            gaps = max(1, event.tokens - 1)
            self._tpot_s.append((now - first_s) / gaps)
            self._tpot_counts.append(_less(counts, before, gaps))
            self._ended_s = now
            self._send(now, counts)


def lengths(
    isl: int, osl: int, concurrency: int, requests_a_client: int, seed: int = 0,
    shortest: float = RANGE,
) -> list[tuple[int, int]]:  # fmt: skip
    """(prompt, output) tokens of a loop's requests, in the order in which they are sent."""
    rng = random.Random(f"{seed}/{isl}/{osl}/{concurrency}")
    return [
        (_length(rng, isl, shortest), _length(rng, osl, shortest))
        for _ in range(requests_a_client * concurrency)
    ]


def closed_loop(
    steps: StepModel, point: Point, seed: int = 0, shortest: float = RANGE,
    limits: EngineLimits = LIMITS,
) -> Measured:  # fmt: skip
    """The measurement of ``point``, repeated with the engine model. Lengths are uniform between
    ``shortest`` of the nominal ones and all of them."""
    return ClosedLoop(steps, point, seed, shortest, limits).run()


def fit(
    points: Sequence[Point], known: Known | None = None, limits: EngineLimits = LIMITS,
    *, idle: bool = False,
) -> StepModel:  # fmt: skip
    """The step times of one replica that fit its points best (least squares of relative errors).

    ``idle``: some points have so few clients that the engine is idle between requests; of each TTFT
    whatever the engine did not work is then set aside. Otherwise that is done for a client's first
    request alone, which is how `cluster/steptime.py` was fitted (four clients and more).

    Raises ``ValueError`` where the points do not tell the coefficients apart.
    """
    gpu, tp = points[0].replica
    known = known or known_of(gpu, tp)
    steps = _with(known, (4e-3, 15e-3 / tp, 3e-5, 3e-5 / math.sqrt(tp), 5e-3 / tp))
    for _ in range(ROUNDS):
        rows: list[tuple[list[float], float, float]] = []
        for point in points:
            loop = closed_loop(steps, point, limits=limits)
            known_s = loop.ttft_s - _worked_s(steps, loop) if idle else loop.outside_s
            rows.append(
                _row(steps, loop.ttft_counts, known_s, point.ttft_ms, TTFT_WEIGHT, LARGE_TTFT)
            )
            rows.append(_row(steps, loop.tpot_counts, 0.0, point.tpot_ms, 1.0, LARGE_TPOT))
        steps = _with(known, _solve_non_negative(rows))
    return steps


def _worked_s(steps: StepModel, loop: Measured) -> float:
    """What of the mean TTFT the engine's steps took."""
    seconds = (*fitted(steps), steps.kv_token_s, steps.prefill_pair_s)
    return sum(a * b for a, b in zip(seconds, loop.ttft_counts, strict=True))


def fitted(steps: StepModel) -> tuple[float, ...]:
    """The fitted coefficients in the order of ``FITTED``, in seconds."""
    return (steps.base_s, steps.experts_s, steps.seq_s, steps.prefill_token_s, steps.mixed_s)


def _with(known: Known, values: Sequence[float]) -> StepModel:
    base, experts, seq, prefill, mixed = values
    return StepModel(
        base_s=base,
        experts_s=experts,
        seq_s=seq,
        kv_token_s=known.kv_token_s,
        prefill_token_s=prefill,
        mixed_s=mixed,
        prefill_pair_s=known.prefill_pair_s,
        overhead_s=known.overhead_s,
        overhead_token_s=known.overhead_token_s,
    )


def _row(
    steps: StepModel,
    counts: tuple[float, ...],
    outside_s: float,
    measured_ms: float,
    weight: float,
    large: float,
) -> tuple[list[float], float, float]:
    """One equation of the fit: (factors, right side, weight), relative to what was measured."""
    measured_s = measured_ms / 1e3
    kv, pairs = counts[5:]
    known_s = kv * steps.kv_token_s + pairs * steps.prefill_pair_s + outside_s
    factors = [count / measured_s for count in counts[:5]]
    right = (measured_s - known_s) / measured_s
    error = sum(f * x for f, x in zip(factors, fitted(steps), strict=True)) - right
    return factors, right, weight * min(1.0, math.sqrt(large / max(abs(error), 1e-9)))


def _solve_non_negative(rows: Sequence[tuple[list[float], float, float]]) -> list[float]:
    """Least squares; a coefficient that would be negative is 0 instead."""
    kept = list(range(len(FITTED)))
    while True:
        solution = _solve(rows, kept)
        negative = [index for index, value in zip(kept, solution, strict=True) if value < 0]
        if not negative:
            break
        kept = [index for index in kept if index not in negative]
    values = [0.0] * len(FITTED)
    for index, value in zip(kept, solution, strict=True):
        values[index] = value
    return values


def _solve(rows: Sequence[tuple[list[float], float, float]], kept: Sequence[int]) -> list[float]:
    """The normal equations, by elimination with pivots; columns scaled to about 1."""
    size = len(kept)
    scale = [max(row[0][index] for row in rows) or 1.0 for index in kept]
    matrix = [[0.0] * (size + 1) for _ in range(size)]
    for factors, right, weight in rows:
        scaled = [factors[index] / by for index, by in zip(kept, scale, strict=True)]
        for i, left in enumerate(scaled):
            for j, other in enumerate([*scaled, right]):
                matrix[i][j] += weight * weight * left * other
    for i in range(size):
        pivot = max(range(i, size), key=lambda r: abs(matrix[r][i]))
        matrix[i], matrix[pivot] = matrix[pivot], matrix[i]
        if abs(matrix[i][i]) < SINGULAR * size:
            raise ValueError("too few different points to tell the step model's coefficients apart")
        for r in range(size):
            if r != i:
                share = matrix[r][i] / matrix[i][i]
                matrix[r] = [a - share * b for a, b in zip(matrix[r], matrix[i], strict=True)]
    return [matrix[i][size] / matrix[i][i] / scale[i] for i in range(size)]


def _length(rng: random.Random, nominal: int, shortest: float) -> int:
    return rng.randint(int(shortest * nominal), nominal)


def _less(
    counts: tuple[float, ...], before: tuple[float, ...], divisor: float
) -> tuple[float, ...]:
    return tuple((a - b) / divisor for a, b in zip(counts, before, strict=True))


def _mean(many: Iterable[tuple[float, ...]]) -> tuple[float, ...]:
    columns = list(zip(*many, strict=True))
    return tuple(sum(column) / len(column) for column in columns)
