"""Requests that engines die of, known by a fingerprint; refused for a time before an engine."""

from array import array
from hashlib import blake2b

from deployments.engine.channel.poisons import Poisons

MAX_ENTRIES = 4096
"""Of more, the oldest are forgotten."""


def fingerprint(secret: str, model: str, prompt_token_ids: list[int], variant: bytes) -> str:
    """What identical requests share: 16 bytes of a keyed hash, as nobody should be able to find out
    a prompt by trying. ``variant`` tells requests with the same prompt apart."""
    key = blake2b(secret.encode(), digest_size=32).digest()
    digest = blake2b(array("I", prompt_token_ids).tobytes(), digest_size=16, key=key)
    digest.update(model.encode() + b"\0" + variant)
    return digest.hexdigest()


class Quarantine(Poisons):
    """They stand for ``ttl_s`` at most; a refused request does not prolong it."""

    def __init__(self, ttl_s: float, max_entries: int = MAX_ENTRIES) -> None:
        super().__init__(max_entries, ttl_s)
        self.ttl_s = ttl_s

    def listed(self, now: float) -> list[dict[str, object]]:
        """For operators: the newest first."""
        return [
            {
                "fingerprint": poison.fingerprint,
                "model": poison.model,
                "tier": poison.tier,
                "request_id": poison.request_id,
                "left_s": round(poison.left_s, 1),
            }
            for poison in reversed(list(self.standing(now)))
        ]
