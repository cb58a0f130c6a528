"""A second policy that is asked and not obeyed, to compare on live traffic."""

from dataclasses import dataclass

from deployments.router.fleet import Fleet, Replica, Request
from deployments.router.policies.choice import Choice, Policy, finish_s


@dataclass
class ShadowCount:
    """``regret_s`` adds up how much later the acting policy's choices are predicted to finish than
    the shadow's would have (negative: sooner)."""

    decisions: int = 0
    differing: int = 0
    regret_s: float = 0.0


class Shadow:
    """Follows the acting policy's placements, so that its own caches' memory stays true."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.count = ShadowCount()

    def compare(self, request: Request, fleet: Fleet, acting: Choice, now: float) -> None:
        """Both see the same fleet, before the request is placed. A shadow that would have waited
        differs, at no regret that can be told."""
        other = self.policy.choose(request, fleet, now)
        self.count.decisions += 1
        if other is not None and other.replica is acting.replica:
            return  # at no regret, even where only one of them knows what is in its cache
        self.count.differing += 1
        if other is not None:
            chosen = finish_s(acting.replica, request, acting.cached_tokens)
            self.count.regret_s += chosen - finish_s(other.replica, request, other.cached_tokens)

    def placed(self, request: Request, replica: Replica, now: float) -> None:
        self.policy.placed(request, replica, now)
