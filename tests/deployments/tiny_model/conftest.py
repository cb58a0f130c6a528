"""One model directory for all tests here, kept between runs in pytest's cache."""

from pathlib import Path

import pytest

from deployments.tiny_model import make_tiny_model


@pytest.fixture(scope="session")
def model_directory(request: pytest.FixtureRequest) -> Path:
    """The tiny model; made in about ten seconds when it is not in the cache."""
    cache = request.config.cache
    assert cache is not None
    return make_tiny_model(cache.mkdir("tiny_model") / "model")
