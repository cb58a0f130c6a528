"""Serve's own log in a replica, whose handlers vLLM's logging set-up closes."""

import logging
import logging.config
from collections.abc import Iterator
from logging.handlers import MemoryHandler, RotatingFileHandler
from pathlib import Path

import pytest
from ray.serve._private.constants import SERVE_LOGGER_NAME

from deployments.compat.serve import serves_log_kept

VLLMS = {"version": 1, "disable_existing_loggers": False}


@pytest.fixture
def handler(tmp_path: Path) -> Iterator[MemoryHandler]:
    """As Serve makes it where it buffers its log, which is everywhere in Trireme."""
    logger = logging.getLogger(SERVE_LOGGER_NAME)
    target = RotatingFileHandler(tmp_path / "serve.log")
    made = MemoryHandler(10, target=target)
    logger.addHandler(made)
    yield made
    logger.removeHandler(made)
    target.close()


def test_without_help_serves_log_leads_nowhere(handler: MemoryHandler) -> None:
    logging.config.dictConfig(VLLMS)
    assert handler.target is None


def test_serves_log_outlives_vllms_set_up(handler: MemoryHandler, tmp_path: Path) -> None:
    with serves_log_kept():
        logging.config.dictConfig(VLLMS)
    assert isinstance(handler.target, RotatingFileHandler)
    logging.getLogger(SERVE_LOGGER_NAME).error("still here")
    handler.flush()
    assert "still here" in (tmp_path / "serve.log").read_text()
