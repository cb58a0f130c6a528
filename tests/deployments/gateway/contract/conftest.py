"""One real vLLM front-end for all tests of the door; it takes seconds to build."""

import pytest
import pytest_asyncio

from deployments.tiny_model import make_tiny_model
from tests.deployments.gateway.contract.door_world import World, make_world


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def front(request: pytest.FixtureRequest) -> World:
    cache = request.config.cache
    assert cache is not None
    return await make_world(make_tiny_model(cache.mkdir("tiny_model") / "model"))


@pytest.fixture
def world(front: World) -> World:
    front.reset()
    return front
