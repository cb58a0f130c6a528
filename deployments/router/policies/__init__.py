"""Where a request goes: one policy a module, all behind one interface."""

from deployments.router.policies.choice import Choice, Policy, Verdict
from deployments.router.policies.registry import make_policy

__all__ = ["Choice", "Policy", "Verdict", "make_policy"]
