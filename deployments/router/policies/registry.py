"""The policies by the names that the configuration uses."""

from collections.abc import Mapping

from cluster.config import PolicyName, Tier
from deployments.router.capacity import Slo
from deployments.router.policies.choice import Policy
from deployments.router.policies.effort import EffortPolicy
from deployments.router.policies.simple import (
    LeastRequests,
    PowerOfTwo,
    PrefixAffinity,
    RoundRobin,
)


def make_policy(name: PolicyName, slos: Mapping[Tier, Slo]) -> Policy:
    """A policy in its first state."""
    match name:
        case "effort":
            return EffortPolicy(slos)
        case "least-requests":
            return LeastRequests()
        case "round-robin":
            return RoundRobin()
        case "power-of-two":
            return PowerOfTwo()
        case "prefix-affinity":
            return PrefixAffinity()
