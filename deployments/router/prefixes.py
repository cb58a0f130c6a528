"""Which replica has computed which prompt prefix: remembered from placements, bounded."""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence, Set

BLOCK_TOKENS = 64
"""Prompt tokens of one remembered block: four of vLLM's KV blocks, as an index of every single one
would cost four times the memory and time for a few tokens' precision."""

MAX_BLOCKS_PER_REPLICA = 65_536
"""Of 64 tokens each: 4.2 million tokens, what an H200 pair has room for."""

_NOBODY: Set[str] = frozenset()


def block_hashes(prompt_token_ids: Sequence[int], salt: str = "") -> tuple[int, ...]:
    """A chained hash for each whole block of the prompt, so equal hashes mean equal prefixes.

    The last token is left out: an engine computes at least that one itself. Engines share nothing
    between requests of different salts, so neither do these.
    """
    hashes: list[int] = []
    before = hash(salt) if salt else 0
    for end in range(BLOCK_TOKENS, len(prompt_token_ids), BLOCK_TOKENS):
        before = hash((before, *prompt_token_ids[end - BLOCK_TOKENS : end]))
        hashes.append(before)
    return tuple(hashes)


class PrefixIndex:
    """Least recently placed blocks of a replica are forgotten first, as its engine forgets them."""

    def __init__(self) -> None:
        self._holders: dict[int, set[str]] = {}
        self._held: dict[str, OrderedDict[int, None]] = {}

    def match(self, blocks: tuple[int, ...]) -> dict[str, int]:
        """Leading tokens of the prompt that each replica (by id) is thought to hold."""
        found: dict[str, int] = {}
        holders, depth = self._holders, 0
        while depth < len(blocks):
            alive = holders.get(blocks[depth])
            if alive is None:
                break
            # Who holds a block holds those before it (see ``record``): as long as there are as
            # many, they are the same, and where they become fewer can be found by halving.
            depth = bisect_right(blocks, -len(alive), depth + 1, key=self._minus_holders)
            left = holders.get(blocks[depth], _NOBODY) if depth < len(blocks) else _NOBODY
            found.update(dict.fromkeys(alive - left, depth * BLOCK_TOKENS))
        return found

    def _minus_holders(self, block: int) -> int:
        """Minus how many hold the block: it grows along a prompt."""
        return -len(self._holders.get(block, _NOBODY))

    def record(self, blocks: tuple[int, ...], replica_id: str, kv_tokens: int) -> None:
        """The prompt goes to the replica, which has room for ``kv_tokens``."""
        held = self._held.setdefault(replica_id, OrderedDict())
        # The last block first, so that it is the first to be forgotten, as vLLM does: a block
        # without those before it is of no use.
        holders, refresh = self._holders, held.move_to_end
        for block in reversed(blocks):
            if block in held:
                refresh(block)
                continue
            held[block] = None
            known = holders.get(block)
            if known is None:
                holders[block] = {replica_id}
            else:
                known.add(replica_id)
        room = min(MAX_BLOCKS_PER_REPLICA, kv_tokens // BLOCK_TOKENS)
        while len(held) > room:
            self._drop(held.popitem(last=False)[0], replica_id)

    def forget(self, replica_id: str) -> None:
        """The replica is gone, and its cache with it."""
        for block in self._held.pop(replica_id, ()):
            self._drop(block, replica_id)

    def _drop(self, block: int, replica_id: str) -> None:
        holders = self._holders[block]
        holders.discard(replica_id)
        if not holders:
            del self._holders[block]

    def __len__(self) -> int:
        return sum(map(len, self._held.values()))
