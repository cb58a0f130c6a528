"""Requests that engines die of, known by a fingerprint; refused for a time before an engine."""

from array import array
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

MAX_ENTRIES = 4096
"""Of more, the oldest are forgotten."""


def fingerprint(secret: str, model: str, prompt_token_ids: list[int], variant: bytes) -> str:
    """What identical requests share: 16 bytes of a keyed hash, as nobody should be able to find out
    a prompt by trying. ``variant`` tells requests with the same prompt apart."""
    key = blake2b(secret.encode(), digest_size=32).digest()
    digest = blake2b(array("I", prompt_token_ids).tobytes(), digest_size=16, key=key)
    digest.update(model.encode() + b"\0" + variant)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Entry:
    """A quarantined fingerprint; ``until_s`` is on the caller's clock."""

    model: str
    tier: str
    until_s: float
    request_id: str


class Quarantine:
    """Entries stand for ``ttl_s`` at most; a refused request does not prolong it."""

    def __init__(self, ttl_s: float, max_entries: int = MAX_ENTRIES) -> None:
        self.ttl_s = ttl_s
        self._max_entries = max_entries
        self._entries: OrderedDict[str, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, print_: str, entry: Entry) -> None:
        self._entries.pop(print_, None)
        self._entries[print_] = entry
        while len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    def expire(self, now: float) -> None:
        """Forget what has stood long enough. Looks at all: what other gateways tell stands for
        what is left of its time."""
        over = [print_ for print_, entry in self._entries.items() if entry.until_s <= now]
        for print_ in over:
            del self._entries[print_]

    def standing(self) -> Iterator[tuple[str, Entry]]:
        """Every fingerprint and its entry, the oldest first."""
        return iter(self._entries.items())

    def __contains__(self, print_: str) -> bool:
        return print_ in self._entries

    def listed(self, now: float) -> list[dict[str, object]]:
        """For operators: the entries, the newest first."""
        return [
            {
                "fingerprint": print_,
                "model": entry.model,
                "tier": entry.tier,
                "request_id": entry.request_id,
                "left_s": round(entry.until_s - now, 1),
            }
            for print_, entry in reversed(self._entries.items())
        ]
