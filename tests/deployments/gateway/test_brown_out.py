"""A tier under overload is served at a lower effort, and the client is told."""

import pytest

from tests.deployments.gateway.door_world import COMPLETION, ROUTES, World

pytestmark = pytest.mark.asyncio(loop_scope="session")

EFFORTS = ("/v1/chat/completions", "/v1/responses", "/v1/messages")


@pytest.mark.parametrize("path", EFFORTS)
async def test_the_prompt_and_the_headers_say_the_tier_that_is_served(
    world: World, path: str
) -> None:
    world.served_instead = {"high": "medium"}
    response = await world.post(path, {**ROUTES[path], "model": "tiny-high"})
    assert response.status_code == 200, response.text
    assert response.headers["x-trireme-tier"] == "medium"
    assert response.headers["x-trireme-asked-tier"] == "high"
    assert world.core.contexts[0].tier == "medium"
    assert world.core.rendered_effort() == "medium"


@pytest.mark.parametrize("path", EFFORTS)
async def test_other_tiers_are_served_as_asked(world: World, path: str) -> None:
    world.served_instead = {"high": "medium"}
    response = await world.post(path, {**ROUTES[path], "model": "tiny-low"})
    assert response.headers["x-trireme-tier"] == "low"
    assert "x-trireme-asked-tier" not in response.headers
    assert world.core.rendered_effort() == "low"


async def test_a_raw_prompt_keeps_its_tier(world: World) -> None:
    world.served_instead = {"high": "medium"}
    response = await world.post("/v1/completions", {**COMPLETION, "model": "tiny-high"})
    assert response.headers["x-trireme-tier"] == "high"
    assert "x-trireme-asked-tier" not in response.headers
