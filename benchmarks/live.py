"""Whether a live cluster of simulated replicas does what the simulator says, policy by policy.

``python -m benchmarks.live [--quick] [--json FILE] [--policies P,Q]`` plays the open-loop arrivals
of one scenario twice: in real time against simulated replicas under real Ray and Serve, and in the
simulator. Both have the same times, prompts and output lengths, so that what differs is Ray, the
token channel, the event loops and this machine.

The live side has no HTTP and no vLLM front-end, whose 115 µs of CPU a token would be what is
measured on a few cores. Its driver takes the gateway's place in the application: it finds the
replicas through Serve, and has the production fleet client, router and token channel. The
front-end's time (12 ms and 3 µs a prompt token in the simulator) is therefore in neither side's
figures: a request counts from when it reaches the gateway, at the same instant on both sides, and
the SLOs count from there too.

A live replica draws a reply's length from the prompt and the seed. The simulator is given those
lengths as a trace; on neither side does the router know them. The policies are played one after
the other on the same replicas, each with a fresh router and, so that no prompt is in a cache, with
prompts of its own that have the same lengths and the same replies.
"""

import csv
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from msgspec import structs
from rich.console import Console

from autoscaling.simulator.result import RunResult
from autoscaling.simulator.scenario import Scenario
from autoscaling.simulator.summary import Figures, Summary, quantile, summarise
from autoscaling.simulator.work import Arrival, Outcome
from autoscaling.simulator.workloads import Traffic
from autoscaling.simulator.workloads.settings import Replay, WorkloadSettings
from autoscaling.simulator.world import run
from benchmarks.live_cluster import Played, play, reply_tokens, settings_of
from benchmarks.measure import arguments, report
from cluster.config import TIER_DEFAULTS, TIERS, PolicyName, Tier

POLICIES: tuple[PolicyName, ...] = ("effort", "least-requests", "round-robin")
SEED = 1

CLOSE = 0.02
"""Policies that are nearer than this, as a share of the best, in the simulator have no order there
that one run could repeat."""


@dataclass(frozen=True)
class Load:
    """Means in output tokens; times in seconds, as in a scenario."""

    rate_per_s: float
    weights: Mapping[Tier, float]
    means: Mapping[Tier, float]
    sigma: float
    duration_s: float
    warmup_s: float
    cooldown_s: float
    drain_s: float


# The routing experiment's mix with replies a quarter to a seventh as long, so that a minute is long
# against them. Near what `effort` can serve, and more than others can without missing low's TPOT.
FULL = Load(
    55.0, {"low": 0.5, "medium": 0.35, "high": 0.15}, {"low": 100, "medium": 300, "high": 900},
    0.5, 60.0, 15.0, 15.0, 15.0,
)  # fmt: skip
# Only the tiers whose objectives differ most: the router sees within seconds that zones pay. When
# exactly differs from run to run, as a replica's first measured step sets its pace: the figures of
# `effort` are an indication.
QUICK = Load(
    72.0, {"low": 0.5, "medium": 0.0, "high": 0.5}, {"low": 80, "medium": 300, "high": 300},
    0.3, 13.0, 8.0, 0.0, 6.0,
)  # fmt: skip
REPLICAS = 4
PROMPT_TOKENS = 300


def scenario_of(load: Load, replicas: int = REPLICAS) -> Scenario:
    """``replicas`` of two H200 each under ``load``, with the default SLOs."""
    tiers = {
        tier: {
            "prior_output_tokens_mean": load.means[tier],
            "prior_sigma": load.sigma,
            # Who has waited longer has missed the SLO.
            "max_queue_wait_s": TIER_DEFAULTS[tier]["slo"]["ttft_s"],
        }
        for tier in TIERS
    }
    mix = {
        tier: {
            "weight": load.weights[tier],
            "output_tokens_mean": load.means[tier],
            "output_sigma": load.sigma,
        }
        for tier in TIERS
    }
    asked = {
        "arrivals": {"rate_per_s": load.rate_per_s},
        "mix": mix,
        "prompts": {"tokens_mean": PROMPT_TOKENS, "sigma": 1.0},
    }
    pool = {"replicas": replicas, "gpu": "H200", "tensor_parallel_size": 2}
    return Scenario.model_validate(
        {
            "name": "live",
            "duration_s": load.duration_s,
            "warmup_s": load.warmup_s,
            "cooldown_s": load.cooldown_s,
            "drain_s": load.drain_s,
            "fleet": {"pools": [pool]},
            "tiers": tiers,
            "workload": {"open_loop": [asked]},
        }
    )


def drawn(scenario: Scenario, seed: int) -> list[Arrival]:
    """The scenario's arrivals, with the output lengths that live replicas will draw for them."""
    config = settings_of(scenario)
    first = Traffic(scenario.workload, seed, scenario.duration_s).first()
    return [
        structs.replace(
            arrival, output_tokens=reply_tokens(config, number, arrival), answer_tokens=1
        )
        for number, arrival in enumerate(first)
    ]


def at_gateway(scenario: Scenario, arrival: Arrival) -> Arrival:
    """The arrival as of when a simulated front-end has done with it."""
    (pool,) = scenario.fleet.pools
    overhead_s = pool.steps().request_overhead_s(arrival.prompt_tokens)
    return structs.replace(arrival, at_s=arrival.at_s + overhead_s)


def live(
    scenario: Scenario, policies: Sequence[PolicyName], arrivals: Sequence[Arrival]
) -> dict[PolicyName, Played]:
    """What becomes of the arrivals in real time. Raises ``RuntimeError`` where a cluster fails."""
    return play(scenario, policies, [at_gateway(scenario, arrival) for arrival in arrivals])


def simulated(scenario: Scenario, policy: PolicyName, arrivals: Sequence[Arrival]) -> list[Outcome]:
    """What becomes of the same arrivals in the simulator, counted from the same instants."""
    with tempfile.TemporaryDirectory(prefix="live-") as folder:
        trace = Path(folder) / "trace.csv"
        with trace.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["time", "prompt_tokens", "output_tokens", "tier"])
            for each in arrivals:
                rows.writerow([each.at_s, each.prompt_tokens, each.output_tokens, each.tier])
        workload = WorkloadSettings(replay=[Replay(file=str(trace))])
        replayed = scenario.model_copy(update={"workload": workload})
        outcomes = run(replayed, policy, SEED).outcomes
    return [replace(each, arrival=at_gateway(scenario, each.arrival)) for each in outcomes]


def summed(outcomes: list[Outcome], scenario: Scenario) -> Summary:
    return summarise(RunResult(outcomes, 0.0, 0.0, []), scenario)


# ------------------------------------------------------------------------ the two side by side


def worst(summary: Summary) -> float:
    """The lowest attainment of the tiers that were asked for."""
    return min(each.attainment for each in summary.tiers.values() if each.requests)


def goodput(summary: Summary) -> float:
    return summary.overall.goodput_per_s


def order(values: Mapping[PolicyName, float]) -> list[PolicyName]:
    """The policies, the best first."""
    return sorted(values, key=lambda policy: -values[policy])


def same_order(
    live_values: Mapping[PolicyName, float],
    simulated_values: Mapping[PolicyName, float],
    close: float,
) -> bool:
    """Whether all pairs that differ by more than ``close`` when simulated are so live too."""
    return all(
        live_values[better] > live_values[other]
        for better, high in simulated_values.items()
        for other, low in simulated_values.items()
        if high - low > close
    )


def cells(figures: Figures) -> list[float]:
    """TTFT p50 and p90, TPOT p50 and p90 (all in ms), attainment in per cent."""
    ttft, tpot = figures.ttft, figures.tpot
    times = [1000 * each for each in (ttft.p50, ttft.p90, tpot.p50, tpot.p90)]
    return [*times, 100 * figures.attainment]


COLUMNS = ("TTFT p50", "TTFT p90", "TPOT p50", "TPOT p90", "SLO kept %")


def compare(
    lived: Mapping[PolicyName, Summary], foretold: Mapping[PolicyName, Summary]
) -> tuple[list[list[str]], dict[str, float]]:
    """Rows of the table, and the figures by name."""
    rows, figures = [], {}
    for policy in lived:
        for tier in TIERS:
            one, two = lived[policy].tiers[tier], foretold[policy].tiers[tier]
            if not two.requests:
                continue
            pairs = list(zip(cells(one), cells(two), strict=True))
            shown = [f"{seen:.1f} / {said:.1f}" for seen, said in pairs]
            rows.append([f"{policy} {tier}", str(two.requests), *shown])
            for column, (seen, said) in zip(COLUMNS, pairs, strict=True):
                figures[f"{policy}/{tier}/{column}/live"] = seen
                figures[f"{policy}/{tier}/{column}/simulated"] = said
        for side, summary in (("live", lived[policy]), ("simulated", foretold[policy])):
            figures[f"{policy}/worst attainment/{side}"] = worst(summary)
            figures[f"{policy}/goodput per s/{side}"] = goodput(summary)
            figures[f"{policy}/unfinished/{side}"] = summary.overall.unfinished
    return rows, figures


def verdicts(
    lived: Mapping[PolicyName, Summary], foretold: Mapping[PolicyName, Summary]
) -> list[tuple[str, bool, str]]:
    """Per measure: its name, whether the order of the policies is the same, and both orders."""
    found = []
    for name, of in (("worst tier's attainment", worst), ("goodput", goodput)):
        seen = {policy: of(summary) for policy, summary in lived.items()}
        said = {policy: of(summary) for policy, summary in foretold.items()}
        close = CLOSE * max(said.values())
        orders = [
            " > ".join(f"{policy} ({values[policy]:.3g})" for policy in order(values))
            for values in (seen, said)
        ]
        text = f"live {orders[0]}; simulated {orders[1]}"
        found.append((name, same_order(seen, said, close), text))
    return found


def parse_policies(text: str) -> list[PolicyName]:
    known = {each: each for each in get_args(PolicyName)}
    chosen = [known.get(each) for each in text.split(",")]
    policies = [each for each in chosen if each is not None]
    if len(policies) < len(chosen) or len(set(policies)) < len(chosen):
        raise SystemExit(f"--policies: some of {', '.join(known)}, each once")
    return policies


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument(
        "--policies", help=f"default {','.join(POLICIES)}; with --quick the first two"
    )
    options = parser.parse_args()
    policies = list(POLICIES[:2] if options.quick else POLICIES)
    if options.policies:
        policies = parse_policies(options.policies)
    scenario = scenario_of(QUICK if options.quick else FULL)
    arrivals = drawn(scenario, SEED)
    played = live(scenario, policies, arrivals)
    lived = {policy: summed(each.outcomes, scenario) for policy, each in played.items()}
    # Afterwards, so that the two do not share the machine.
    foretold = {
        policy: summed(simulated(scenario, policy, arrivals), scenario) for policy in policies
    }
    rows, figures = compare(lived, foretold)
    console = Console(width=120)
    found = verdicts(lived, foretold)
    for name, same, _ in found:
        figures[f"same order by {name}"] = float(same)
    title = f"{REPLICAS} replicas, {len(arrivals)} requests a policy: live / simulated, times in ms"
    report(title, ["policy, tier", "counted", *COLUMNS], rows, figures, options.json)
    for name, same, text in found:
        console.print(f"{'same order' if same else 'ANOTHER ORDER'} by {name}: {text}")
    for policy, each in played.items():
        late = sorted(each.late_s)
        p50, p99 = (1000 * quantile(late, share) for share in (0.5, 0.99))
        counts = lived[policy].overall.unfinished, foretold[policy].overall.unfinished
        console.print(
            f"{policy}: requests were sent {p50:.1f} ms late (p99 {p99:.1f}); unfinished when time "
            f"was up: {counts[0]} / {counts[1]}"
        )


if __name__ == "__main__":
    main()
