"""The router, pure: tiers, length prediction, admission, placement. No I/O, no clock, no Ray."""

from deployments.router.capacity import Slo
from deployments.router.decisions import Decision
from deployments.router.fleet import Flight, RemoteLoad, Replica, Request, Traits
from deployments.router.predict import LogNormal
from deployments.router.queues import QueueLimits
from deployments.router.router import BrownOut, Lost, Placed, Refusal, Router, TierPolicy, Why
from deployments.router.tiers import TierAlias, resolve_tier, served_names

__all__ = [
    "BrownOut",
    "Decision",
    "Flight",
    "LogNormal",
    "Lost",
    "Placed",
    "QueueLimits",
    "Refusal",
    "RemoteLoad",
    "Replica",
    "Request",
    "Router",
    "Slo",
    "TierAlias",
    "TierPolicy",
    "Traits",
    "Why",
    "resolve_tier",
    "served_names",
]
