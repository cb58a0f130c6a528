"""Responses in the background over two gateways and one PostgreSQL; one of the gateways is killed.

``TRIREME_BACKGROUND_RESPONSES`` sets how many there are; the figures in docs/api.md are those of
100.
"""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI
from sqlalchemy import func, select

from cluster.conversations.tables import BackgroundRow, ResponseRow
from cluster.tenants.store import open_store
from cluster.usage.tables import Usage
from deployments.engine.host import EngineHost
from tests.deployments.engine.channel_world import quick_engine, server_settings
from tests.e2e.test_quotas_and_usage import MODEL, POOL, Tenant, gateways, make_keys
from tests.services import postgres_server

COUNT = int(os.environ.get("TRIREME_BACKGROUND_RESPONSES", "24"))
LEASE_S = 3.0
TOKENS = {"low": 150.0, "medium": 150.0, "high": 20_000.0}


def settings(home: Path, store_url: str) -> dict[str, Any]:
    pool = {"name": POOL, "engine": "simulated", "max_num_seqs": 64}
    return {
        "models": [{"name": MODEL, "source": "tiny", "max_model_len": 8192, "pools": [pool]}],
        "gateway": {"replicas": 2},
        "access": {"mode": "keys", "store_url": store_url, "secret_file": str(home / "secret")},
        "usage": {"queue_dir": str(home / "queue"), "flush_s": 0.2},
        "responses": {"enabled": True, "background": {"lease_s": LEASE_S, "max_concurrent": 16}},
    }


class Rows:
    """What is in the store."""

    def __init__(self, store_url: str) -> None:
        self._store = open_store(store_url)

    def count(self, table: Any) -> int:
        with self._store.engine.connect() as connection:
            return int(connection.execute(select(func.count()).select_from(table)).scalar_one())

    def outcomes(self) -> dict[str, str]:
        """Of requests in the account of usage."""
        query = select(Usage.request_id, Usage.outcome)
        with self._store.engine.connect() as connection:
            found = connection.execute(query).all()
        return {each.request_id: each.outcome for each in found}

    async def until(self, request_id: str, outcome: str) -> None:
        async with asyncio.timeout(60):
            while (await asyncio.to_thread(self.outcomes)).get(request_id) != outcome:
                await asyncio.sleep(0.05)

    def close(self) -> None:
        self._store.close()


async def over(client: AsyncOpenAI, response_id: str) -> Any:
    while (found := await client.responses.retrieve(response_id)).status in (
        "queued",
        "in_progress",
    ):
        await asyncio.sleep(0.2)
    return found


@pytest.mark.timeout(600)
async def test_responses_outlive_a_gateway_that_is_killed(tmp_path: Path) -> None:
    engine = quick_engine(64, output_tokens_mean=TOKENS, output_sigma=0.3, step_ms={"base": 8})
    host = EngineHost(engine, "engine-0", server_settings(dead_after_s=10.0), 60.0)
    await host.start("127.0.0.1")
    tenant = Tenant("acme", 1.0, "none", 0)
    with contextlib.ExitStack() as stack:
        store_url = stack.enter_context(postgres_server())
        make_keys(store_url, tmp_path / "secret", [tenant])
        (tmp_path / "config.json").write_text(json.dumps(settings(tmp_path, store_url)))
        where = {"host": "127.0.0.1", "port": host.port, "pool": POOL}
        (tmp_path / "members.json").write_text(json.dumps([("engine-0", where)]))
        starting = gateways(tmp_path, ["gateway-a", "gateway-b"])
        victim, survivor = await asyncio.to_thread(stack.enter_context, starting)
        first, second = (
            AsyncOpenAI(base_url=f"{each.url}/v1", api_key=tenant.key, max_retries=5)
            for each in (victim, survivor)
        )
        made = await asyncio.gather(
            *(
                first.responses.create(model=MODEL, input=f"number {n}", background=True)
                for n in range(COUNT)
            )
        )
        assert {each.status for each in made} == {"queued"}
        async with asyncio.timeout(60):
            while (await second.responses.retrieve(made[0].id)).status == "queued":
                await asyncio.sleep(0.05)
        victim.process.send_signal(signal.SIGKILL)
        began_s = time.monotonic()
        ends = [await over(second, each.id) for each in made]
        took_s = time.monotonic() - began_s
        rows = Rows(store_url)
        stack.callback(rows.close)
        assert Counter(each.status for each in ends) == {"completed": COUNT}
        assert all(each.output_text and each.usage for each in ends)
        assert (rows.count(BackgroundRow), rows.count(ResponseRow)) == (0, COUNT)

        long = await second.responses.create(
            model=MODEL, input="Prove it.", background=True, reasoning={"effort": "high"}
        )
        async with asyncio.timeout(60):
            while not host.pending:
                await asyncio.sleep(0.02)
        began_s = time.monotonic()
        assert (await second.responses.cancel(long.id)).status == "cancelled"
        async with asyncio.timeout(60):
            while host.pending:
                await asyncio.sleep(0.02)
        freed_s = time.monotonic() - began_s
        await rows.until(f"{long.id}_1", "cancelled")
        again = sum(not each.endswith("_1") for each in rows.outcomes())
        print(
            f"{COUNT} responses, one gateway of two killed: all answered, each once, {took_s:.1f} s"
            f" after the kill; {again} at a second attempt; a cancelled one had left its replica "
            f"after {freed_s:.2f} s"
        )
    await host.stop()
