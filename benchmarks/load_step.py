"""Five times the load and back: what the autoscaler does live, and what the simulator foretells.

``python -m benchmarks.load_step [--quick] [--json FILE] [--plot FILE]`` brings a whole cluster up
(Ray, Serve, HAProxy, vLLM's front-end, simulated replicas, the autoscaler as operators run it) and
streams chats from it, open loop: calm, five times as many, calm again. Then the event simulator
meets the same requests at the same times with the same policy, and replicas that take as long to
start as the live ones took in this run. ``--plot`` draws the sizes of both over time. ``--quick``
leaves the live side out: bringing a cluster up takes a minute by itself.
"""

import asyncio
import csv
import itertools
import json
import random
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from matplotlib.figure import Figure

from autoscaling.autoscaler import settings_of
from autoscaling.simulator.scaling.world import Resizing, run_autoscaled
from autoscaling.simulator.scenario import Scenario
from autoscaling.simulator.summary import quantile
from benchmarks.measure import arguments, report
from cluster.config import TIERS, Tier, TriremeConfig
from tests.e2e import test_autoscaling
from tests.e2e.running import cluster
from tests.e2e.test_autoscaling import MODEL, TOKENS, decisions, turns

CALM_PER_S, TIMES = 1.6, 5.0
PHASES = (20.0, 80.0, 100.0)
"""Seconds of calm, of five times the load, and of calm again."""

WHOLE_S = sum(PHASES)

CONFIG = {
    **test_autoscaling.CONFIG,
    # Four times a replica's start, as by default (20 minutes and five).
    "autoscaling": {**test_autoscaling.CONFIG["autoscaling"], "hold_s": 20},
}

USUAL_START_S = 5.0
"""What a simulated replica's process takes under Ray, where it is not measured in the same run."""

SEED = 5
PROMPT_TOKENS = 74
"""Of the question below with Harmony's system message around it, by the live usage."""

SAMPLE_S = 1.0


@dataclass(frozen=True)
class Ask:
    """A request ``at_s`` seconds after the start."""

    at_s: float
    tier: Tier
    number: int


@dataclass(frozen=True)
class Answer:
    """Seconds from the request; a request that was lost has no ``tokens``."""

    ttft_s: float
    tpot_s: float
    tokens: int


@dataclass(frozen=True)
class Size:
    """Replicas of the pool at a decision."""

    at_s: float
    ready: int
    wanted: int


@dataclass(frozen=True)
class Side:
    """What one of the two shows."""

    answers: list[Answer]
    sizes: list[Size]


def asks() -> list[Ask]:
    """Poisson arrivals in each phase, the tiers in turn."""
    rng, begun_s = random.Random(SEED), 0.0
    found: list[Ask] = []
    for seconds, per_s in zip(PHASES, (1.0, TIMES, 1.0), strict=True):
        at_s = begun_s
        while (at_s := at_s + rng.expovariate(CALM_PER_S * per_s)) < begun_s + seconds:
            found.append(Ask(at_s, TIERS[len(found) % 3], len(found)))
        begun_s += seconds
    return found


# ------------------------------------------------------------------------ live


async def stream(client: httpx.AsyncClient, ask: Ask) -> Answer:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"Question number {ask.number}."}],
        "reasoning_effort": ask.tier,
        "seed": ask.number,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began, first, usage = time.monotonic(), 0.0, None
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            usage = chunk.get("usage") or usage
            delta = chunk["choices"][0]["delta"] if chunk.get("choices") else {}
            if not first and (delta.get("content") or delta.get("reasoning")):
                first = time.monotonic()
    if usage is None:
        return Answer(0.0, 0.0, 0)
    tokens = int(usage["completion_tokens"])
    return Answer(first - began, (time.monotonic() - first) / max(1, tokens - 1), tokens)


async def play(url: str, asked: Iterable[Ask]) -> list[Answer]:
    """Every request at its time, whatever became of those before."""
    tasks = []
    limits = httpx.Limits(max_connections=1000)
    async with httpx.AsyncClient(
        base_url=url, limits=limits, timeout=httpx.Timeout(200), trust_env=False
    ) as client:
        began = time.monotonic()
        for ask in asked:
            await asyncio.sleep(max(0.0, began + ask.at_s - time.monotonic()))
            tasks.append(asyncio.create_task(stream(client, ask)))
        return await asyncio.gather(*tasks)


def live() -> Side:
    """Under real Ray; raises ``AssertionError`` where the cluster does not start."""
    with (
        tempfile.TemporaryDirectory(prefix="tr-step-") as folder,
        cluster(Path(folder), CONFIG) as running,
    ):
        began = time.monotonic()
        answers = asyncio.run(play(running.url, asks()))
        time.sleep(max(0.0, began + WHOLE_S - time.monotonic()))
        log = decisions(running)
    sizes = [
        Size(each["at_s"] - began, each["pools"][0]["ready"], each["pools"][0]["wanted"])
        for each in log
    ]
    return Side(answers, [each for each in sizes if 0.0 <= each.at_s <= WHOLE_S])


def cold_start_s(sizes: Sequence[Size]) -> float:
    """From the first decision for more replicas until as many are ready."""
    for before, asked in itertools.pairwise(sizes):
        if asked.wanted > before.wanted:
            ready = (each for each in sizes if each.ready >= asked.wanted)
            there = next(ready, None)
            return sizes[-1].at_s if there is None else there.at_s - asked.at_s
    raise SystemExit("the live autoscaler asked for no replica")


# ------------------------------------------------------------------------ simulated


def scenario_of(starts_s: float, trace: Path) -> Scenario:
    """The same cluster and requests."""
    config = TriremeConfig.model_validate(CONFIG)
    (pool,) = config.models[0].pools
    assert pool.simulated.step_ms is not None
    return Scenario.model_validate(
        {
            "name": "load-step",
            "duration_s": WHOLE_S,
            "warmup_s": 0.0,
            "cooldown_s": 0.0,
            "fleet": {
                "pools": [
                    {
                        "replicas": pool.replicas,
                        "max_num_seqs": pool.max_num_seqs,
                        "kv_tokens": pool.simulated.kv_tokens,
                        "step_ms": pool.simulated.step_ms.model_dump(),
                    }
                ],
                "cold_start_s": starts_s,
            },
            "tiers": {
                tier: {
                    key: value
                    for key, value in config.tiers.of(tier).model_dump().items()
                    if key in ("max_queue_wait_s", "max_queued", "slo", "prior_output_tokens_mean")
                }
                for tier in TIERS
            },
            "workload": {"replay": [{"file": str(trace)}]},
        }
    )


def simulated(starts_s: float) -> Side:
    config = TriremeConfig.model_validate(CONFIG)
    (pool,) = config.models[0].pools
    assert pool.scaling is not None
    with tempfile.TemporaryDirectory(prefix="tr-step-") as folder:
        trace = Path(folder) / "trace.csv"
        with trace.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["time", "prompt_tokens", "output_tokens", "tier"])
            rows.writerows([each.at_s, PROMPT_TOKENS, TOKENS, each.tier] for each in asks())
        scenario = scenario_of(starts_s, trace)
        resizing = Resizing(
            settings_of(config.autoscaling), pool.scaling.min_replicas, pool.scaling.max_replicas
        )
        result, world = run_autoscaled(scenario, SEED, resizing)
    answers = [
        Answer(each.ttft_s, each.tpot_s, each.tokens if each.status == "finished" else 0)
        for each in sorted(result.outcomes, key=lambda each: each.arrival.at_s)
    ]
    taken = [
        Size(each.at_s, each.pools[0].ready, each.pools[0].wanted)
        for each in world.scaling.decisions
    ]
    return Side(answers, taken[::-1])


# ------------------------------------------------------------------------ the two side by side


def at(sizes: Sequence[Size], at_s: float) -> Size:
    """The last decision before."""
    return next((each for each in reversed(sizes) if each.at_s <= at_s), sizes[0])


def figures_of(side: Side) -> dict[str, float]:
    slo = CONFIG["tiers"]["low"]["slo"]
    whole = [each for each in side.answers if each.tokens == TOKENS]
    kept = [e for e in whole if e.ttft_s <= slo["ttft_s"] and 1e3 * e.tpot_s <= slo["tpot_ms"]]
    ttft = sorted(each.ttft_s for each in whole)
    calm, busy, _ = PHASES
    during = [each for each in side.sizes if calm <= each.at_s < calm + busy]
    after = [each for each in side.sizes if each.at_s >= calm + busy]
    seconds = [at(side.sizes, at_s) for at_s in range(round(WHOLE_S))]
    most = max(each.ready for each in side.sizes)
    return {
        "requests": len(side.answers),
        "lost": len(side.answers) - len(whole),
        "SLO kept %": 100 * len(kept) / len(side.answers),
        "TTFT p50 s": quantile(ttft, 0.5),
        "TTFT p99 s": quantile(ttft, 0.99),
        "most replicas": most,
        "s until most": next(e.at_s for e in side.sizes if e.ready == most) - calm,
        "mean replicas, busy": sum(e.ready for e in during) / len(during),
        "s until few": next((e.at_s for e in after if e.ready <= 2), WHOLE_S) - calm - busy,
        "replicas at the end": side.sizes[-1].ready,
        "replica-seconds": sum(each.ready for each in seconds),
        "turns": turns([each.wanted for each in side.sizes]),
    }


def apart(one: Side, other: Side) -> float:
    """Replicas by which the two sizes differ, on average over time."""
    times = [SAMPLE_S * step for step in range(round(WHOLE_S / SAMPLE_S))]
    return sum(abs(at(one.sizes, t).ready - at(other.sizes, t).ready) for t in times) / len(times)


def draw(sides: dict[str, Side], file: Path) -> None:
    figure = Figure((9.6, 5.4), layout="constrained")
    load, replicas = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    bins = [2.0 * step for step in range(round(WHOLE_S / 2.0) + 1)]
    load.hist([each.at_s for each in asks()], bins, color="#999999")
    load.set_ylabel("requests in 2 s")
    for (name, side), colour in zip(sides.items(), ("#0072B2", "#D55E00"), strict=False):
        times = [each.at_s for each in side.sizes]
        ready, wanted = ([getattr(e, n) for e in side.sizes] for n in ("ready", "wanted"))
        replicas.step(times, ready, where="post", color=colour, label=f"{name}, ready")
        replicas.step(
            times, wanted, where="post", color=colour, linestyle=":", label=f"{name}, wanted"
        )
    replicas.set_ylabel("replicas")
    replicas.set_xlabel("seconds")
    replicas.set_ylim(bottom=0)
    for axes in (load, replicas):
        axes.grid(alpha=0.25)
    replicas.legend(fontsize=8, frameon=False)
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a picture (.png or .svg)")
    options = parser.parse_args()
    sides = {} if options.quick else {"live": live()}
    starts_s = cold_start_s(sides["live"].sizes) if sides else USUAL_START_S
    sides["simulated"] = simulated(starts_s)
    told = {name: figures_of(side) for name, side in sides.items()}
    figures = {f"{name}/{side}": each[name] for side, each in told.items() for name in each}
    figures["cold start s"] = starts_s
    rows = [[name, *(f"{each[name]:.4g}" for each in told.values())] for name in told["simulated"]]
    rows.append(["cold start s", *(f"{starts_s:.1f}" for _ in sides)])
    if len(sides) == 2:
        figures["replicas apart"] = apart(*sides.values())
        rows.append(["mean difference of the sizes", f"{figures['replicas apart']:.2f}", ""])
    title = f"{CALM_PER_S} requests/s, {TIMES:.0f} times as many for {PHASES[1]:.0f} s, and back"
    report(title, ["", *sides], rows, figures, options.json)
    if options.plot is not None:
        draw(sides, options.plot)


if __name__ == "__main__":
    main()
