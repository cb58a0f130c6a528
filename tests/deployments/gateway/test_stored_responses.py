"""A gateway's way to kept responses: made from the configuration, and bounded."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from cluster.config import ResponsesConfig, TriremeConfig
from cluster.errors import StoreAway
from cluster.metrics import GATEWAY_METRICS, Metrics
from cluster.tenants.store import open_store
from deployments.gateway.stored_responses import (
    AT_ONCE,
    MAX_WAITING,
    StoredResponses,
    make_stored_responses,
)

RESPONSE: dict[str, Any] = {"id": "resp_1", "output": [{"type": "message"}], "status": "completed"}


def test_nothing_is_opened_where_nothing_is_kept(tmp_path: Path) -> None:
    config = TriremeConfig()
    metrics = Metrics(GATEWAY_METRICS)
    assert make_stored_responses(config, metrics, {"XDG_STATE_HOME": str(tmp_path)}) is None
    assert list(tmp_path.iterdir()) == []


async def test_the_store_is_the_one_of_the_configuration(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'other.db'}"
    config = TriremeConfig.model_validate({"responses": {"enabled": True}})
    metrics = Metrics(GATEWAY_METRICS)
    stored = make_stored_responses(config, metrics, {"TRIREME_DATABASE_URL": url})
    assert stored is not None
    stored.start()
    assert await stored.keep("acme", None, b"[1]", RESPONSE)
    assert not await stored.keep("acme", None, b"[1]", RESPONSE)  # an id is written once
    assert await stored.response("acme", "resp_1") == RESPONSE
    assert await stored.conversation("acme", "resp_1") == ([1, {"type": "message"}], 23)
    assert (tmp_path / "other.db").exists()
    told = metrics.counter("trireme_stored_responses")
    assert [told.labels(each)._value.get() for each in ("kept", "not_kept")] == [1, 1]
    stored.stop()


async def test_a_gateway_starts_and_answers_though_its_store_cannot_be_reached() -> None:
    store = open_store("postgresql://nobody@127.0.0.1:1/none")
    stored = StoredResponses(store, ResponsesConfig(enabled=True, max_wait_s=5))
    stored.start()
    assert not await stored.keep("", None, b"[]", RESPONSE)
    with pytest.raises(StoreAway):
        await stored.conversation("", "resp_1")
    stored.stop()


async def test_only_so_many_wait_for_a_store_that_hangs(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    go_on = threading.Event()
    event.listen(store.engine, "before_cursor_execute", lambda *_: bool(go_on.wait(30)) and None)
    stored = StoredResponses(store, ResponsesConfig(enabled=True, max_wait_s=20))
    waiting = [
        asyncio.create_task(stored.delete("", f"resp_{n}")) for n in range(AT_ONCE + MAX_WAITING)
    ]
    await asyncio.sleep(0)
    before = time.monotonic()
    with pytest.raises(StoreAway):
        await stored.response("", "resp_1")
    assert not await stored.keep("", None, b"[]", RESPONSE)
    assert time.monotonic() - before < 1
    go_on.set()
    done = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(each).__name__ for each in done} == {"UnknownResponse"}
    assert await stored.keep("", None, b"[]", RESPONSE)
    stored.stop()
