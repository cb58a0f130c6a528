"""A gateway's access control as a whole: store, directory, weights, admin API, metrics."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from cluster.config import AccessConfig
from cluster.local_ray import free_ports
from cluster.metrics import GATEWAY_METRICS, Metrics
from cluster.tenants.book import Book
from cluster.tenants.locate import database_url, door_secret
from cluster.tenants.orders import NewKeyOrder, NewTenant, TenantChange
from cluster.tenants.secret import BadSecret
from cluster.tenants.store import Store, open_store
from deployments.gateway.access import AccessControl
from deployments.gateway.admin import BadAdmins
from tests.cluster.tenants.making import ANNE

ADMIN = "0123456789-0123456789-0123456789-0123"


class World:
    """One machine's environment, and what an operator does to its store."""

    def __init__(self, home: Path) -> None:
        self.environ = {"TRIREME_HOME": str(home), "TRIREME_ADMIN_TOKENS": f"anne: {ADMIN}"}
        self.store: Store = open_store(database_url(AccessConfig(), self.environ))
        self.store.migrate()
        self.book = Book(self.store, door_secret(AccessConfig(), self.environ))

    def lose_the_store(self) -> None:
        """As if its volume were gone."""
        file = Path(str(self.store.engine.url.database))
        self.store.close()
        for each in file.parent.glob("store.sqlite*"):
            each.unlink()
        file.mkdir()

    @asynccontextmanager
    async def gateway(
        self,
        weigh: Callable[[Mapping[str, float]], None] = lambda weights: None,
        **settings: object,
    ) -> AsyncIterator[tuple[AccessControl, Metrics]]:
        metrics = Metrics(GATEWAY_METRICS)
        config = AccessConfig.model_validate({"mode": "keys", **settings})
        made = AccessControl(config, metrics, weigh, self.environ)
        await made.start()
        try:
            yield made, metrics
        finally:
            await made.stop()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def until(true: Callable[[], bool], within_s: float = 5.0) -> float:
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < within_s, "it did not come about"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def test_weights_reach_the_router_on_its_loop_while_it_runs(world: World) -> None:
    world.book.create_tenant(NewTenant(name="acme", weight=2), ANNE)
    seen: list[tuple[Mapping[str, float], object]] = []

    def weigh(weights: Mapping[str, float]) -> None:
        seen.append((dict(weights), asyncio.get_running_loop()))

    async with world.gateway(weigh) as (access, _):
        await until(lambda: access.ready and bool(seen))
        assert seen[-1] == ({"acme": 2.0}, asyncio.get_running_loop())
        world.book.set_tenant("acme", TenantChange(weight=5), ANNE)
        took_s = await until(lambda: seen[-1][0] == {"acme": 5.0})
        assert took_s < 2.0


async def test_of_two_gateways_on_one_machine_one_has_the_admin_api(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "trireme.gateway")
    (port,) = free_ports(1)
    admin = {"port": port}
    async with world.gateway(admin=admin) as (one, _), world.gateway(admin=admin) as (other, _):
        assert [bool(each.status()["admin_url"]) for each in (one, other)] == [True, False]
        assert "the admin API cannot listen" in caplog.text
        async with httpx.AsyncClient(base_url=one.status()["admin_url"], trust_env=False) as http:
            http.headers["authorization"] = f"Bearer {ADMIN}"
            await http.post("/admin/tenants", json={"name": "acme"})
            key = (await http.post("/admin/keys", json={"tenant": "acme"})).json()
        headers = [(b"authorization", f"Bearer {key['key']}".encode())]
        await until(lambda: all(each.status()["keys"] == 1 for each in (one, other)))
        for each in (one, other):
            assert (await each.identity.caller(headers)).key_id == key["id"]


async def test_a_secret_that_keys_were_not_made_with_is_told(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.book.create_tenant(NewTenant(name="acme"), ANNE)
    world.book.create_key(NewKeyOrder(tenant="acme"), ANNE)
    world.environ["TRIREME_ACCESS_SECRET"] = "another secret of thirty-two characters"
    with caplog.at_level(logging.ERROR):
        async with world.gateway() as (access, _):
            await until(lambda: access.ready)
            assert access.status()["secret_fits"] is False
    assert "no key can let anybody in" in caplog.text


async def test_metrics_tell_refusals_expiry_and_a_store_that_is_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.gateway.access.GAUGE_S", 0.02)
    world.book.create_tenant(NewTenant(name="acme"), ANNE)
    # Real time: the gateway's own clock tells how long is left.
    book = Book(world.store, door_secret(AccessConfig(), world.environ))
    book.create_key(NewKeyOrder(tenant="acme", expires_in_s=1000), ANNE)
    async with world.gateway(refresh_s=0.05) as (access, metrics):

        def value(name: str, **labels: str) -> float:
            found = metrics.registry.get_sample_value(name, labels)
            return -1.0 if found is None else found

        await until(lambda: 990 < value("trireme_key_expiry_seconds") <= 1000)
        with pytest.raises(Exception, match="provide an API key"):
            await access.identity.caller([])
        assert value("trireme_access_refusals_total", reason="missing") == 1
        assert value("trireme_store_away_seconds") == 0
        await asyncio.to_thread(world.lose_the_store)
        access.store.close()
        await until(lambda: value("trireme_store_away_seconds") > 0)
        assert access.ready


async def test_a_gateway_that_could_not_know_anybody_does_not_start(world: World) -> None:
    world.environ["TRIREME_ACCESS_SECRET"] = "short"
    with pytest.raises(BadSecret):
        async with world.gateway():
            pass
    del world.environ["TRIREME_ACCESS_SECRET"]
    world.environ["TRIREME_ADMIN_TOKENS"] = ""
    with pytest.raises(BadAdmins):
        async with world.gateway(admin={}):
            pass
