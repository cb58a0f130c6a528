"""The account that the autoscaler takes, of a fleet client over real sockets."""

from cluster.config import TIERS
from deployments.gateway.account import Account
from deployments.router import Slo
from tests.deployments.engine.channel_world import quick_engine
from tests.deployments.gateway.test_fleet_client import MODEL, until, world


async def test_every_placed_request_is_in_the_account_whether_traced_or_not() -> None:
    async with world() as it:
        slos = {tier: Slo(10.0, 10.0) for tier in TIERS}
        account = Account("g", [MODEL], slos)
        it.client.metrics.account = account
        await it.add("a", quick_engine())
        for number in range(6):
            it.submit(f"g{number}", "medium")
        await until(lambda: len(it.front_end.finished) == 6)
        (told,) = (
            tier for tier in account.read(it.client.router, 0.0).tiers if tier.tier == "medium"
        )
        assert (told.arrived, told.placed, told.answered, told.ended) == (6, 6, 6, 6)
        assert told.prompt_tokens == sum(len(it.prompt_of(f"g{number}")) for number in range(6))
        assert told.expected_tokens > 0
        assert (told.queued, told.running, told.refused) == (0, 0, 0)
        await it.until_idle()
