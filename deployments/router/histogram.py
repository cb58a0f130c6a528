"""A fading histogram of output lengths: bins that every cell of the length predictor shares."""

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import repeat
from operator import add, mul

import numpy as np

EXACT_TOKENS = 16
"""Shorter lengths have a bin each: a whole share of the traffic may answer in the same few tokens
(Azure's 2023 code trace: 36 % in 6 to 10)."""

BINS_PER_OCTAVE = 8
"""A bin is 9 % wide. With 4, a spike like the 380 to 430 tokens of Azure's 2023 conversations,
evened out over its bin, moves quantiles by several points."""

OCTAVES = 13
"""From 16 up to 131,072 tokens, the model's context; one more bin takes whatever is longer."""


def _starts() -> list[int]:
    steps = range(BINS_PER_OCTAVE * OCTAVES + 1)
    coarse = [round(EXACT_TOKENS * 2.0 ** (step / BINS_PER_OCTAVE)) for step in steps]
    return [*range(1, EXACT_TOKENS), *coarse]


STARTS: Sequence[int] = _starts()
"""The first length of each bin."""

BINS = len(STARTS)
LAST = BINS - 1

_ENDS = [*STARTS[1:], 2 * STARTS[-1]]
WIDTHS: Sequence[int] = [end - start for start, end in zip(STARTS, _ENDS, strict=True)]
"""How many lengths each bin holds; they count as equally likely."""

MEANS: Sequence[float] = [
    start + (width - 1) / 2.0 for start, width in zip(STARTS, WIDTHS, strict=True)
]
_MEANS_FROM_LONGEST = np.array(MEANS[::-1])

_RESCALE_ABOVE = 1e120

_STALE = 0.1
"""Sums are made again when they lack this share: at first with each length, later every 20th."""


def bin_of(tokens: int) -> int:
    """The bin of a length in tokens (below 1 counts as 1)."""
    return bisect_right(STARTS, tokens) - 1 if tokens > 0 else 0


def _running_sum(values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> "array[float]":
    """The sums of none, one, two... of them: in an array, whose items are read much faster."""
    sums = array("d", bytes(8 * (len(values) + 1)))
    np.cumsum(values, out=np.frombuffer(sums)[1:])
    return sums


class FadingHistogram:
    """Counts of lengths in which older ones weigh exponentially less.

    Instead of shrinking all counts at each new length, each new length counts for more than the
    one before: the same shares, for one addition.
    """

    __slots__ = ("_growth", "_pending", "_unit", "above", "mass", "tokens_above", "total")

    def __init__(self, memory: float, initial: Sequence[float] | None = None) -> None:
        """``memory``: the weights fade as if about so many of the last lengths were kept."""
        self._growth = 1.0 / (1.0 - 1.0 / memory)
        self._unit = 1.0
        self._pending = 0.0
        self.mass = array("d", initial if initial is not None else bytes(8 * BINS))
        self.refresh()

    @property
    def weight(self) -> float:
        """How many lengths it holds, with the older ones counted for less."""
        return self.exact_total / self._unit

    @property
    def exact_total(self) -> float:
        """The sum of ``mass`` as it is now."""
        return self.total + self._pending

    def refresh(self) -> None:
        """Sum up again. ``above[LAST - b]`` is the mass in bins longer than ``b``, and
        ``tokens_above[LAST - b]`` that mass times its lengths."""
        from_longest = np.frombuffer(self.mass)[::-1]
        self.above = _running_sum(from_longest)
        self.tokens_above = _running_sum(from_longest * _MEANS_FROM_LONGEST)
        self.total = self.above[BINS]
        self._pending = 0.0

    def age(self, factor: float) -> None:
        """Let what it holds fade by so much beside what comes next (``factor`` ≥ 1)."""
        self._unit *= factor

    def _grow(self) -> float:
        self._unit *= self._growth
        if self._unit > _RESCALE_ABOVE:
            self.mass = array("d", (each / self._unit for each in self.mass))
            self._unit = 1.0
            self.refresh()
        return self._unit

    def add(self, bin_index: int) -> None:
        """One more length in this bin. Shows in the sums once these lack 10 %."""
        unit = self._grow()
        self.mass[bin_index] += unit
        self._settle(unit)

    def add_spread(self, shares: Sequence[float], first_bin: int) -> None:
        """One more length that lies in bin ``first_bin + i`` with probability ``shares[i]``."""
        unit = self._grow()
        tail = map(add, self.mass[first_bin:], map(mul, shares, repeat(unit)))
        self.mass[first_bin:] = array("d", tail)
        self._settle(unit)

    def _settle(self, added: float) -> None:
        self._pending += added
        if self._pending > _STALE * self.total:
            self.refresh()

    def share_above(self, bin_index: int, inside: float) -> float:
        """Share of lengths in longer bins, plus the share ``inside`` of this bin's own."""
        if self.total <= 0.0:
            return 0.0
        at = LAST - bin_index
        longer = self.above[at]
        share: float = (longer + inside * (self.above[at + 1] - longer)) / self.total
        return share

    def mean_capped(self, cap: "Mark") -> float:
        """E[min(L, cap)] in tokens."""
        if self.total <= 0.0:
            return 0.0
        above, tokens_above, at = self.above, self.tokens_above, cap.at
        longer, not_shorter = above[at], above[at + 1]
        tokens: float = tokens_above[BINS] - tokens_above[at + 1] + not_shorter * cap.tokens
        return (tokens - (not_shorter - longer) * cap.shortfall) / self.total

    def beyond(self, start: "Mark", cap: "Mark") -> tuple[float, float]:
        """P(L > start) and E[max(0, min(L, cap) − start)] in tokens, for a start below the cap.

        The second is E[min(L, cap)] − E[min(L, start)], written out: this runs often."""
        total = self.total
        if total <= 0.0:
            return 0.0, 0.0
        above, tokens_above, at, cap_at = self.above, self.tokens_above, start.at, cap.at
        longer, not_shorter = above[at], above[at + 1]
        capped = above[cap_at + 1]
        inside = not_shorter - longer
        tokens = (
            tokens_above[at + 1]
            - tokens_above[cap_at + 1]
            + capped * cap.tokens
            - (capped - above[cap_at]) * cap.shortfall
            - not_shorter * start.tokens
            + inside * start.shortfall
        )
        return (longer + start.longer * inside) / total, tokens / total


class Mark:
    """A length, and where it lies in the bins: worked out once for several histograms."""

    __slots__ = ("at", "longer", "shortfall", "tokens")

    def __init__(self, tokens: int) -> None:
        bin_index = bin_of(tokens)
        width = WIDTHS[bin_index]
        below = tokens - STARTS[bin_index]
        self.tokens = tokens
        self.at = LAST - bin_index
        """Its bin's place in the sums, which begin with the longest."""
        self.longer = (width - below - 1) / width
        """Share of the bin's lengths that are longer."""
        self.shortfall = below * (below + 1) / (2.0 * width)
        """E[max(0, tokens − L)] over the bin's lengths."""


mark = lru_cache(maxsize=4096)(Mark)
"""The ``Mark`` of a length in tokens."""
