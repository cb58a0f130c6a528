"""The last placements with their reasons, for an operator who asks "why this replica?"."""

from collections import deque
from collections.abc import Iterator

from msgspec import Struct

from cluster.config import Tier
from deployments.router.policies.choice import Choice, Verdict

KEPT = 256


class Decision(Struct, frozen=True):
    """One placement. ``at_s`` is the router's clock; ``waited_s`` was spent in the queue."""

    request_id: str
    model: str
    tier: Tier
    policy: str
    at_s: float
    waited_s: float
    prompt_tokens: int
    predicted_tokens: float
    choice: Choice

    @property
    def replica_id(self) -> str:
        return self.choice.replica.replica_id

    def line(self) -> str:
        """All of it in one line, as the debug header has it."""
        choice = self.choice
        open_ = sum(verdict < Verdict.SLOW for _, _, verdict in choice.considered)
        return (
            f"policy={self.policy}; verdict={choice.verdict.name.lower()}; "
            f"finish={choice.finish_s:.3f}; cached={choice.cached_tokens}; "
            f"predicted={self.predicted_tokens:.0f}; waited={self.waited_s:.3f}; "
            f"open={open_}/{len(choice.considered)}"
        )

    def as_dict(self) -> dict[str, object]:
        """For JSON: every candidate with its predicted finish and the verdict on it."""
        return {
            "request": self.request_id,
            "model": self.model,
            "tier": self.tier,
            "policy": self.policy,
            "at_s": round(self.at_s, 3),
            "waited_s": round(self.waited_s, 3),
            "prompt_tokens": self.prompt_tokens,
            "predicted_tokens": round(self.predicted_tokens),
            "cached_tokens": self.choice.cached_tokens,
            "replica": self.replica_id,
            "verdict": self.choice.verdict.name.lower(),
            "considered": [
                {
                    "replica": replica.replica_id,
                    "finish_s": round(finish, 3),
                    "verdict": verdict.name.lower(),
                }
                for replica, finish, verdict in self.choice.considered
            ],
        }


class Decisions:
    """A ring of the last ``KEPT``; the oldest is dropped."""

    def __init__(self) -> None:
        self._kept: deque[Decision] = deque(maxlen=KEPT)

    def add(self, decision: Decision) -> None:
        self._kept.append(decision)

    def __iter__(self) -> Iterator[Decision]:
        """The newest first."""
        return reversed(self._kept)

    def __len__(self) -> int:
        return len(self._kept)
