"""Recording rules and alerts for Prometheus.

Objectives are not in here: gateways export what is configured (``trireme_objective_share_ratio``)
and count what kept it, so these rules hold for any configuration.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["page", "ticket"]

RUNBOOKS = "docs/runbooks"

WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
BY_OBJECTIVE = "model, tier, objective"

LEAST_REQUESTS = 20
"""A burn rate of fewer requests than these, in its long window, is chance."""


@dataclass(frozen=True)
class Recording:
    """A query whose result is kept under ``name``, by ``level:metric:operation``."""

    name: str
    expr: str


@dataclass(frozen=True)
class Alert:
    """``for_`` is how long ``expr`` must hold; ``summary`` is one sentence with its labels."""

    name: str
    expr: str
    for_: str
    severity: Severity
    summary: str

    @property
    def runbook(self) -> str:
        """The page on what to do, from the root of the repository."""
        return f"{RUNBOOKS}/{self.name}.md"


def recordings() -> Iterator[Recording]:
    """Shares of missed objectives over every window, and what several dashboards show."""
    for window in WINDOWS:
        missed = f'trireme_objectives_total{{outcome="missed"}}[{window}]'
        yield Recording(
            f"tier:trireme_objectives_missed:ratio_rate{window}",
            f"sum by ({BY_OBJECTIVE}) (rate({missed}))"
            f" / (sum by ({BY_OBJECTIVE}) (rate(trireme_objectives_total[{window}])) > 0)",
        )
    yield Recording(
        "tier:trireme_objective_share:max", "max by (tier) (trireme_objective_share_ratio)"
    )
    yield Recording(
        "tier:trireme_requests:rate5m",
        "sum by (model, tier, outcome) (rate(trireme_requests_total[5m]))",
    )
    yield Recording(
        "tier:trireme_output_tokens:rate5m",
        "sum by (model, tier, channel) (rate(trireme_output_tokens_total[5m]))",
    )
    yield Recording(
        "model:trireme_open_replicas:min",
        # Of the gateways: the one that reaches fewest is the one that fails first.
        "min by (model) (sum by (model, instance) (trireme_replicas)"
        " - sum by (model, instance) (trireme_ejected_replicas))",
    )


def alerts() -> Iterator[Alert]:
    """All alerts; every metric in them is one of the table, Prometheus's ``up``, or recorded."""
    yield from _objectives()
    yield from _requests()
    yield from _replicas()
    yield from _engines()
    yield from _router()
    yield from _autoscaling()
    yield from _tenants()
    yield Alert(
        "TriremeProcessDown",
        'up{job="trireme"} == 0',
        "2m",
        "ticket",
        "{{ $labels.instance }} has not answered Prometheus for 2 minutes.",
    )


def _burn(long: str, short: str, times: float) -> str:
    """Both windows use up the budget ``times`` as fast as it may be, and it is not chance."""
    budget = f"on (tier) group_left () ({times:g} * (1 - tier:trireme_objective_share:max))"
    burning = " and ".join(
        f"tier:trireme_objectives_missed:ratio_rate{window} > {budget}" for window in (long, short)
    )
    counted = f"sum by ({BY_OBJECTIVE}) (increase(trireme_objectives_total[{long}]))"
    return f"({burning} and {counted} >= {LEAST_REQUESTS})"


def _objectives() -> Iterator[Alert]:
    yield Alert(
        "TriremeObjectiveBurnsFast",
        f"{_burn('1h', '5m', 14.4)} or {_burn('6h', '30m', 6)}",
        "2m",
        "page",
        "{{ $labels.tier }} requests to {{ $labels.model }} miss their objective "
        "{{ $labels.objective }}: {{ $value | humanizePercentage }} of them.",
    )
    yield Alert(
        "TriremeObjectiveBurnsSlowly",
        f"{_burn('1d', '2h', 3)} or {_burn('3d', '6h', 1)}",
        "1h",
        "ticket",
        "{{ $labels.tier }} requests to {{ $labels.model }} use up their budget for "
        "{{ $labels.objective }}: {{ $value | humanizePercentage }} of them miss it.",
    )


def _requests() -> Iterator[Alert]:
    yield Alert(
        "TriremeRequestsRefused",
        "sum by (model, tier) (rate(trireme_refused_generations_total[5m]))"
        " / sum by (model, tier) (rate(trireme_requests_total[5m])) > 0.05",
        "5m",
        "ticket",
        "{{ $value | humanizePercentage }} of the {{ $labels.tier }} requests to "
        "{{ $labels.model }} are refused.",
    )
    yield Alert(
        "TriremeQueueEvicts",
        "sum by (model, tier) "
        '(increase(trireme_refused_generations_total{reason=~"waited|displaced"}[10m])) > 5',
        "0m",
        "ticket",
        "{{ $value | humanize }} {{ $labels.tier }} requests to {{ $labels.model }} were put out "
        "of the queue within 10 minutes.",
    )
    yield Alert(
        "TriremeRequestsFail",
        'sum by (model, tier) (increase(trireme_requests_total{outcome="failed"}[5m])) > 5',
        "0m",
        "page",
        "{{ $value | humanize }} {{ $labels.tier }} requests to {{ $labels.model }} failed within "
        "5 minutes.",
    )
    yield Alert(
        "TriremeBrownOut",
        "sum by (model, asked) (rate(trireme_browned_out_requests_total[10m])) > 0",
        "15m",
        "ticket",
        "{{ $labels.asked }} requests to {{ $labels.model }} are served at a lower tier.",
    )
    yield Alert(
        "TriremeRequestQuarantined",
        "sum by (model) (increase(trireme_quarantined_requests_total[15m])) > 0",
        "0m",
        "page",
        "A request to {{ $labels.model }} took two engines down and is in quarantine.",
    )


def _replicas() -> Iterator[Alert]:
    yield Alert(
        "TriremeNoReplica",
        "model:trireme_open_replicas:min <= 0"
        # Unless the autoscaler has let it go, as nobody asks for it.
        " unless on (model) (sum by (model) (trireme_replicas_wanted) == 0)",
        "1m",
        "page",
        "A gateway reaches no healthy replica of {{ $labels.model }}.",
    )
    yield Alert(
        "TriremeReplicaFlapping",
        "sum by (instance) (increase(trireme_channel_reconnects_total[30m])) > 6"
        " or sum by (model, pool) (increase(trireme_ejections_total[30m])) > 4",
        "0m",
        "ticket",
        "Replicas come and go: {{ $value | humanize }} times within 30 minutes "
        "({{ $labels.pool }}{{ $labels.instance }}).",
    )
    yield Alert(
        "TriremeReplicaAside",
        "max by (model, pool) (trireme_ejected_replicas) > 0",
        "15m",
        "ticket",
        "{{ $value }} replicas of pool {{ $labels.pool }} are put aside for 15 minutes.",
    )
    yield Alert(
        "TriremeFailovers",
        "sum by (model) (increase(trireme_failovers_total[10m]))"
        " > 0.05 * sum by (model) (increase(trireme_requests_total[10m]))"
        " and sum by (model) (increase(trireme_failovers_total[10m])) > 5",
        "0m",
        "ticket",
        "{{ $value | humanize }} answers of {{ $labels.model }} went on elsewhere within "
        "10 minutes.",
    )
    yield Alert(
        "TriremeLoadNewsStale",
        "max by (model, pool) (trireme_load_news_age_seconds) > 2.5",
        "1m",
        "ticket",
        "A gateway places on news of pool {{ $labels.pool }}, {{ $value | humanizeDuration }} old.",
    )


def _engines() -> Iterator[Alert]:
    yield Alert(
        "TriremePreemptionStorm",
        "sum by (model, pool, instance) (rate(trireme_replica_preemptions_total[5m])) > 0.2",
        "5m",
        "ticket",
        "{{ $labels.instance }} of pool {{ $labels.pool }} takes {{ $value | humanize }} requests "
        "a second out of its batch.",
    )
    yield Alert(
        "TriremeKvCacheFull",
        "trireme_replica_kv_use_ratio > 0.97",
        "10m",
        "ticket",
        "The KV cache of {{ $labels.instance }} (pool {{ $labels.pool }}) is full.",
    )
    yield Alert(
        "TriremeColdStartSlow",
        "max by (model, pool) (trireme_replica_start_seconds)"
        " > 1.5 * max by (model, pool) (avg_over_time(trireme_replica_start_seconds[7d] offset 1h))"
        " and max by (model, pool) (trireme_replica_start_seconds) > 30",
        "0m",
        "ticket",
        "A replica of pool {{ $labels.pool }} took {{ $value | humanizeDuration }} to start, half "
        "as long again as they used to.",
    )


def _router() -> Iterator[Alert]:
    drift = 'max by (tier) (abs(trireme_prediction_coverage_ratio{quantile="0.9"} - 0.9))'
    yield Alert(
        "TriremePredictionsOff",
        f"{drift} > 0.15 and on (tier) sum by (tier) (increase(trireme_requests_total[1h])) >= 100",
        "30m",
        "ticket",
        "The 90 % quantile of {{ $labels.tier }} answers is off by "
        "{{ $value | humanizePercentage }}.",
    )
    yield Alert(
        "TriremeRouterSlow",
        "histogram_quantile(0.99, sum by (le, instance) "
        "(rate(trireme_router_decision_seconds_bucket[5m]))) > 0.005",
        "10m",
        "ticket",
        "{{ $labels.instance }} takes {{ $value | humanizeDuration }} for a round of placements.",
    )


def _autoscaling() -> Iterator[Alert]:
    yield Alert(
        "TriremeAutoscalerAtMaximum",
        "max by (model, pool) (trireme_replicas_held_back) > 0",
        "15m",
        "ticket",
        "Pool {{ $labels.pool }} needs more replicas than max_replicas allows.",
    )
    yield Alert(
        "TriremeReplicasMissing",
        "max by (model, pool) (trireme_replicas_wanted)"
        " > on (model, pool) max by (model, pool) (trireme_replicas)",
        "30m",
        "ticket",
        "Pool {{ $labels.pool }} has waited 30 minutes for replicas: {{ $value }} are wanted.",
    )
    yield Alert(
        "TriremeAutoscalerBlind",
        "min by (model) (trireme_autoscaler_signals_fresh) < 1",
        "5m",
        "ticket",
        "The autoscaler does not hear all gateways of {{ $labels.model }}; nothing shrinks.",
    )


def _tenants() -> Iterator[Alert]:
    yield Alert(
        "TriremeStoreAway",
        "max by (instance) (trireme_store_away_seconds) > 60",
        "1m",
        "ticket",
        "{{ $labels.instance }} has not reached the store of tenants and keys for "
        "{{ $value | humanizeDuration }}.",
    )
    yield Alert(
        "TriremeQuotasAlone",
        # A single gateway needs nobody to count with.
        "min(trireme_quota_shared) == 0 and max(trireme_quota_gateways) > 1",
        "2m",
        "ticket",
        "Redis is away: gateways hold tenants to their shares of the quotas.",
    )
    yield Alert(
        "TriremeUsageLost",
        'sum by (state) (increase(trireme_usage_records_total{state=~"dropped|invalid|torn"}[15m]))'
        " > 0",
        "0m",
        "ticket",
        "{{ $value | humanize }} usage records were {{ $labels.state }} within 15 minutes.",
    )
    yield Alert(
        "TriremeKeyExpires",
        "min(trireme_key_expiry_seconds) < 7 * 86400",
        "10m",
        "ticket",
        "An API key expires in {{ $value | humanizeDuration }}.",
    )
    yield Alert(
        "TriremeCertificateExpires",
        "min(trireme_certificate_expiry_seconds) < 7 * 86400",
        "10m",
        "ticket",
        "A certificate of the cluster expires in {{ $value | humanizeDuration }}.",
    )


def rule_files() -> dict[str, dict[str, Any]]:
    """Prometheus rule files by name, as plain data."""
    recorded = [{"record": each.name, "expr": each.expr} for each in recordings()]
    alerting = [
        {
            "alert": each.name,
            "expr": each.expr,
            **({} if each.for_ == "0m" else {"for": each.for_}),
            "labels": {"severity": each.severity},
            "annotations": {"summary": each.summary, "runbook_url": each.runbook},
        }
        for each in alerts()
    ]
    return {
        "recording.yaml": {
            "groups": [{"name": "trireme-recording", "interval": "15s", "rules": recorded}]
        },
        "alerts.yaml": {"groups": [{"name": "trireme-alerts", "rules": alerting}]},
    }
