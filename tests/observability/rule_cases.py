"""For every alert: series with which it fires, and like ones with which it does not.

Values are in promtool's notation, one a step: ``0+5x60`` begins at 0 and grows by 5, 60 times.
"""

from dataclasses import dataclass

Series = dict[str, str]

TIER = 'model="m",tier="low"'
POOL = 'model="m",pool="p"'
DAY = 1440


@dataclass(frozen=True)
class Case:
    """``at`` is when to look, in minutes, and ``step_min`` how far apart values are."""

    fires: Series
    quiet: Series
    at: int = 60
    step_min: int = 1


def objective(missed: float, kept: float, minutes: int) -> Series:
    return {
        f'trireme_objectives_total{{{TIER},objective="ttft",outcome="missed"}}': (
            f"0+{missed:g}x{minutes}"
        ),
        f'trireme_objectives_total{{{TIER},objective="ttft",outcome="kept"}}': (
            f"0+{kept:g}x{minutes}"
        ),
        'trireme_objective_share_ratio{tier="low"}': f"0.99x{minutes}",
    }


def counter(name: str, labels: str, fires: float, quiet: float, at: int = 60) -> Case:
    series = f"{name}{{{labels}}}"
    return Case({series: f"0+{fires:g}x{at}"}, {series: f"0+{quiet:g}x{at}"}, at)


def gauge(name: str, labels: str, fires: float, quiet: float, at: int = 60) -> Case:
    series = f"{name}{{{labels}}}"
    return Case({series: f"{fires:g}x{at}"}, {series: f"{quiet:g}x{at}"}, at)


def both(case: Case, series: Series) -> Case:
    """With ``series`` besides, in both."""
    return Case({**case.fires, **series}, {**case.quiet, **series}, case.at)


CASES: dict[str, Case] = {
    # A fifth is late: 20 times the budget. A twelfth in a hundred: not 6 times.
    "TriremeObjectiveBurnsFast": Case(objective(2, 8, 90), objective(0.5, 9.5, 90), 90),
    "TriremeObjectiveBurnsSlowly": Case(
        objective(0.4, 9.6, 2 * DAY // 10), objective(0.05, 9.95, 2 * DAY // 10), 2 * DAY, 10
    ),
    "TriremeRequestsRefused": both(
        counter("trireme_refused_generations_total", f'{TIER},reason="full"', 1, 0.2),
        {f'trireme_requests_total{{{TIER},outcome="ok"}}': "0+10x60"},
    ),
    "TriremeQueueEvicts": Case(
        {f'trireme_refused_generations_total{{{TIER},reason="waited"}}': "0+1x60"},
        {f'trireme_refused_generations_total{{{TIER},reason="full"}}': "0+1x60"},
    ),
    "TriremeRequestsFail": Case(
        {f'trireme_requests_total{{{TIER},outcome="failed"}}': "0+2x60"},
        {f'trireme_requests_total{{{TIER},outcome="invalid"}}': "0+2x60"},
    ),
    "TriremeBrownOut": counter(
        "trireme_browned_out_requests_total", 'model="m",asked="high",tier="low"', 1, 0
    ),
    "TriremeRequestQuarantined": counter("trireme_quarantined_requests_total", TIER, 0.1, 0),
    "TriremeNoReplica": Case(
        # One gateway of two reaches nothing but what is put aside.
        {
            f'trireme_replicas{{{POOL},instance="a"}}': "2x60",
            f'trireme_replicas{{{POOL},instance="b"}}': "1x60",
            f'trireme_ejected_replicas{{{POOL},instance="a"}}': "0x60",
            f'trireme_ejected_replicas{{{POOL},instance="b"}}': "1x60",
        },
        # Nobody asks for it, and the autoscaler has let it go.
        {
            f'trireme_replicas{{{POOL},instance="a"}}': "0x60",
            f'trireme_ejected_replicas{{{POOL},instance="a"}}': "0x60",
            f"trireme_replicas_wanted{{{POOL}}}": "0x60",
        },
    ),
    "TriremeReplicaFlapping": counter("trireme_ejections_total", f'{POOL},cause="slow"', 0.2, 0.05),
    "TriremeReplicaAside": gauge("trireme_ejected_replicas", POOL, 1, 0),
    "TriremeFailovers": both(
        counter("trireme_failovers_total", f'{TIER},kind="exact"', 1, 0.3),
        {f'trireme_requests_total{{{TIER},outcome="ok"}}': "0+10x60"},
    ),
    "TriremeLoadNewsStale": gauge("trireme_load_news_age_seconds", POOL, 4, 1.2),
    "TriremePreemptionStorm": counter("trireme_replica_preemptions_total", POOL, 30, 3),
    "TriremeKvCacheFull": gauge("trireme_replica_kv_use_ratio", POOL, 0.99, 0.9),
    "TriremeColdStartSlow": Case(
        {f"trireme_replica_start_seconds{{{POOL}}}": "100x120 200x10"},
        {f"trireme_replica_start_seconds{{{POOL}}}": "100x120 120x10"},
        130,
    ),
    "TriremePredictionsOff": both(
        gauge("trireme_prediction_coverage_ratio", 'tier="low",quantile="0.9"', 0.6, 0.85),
        {f'trireme_requests_total{{{TIER},outcome="ok"}}': "0+10x60"},
    ),
    "TriremeRouterSlow": Case(
        {
            'trireme_router_decision_seconds_bucket{instance="a",le="0.005"}': "0+90x60",
            'trireme_router_decision_seconds_bucket{instance="a",le="0.01"}': "0+100x60",
            'trireme_router_decision_seconds_bucket{instance="a",le="+Inf"}': "0+100x60",
        },
        {
            'trireme_router_decision_seconds_bucket{instance="a",le="0.005"}': "0+100x60",
            'trireme_router_decision_seconds_bucket{instance="a",le="0.01"}': "0+100x60",
            'trireme_router_decision_seconds_bucket{instance="a",le="+Inf"}': "0+100x60",
        },
    ),
    "TriremeAutoscalerAtMaximum": gauge("trireme_replicas_held_back", POOL, 1, 0),
    "TriremeReplicasMissing": both(
        gauge("trireme_replicas_wanted", POOL, 3, 2),
        {f'trireme_replicas{{{POOL},instance="a"}}': "2x60"},
    ),
    "TriremeAutoscalerBlind": gauge("trireme_autoscaler_signals_fresh", 'model="m"', 0, 1),
    "TriremeStoreAway": gauge("trireme_store_away_seconds", 'instance="a"', 300, 5),
    "TriremeQuotasAlone": Case(
        {
            'trireme_quota_shared{instance="a"}': "0x60",
            'trireme_quota_shared{instance="b"}': "1x60",
            'trireme_quota_gateways{instance="b"}': "2x60",
        },
        # One gateway, which counts for itself.
        {
            'trireme_quota_shared{instance="a"}': "0x60",
            'trireme_quota_gateways{instance="a"}': "1x60",
        },
    ),
    "TriremeUsageLost": Case(
        {'trireme_usage_records_total{instance="a",state="dropped"}': "0+1x60"},
        {'trireme_usage_records_total{instance="a",state="written"}': "0+1x60"},
    ),
    "TriremeKeyExpires": gauge(
        "trireme_key_expiry_seconds", 'instance="a"', 3 * 86_400, 30 * 86_400
    ),
    "TriremeCertificateExpires": gauge(
        "trireme_certificate_expiry_seconds", 'instance="a"', 3 * 86_400, 30 * 86_400
    ),
    "TriremeProcessDown": gauge("up", 'job="trireme",instance="a"', 0, 1),
}
