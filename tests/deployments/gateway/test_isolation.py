"""Callers of different groups share no prefix-cache entries, nor does the router think so."""

import asyncio

from cluster.tenants.caller import Caller
from deployments.engine.channel.frames import Sampling
from deployments.gateway.context import RequestContext
from tests.cluster.tenants.making import SECRET
from tests.deployments.engine.channel_world import quick_engine
from tests.deployments.gateway.test_fleet_client import MODEL, World, until, world

PROMPT = [*range(1000, 1640), 1]
"""Ten of the router's blocks of 64 tokens, and one token more."""


async def cached_of(it: World, name: str, group: str) -> tuple[int, int]:
    """Prompt tokens found cached by the engine, and expected to be by the router."""
    context = RequestContext(name, MODEL, "low", None, asyncio.get_running_loop().time())
    context.caller = Caller(name.partition("-")[0], "key", cache_group=group)
    context.cache_salt = SECRET.cache_salt(group)
    it.front_end.contexts[name] = context
    it.client.submit(name, PROMPT, Sampling(5), b"", context, it.front_end)
    await until(lambda: name in it.front_end.finished)
    assert context.figures is not None
    assert context.decision is not None
    return context.figures.cached_tokens, context.decision.choice.cached_tokens


async def test_a_prompt_is_cached_for_its_own_group_alone() -> None:
    async with world() as it:
        await it.add("one", quick_engine())
        assert await cached_of(it, "acme-1", "tenant:acme") == (0, 0)
        found, expected = await cached_of(it, "acme-2", "tenant:acme")
        assert found == expected == 640
        assert await cached_of(it, "globex-1", "tenant:globex") == (0, 0)
        assert await cached_of(it, "initech-1", "group:shared") == (0, 0)
        found, expected = await cached_of(it, "hooli-1", "group:shared")
        assert found == expected == 640


async def test_the_router_knows_whose_request_it_is() -> None:
    async with world() as it:
        await it.add("one", quick_engine())
        for name in ("acme-1", "globex-1", "acme-2"):
            await cached_of(it, name, name)
        assert it.client.router.queues[MODEL].tenants("low") == 2
