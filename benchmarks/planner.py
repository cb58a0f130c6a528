"""The planner against published runs of whole clusters, none of which any fit has seen.

``python -m benchmarks.planner [--quick] [--json FILE]`` prints what the capacity model foretells
beside what was published, whatever the difference. Two kinds: Ray Serve on eight H100s with so many
clients (the batch is given, the rate is foretold), and MLPerf's server scenario on eight H200s (the
objectives are given, the tokens a second are foretold). What a publication does not say is varied,
and all variants are shown. ``--quick`` changes nothing: there is nothing slow in it.
"""

import itertools
from dataclasses import dataclass

from autoscaling.planner import kinds_of
from autoscaling.sizing import ReplicaKind, Sizing
from benchmarks.fidelity import RAY_SERVE
from benchmarks.measure import arguments, report
from cluster.config import TIERS
from cluster.steptime import MEASURED_SEQS
from deployments.router.capacity import Demand, Slo, step_at

LIMITS = (MEASURED_SEQS, 512)
"""Requests that a replica runs at once: the largest batch that was measured, which is what plans
are made with unless told otherwise, and that of MLPerf's reference."""


@dataclass(frozen=True)
class Server:
    """MLPerf Inference v6.0, server scenario, low effort: 8 × H200, Red Hat with llm-d 0.5.0."""

    gpus: int = 8
    tokens_per_s: float = 24_103.0
    ttft_s: float = 3.0
    tpot_s: float = 0.080
    output_tokens: float = 1278.2


PROMPTS = (500.0, 1000.0, 2000.0)
"""The publication does not say how long prompts are, nor how the GPUs were divided."""

PUBLISHED_TP1 = {"8 × H100 TP 1": 2961.0, "1 × H100 TP 8": 4266.0}
"""Output tokens a second of the same study with other layouts (64 clients)."""


def kind(gpu: str, tp: int, max_num_seqs: int = MEASURED_SEQS) -> ReplicaKind | None:
    return next((each for each in kinds_of(gpu, max_num_seqs) if each.gpus == tp), None)


def ray_serve(figures: dict[str, float]) -> list[list[str]]:
    """Rates of closed loops by the fluid model: batch over length and step."""
    rows = []
    for run in RAY_SERVE:
        found = kind(run.gpu, run.tp)
        assert found is not None
        demand = Demand(1.0, run.prompt_tokens, run.output_tokens)
        batch = run.concurrency // run.replicas
        step_s = step_at(found.steps, batch, demand)
        rate = run.replicas * batch / (run.output_tokens * step_s)
        name = f"{run.replicas} × {run.gpu} TP {run.tp}, 64 clients"
        for what, foretold, published in (
            ("req/s", rate, run.requests_per_s),
            ("ms per token", 1e3 * step_s, run.tpot_ms),
        ):
            error = foretold / published - 1.0
            figures[f"{name}, {what}"] = error
            rows.append(
                [name, what, f"{foretold:.4g}", f"{published:.4g}", f"{100 * error:+.1f} %"]
            )
    for name, tokens_per_s in PUBLISHED_TP1.items():
        replicas, gpu, tp = int(name[0]), "H100", int(name[-1])
        found = kind(gpu, tp)
        if found is None:
            rows.append([name, "tokens/s", "refused: not measured", f"{tokens_per_s:.0f}", "–"])
            continue
        demand = Demand(1.0, 5000.0, 250.0)
        batch = 64 // replicas
        foretold = replicas * batch / step_at(found.steps, batch, demand)
        figures[f"{name}, tokens/s"] = foretold / tokens_per_s - 1.0
        rows.append(
            [f"{name}, 64 clients", "tokens/s", f"{foretold:.0f}", f"{tokens_per_s:.0f}",
             f"{100 * (foretold / tokens_per_s - 1):+.1f} %"]
        )  # fmt: skip
    return rows


def mlperf(figures: dict[str, float]) -> list[list[str]]:
    """The largest rate within the objective, as tokens a second of eight GPUs."""
    run, rows = Server(), []
    slos = {tier: Slo(run.ttft_s, run.tpot_s) for tier in TIERS}
    for limit, tp, prompt in itertools.product(LIMITS, (1, 2, 4, 8), PROMPTS):
        found = kind("H200", tp, limit)
        if found is not None:
            each = Sizing(found, slos).of("low", prompt, run.output_tokens)
            foretold = run.gpus / tp * each.per_s * run.output_tokens
            error = foretold / run.tokens_per_s - 1.0
            figures[f"MLPerf 8 × H200 TP {tp}, at most {limit}, prompts {prompt:g}"] = error
            rows.append(
                [
                    f"{run.gpus // tp} × H200 TP {tp}, at most {limit} at once",
                    f"{prompt:g}",
                    str(each.batch),
                    f"{foretold:,.0f}",
                    f"{run.tokens_per_s:,.0f}",
                    f"{100 * error:+.1f} %",
                ]
            )
    return rows


def main() -> None:
    options = arguments(__doc__.split("\n\n")[0]).parse_args()
    figures: dict[str, float] = {}
    report(
        "Ray Serve, 5,000 tokens in and 250 out (anyscale/ray-serve-llm-perf-examples)",
        ["run", "figure", "foretold", "published", "error"],
        ray_serve(figures),
        {},
        None,
    )
    report(
        "MLPerf v6.0 server, low effort: 80 ms a token, 3 s to the first, p99",
        ["layout", "prompt tokens", "batch", "tokens/s", "published", "error"],
        mlperf(figures),
        {},
        None,
    )
    print(
        "The model keeps the mean within the objective where MLPerf asks for its 99th percentile. "
        "Batches beyond 64 are\nextrapolated, which this shows to be far too hopeful at 512. The "
        "submission's layout, prompts and speculation\nare not known here."
    )
    if options.json is not None:
        report("", [], [], figures, options.json)


if __name__ == "__main__":
    main()
