"""The autoscaler as a Serve application of its own, beside the one that it resizes.

It asks every gateway for its account, over the listeners for operators; decides; and writes what is
wanted where Serve's controller reads it (or tells the external scaler's REST API). Nothing waits
for it: while it is away, every pool keeps its size, and when it is back it begins with the sizes
that were asked for last.
"""

import asyncio
import json
import logging
import math
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import msgspec
from ray import serve
from ray.serve import Application

from autoscaling.autoscaler import Autoscaler, Resize
from autoscaling.coldstart import Start
from cluster.accounts import GatewayAccount
from cluster.config import TIERS, TriremeConfig
from cluster.logs import set_up_logging
from cluster.metrics import AUTOSCALER_METRICS, Metrics
from cluster.ops import OpsListener
from deployments.compat import board
from deployments.compat.dashboard import credentials
from deployments.compat.serve import ListedReplica, ReplicaFeed
from deployments.names import GATEWAY, applications, engine_deployment, wanted_key

log = logging.getLogger("trireme.autoscaler")

AUTOSCALER = "autoscaler"
ASK_TIMEOUT_S = 2.0
OVERDUE = 2.0
"""Times the expected cold start after which a replica that is not there is worth a warning."""

ANSWERED = msgspec.json.Decoder(GatewayAccount)


def application_name(cluster: str) -> str:
    """The Serve application of the autoscaler of a cluster."""
    return f"{cluster}-autoscaler"


def build_autoscaler(config: TriremeConfig, *, apart: bool = False) -> Application:
    """One replica, which Serve starts again when it dies. ``apart``: each pool is a Serve
    application of its own."""
    deployment = serve.deployment(AutoscalerReplica).options(
        name=AUTOSCALER, num_replicas=1, ray_actor_options={"num_cpus": 0}
    )
    return deployment.bind(config, apart)


class AutoscalerReplica:
    """Two loops: one that asks, one that decides."""

    async def __init__(  # type: ignore[misc]
        self, config: TriremeConfig, apart: bool = False
    ) -> None:
        set_up_logging(config.telemetry.log_level)
        self._config = config
        self._settings = config.autoscaling
        self._zone = ZoneInfo(self._settings.timezone)
        self._autoscaler = Autoscaler(config)
        self._metrics = Metrics(AUTOSCALER_METRICS)
        self._http = httpx.AsyncClient(trust_env=False, timeout=ASK_TIMEOUT_S)
        self._gateways: dict[str, str] = {}
        self._models = {pool.name: model.name for model, pool in config.pools()}
        self._autoscaler.restore(await asyncio.to_thread(self._written))
        self._applications = applications(config.name, self._models, apart=apart)
        self._pool_of = {engine_deployment(pool): pool for pool in self._models}
        self._ops = OpsListener(
            self._metrics.registry, self.status, {"/decisions": self._autoscaler.log}
        )
        await self._ops.start(config.telemetry.host)
        self._feed = ReplicaFeed(
            self._applications, self._on_replicas, f"trireme-autoscaler:{config.name}"
        )
        self._feed.start()
        self._measuring: set[asyncio.Task[None]] = set()
        self._loops = [
            asyncio.create_task(self._collect()),
            asyncio.create_task(self._decide()),
        ]

    def _written(self) -> dict[str, int]:
        found = {}
        for pool in self._models:
            size = board.read_size(wanted_key(self._config.name, pool))
            if size is not None:
                found[pool] = size
        return found

    # -------------------------------------------------------------- who is there

    def _on_replicas(self, listed: list[ListedReplica]) -> None:
        now = time.monotonic()
        gateways = {
            each.replica_id: each.metadata["ops_url"]
            for each in listed
            if each.deployment == GATEWAY and "ops_url" in each.metadata
        }
        self._autoscaler.gateways(gateways, self._gateways)
        self._gateways = gateways
        for deployment, pool in self._pool_of.items():
            there = {each.replica_id: each for each in listed if each.deployment == deployment}
            for name, asked_s in self._autoscaler.listed(pool, there, now).items():
                url = there[name].metadata.get("ops_url", "")
                task = asyncio.create_task(self._measure(pool, url, now - asked_s))
                self._measuring.add(task)
                task.add_done_callback(self._measuring.discard)

    async def _measure(self, pool: str, ops_url: str, whole_s: float) -> None:
        """Book a start with its engine's part, which the replica has measured itself."""
        engine_s = math.nan
        try:
            text = (await self._http.get(f"{ops_url}/metrics")).text
            engine_s = next(
                float(line.rpartition(" ")[2])
                for line in text.splitlines()
                if line.startswith("trireme_replica_start_seconds{")
            )
        except (httpx.HTTPError, StopIteration, ValueError):
            log.warning("a replica of pool %s did not tell how long it took to start", pool)
        self._autoscaler.started(pool, Start(whole_s, engine_s))
        log.info("a replica of pool %s was ready %.1f s after it was asked for", pool, whole_s)

    # -------------------------------------------------------------- asking

    async def _collect(self) -> None:
        while True:
            asked = dict(self._gateways)
            await asyncio.gather(*(self._ask(url) for url in asked.values()))
            await asyncio.sleep(self._settings.collect_s)

    async def _ask(self, ops_url: str) -> None:
        try:
            answer = await self._http.get(f"{ops_url}/account")
            answer.raise_for_status()
            account = ANSWERED.decode(answer.content)
        except (httpx.HTTPError, msgspec.MsgspecError) as error:
            # It is simply not heard of; the signals say so when that lasts.
            log.debug("no account from %s: %s", ops_url, error)
            return
        self._autoscaler.take(account, time.monotonic())

    # -------------------------------------------------------------- deciding

    async def _decide(self) -> None:
        while True:
            await asyncio.sleep(self._settings.interval_s)
            try:
                clock = datetime.now(self._zone).replace(tzinfo=None)
                resizes = self._autoscaler.decide(time.monotonic(), clock)
                self._tell_metrics()
                self._warn_of_late_starts()
                await self._act(resizes)
            except Exception:
                # One bad round must not end the loop; sizes stay as they are.
                log.exception("no decision was made")

    async def _act(self, resizes: list[Resize]) -> None:
        for resize in resizes:
            if self._settings.actuator == "external":
                await self._scale(resize)
            # Written in either case: it is also what the next autoscaler begins with.
            told = json.dumps({"wanted": resize.wanted, "at_s": time.time()}).encode()
            key = wanted_key(self._config.name, resize.pool)
            await asyncio.to_thread(board.write, key, told)

    async def _scale(self, resize: Resize) -> None:
        """Serve's external scaler; the answer 412 means that it is not enabled there. What was not
        heard is said again with the next decision."""
        deployment = engine_deployment(resize.pool)
        url = (
            f"{self._settings.dashboard_url}/api/v1/applications/{self._applications[deployment]}"
            f"/deployments/{deployment}/scale"
        )
        told = {"target_num_replicas": resize.wanted}
        try:
            answer = await self._http.post(url, json=told, headers=credentials())
            problem = answer.text[:200] if answer.is_error else ""
        except httpx.HTTPError as error:
            problem = f"{self._settings.dashboard_url} does not answer: {error!r}"
        if problem:
            log.warning("pool %s was not resized: %s", resize.pool, problem)

    def _warn_of_late_starts(self) -> None:
        for pool, starts in self._autoscaler.starts.items():
            overdue_s = starts.overdue_s(time.monotonic())
            expected_s = starts.expected_s
            if math.isnan(expected_s):
                expected_s = self._cold_start_s(pool)
            if overdue_s > OVERDUE * expected_s:
                log.warning(
                    "pool %s: a replica that was asked for %.0f s ago is not ready (expected: "
                    "%.0f s); is there room for it?",
                    pool,
                    overdue_s,
                    expected_s,
                )

    def _cold_start_s(self, pool: str) -> float:
        found = next(each for _, each in self._config.pools() if each.name == pool)
        return 300.0 if found.scaling is None else found.scaling.cold_start_s

    # -------------------------------------------------------------- what operators see

    def _tell_metrics(self) -> None:
        gauge = self._metrics.gauge
        for name, model in self._autoscaler.models.items():
            signals, decision = model.signals, model.decision
            if signals is None or decision is None:
                continue
            gauge("trireme_autoscaler_signals_fresh").labels(name).set(signals.freshness == "fresh")
            gauge("trireme_backlog_seconds").labels(name).set(min(1e9, signals.backlog_s()))
            gauge("trireme_load_replicas").labels(name).set(decision.load)
            for tier in TIERS:
                found = signals.tiers.get(tier)
                if found is not None and not math.isnan(found.ttft_slack):
                    gauge("trireme_slo_slack_ratio").labels(name, tier).set(
                        min(found.ttft_slack, _or_one(found.tpot_slack))
                    )
            for wanted in decision.pools:
                labels = name, wanted.pool
                gauge("trireme_replicas_wanted").labels(*labels).set(wanted.wanted)
                gauge("trireme_replicas_held_back").labels(*labels).set(wanted.limit == "at_most")
                gauge("trireme_replicas_starting").labels(*labels).set(
                    self._autoscaler.starting(wanted.pool)
                )
                cold_start_s = self._autoscaler.starts[wanted.pool].expected_s
                if not math.isnan(cold_start_s):
                    gauge("trireme_cold_start_seconds").labels(*labels).set(cold_start_s)

    def status(self) -> dict[str, Any]:
        """For operators: what is known, wanted and awaited."""
        now = time.monotonic()
        return {
            "gateways": len(self._gateways),
            "actuator": self._settings.actuator,
            "models": {
                name: {
                    "freshness": None if model.signals is None else model.signals.freshness,
                    "decision": None if model.decision is None else model.decision.as_dict(),
                }
                for name, model in self._autoscaler.models.items()
            },
            "starts": {
                pool: {
                    "starting": self._autoscaler.starting(pool),
                    "overdue_s": round(starts.overdue_s(now), 1),
                    "phases_s": _rounded(starts.phases()),
                }
                for pool, starts in self._autoscaler.starts.items()
            },
            "ops_url": self._ops.url,
        }

    async def record_replica_metadata(self) -> dict[str, Any]:
        """Where operators find it."""
        return {"ops_url": self._ops.url}

    async def check_health(self) -> None:
        """Raises when a loop has ended, so that Serve starts another autoscaler."""
        for loop in self._loops:
            if loop.done():
                raise RuntimeError("the autoscaler has stopped") from loop.exception()


def _or_one(slack: float) -> float:
    return 1.0 if math.isnan(slack) else slack


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 1) for name, value in seconds.items()}
