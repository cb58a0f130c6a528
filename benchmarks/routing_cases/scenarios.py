"""The scenarios of the routing benchmark. All rates are 1 request (or session) a second: see
``Scenario.at_rate``.

Fleet, mix and objectives are those of the project's routing experiment: 8 replicas of two H200
each; half of the requests low, 35 % medium, 15 % high; means of 400, 1,500 and 6,000 output
tokens; bursts with a coefficient of variation of 1.5. A request that has waited longer than its
objective for the first token has missed it, so that is the longest wait in the queues.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoscaling.simulator.scenario import Scenario
from cluster.config import TIER_DEFAULTS, TIERS, Tier

Settings = Mapping[str, Any]

OURS = "effort"
OTHERS = ("least-requests", "power-of-two", "prefix-affinity", "round-robin")

REPLICAS = 8
MAX_NUM_SEQS = 256
CV = 1.5
OUTPUTS: Mapping[Tier, float] = {"low": 400.0, "medium": 1500.0, "high": 6000.0}
WEIGHTS: Mapping[Tier, float] = {"low": 0.50, "medium": 0.35, "high": 0.15}
SIGMA = 1.0
PROMPT_TOKENS = 1200.0
PROMPTS = {"tokens_mean": PROMPT_TOKENS, "sigma": 1.0}

FILL_S, FILL_FACTOR = 60.0, 1.5
"""High requests run for minutes: by themselves, clients would need a quarter of an hour to bring
the cluster near its steady state. In the first minute 1.5 times as many high requests come besides.
"""

WARMUP_S, MEASURED_S, COOLDOWN_S = 240.0, 360.0, 40.0

SHORTER: dict[str, Any] = {"duration_s": 460.0, "warmup_s": 180.0, "cooldown_s": 40.0}
"""For the six regimes: there policies are compared with each other, on the same clients."""

OWN: Mapping[Tier, Settings] = {tier: TIER_DEFAULTS[tier]["slo"] for tier in TIERS}
UNIFORM: Mapping[Tier, Settings] = {tier: {"ttft_s": 2.0, "tpot_ms": 25.0} for tier in TIERS}


@dataclass(frozen=True)
class Case:
    """A scenario with a name for the table. The guesses, of our capacity and of the other
    policies', are only where the searches begin."""

    name: str
    scenario: Scenario
    ours_per_s: float
    others_per_s: float

    @property
    def shares_prefixes(self) -> bool:
        """Whether any prompt may begin like another."""
        asked = self.scenario.workload
        return bool(asked.sessions) or any(
            each.prompts.system_prompts > 0 for each in asked.open_loop
        )


def mixed_tiers(
    *,
    weights: Mapping[Tier, float] = WEIGHTS,
    shifts: Sequence[Settings] = (),
    prompts: Settings = PROMPTS,
    slo: Mapping[Tier, Settings] = OWN,
    tenants: Sequence[Settings] = (),
    **changes: Any,
) -> Scenario:
    """The experiment's scenario, or a change of it; ``changes`` are the scenario's own fields."""
    asked = [open_loop(weights, prompts, shifts=shifts, tenants=tenants)]
    high = weights.get("high", 0.0) / sum(weights.values())
    if high:
        asked.append(
            open_loop(
                {"high": 1.0},
                prompts,
                rate_per_s=FILL_FACTOR * high,
                shape=[
                    {"at_s": 0.0, "factor": 1.0},
                    {"at_s": FILL_S, "factor": 1.0},
                    {"at_s": FILL_S, "factor": 0.0},
                ],
            )
        )
    return scenario({"open_loop": asked}, slo, **changes)


def open_loop(
    weights: Mapping[Tier, float],
    prompts: Settings = PROMPTS,
    *,
    shifts: Sequence[Settings] = (),
    tenants: Sequence[Settings] = (),
    **arrivals: Any,
) -> dict[str, Any]:
    """Clients in bursts, of tiers with these weights."""
    asked = {
        "arrivals": {"rate_per_s": 1.0, "cv": CV, **arrivals},
        "prompts": prompts,
        "mix": {**mix(weights), "shifts": list(shifts)},
    }
    return {**asked, "tenants": list(tenants)} if tenants else asked


def mix(weights: Mapping[Tier, float]) -> dict[str, Any]:
    return {
        tier: {
            "weight": weights.get(tier, 0.0),
            "output_tokens_mean": OUTPUTS[tier],
            "output_sigma": SIGMA,
        }
        for tier in TIERS
    }


def scenario(
    workload: dict[str, Any],
    slo: Mapping[Tier, Settings] = OWN,
    *,
    kv_tokens: int | None = None,
    replicas: int = REPLICAS,
    **changes: Any,
) -> Scenario:
    """The experiment's cluster with other clients, measured as its scenario is."""
    pool = {"replicas": replicas, "gpu": "H200", "tensor_parallel_size": 2}
    settings: dict[str, Any] = {
        "duration_s": WARMUP_S + MEASURED_S + COOLDOWN_S,
        "warmup_s": WARMUP_S,
        "cooldown_s": COOLDOWN_S,
        "fleet": {"pools": [{**pool, "max_num_seqs": MAX_NUM_SEQS, "kv_tokens": kv_tokens}]},
        "tiers": {
            tier: {
                "prior_output_tokens_mean": OUTPUTS[tier],
                "prior_sigma": SIGMA,
                "slo": slo[tier],
                "max_queue_wait_s": slo[tier]["ttft_s"],
            }
            for tier in TIERS
        },
        "workload": workload,
    }
    return Scenario.model_validate({**settings, **changes})


TIMES = {"duration_s", "warmup_s", "cooldown_s", "at_s", "over_s", "for_s", "ramp_s"}


def with_times(made: Scenario, factor: float) -> Scenario:
    """The scenario with all that happens in it ``factor`` times as late; lengths, rates and
    objectives stay."""

    def changed(data: Any) -> Any:
        if isinstance(data, dict):
            return {
                key: factor * value if key in TIMES and value is not None else changed(value)
                for key, value in data.items()
            }
        return [changed(each) for each in data] if isinstance(data, list) else data

    return Scenario.model_validate(changed(made.model_dump()))


MIXED = Case("mixed tiers", mixed_tiers(), 31.0, 18.0)


def regimes() -> tuple[Case, ...]:
    """Six other kinds of traffic, of which some have nothing to gain from tiers."""
    less = 0.70 / 0.85  # low and medium give way alike
    more_high = {"low": less * WEIGHTS["low"], "medium": less * WEIGHTS["medium"], "high": 0.30}
    shift = [{"at_s": 300.0, "over_s": 60.0, **more_high}]
    chats = {
        "sessions": [
            {
                "arrivals": {"rate_per_s": 1.0, "cv": CV},
                "turns_mean": 6.0,
                "think_s": 15.0,
                "added_tokens_mean": 200.0,
                "prompts": {
                    "tokens_mean": 2000.0,
                    "sigma": 1.0,
                    "system_prompts": 64,
                    "system_tokens": 4000,
                },
                "mix": mix({"low": 0.6, "medium": 0.4}),
            }
        ]
    }
    return (
        Case("uniform SLO", mixed_tiers(slo=UNIFORM, **SHORTER), 37.0, 37.0),
        Case(
            "all low",
            mixed_tiers(weights={"low": 1.0}, duration_s=210.0, warmup_s=60.0, cooldown_s=10.0),
            52.0,
            52.0,
        ),
        Case(
            "all high",
            mixed_tiers(weights={"high": 1.0}, duration_s=760.0, warmup_s=360.0),
            12.0,
            12.0,
        ),
        Case(
            "prefix-heavy sessions",
            scenario(chats, kv_tokens=600_000, duration_s=460.0, warmup_s=180.0),
            3.5,
            3.5,
        ),
        Case(
            "long prompts",
            mixed_tiers(prompts={"tokens_mean": 8000.0, "sigma": 0.8}, **SHORTER),
            10.0,
            7.0,
        ),
        Case(
            "mix shifts", mixed_tiers(shifts=shift, duration_s=640.0, cooldown_s=60.0), 22.0, 13.0
        ),
    )
