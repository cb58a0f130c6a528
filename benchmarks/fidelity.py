"""How faithful the engine model is to measured gpt-oss-120b, and the step times that it uses.

``python -m benchmarks.fidelity [--quick] [--json FILE]`` fits the step times to the measured
points, repeats every measurement with the engine model, and prints the errors: in the sample, with
one workload left out of the fit, with the largest batches left out, and for runs that took no part
in any fit. ``--quick`` leaves out the refits. The coefficients that it prints are those in
``cluster/steptime.py``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, median

from benchmarks.measure import arguments, report
from benchmarks.stepfit import FITTED, LIMITS, Point, closed_loop, fit, fitted, read_points
from cluster.steptime import StepModel, step_model
from deployments.engine.model import EngineLimits

Replica = tuple[str, int]

HOPPER = ("H100", "H200")
"""The GPUs that the goals speak of; B200 was measured with an older version, on uneven nodes."""

GOALS = {
    "TPOT median": 0.02,
    "TPOT p95": 0.06,
    "TTFT median": 0.08,
    "one workload left out, TPOT mean": 0.05,
}


@dataclass(frozen=True)
class Elsewhere:
    """A published run of a whole cluster: means and medians over its requests."""

    gpu: str
    tp: int
    replicas: int
    concurrency: int
    prompt_tokens: int
    output_tokens: int
    requests_per_s: float
    ttft_p50_ms: float
    tpot_ms: float


RAY_SERVE = (
    Elsewhere("H100", 2, 4, 64, 5000, 250, 14.24, 366.0, 15.1),
    Elsewhere("H100", 4, 2, 64, 5000, 250, 15.75, 505.0, 13.1),
)
"""Ray Serve on eight H100s, as anyscale/ray-serve-llm-perf-examples has it (October 2025, an older
vLLM); no part of any fit."""


@dataclass(frozen=True)
class Error:
    """Relative errors at one point; above 0 the model says more than was measured."""

    point: Point
    ttft: float
    tpot: float


def errors(steps: StepModel, points: Iterable[Point], limits: EngineLimits = LIMITS) -> list[Error]:
    """The model's errors at ``points``, with the seed that the fit used."""
    found = []
    for point in points:
        loop = closed_loop(steps, point, limits=limits)
        ttft, tpot = 1e3 * loop.ttft_s / point.ttft_ms, 1e3 * loop.tpot_s / point.tpot_ms
        found.append(Error(point, ttft - 1.0, tpot - 1.0))
    return found


def quantile(values: Iterable[float], share: float) -> float:
    """Linear between neighbours; NaN of nothing."""
    ordered = sorted(values)
    if not ordered:
        return float("nan")
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def by_replica(points: Iterable[Point]) -> dict[Replica, list[Point]]:
    groups: dict[Replica, list[Point]] = {}
    for point in points:
        groups.setdefault(point.replica, []).append(point)
    return groups


def left_out(points: Sequence[Point]) -> list[Error]:
    """Errors at each workload's points by a fit to the other workloads."""
    found: list[Error] = []
    for workload in dict.fromkeys(point.workload for point in points):
        others = [point for point in points if point.workload != workload]
        steps = fit(others)
        found += errors(steps, [point for point in points if point.workload == workload])
    return found


def beyond(points: Sequence[Point]) -> list[Error]:
    """Errors at the largest batch by a fit to the smaller ones: what extrapolating costs."""
    largest = max(point.concurrency for point in points)
    steps = fit([point for point in points if point.concurrency < largest])
    return errors(steps, [point for point in points if point.concurrency == largest])


def sizes(found: Iterable[Error], what: str) -> list[float]:
    return [abs(error.tpot if what == "TPOT" else error.ttft) for error in found]


def percent(value: float, digits: int = 1) -> str:
    return "–" if value != value else f"{100 * value:.{digits}f} %"


def coefficients(models: dict[Replica, StepModel], figures: dict[str, float]) -> None:
    """Print the fitted coefficients as `cluster/steptime.py` has them."""
    units = {"base": "ms", "experts": "ms", "seq": "ms a request", "prefill": "µs a prompt token"}
    columns = ["replica", *(f"{name}, {units.get(name, 'ms')}" for name in FITTED)]
    rows = []
    for (gpu, tp), steps in models.items():
        row = [f"{gpu} TP {tp}"]
        for name, value in zip(FITTED, fitted(steps), strict=True):
            shown = value * (1e6 if name == "prefill" else 1e3)
            figures[f"{gpu} TP {tp} {name}"] = shown
            row.append(f"{shown:.4g}")
        rows.append(row)
    report("Step times, fitted", columns, rows, {}, None)


def row_of(name: str, sample: list[Error], out: list[Error], far: list[Error]) -> list[str]:
    tpot, ttft = sizes(sample, "TPOT"), sizes(sample, "TTFT")
    return [
        name,
        str(len(sample)),
        percent(median(tpot)),
        percent(quantile(tpot, 0.95)),
        percent(median(ttft)),
        percent(quantile(ttft, 0.95)),
        percent(mean(sizes(out, "TPOT"))) if out else "–",
        percent(median(sizes(out, "TTFT"))) if out else "–",
        f"{max(error.point.concurrency for error in far)}: {percent(mean(sizes(far, 'TPOT')))}"
        if far
        else "–",
    ]


def accuracy(
    models: dict[Replica, StepModel], groups: dict[Replica, list[Point]], quick: bool,
    figures: dict[str, float],
) -> None:  # fmt: skip
    """The table of errors per replica and over all H100 and H200 replicas."""
    rows = []
    every: tuple[list[Error], list[Error], list[Error]] = ([], [], [])
    for (gpu, tp), points in groups.items():
        found = errors(models[gpu, tp], points)
        out = [] if quick else left_out(points)
        far = [] if quick else beyond(points)
        rows.append(row_of(f"{gpu} TP {tp}", found, out, far))
        if gpu in HOPPER:
            for all_of, these in zip(every, (found, out, far), strict=True):
                all_of.extend(these)
    rows.append(row_of("all H100 and H200", *every))
    columns = ["replica", "points", "TPOT median", "p95", "TTFT median", "p95"]
    columns += ["workload left out: TPOT mean", "TTFT median", "largest batch left out: TPOT mean"]
    report("Errors of the engine model against measured points", columns, rows, {}, None)
    sample, out, _ = every
    reached = {
        "TPOT median": median(sizes(sample, "TPOT")),
        "TPOT p95": quantile(sizes(sample, "TPOT"), 0.95),
        "TTFT median": median(sizes(sample, "TTFT")),
        "one workload left out, TPOT mean": mean(sizes(out, "TPOT")) if out else float("nan"),
    }
    figures.update({name: value for name, value in reached.items() if value == value})
    goals = [
        [name, percent(reached[name], 2), f"≤ {percent(goal, 0)}",
         "not run" if reached[name] != reached[name] else "yes" if reached[name] <= goal else "NO"]
        for name, goal in GOALS.items()
    ]  # fmt: skip
    report("Goals (H100 and H200)", ["error", "is", "goal", "met"], goals, {}, None)
    print(
        "Means over requests. Batches beyond 64 requests (128 on B200 at TP 1 and 2) were not "
        "measured:\nthe model extrapolates, and the last column says what one doubling costs. "
        "B200 was measured with vLLM 0.15.1\non nodes of two speeds; H200 TP 1 is mixed from two "
        "versions of vLLM.\n"
    )


def elsewhere(figures: dict[str, float]) -> None:
    """Published runs of whole clusters, which no fit knows, by the stored step times."""
    rows = []
    for run in RAY_SERVE:
        steps = step_model(run.gpu, run.tp)
        assert steps is not None
        # Clients split evenly, and prompts and outputs of one length each: the published runs say
        # neither how evenly their router split them, nor how lengths varied.
        share = run.concurrency // run.replicas
        point = Point(
            run.gpu, run.tp, run.prompt_tokens, run.output_tokens, share, run.ttft_p50_ms,
            run.tpot_ms, "", "fit",
        )  # fmt: skip
        loop = closed_loop(steps, point, shortest=1.0)
        name = f"Ray Serve, {run.replicas} × {run.gpu} TP {run.tp}"
        for what, model, measured in (
            ("req/s", run.replicas * loop.requests_per_s, run.requests_per_s),
            ("TTFT p50, ms", 1e3 * loop.ttft_p50_s, run.ttft_p50_ms),
            ("TPOT, ms", 1e3 * loop.tpot_s, run.tpot_ms),
        ):
            error = model / measured - 1.0
            figures[f"{name} {what}"] = error
            rows.append([name, what, f"{model:.4g}", f"{measured:.4g}", f"{100 * error:+.1f} %"])
    report(
        "Runs that took no part in any fit (64 clients, 5,000 tokens in, 250 out)",
        ["run", "figure", "model", "published", "error"],
        rows,
        {},
        None,
    )


def main() -> None:
    options = arguments("Fidelity of the engine model").parse_args()
    figures: dict[str, float] = {}
    groups = by_replica(read_points())
    models = {replica: fit(points) for replica, points in groups.items()}
    coefficients(models, figures)
    accuracy(models, groups, options.quick, figures)
    elsewhere(figures)
    if options.json is not None:
        report("", [], [], figures, options.json)


if __name__ == "__main__":
    main()
