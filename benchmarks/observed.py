"""A run with a fault and a scale event, as dashboards and a trace show it; the pictures in docs/.

A real cluster with simulated engines serves all tiers; half-way an engine is killed and the load is
more than twice what it was before, so that the autoscaler grows the pool. A real Prometheus
scrapes it, and a real OTLP receiver takes the traces. Needs ``prometheus`` on the PATH.
"""

import argparse
import asyncio
import dataclasses
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from matplotlib.figure import Figure

from cluster.local_ray import free_ports
from cluster.telemetry.draw import COLOURS, Span, pictures
from cluster.telemetry.local_prometheus import LocalPrometheus, scraping
from tests.e2e.running import Cluster, cluster
from tests.e2e.test_everything_seen import AMPLE, found_targets, key_of, kill_an_engine, let_in
from tests.observability.otlp_receiver import Received, receiving

MODEL = "gpt-oss-120b"
MEANS = {"low": 60, "medium": 150, "high": 400}
OBJECTIVES = {"low": (1.0, 40), "medium": (2.0, 60), "high": (3.0, 80)}
TENANTS = {"search": 5.0, "support": 3.0, "reports": 1.0}
"""Their parts of the requests. The last one is near the limit of what it may ask a minute."""
LIMITS = {"reports": "requests_per_minute=40"}
MIX = ("low", "low", "low", "medium", "medium", "high")


def config(collector: str) -> dict[str, Any]:
    pool = {
        "engine": "simulated",
        "replicas": 2,
        "num_cpus": 0.01,
        "max_num_seqs": 12,
        "scaling": {"min_replicas": 2, "max_replicas": 4, "cold_start_s": 15},
        "simulated": {
            "step_ms": {"base": 20, "request": 2},
            "kv_tokens": 9000,
            "output_tokens_mean": MEANS,
            "output_sigma": 0.4,
        },
    }
    tiers = {
        tier: {
            "prior_output_tokens_mean": MEANS[tier],
            "slo": {"ttft_s": ttft_s, "tpot_ms": tpot_ms},
        }
        for tier, (ttft_s, tpot_ms) in OBJECTIVES.items()
    }
    return {
        "name": "observed",
        "models": [{"name": MODEL, "source": "tiny", "max_model_len": 8192, "pools": [pool]}],
        "gateway": {"num_cpus": 0.01},
        "router": {"shadow": "least-requests"},
        "tiers": tiers,
        "autoscaling": {
            "enabled": True,
            "interval_s": 2,
            "collect_s": 0.5,
            "hold_s": 45,
            "reversals_per_h": 120,
            "forecast": False,
        },
        "access": {"mode": "keys"},
        "usage": {"prices": {"*": {"prompt": 0.1, "output": 0.5}}},
        "telemetry": {"tracing": {"endpoint": collector, "share": 1.0}},
    }


class Clients:
    """Requests at random times; ``rate`` is how many a second."""

    def __init__(self, http: httpx.AsyncClient, rate: float, keys: dict[str, str]) -> None:
        self._http = http
        self._rate = rate
        self._keys = keys
        self._rng = random.Random(3)
        self._number = 0
        self.statuses: list[int] = []

    async def run(self, seconds: float, busy: tuple[float, float]) -> None:
        """For so long; between the times of ``busy``, two and a half times as many."""
        started = time.monotonic()
        running: set[asyncio.Task[None]] = set()
        while (passed := time.monotonic() - started) < seconds:
            rate = self._rate * (2.5 if busy[0] < passed < busy[1] else 1.0)
            await asyncio.sleep(self._rng.expovariate(rate))
            task = asyncio.create_task(self._ask())
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)

    async def _ask(self) -> None:
        self._number += 1
        words = "word " * self._rng.choice((20, 60, 200))
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"Question {self._number % 9}. {words}"}],
            "reasoning_effort": MIX[self._number % len(MIX)],
            "seed": self._number,
            "stream": True,
        }
        (tenant,) = self._rng.choices(list(TENANTS), list(TENANTS.values()))
        headers = {"authorization": f"Bearer {self._keys[tenant]}"}
        async with self._http.stream(
            "POST", "/v1/chat/completions", json=body, headers=headers
        ) as answer:
            async for _ in answer.aiter_lines():
                pass
        self.statuses.append(answer.status_code)


async def play(
    running: Cluster, prometheus: LocalPrometheus, seconds: float, rate: float
) -> list[int]:
    async def fault() -> None:
        await asyncio.sleep(seconds / 2)
        await asyncio.to_thread(kill_an_engine, running)

    async def follow() -> None:
        while True:
            await asyncio.sleep(3)
            prometheus.update(await asyncio.to_thread(found_targets, running))

    keys = {tenant: key_of(running, tenant, LIMITS.get(tenant, AMPLE)) for tenant in TENANTS}
    async with httpx.AsyncClient(
        base_url=running.url,
        headers={"authorization": f"Bearer {keys['search']}"},
        timeout=200,
        trust_env=False,
        limits=httpx.Limits(max_connections=400),
    ) as http:
        await let_in(http)
        clients = Clients(http, rate, keys)
        following = asyncio.create_task(follow())
        await asyncio.gather(fault(), clients.run(seconds, (seconds / 4, 3 * seconds / 4)))
        following.cancel()
    return clients.statuses


def failed_over(spans: list[Received]) -> list[Received]:
    """The spans of the request that went on elsewhere and wrote most, by when they began."""
    traces: dict[str, list[Received]] = {}
    for span in spans:
        traces.setdefault(span.trace_id, []).append(span)
    moved = [trace for trace in traces.values() if any("resumed" in each.events for each in trace)]
    if not moved:
        raise RuntimeError("no request was failed over")
    whole = max(
        moved, key=lambda trace: max(s.end_ns for s in trace) - min(s.start_ns for s in trace)
    )
    return sorted(whole, key=lambda span: (span.start_ns, -span.end_ns))


def draw_trace(trace: list[Received]) -> Figure:
    """Each span as a bar, its events as ticks; links as arrows."""
    begin_ns = trace[0].start_ns
    figure = Figure((9.6, 0.42 * len(trace) + 1.0), layout="constrained")
    axes = figure.add_subplot()
    places = {span.span_id: place for place, span in enumerate(trace)}
    for place, span in enumerate(trace):
        start, end = ((at - begin_ns) / 1e9 for at in (span.start_ns, span.end_ns))
        colour = COLOURS[1] if span.failed else COLOURS[0 if "gateway" in span.service else 2]
        axes.barh(place, max(end - start, 0.002), left=start, height=0.5, color=colour)
        replica = str(span.attributes.get("trireme.replica", ""))
        label = f"{span.name} {replica}  {end - start:.3f} s  {' '.join(span.events)}"
        axes.text(start, place - 0.3, label, fontsize=6, va="bottom")
        for linked in span.links:
            axes.annotate(
                "", (start, place), (start, places[linked]), arrowprops={"arrowstyle": "->"}
            )
    axes.set_ylim(len(trace) - 0.4, -0.9)
    axes.set_yticks([])
    axes.set_xlabel("seconds since the request came; blue: gateway, green: engine, red: cut short")
    axes.set_title(f"trace {trace[0].trace_id}", fontsize=8, loc="left")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--rate", type=float, default=2.0, help="requests a second, at first")
    parser.add_argument("--out", type=Path, default=Path("docs/observed"))
    args = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="observed-"))
    with receiving() as receiver:
        with cluster(home, config(receiver.url)) as running:
            began = time.time()
            port = free_ports(1)[0]
            with scraping(home / "prometheus", port, found_targets(running)) as prometheus:
                statuses = asyncio.run(play(running, prometheus, args.seconds, args.rate))
                pictures(prometheus, Span(began, time.time()), args.out)
        trace = failed_over(receiver.spans)
    told = [dataclasses.asdict(span) for span in trace]
    (args.out / "failed-over-trace.json").write_text(json.dumps(told, indent=1) + "\n")
    draw_trace(trace).savefig(args.out / "failed-over-trace.png", dpi=75)
    ok = statuses.count(200)
    print(f"{ok} of {len(statuses)} requests ended well; pictures in {args.out}")


if __name__ == "__main__":
    main()
