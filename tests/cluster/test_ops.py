"""The operators' listener of each process, over real HTTP."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from cluster.metrics import GATEWAY_METRICS, Metrics
from cluster.ops import OpsListener, Status, exposition_off_loop
from cluster.telemetry.page import PAGE


def status() -> dict[str, Any]:
    return {"gateway": "g1", "ready": True, "queues": [{"tier": "low", "queued": 3}]}


@contextlib.asynccontextmanager
async def listening(
    metrics: Metrics, host: str = "127.0.0.1", told: Status = status
) -> AsyncIterator[httpx.AsyncClient]:
    listener = OpsListener(metrics.registry, told)
    url = await listener.start(host)
    assert listener.url == url
    try:
        async with httpx.AsyncClient(base_url=url) as client:
            yield client
    finally:
        await listener.stop()


async def test_metrics_are_text_that_a_scraper_parses() -> None:
    metrics = Metrics(GATEWAY_METRICS)
    metrics.counter("trireme_requests").labels("m", "low", "ok").inc(7)
    async with listening(metrics) as client:
        answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    (sample,) = (
        each for each in families["trireme_requests"].samples if each.name.endswith("_total")
    )
    assert sample.value == 7.0
    assert sample.labels == {"model": "m", "tier": "low", "outcome": "ok"}
    assert {row.name for row in GATEWAY_METRICS} <= families.keys()
    assert "python_info" in families  # the process-wide registry comes along


async def test_each_scrape_shows_the_present() -> None:
    metrics = Metrics(GATEWAY_METRICS)
    reconnects = metrics.counter("trireme_channel_reconnects")
    async with listening(metrics) as client:
        for count in range(3):
            lines = (await client.get("/metrics")).text.splitlines()
            assert f"trireme_channel_reconnects_total {float(count)}" in lines
            reconnects.inc()


async def test_the_status_is_what_the_process_tells_at_that_moment() -> None:
    told = [0]

    def counting() -> dict[str, Any]:
        told[0] += 1
        return {"asked": told[0], **status()}

    async with listening(Metrics([]), told=counting) as client:
        for asked in (1, 2):
            answer = await client.get("/status")
            assert answer.headers["content-type"] == "application/json"
            assert answer.json() == {"asked": asked, **status()}


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/", 404),
        ("GET", "/metrics/", 307),
        ("GET", "/docs", 404),
        ("POST", "/metrics", 405),
        ("DELETE", "/status", 405),
    ],
)
async def test_nothing_else_is_served(method: str, path: str, expected: int) -> None:
    async with listening(Metrics([])) as client:
        assert (await client.request(method, path)).status_code == expected


async def test_it_listens_on_loopback_alone() -> None:
    async with listening(Metrics([])) as client:
        port = client.base_url.port
        here = [
            each.laddr
            for each in psutil.Process().net_connections("tcp")
            if each.status == psutil.CONN_LISTEN and each.laddr.port == port
        ]
        assert [address.ip for address in here] == ["127.0.0.1"]


async def test_an_ipv6_host_makes_a_url_that_works() -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")
    async with listening(Metrics([]), host="::1") as client:
        assert client.base_url.host == "::1"
        assert (await client.get("/status")).status_code == 200


async def test_several_listeners_live_beside_each_other() -> None:
    async with listening(Metrics([])) as one, listening(Metrics([])) as two:
        assert one.base_url.port != two.base_url.port
        answers = await asyncio.gather(one.get("/status"), two.get("/status"))
        assert [answer.status_code for answer in answers] == [200, 200]


async def test_after_the_stop_the_port_is_closed() -> None:
    listener = OpsListener(CollectorRegistry(), status)
    url = urlsplit(await listener.start("127.0.0.1"))
    await listener.stop()
    with pytest.raises(OSError):
        await asyncio.open_connection(url.hostname, url.port)


async def test_a_listener_that_was_never_started_stops_too() -> None:
    await OpsListener(CollectorRegistry(), status).stop()


async def test_a_host_that_is_not_ours_is_an_error_and_not_the_end_of_the_process() -> None:
    listener = OpsListener(CollectorRegistry(), status)
    with pytest.raises(OSError):
        await listener.start("203.0.113.1")  # a documentation address: no machine has it


async def test_rendering_lets_the_loop_go_on() -> None:
    metrics = Metrics(GATEWAY_METRICS)
    latency = metrics.histogram("trireme_time_to_first_token_seconds")
    for n in range(1500):
        latency.labels(f"model-{n}", "low").observe(0.1)
    rendering = asyncio.create_task(exposition_off_loop(metrics.registry))
    turns = 0
    while not rendering.done():
        await asyncio.sleep(0.001)
        turns += 1
    body, _ = rendering.result()
    assert len(body) > 1_000_000
    # On the loop it would be one single turn.
    assert turns >= 5


async def test_exemplars_come_to_scrapers_that_read_them_and_only_where_there_are_some() -> None:
    accept = {"accept": "application/openmetrics-text;version=1.0.0"}
    for exemplars, kind in ((False, "text/plain"), (True, "application/openmetrics-text")):
        metrics = Metrics(GATEWAY_METRICS)
        waits = metrics.histogram("trireme_queue_wait_seconds").labels("m", "low")
        waits.observe(0.3, {"trace_id": "0af7651916cd43dd"})
        listener = OpsListener(metrics.registry, status, exemplars=exemplars)
        url = await listener.start("127.0.0.1")
        try:
            async with httpx.AsyncClient(base_url=url) as client:
                answer = await client.get("/metrics", headers=accept)
        finally:
            await listener.stop()
        assert answer.headers["content-type"].startswith(kind)
        assert ("0af7651916cd43dd" in answer.text) == exemplars
        assert answer.text.count("# EOF") == exemplars
        assert "python_info" in answer.text


async def test_a_page_for_people_asks_nobody_but_its_listener() -> None:
    listener = OpsListener(Metrics(GATEWAY_METRICS).registry, status, page=PAGE)
    url = await listener.start("127.0.0.1")
    try:
        async with httpx.AsyncClient(base_url=url) as client:
            answer = await client.get("/")
            assert (await client.post("/")).status_code == 405
    finally:
        await listener.stop()
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "://" not in answer.text
    assert "innerHTML" not in answer.text
