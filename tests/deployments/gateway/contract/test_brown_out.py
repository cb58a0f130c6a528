"""A tier under overload is served at a lower effort, and the client is told."""

import json
from typing import Any

import pytest

from tests.deployments.gateway.contract.door_world import COMPLETION, ROUTES, World

pytestmark = pytest.mark.asyncio(loop_scope="session")


def events(text: str) -> list[dict[str, Any]]:
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(each) for each in data if each != "[DONE]"]


def usage_of(event: dict[str, Any]) -> dict[str, Any] | None:
    """Of a chat chunk, of a message's delta or start, or of a finished response."""
    for holder in (event, event.get("response"), event.get("message")):
        usage = holder.get("usage") if holder else None
        if isinstance(usage, dict):
            return usage
    return None


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
    usage = response.json()["usage"]
    assert (usage["asked_tier"], usage["served_tier"]) == ("high", "medium")
    assert usage.keys() > {"asked_tier", "served_tier"}


@pytest.mark.parametrize("path", EFFORTS)
async def test_the_usage_at_the_end_of_a_stream_says_the_tier_that_is_served(
    world: World, path: str
) -> None:
    world.served_instead = {"high": "medium"}
    body = {**ROUTES[path], "model": "tiny-high", "stream": True}
    if path == "/v1/chat/completions":
        body["stream_options"] = {"include_usage": True}
    response = await world.post(path, body)
    assert response.status_code == 200, response.text
    usages = [found for event in events(response.text) if (found := usage_of(event))]
    assert usages
    assert {each["served_tier"] for each in usages} == {"medium"}
    assert {each["asked_tier"] for each in usages} == {"high"}


@pytest.mark.parametrize("path", EFFORTS)
async def test_other_tiers_are_served_as_asked(world: World, path: str) -> None:
    world.served_instead = {"high": "medium"}
    response = await world.post(path, {**ROUTES[path], "model": "tiny-low"})
    assert response.headers["x-trireme-tier"] == "low"
    assert "x-trireme-asked-tier" not in response.headers
    assert "served_tier" not in response.json()["usage"]
    assert world.core.rendered_effort() == "low"


async def test_a_raw_prompt_keeps_its_tier(world: World) -> None:
    world.served_instead = {"high": "medium"}
    response = await world.post("/v1/completions", {**COMPLETION, "model": "tiny-high"})
    assert response.headers["x-trireme-tier"] == "high"
    assert "x-trireme-asked-tier" not in response.headers
