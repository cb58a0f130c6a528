"""What dashboards and rules ask for is there: a real cluster, real load, a fault, real Prometheus.

One pool is simulated, so that it costs little; another is a real vLLM engine, for vLLM's metrics.
"""

import asyncio
import json
import math
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from cluster.local_ray import free_ports
from cluster.metrics import TABLES, UNKNOWN_MODEL
from cluster.run_state import ClusterRecord
from cluster.telemetry.boards import boards
from cluster.telemetry.local_prometheus import LocalPrometheus, Target, scraping, targets
from cluster.telemetry.names import FOREIGN, exported, read_by
from cluster.telemetry.panels import filled
from cluster.telemetry.rules import alerts, recordings
from tests.e2e.running import Cluster, cluster, run
from tests.observability.prometheus_tools import program

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.timeout(900)]

MODEL, REAL = "gpt-oss-20b", "gpt-oss-tiny"
CONFIG: dict[str, Any] = {
    "name": "seen",
    "models": [
        {
            "name": MODEL,
            "source": "tiny",
            "max_model_len": 4096,
            "pools": [
                {
                    "name": "main",
                    "engine": "simulated",
                    "replicas": 1,
                    "num_cpus": 0.01,
                    "max_num_seqs": 8,
                    # The autoscaler asks for the second: only so a cold start is measured.
                    "scaling": {
                        "max_replicas": 2,
                        "cold_start_s": 5,
                        "schedules": ["daily 00:00-00:00 >= 2"],
                    },
                    "simulated": {
                        "step_ms": {"base": 20},
                        "output_tokens_mean": {"low": 40, "medium": 80, "high": 160},
                        "output_sigma": 0.3,
                    },
                }
            ],
        },
        {
            "name": REAL,
            "source": "tiny",
            "max_model_len": 4096,
            "pools": [
                {
                    "name": "real",
                    "num_cpus": 0.01,
                    "max_num_seqs": 4,
                    "max_num_batched_tokens": 512,
                    "startup_timeout_s": 600,
                    "engine_args": {"enforce_eager": True},
                    "env": {"VLLM_CPU_KVCACHE_SPACE": "1"},
                }
            ],
        },
    ],
    "gateway": {"num_cpus": 0.01},
    "router": {"shadow": "least-requests"},
    "access": {"mode": "keys"},
    "usage": {"prices": {"*": {"output": 1.0}}},
    "autoscaling": {"enabled": True, "interval_s": 1, "collect_s": 0.5, "stale_after_s": 10},
}
TIERS = ("low", "medium", "high")
# Streams always under way at each model. The real engine is slow on two cores: clients that went to
# either by turns would all come to wait there, and the engine that is killed would hold none.
STREAMS = {MODEL: 15, REAL: 3}
LOAD_S = 30.0
AMPLE = "tokens_per_minute=10000000"
"""A limit that nobody comes near."""


async def one(client: httpx.AsyncClient, model: str, number: int) -> int:
    """Status of one chat, streamed to its end."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": f"Question {number % 7}. " + "word " * 40}],
        "reasoning_effort": TIERS[number % 3],
        "seed": number,
        "stream": True,
        "max_tokens": 200,
    }
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        async for _ in answer.aiter_lines():
            pass
        return answer.status_code


def key_of(running: Cluster, tenant: str, limit: str = AMPLE) -> str:
    """Of a new tenant, made by the command line; it expires one day."""

    def trireme(*args: str) -> Any:
        config = str(running.home / f"{running.name}.yaml")
        done = run(running.home, *args, "--config", config, "--json", name=running.name)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    trireme("tenants", "create", tenant, "--limit", limit)
    key: str = trireme("keys", "create", tenant, "--expires", "30d")["key"]
    return key


async def load(running: Cluster, seconds: float, key: str) -> list[int]:
    """Streams all the time, and one engine killed in the middle."""
    ends = time.monotonic() + seconds
    numbers = iter(range(1_000_000))
    statuses: list[int] = []

    async def client(http: httpx.AsyncClient, model: str) -> None:
        while time.monotonic() < ends:
            statuses.append(await one(http, model, next(numbers)))

    async def fault() -> None:
        await asyncio.sleep(seconds / 2)
        await asyncio.to_thread(kill_an_engine, running)

    clients = [model for model, streams in STREAMS.items() for _ in range(streams)]
    limits = httpx.Limits(max_connections=len(clients))
    async with httpx.AsyncClient(
        base_url=running.url,
        headers={"authorization": f"Bearer {key}"},
        limits=limits,
        timeout=httpx.Timeout(120),
        trust_env=False,
    ) as http:
        await let_in(http)
        await asyncio.gather(fault(), *(client(http, model) for model in clients))
    return statuses


async def let_in(http: httpx.AsyncClient) -> None:
    """A new key is known to the gateway within two seconds."""
    async with asyncio.timeout(10):
        while (await http.get("/v1/models")).status_code == 401:
            await asyncio.sleep(0.1)


def kill_an_engine(running: Cluster) -> None:
    engines = [
        process
        for process in running.processes()
        if re.search(r"ServeReplica:\S*engine-main", " ".join(process.cmdline()))
    ]
    assert engines
    engines[0].kill()


def found_targets(running: Cluster) -> list[Target]:
    view = ClusterRecord(running.home / "trireme" / "state", running.name).read_view()
    assert view is not None
    return targets(view)


def labels_of(expr: str) -> set[str]:
    """Labels that matchers and groupings of ``expr`` name."""
    named = set(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"', expr))
    for group in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expr):
        named |= {label.strip() for label in group.split(",") if label.strip()}
    return named


def expressions() -> dict[str, str]:
    """Every query of a dashboard, rule or alert, by where it stands."""
    found = {}
    for board in boards():
        for panel in board.panels():
            for number, query in enumerate(panel.queries):
                found[f"{board.uid}: {panel.title} #{number + 1}"] = query.expr
    for recording in recordings():
        found[f"recording {recording.name}"] = recording.expr
    for alert in alerts():
        found[f"alert {alert.name}"] = alert.expr
    return found


def check_names_and_labels(prometheus: LocalPrometheus) -> None:
    """Every metric named anywhere was exported, with every label that the query uses."""
    series: dict[str, set[str]] = {}
    for labels in prometheus.get("series", **{"match[]": '{__name__!=""}'}):
        series.setdefault(labels["__name__"], set()).update(labels)
    missing = {}
    for where, expr in expressions().items():
        read = read_by(expr)
        absent = {name for name in read if name not in series}
        known: set[str] = set().union(*(series.get(name, set()) for name in read))
        unlabelled = labels_of(expr) - known
        if absent or unlabelled:
            missing[where] = (absent, unlabelled)
    assert not missing, json.dumps({k: [*map(sorted, v)] for k, v in missing.items()}, indent=1)
    ours = {name for name in series if name.startswith("trireme_")}
    assert exported().keys() - ours == set()
    assert set(FOREIGN) <= series.keys()


def check_cardinality(prometheus: LocalPrometheus) -> None:
    """No label of ours has a value that its row does not allow."""
    models = [model["name"] for model in CONFIG["models"]]
    pools = [(model["name"], pool["name"]) for model in CONFIG["models"] for pool in model["pools"]]
    for table in TABLES.values():
        for row in table:
            allowed = set(row.label_sets([*models, UNKNOWN_MODEL], pools))
            for name in (name for name, each in exported().items() if each == row):
                found = prometheus.get("series", **{"match[]": name})
                for label, most in row.named.items():
                    assert len({series[label] for series in found}) <= most + 1, (name, label)
                for series in found:
                    values = (
                        row.closed(label)[0] if label in row.named else series[label]
                        for label in row.labels
                    )
                    assert tuple(values) in allowed, series


def certificates(folder: Path) -> dict[str, str]:
    """``channel.tls`` with files of an authority of its own."""
    authority = trustme.CA()
    cert = authority.issue_cert("node.trireme.internal")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    cert.private_key_pem.write_to_path(str(folder / "node.key"))
    cert.cert_chain_pems[0].write_to_path(str(folder / "node.pem"))
    return {
        "cert_file": str(folder / "node.pem"),
        "key_file": str(folder / "node.key"),
        "ca_file": str(folder / "ca.pem"),
    }


def dead_panels(prometheus: LocalPrometheus, start: float) -> tuple[list[str], int]:
    """Panels of which some query has never had a number since ``start``, and how many there are."""
    dead, count = [], 0
    for board in boards():
        for panel in board.panels():
            count += 1
            for query in panel.queries:
                expr = filled(query.expr, "10s")
                points = prometheus.ask_range(expr, start, time.time(), 1.0)
                values = [float(v) for each in points for _, v in each["values"]]
                if not any(map(math.isfinite, values)):
                    dead.append(f"{board.uid}: {panel.title}: {expr}")
    return dead, count


async def test_nothing_on_a_dashboard_or_in_a_rule_is_dead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    binary = program("prometheus")
    config = CONFIG | {"channel": {"tls": certificates(tmp_path)}}
    with cluster(tmp_path, config) as running:
        (port,) = free_ports(1)
        began = time.time()
        with scraping(tmp_path / "prometheus", port, found_targets(running), binary) as prometheus:
            statuses = await load(running, LOAD_S, key_of(running, "acme"))
            assert statuses.count(200) == len(statuses) > 30, statuses
            prometheus.update(found_targets(running))
            await asyncio.sleep(5)
            check_names_and_labels(prometheus)
            check_cardinality(prometheus)
            dead, count = dead_panels(prometheus, began)
            for expr in [*(a.expr for a in alerts()), *(r.expr for r in recordings())]:
                prometheus.ask(expr)
            rules = [rule for g in prometheus.get("rules")["groups"] for rule in g["rules"]]
            assert {rule["health"] for rule in rules} == {"ok"}, rules
            with capsys.disabled():
                print(f"\n{len(dead)} dead of {count} panels, {len(rules)} rules healthy")
            assert not dead, "\n".join(dead)
