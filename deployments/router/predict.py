"""How many tokens a request will write: a distribution, learned as requests finish.

Four levels of cells, each with a fading histogram of lengths: all requests of a tier; those of the
tier with or without tools and with prompts of about the same length; a tenant's of that tier; and
a tenant's with prompts of that length. A prediction mixes the levels: a cell is trusted by how much
it has seen, and by how well it has predicted so far compared with the wider ones. What a request is
expected to write, or to have left, is the same mixture of sums that each cell keeps, so nothing is
recomputed for a request.
"""

import math
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import repeat
from operator import add, mul
from typing import NamedTuple

from cluster.config import Tier
from deployments.router.calibration import Calibration
from deployments.router.histogram import (
    BINS,
    LAST,
    STARTS,
    WIDTHS,
    FadingHistogram,
    Mark,
    bin_of,
    mark,
)
from deployments.router.lognormal import LogNormal

__all__ = ["Key", "LengthPredictor", "LogNormal"]

PRIOR_WEIGHT = 20.0
"""The prior counts as much as so many finished requests."""

MEMORY_REQUESTS = 200.0
"""Older requests fade: a cell follows about its last so many."""

TIER_MEMORY_REQUESTS = 1000.0
"""What a narrow cell holds fades besides with the requests that its whole tier learns from: else a
cell with few requests would stay behind when the traffic changes. (With these two, all public
traces that we replayed keep every quantile within 4 points; with 500 and no such fading,
Mooncake's synthetic trace, whose median falls to a seventh within the hour, is 7 points off.)"""

SHRINKAGE = 10.0
"""With about so many lengths seen, a cell's own counts and the wider cell that smooths them have
the same weight."""

MINOR = 0.01
"""A cell with less of a say is left out where a cut request is spread over the longer bins."""

MAX_AGE = 50.0
"""Fading by more than e^50 would leave nothing either, and might leave the range of floats."""

SURE = 50.0
"""From so many lengths on, the wider cell's part falls with their square: a cell of short replies
must not keep several per cent of lengths that are a hundred times as long."""

EVIDENCE_MEMORY = 100.0
EVIDENCE_BOUND = 5.0
"""How far back predictions are compared, and the largest log-odds: e^5, or 99.3 to 0.7. Beyond, a
cell would need long to notice that it has become the worse one."""

MAX_TENANT_CELLS = 4096
"""Cells of tenants; the one without a finished request for the longest goes.
About 3.5 kB each."""

MIN_ALIVE = 1e-9
"""Where fewer than this share is predicted to be longer, rounding would decide what is left."""

SHORTEST_BUCKET, LONGEST_BUCKET = 7, 17
"""Prompt lengths are told apart by powers of two, from below 128 to 64k tokens and more."""

ANY_PROMPT = 0
"""The bucket of a tenant's cell for prompts of all lengths."""

UNLIMITED_TOKENS = STARTS[LAST] + WIDTHS[LAST] - 1
"""No histogram holds a longer length, so a larger ``max_tokens`` changes nothing."""

_UNLIMITED = mark(UNLIMITED_TOKENS)


class Key(NamedTuple):
    """What the prediction for a request depends on."""

    tier: Tier
    tools: bool
    prompt_bucket: int
    tenant: str


class _Cell:
    """A histogram, and how far it is to be trusted over the next wider cell's prediction."""

    __slots__ = ("clock", "lengths", "log_odds", "trust")

    def __init__(self, clock: int, initial: Sequence[float] | None = None) -> None:
        self.clock = clock
        """How many requests the tier had learned from when this cell last did."""
        self.lengths = FadingHistogram(MEMORY_REQUESTS, initial)
        self.log_odds = 0.0
        self.trust = 0.0

    def catch_up(self, clock: int) -> None:
        """Fade by what the tier has learned from elsewhere since this cell last did."""
        absent = min(MAX_AGE, (clock - self.clock) / TIER_MEMORY_REQUESTS)
        self.lengths.age(math.exp(absent))
        self.clock = clock

    def compare(self, bin_index: int, wider: float) -> float:
        """Take in how well the length in this bin was predicted, here and by the ``wider`` cell.

        Both are probabilities of the bin. Returns that of this cell's own mixture."""
        lengths = self.lengths
        total = lengths.exact_total
        share = lengths.mass[bin_index] / total if total > 0.0 else 0.0
        own_share = self._own_share()
        own = own_share * share + (1.0 - own_share) * wider
        mixed = self.trust * share + (1.0 - self.trust) * wider
        if own > 0.0 and wider > 0.0:
            odds = self.log_odds * (1.0 - 1.0 / EVIDENCE_MEMORY) + math.log(own / wider)
            self.log_odds = min(EVIDENCE_BOUND, max(-EVIDENCE_BOUND, odds))
        return mixed

    def settle_trust(self) -> None:
        self.trust = self._own_share() / (1.0 + math.exp(-self.log_odds))

    def _own_share(self) -> float:
        """How much of its smoothed distribution is its own counts, the rest being the wider's."""
        weight = self.lengths.weight
        weight += weight * weight / SURE
        return weight / (weight + SHRINKAGE)


def _prior_mass(prior: LogNormal) -> list[float]:
    """The prior's weight over the bins; whatever is longer than all of them is in the last."""
    upto = [prior.cdf(start - 0.5) for start in STARTS[1:]]
    edges = [0.0, *upto, 1.0]
    return [PRIOR_WEIGHT * (edges[i + 1] - edges[i]) for i in range(BINS)]


class LengthPredictor:
    """Predicts output tokens. ``priors`` are the tiers' distributions before any is known."""

    def __init__(
        self, priors: Mapping[Tier, LogNormal], *, max_tenant_cells: int = MAX_TENANT_CELLS
    ) -> None:
        self.calibration = Calibration()
        self._priors = dict(priors)
        self._tiers = {tier: _Cell(0, _prior_mass(prior)) for tier, prior in priors.items()}
        self._groups: dict[tuple[Tier, bool, int], _Cell] = {}
        self._tenants: OrderedDict[tuple[Tier, bool, int, str], _Cell] = OrderedDict()
        self._max_tenant_cells = max_tenant_cells

    @property
    def tenant_cells(self) -> int:
        return len(self._tenants)

    @staticmethod
    def key(tier: Tier, tools: bool, prompt_tokens: int, tenant: str) -> Key:
        """What a request is predicted by. ``tools``: whether it offers any to the model."""
        bucket = min(LONGEST_BUCKET, max(SHORTEST_BUCKET, prompt_tokens.bit_length()))
        return Key(tier, tools, bucket, tenant)

    # -------------------------------------------------------------- predictions

    def _levels(self, key: Key) -> list[tuple[float, FadingHistogram]]:
        """The histograms that have a say, and how much: narrowest first."""
        levels = []
        rest = 1.0
        if key.tenant:
            for narrow in (key, (*key[:2], ANY_PROMPT, key.tenant)):
                tenant = self._tenants.get(narrow)
                if tenant is not None:
                    trust = rest * tenant.trust
                    levels.append((trust, tenant.lengths))
                    rest -= trust
        group = self._groups.get(key[:3])
        if group is not None:
            trust = rest * group.trust
            levels.append((trust, group.lengths))
            rest -= trust
        levels.append((rest, self._tiers[key.tier].lengths))
        return levels

    def expected(self, key: Key, max_tokens: int) -> float:
        """Expected output tokens of a new request that is cut at ``max_tokens``."""
        cap = self._mark(max_tokens)
        mean = 0.0
        for share, lengths in self._levels(key):
            mean += share * lengths.mean_capped(cap)
        return min(mean, float(max_tokens))

    def remaining(self, key: Key, emitted: int, max_tokens: int) -> float:
        """Expected further tokens (at least 1) of a request that wrote ``emitted`` and goes on.

        That is E[max(0, min(L, cap) − n)] / P(L > n), each a mixture of what the cells have.
        """
        if emitted <= 0:
            return max(1.0, self.expected(key, max_tokens))
        if emitted >= max_tokens or emitted >= UNLIMITED_TOKENS:
            return self._outlived(key, emitted, max_tokens)
        start, cap = mark(emitted), self._mark(max_tokens)
        alive = tokens = 0.0
        for share, lengths in self._levels(key):
            its_alive, its_tokens = lengths.beyond(start, cap)
            alive += share * its_alive
            tokens += share * its_tokens
        if alive < MIN_ALIVE:
            return self._outlived(key, emitted, max_tokens)
        return max(1.0, tokens / alive)

    @staticmethod
    def _mark(max_tokens: int) -> Mark:
        return _UNLIMITED if max_tokens >= UNLIMITED_TOKENS else mark(max_tokens)

    def _outlived(self, key: Key, emitted: int, max_tokens: int) -> float:
        """What the prior says is left of a request that has outlived all that was ever seen."""
        total = min(self._priors[key.tier].mean_beyond(emitted), float(max_tokens))
        return max(1.0, total - emitted)

    def interval(self, key: Key, tokens: int) -> tuple[float, float]:
        """Predicted probabilities of ending by itself with fewer tokens, and with at most so many.

        ``tokens`` ≥ 1."""
        at = bin_of(tokens)
        inside = 1.0 - (tokens - STARTS[at]) / WIDTHS[at]
        within = longer = 0.0
        for share, lengths in self._levels(key):
            beyond = share * lengths.share_above(at, 0.0)
            longer += beyond
            within += share * lengths.share_above(at, 1.0) - beyond
        not_shorter = longer + max(0.0, inside) * within
        not_longer = longer + max(0.0, inside - 1.0 / WIDTHS[at]) * within
        return max(0.0, 1.0 - not_shorter), max(0.0, 1.0 - not_longer)

    def quantile(self, key: Key, q: float, max_tokens: int) -> float:
        """The length in tokens that a share ``q`` of such requests does not exceed."""
        levels = self._levels(key)

        def upto(at: int) -> float:
            return 1.0 - sum(share * lengths.share_above(at, 0.0) for share, lengths in levels)

        at = min(LAST, bisect_left(range(BINS), q, key=upto))
        low, high = upto(at - 1) if at else 0.0, upto(at)
        inside = min(1.0, max(0.0, (q - low) / (high - low))) if high > low else 1.0
        return min(float(max_tokens), max(1.0, STARTS[at] - 1 + inside * WIDTHS[at]))

    # -------------------------------------------------------------- learning

    def learn(self, key: Key, output_tokens: int, *, complete: bool) -> None:
        """Take in a finished request: it ended by itself (``complete``) or was cut short.

        Of one cut short we only know that it would have been longer. It counts in every longer bin
        by how likely the rest of such requests end there (Efron's redistribution to the right,
        which gives the Kaplan–Meier estimate): dropped, long requests would be missing, and taken
        for complete, short ones would be too many.
        """
        if output_tokens < 1:
            if not complete:
                return  # every request writes more than nothing: this says nothing
            output_tokens = 1
        below, upto = self.interval(key, output_tokens)
        if complete:
            self.calibration.record(key.tier, below, upto)
            self._learn_whole(key, bin_of(output_tokens))
        elif 1.0 - upto >= MIN_ALIVE:
            self.calibration.record(key.tier, upto, 1.0)
            self._learn_cut(key, output_tokens)

    def _cells(self, key: Key) -> list[_Cell]:
        """The tier's cell and the narrower ones, made where they are new and faded to now.

        Requests without a tenant have no cells of their own: they would be the group's again."""
        widest = self._tiers[key.tier]
        widest.clock += 1
        clock = widest.clock
        group = self._groups.get(key[:3])
        if group is None:
            group = self._groups[key[:3]] = _Cell(clock)
        cells = [widest, group]
        if key.tenant:
            cells.append(self._tenant_cell((*key[:2], ANY_PROMPT, key.tenant), clock))
            cells.append(self._tenant_cell(key, clock))
        for cell in cells[1:]:
            cell.catch_up(clock)
        return cells

    def _tenant_cell(self, key: tuple[Tier, bool, int, str], clock: int) -> _Cell:
        cell = self._tenants.get(key)
        if cell is not None:
            self._tenants.move_to_end(key)
            return cell
        while len(self._tenants) >= self._max_tenant_cells:
            self._tenants.popitem(last=False)
        cell = self._tenants[key] = _Cell(clock)
        return cell

    def _learn_whole(self, key: Key, at: int) -> None:
        widest, *narrower = self._cells(key)
        probability = widest.lengths.mass[at] / widest.lengths.exact_total
        widest.lengths.add(at)
        for cell in narrower:
            probability = cell.compare(at, probability)
            cell.lengths.add(at)
            cell.settle_trust()

    def _learn_cut(self, key: Key, output_tokens: int) -> None:
        at = bin_of(output_tokens)
        longer = mark(output_tokens).longer
        shares = [0.0] * (BINS - at)
        for share, lengths in self._levels(key):
            if share > MINOR:
                tail = lengths.mass[at:]
                tail[0] *= longer
                scale = share / lengths.exact_total
                shares = list(map(add, shares, map(mul, tail, repeat(scale))))
        alive = sum(shares)
        if alive <= 0.0:
            return
        shares = [each / alive for each in shares]
        for cell in self._cells(key):
            cell.lengths.add_spread(shares, at)
            cell.settle_trust()
