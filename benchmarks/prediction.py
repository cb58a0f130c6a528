"""How well output lengths are predicted: coverage of the quantiles, and errors against two others.

Each trace is lived through in time: a request is predicted as it arrives and learned from when it
would have ended, so that long ones are learned late, as in service. Without ``--traces`` the traces
are made up from a seed: log-normal with tenants of their own, bimodal with replies cut short, and
drifting. With it, every CSV of the folder that has the columns input_tokens and output_tokens is
taken; t_s (seconds), reasoning_effort and tenant are used where they are there.
"""

import argparse
import csv
import heapq
import math
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import arguments, report
from cluster.config import TIERS, Tier, TierConfig, TiersConfig
from deployments.router.calibration import LEVELS, Calibration
from deployments.router.lognormal import LogNormal
from deployments.router.predict import Key, LengthPredictor

TOKEN_S = 0.02
"""A request ends so many seconds after its arrival for each token: about 50 tokens a second."""

WARM_REQUESTS = 2000
QUICK_REQUESTS = 6000
MAX_TOKENS = 131_072


@dataclass(frozen=True, slots=True)
class Row:
    """A request of a trace. ``cut_tokens``: where its caller would cut it."""

    arrived_s: float
    prompt_tokens: int
    output_tokens: int
    tier: Tier
    tenant: str = ""
    cut_tokens: int = MAX_TOKENS


# ---------------------------------------------------------------- traces


def tenants_trace(rng: random.Random, count: int) -> Iterator[Row]:
    """Forty tenants, each with a log-normal of its own, in three tiers."""
    medians = [rng.lognormvariate(math.log(400.0), 1.0) for _ in range(40)]
    for n in range(count):
        tenant = min(len(medians) - 1, int(rng.expovariate(1.0 / 8.0)))
        tier = rng.choices(TIERS, (50, 35, 15))[0]
        median = medians[tenant] * (1.0, 3.5, 12.0)[TIERS.index(tier)]
        tokens = round(rng.lognormvariate(math.log(median), 0.7)) + 1
        yield Row(float(n), rng.randrange(50, 8000), tokens, tier, f"t{tenant}")


def bimodal_trace(rng: random.Random, count: int) -> Iterator[Row]:
    """Short tool calls or long answers; a third of the callers cut at 600 tokens."""
    for n in range(count):
        short = rng.random() < 0.55
        tokens = round(rng.gauss(40.0, 8.0) if short else rng.lognormvariate(math.log(1500), 0.4))
        cut = 600 if rng.random() < 0.33 else MAX_TOKENS
        yield Row(n / 5.0, 1000, max(1, tokens), "medium", "", cut)


def drifting_trace(rng: random.Random, count: int) -> Iterator[Row]:
    """The median grows fivefold in 20,000 requests."""
    for n in range(count):
        median = 300.0 * 5.0 ** (n / 20_000.0)
        tokens = max(1, round(rng.lognormvariate(math.log(median), 0.8)))
        yield Row(n / 5.0, rng.randrange(50, 8000), tokens, "medium")


SYNTHETIC: Mapping[str, Callable[[random.Random, int], Iterator[Row]]] = {
    "tenants": tenants_trace,
    "bimodal": bimodal_trace,
    "drifting": drifting_trace,
}


def read_trace(path: Path) -> list[Row]:
    """The rows of a CSV; [] where it lacks the columns of a trace."""
    with path.open(newline="") as lines:
        reader = csv.DictReader(lines)
        if not {"input_tokens", "output_tokens"} <= set(reader.fieldnames or ()):
            return []
        return [
            Row(
                arrived_s=float(line.get("t_s") or n / 5.0),
                prompt_tokens=int(line["input_tokens"]),
                output_tokens=int(line["output_tokens"]),
                tier=next((t for t in TIERS if t == line.get("reasoning_effort")), "medium"),
                tenant=line.get("tenant") or "",
            )
            for n, line in enumerate(reader)
        ]


# ---------------------------------------------------------------- measuring


class MedianErrors:
    """|ln(predicted / written)| of three predictions, per tier."""

    def __init__(self) -> None:
        self.of: dict[str, dict[Tier, list[float]]] = defaultdict(lambda: defaultdict(list))

    def add(self, who: str, row: Row, predicted: float) -> None:
        error = abs(math.log(max(1.0, predicted) / max(1, row.output_tokens)))
        self.of[who][row.tier].append(error)

    def mean(self, who: str, tier: Tier) -> float:
        return statistics.fmean(self.of[who][tier])


@dataclass(frozen=True)
class Result:
    """Of one trace: quantile coverage once warm and before, errors of the median, cost."""

    warm: Calibration
    early: Calibration
    errors: MedianErrors
    requests: Mapping[Tier, int]
    learn_us: float


def priors() -> dict[Tier, LogNormal]:
    """What ``trireme.yaml`` assumes of the tiers by default."""
    tiers = TiersConfig()

    def prior(tier: TierConfig) -> LogNormal:
        return LogNormal.from_mean(tier.prior_output_tokens_mean, tier.prior_sigma)

    return {tier: prior(tiers.of(tier)) for tier in TIERS}


def hindsight(rows: Sequence[Row]) -> dict[Key, float]:
    """The best constant for each key: the median of all that the trace holds of it."""
    lengths: dict[Key, list[int]] = defaultdict(list)
    for row in rows:
        key = LengthPredictor.key(row.tier, False, row.prompt_tokens, row.tenant)
        lengths[key].append(row.output_tokens)
    return {key: statistics.median(each) for key, each in lengths.items()}


def live_through(rows: Sequence[Row]) -> Result:
    """Predict and learn in the order of time."""
    predictor = LengthPredictor(priors())
    warm, early, errors = Calibration(math.inf), Calibration(math.inf), MedianErrors()
    oracle = hindsight(rows)
    means: dict[Tier, float] = {tier: prior.mean for tier, prior in priors().items()}
    learned: dict[Tier, int] = defaultdict(int)
    requests: dict[Tier, int] = defaultdict(int)
    running: list[tuple[float, int]] = []
    learn_s, learns = 0.0, 0

    def key_of(row: Row) -> Key:
        return predictor.key(row.tier, False, row.prompt_tokens, row.tenant)

    for index, row in enumerate(rows):
        while running and running[0][0] <= row.arrived_s:
            done = rows[heapq.heappop(running)[1]]
            written = min(done.output_tokens, done.cut_tokens)
            started = time.process_time()
            predictor.learn(key_of(done), written, complete=done.output_tokens <= done.cut_tokens)
            learn_s += time.process_time() - started
            learns += 1
            learned[done.tier] += 1
            means[done.tier] += (written - means[done.tier]) / learned[done.tier]
        key = key_of(row)
        below, upto = predictor.interval(key, row.output_tokens)
        (warm if learns >= WARM_REQUESTS else early).record(row.tier, below, upto)
        if learns >= WARM_REQUESTS:
            requests[row.tier] += 1
            errors.add("predictor", row, predictor.quantile(key, 0.5, MAX_TOKENS))
            errors.add("tier mean", row, means[row.tier])
            errors.add("hindsight", row, oracle[key])
        written = min(row.output_tokens, row.cut_tokens)
        heapq.heappush(running, (row.arrived_s + written * TOKEN_S, index))
    return Result(warm, early, errors, requests, 1e6 * learn_s / max(1, learns))


def traces(settings: argparse.Namespace) -> Iterator[tuple[str, Sequence[Row]]]:
    """The traces asked for, by name. ``--quick`` takes the first part of each."""
    count = QUICK_REQUESTS if settings.quick else None
    if settings.traces is None:
        for name, make in SYNTHETIC.items():
            yield name, list(make(random.Random(settings.seed), count or 20_000))
        return
    for path in sorted(settings.traces.glob("*.csv")):
        rows = read_trace(path)
        if rows:
            yield path.stem, rows[:count]


def main() -> None:
    parser = arguments(__doc__.split("\n\n")[0])
    parser.add_argument("--traces", type=Path, metavar="DIR", help="a folder of CSV traces")
    parser.add_argument("--seed", type=int, default=1, help="of the traces that are made up")
    settings = parser.parse_args()
    rows, figures = [], {}
    for name, trace in traces(settings):
        result = live_through(trace)
        for tier in TIERS:
            if not result.requests.get(tier):
                continue
            coverage = result.warm.coverage(tier)
            worst = result.warm.worst_error(tier)
            errors = [result.errors.mean(who, tier) for who in result.errors.of]
            rows.append(
                [
                    f"{name}, {tier}",
                    str(result.requests[tier]),
                    *(f"{100 * coverage[level]:.1f}" for level in LEVELS),
                    f"{100 * worst:.1f}",
                    *(f"{error:.2f}" for error in errors),
                ]
            )
            figures[f"{name}.learn_us"] = result.learn_us
            figures[f"{name}.{tier}.worst_coverage_error_points"] = 100 * worst
            for who, error in zip(result.errors.of, errors, strict=True):
                figures[f"{name}.{tier}.log_error.{who.replace(' ', '_')}"] = error
    columns = ["trace, tier", "n", *(f"≤p{100 * level:.0f}" for level in LEVELS)]
    columns += ["worst", "ours", "mean", "oracle"]
    title = (
        f"Output lengths after {WARM_REQUESTS} requests: % at or below each predicted quantile,\n"
        "the worst error in points, and the mean |ln(predicted / written)| of our median, of the\n"
        "tier's mean so far, and of the best constant for each key in hindsight (the oracle)"
    )
    report(title, columns, rows, figures, settings.json)
    worst = max(v for name, v in figures.items() if name.endswith("points"))
    slowest = max(v for name, v in figures.items() if name.endswith("learn_us"))
    print(f"learning from a request: at most {slowest:.0f} µs of CPU, on the mean of a trace")
    print(f"worst coverage error: {worst:.1f} points (to be within 5)")


if __name__ == "__main__":
    main()
