"""The router, pure: tiers, length prediction, admission, placement. No I/O, no clock, no Ray."""

from deployments.router.fleet import Flight, RemoteLoad, Replica, Request, Traits
from deployments.router.placement import Estimate, Placement
from deployments.router.predict import LogNormal
from deployments.router.queues import QueueLimits
from deployments.router.router import Lost, Refusal, Router, TierPolicy
from deployments.router.tiers import TierAlias, resolve_tier, served_names

__all__ = [
    "Estimate",
    "Flight",
    "LogNormal",
    "Lost",
    "Placement",
    "QueueLimits",
    "Refusal",
    "RemoteLoad",
    "Replica",
    "Request",
    "Router",
    "TierAlias",
    "TierPolicy",
    "Traits",
    "resolve_tier",
    "served_names",
]
