"""The KV blocks of one replica, and the texts whose blocks can be used again.

After vLLM's block pool: blocks that nobody holds stay in a queue, oldest first, with what they
contain, until they are taken for something else. Texts are kept as their cached length instead of
block by block, so that a prompt costs the same whatever its length.
"""

from collections import deque
from collections.abc import Hashable

from deployments.engine.model.work import PromptText, Work

COMPACT_AT = 64
"""Emptied pieces are swept out of the queue once there are so many, and more than others."""


class _Text:
    """A text of which the first ``length`` blocks are cached, the first ``held`` of them in use."""

    __slots__ = ("held", "key", "length", "pieces", "users")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.length = 0
        self.held = 0
        # How many requests hold so many blocks.
        self.users: dict[int, int] = {}
        # The blocks from ``held`` to ``length`` lie in the queue as these pieces.
        self.pieces: list[_Piece] = []


class _Piece:
    """Blocks ``low`` to ``high`` of a text in the queue; without a text, of no use to anyone."""

    __slots__ = ("high", "low", "text")

    def __init__(self, text: _Text | None, low: int, high: int) -> None:
        self.text = text
        self.low = low
        self.high = high


class KvCache:
    """``free`` blocks of ``total`` can be taken; ``prefix_caching`` False forgets all texts."""

    __slots__ = ("_dead", "_owed", "_queue", "_texts", "free", "prefix_caching", "total")

    def __init__(self, total: int, *, prefix_caching: bool) -> None:
        self.total = total
        self.free = total
        self.prefix_caching = prefix_caching
        self._texts: dict[Hashable, _Text] = {}
        self._queue: deque[_Piece] = deque([_Piece(None, 0, total)])
        self._dead = 0
        # Blocks taken that still are in the queue: which ones they were matters only to texts.
        self._owed = 0

    def take(self, blocks: int) -> None:
        """Take ``blocks`` free ones, those left alone for longest; what they held is forgotten."""
        assert blocks <= self.free, (blocks, self.free)
        self.free -= blocks
        self._owed += blocks

    def give(self, blocks: int) -> None:
        """Give back blocks whose contents nobody can use again."""
        self.free += blocks
        if self.prefix_caching and blocks:
            last = self._queue[-1] if self._queue else None
            if last is not None and last.text is None:
                last.high += blocks
            else:
                self._queue.append(_Piece(None, 0, blocks))

    def turn_over(self, blocks: int) -> None:
        """Take and give back: blocks that a request used and left behind while it ran."""
        if self.prefix_caching and self.free:
            blocks = min(blocks, self.free)
            self.take(blocks)
            self.give(blocks)

    def match(self, text: PromptText, most: int) -> tuple[int, int]:
        """(cached blocks at the beginning of ``text``, at most ``most``; those nobody holds)."""
        if self._owed:
            self._pop()
        found = unheld = 0
        for key, blocks in text:
            known = self._texts.get(key)
            if known is None:
                break
            here = known.length if known.length < blocks else blocks
            if here > most - found:
                here = most - found
            found += here
            if here > known.held:
                unheld += here - known.held
            if here < blocks or found == most:
                break
        return found, unheld

    def hold(self, work: Work, blocks: int) -> None:
        """Hold the first ``blocks`` blocks of the text of ``work``, which ``match`` found."""
        assert work.text is not None
        work.shared = shared = [0] * len(work.text)
        work.duplicates = 0
        for i, (key, length) in enumerate(work.text):
            if not blocks:
                break
            text = self._texts[key]
            here = min(length, blocks)
            blocks -= here
            if here > text.held:
                self._pull(text, here)
            text.users[here] = text.users.get(here, 0) + 1
            shared[i] = here

    def publish(self, work: Work, computed: int) -> None:
        """Make the first ``computed`` whole blocks of ``work`` known, for others to hold too.

        What it holds of its own becomes part of the texts. Where another request was first with the
        same blocks, both keep theirs.
        """
        text, shared = work.text, work.shared
        assert text is not None
        assert shared is not None
        if self._owed:
            self._pop()
        last = len(text) - 1
        for i, (key, length) in enumerate(text):
            if length > computed or (i == last and work.continues):
                length = computed
            if length > shared[i]:
                self._publish_part(work, shared, i, key, length)
            computed -= length
            if not computed:
                break

    def release(self, work: Work, own_blocks: int) -> None:
        """``work`` lets go of everything: the ends of texts become free before their beginnings."""
        self.give(own_blocks)
        text, shared = work.text, work.shared
        if text is None or shared is None:
            return
        for i in range(len(text) - 1, -1, -1):
            if shared[i]:
                self._leave(self._texts[text[i][0]], shared[i])
        work.shared = None
        work.duplicates = 0

    # ------------------------------------------------------------------ inner parts

    def _publish_part(
        self, work: Work, shared: list[int], i: int, key: Hashable, want: int
    ) -> None:
        have = shared[i]
        text = self._texts.get(key)
        if text is None:
            text = self._texts[key] = _Text(key)
        if want <= text.length:
            return
        # Whatever lies free behind the held blocks was computed again meanwhile.
        self._cut(text, text.held)
        work.duplicates += text.held - have
        if have:
            self._forget_user(text, have)
        text.users[want] = text.users.get(want, 0) + 1
        text.held = text.length = want
        shared[i] = want

    def _pull(self, text: _Text, upto: int) -> None:
        """Take the free blocks of ``text`` below ``upto`` out of the queue."""
        kept = []
        for piece in text.pieces:
            if piece.low < upto:
                end = min(piece.high, upto)
                self.free -= end - piece.low
                piece.low = end
            if piece.low < piece.high:
                kept.append(piece)
            else:
                piece.text = None
                self._dead += 1
        text.pieces = kept
        text.held = upto
        if self._dead > COMPACT_AT and 2 * self._dead > len(self._queue):
            self._queue = deque(piece for piece in self._queue if piece.low < piece.high)
            self._dead = 0

    @staticmethod
    def _forget_user(text: _Text, blocks: int) -> None:
        left = text.users[blocks] - 1
        if left:
            text.users[blocks] = left
        else:
            del text.users[blocks]

    def _leave(self, text: _Text, blocks: int) -> None:
        self._forget_user(text, blocks)
        held = max(text.users) if text.users else 0
        if held < text.held:
            piece = _Piece(text, held, text.held)
            text.pieces.append(piece)
            self._queue.append(piece)
            self.free += text.held - held
            text.held = held

    def _cut(self, text: _Text, length: int) -> None:
        """The blocks of ``text`` from ``length`` on are gone, or cannot be reached any more."""
        if length >= text.length:
            return
        text.length = length
        kept = []
        for piece in text.pieces:
            if piece.low < length:
                kept.append(piece)
            else:
                piece.text = None
        text.pieces = kept

    def _pop(self) -> None:
        """Take from the queue what is owed to it."""
        blocks, self._owed = self._owed, 0
        queue = self._queue
        while blocks:
            piece = queue[0]
            size = piece.high - piece.low
            if size > blocks:
                piece.high -= blocks  # of a text, the end goes first
                if piece.text is not None:
                    self._cut(piece.text, piece.high)
                return
            queue.popleft()
            blocks -= size
            if not size:
                self._dead = max(0, self._dead - 1)
            elif piece.text is not None:
                text = piece.text
                self._cut(text, piece.low)
                if not text.length and not text.users:
                    self._texts.pop(text.key, None)
