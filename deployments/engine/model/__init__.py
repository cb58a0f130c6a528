"""The scheduler of one engine replica in virtual time, after vLLM's: pure, no clock, no I/O."""

from deployments.engine.model.engine_model import EngineModel
from deployments.engine.model.kv_cache import KvCache
from deployments.engine.model.terms import (
    EngineFull,
    EngineLimits,
    EngineLoad,
    Event,
    EventKind,
    TooLarge,
)
from deployments.engine.model.work import PromptText, Work

__all__ = [
    "EngineFull",
    "EngineLimits",
    "EngineLoad",
    "EngineModel",
    "Event",
    "EventKind",
    "KvCache",
    "PromptText",
    "TooLarge",
    "Work",
]
