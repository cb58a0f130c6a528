"""The figures by name, with their unit: one list for tables, comparisons and JSON."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from autoscaling.simulator.summary import Figures, Summary

Unit = Literal["share", "per_s", "s", "ms", "count", "hours", "index"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of a tier (or of all tiers together)."""

    name: str
    title: str
    unit: Unit
    of: Callable[[Figures], float]


@dataclass(frozen=True, slots=True)
class RunMetric:
    """A figure of a run as a whole."""

    name: str
    title: str
    unit: Unit
    of: Callable[[Summary], float]


TIER_METRICS: tuple[Metric, ...] = (
    Metric("requests", "requests", "count", lambda f: f.requests),
    Metric("attainment", "within SLO", "share", lambda f: f.attainment),
    Metric("goodput_per_s", "goodput", "per_s", lambda f: f.goodput_per_s),
    Metric("ttft_p50_s", "first token p50", "s", lambda f: f.ttft.p50),
    Metric("ttft_p90_s", "first token p90", "s", lambda f: f.ttft.p90),
    Metric("ttft_p99_s", "first token p99", "s", lambda f: f.ttft.p99),
    Metric("ttfa_p50_s", "first answer token p50", "s", lambda f: f.ttfa.p50),
    Metric("ttfa_p90_s", "first answer token p90", "s", lambda f: f.ttfa.p90),
    Metric("ttfa_p99_s", "first answer token p99", "s", lambda f: f.ttfa.p99),
    Metric("tpot_p50_s", "per token p50", "ms", lambda f: f.tpot.p50),
    Metric("tpot_p90_s", "per token p90", "ms", lambda f: f.tpot.p90),
    Metric("tpot_p99_s", "per token p99", "ms", lambda f: f.tpot.p99),
    Metric("e2e_p50_s", "end to end p50", "s", lambda f: f.e2e.p50),
    Metric("e2e_p90_s", "end to end p90", "s", lambda f: f.e2e.p90),
    Metric("e2e_p99_s", "end to end p99", "s", lambda f: f.e2e.p99),
    Metric("refused", "refused", "count", lambda f: f.refused),
    Metric("expired", "expired in a queue", "count", lambda f: f.expired),
    Metric("cancelled", "left by their client", "count", lambda f: f.cancelled),
    Metric("failed", "failed", "count", lambda f: f.failed),
    Metric("unfinished", "unfinished at the end", "count", lambda f: f.unfinished),
    Metric("retries", "asked again", "count", lambda f: f.retries),
    Metric("demoted", "served at a lower tier", "count", lambda f: f.demoted),
    Metric("wasted_share", "wasted tokens", "share", lambda f: f.wasted_share),
    Metric("preemptions", "preemptions", "count", lambda f: f.preemptions),
    Metric("prefix_hit_rate", "prefix hits", "share", lambda f: f.prefix_hit_rate),
)

RUN_METRICS: tuple[RunMetric, ...] = (
    RunMetric("gpu_hours", "GPU-hours", "hours", lambda s: s.gpu_hours),
    RunMetric("jain", "fairness of tenants (Jain)", "index", lambda s: s.jain),
)
