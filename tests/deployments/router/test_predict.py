"""Length prediction: what is learned, from whom, what is left of a request, and calibration."""

import math
import random
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import TIERS, Tier
from deployments.router.calibration import LEVELS, Calibration
from deployments.router.histogram import BINS, STARTS, WIDTHS, FadingHistogram, bin_of, mark
from deployments.router.lognormal import LogNormal
from deployments.router.predict import PRIOR_WEIGHT, Key, LengthPredictor

UNCUT = 10**9


def predictor(mean: float = 1000.0, sigma: float = 1.0, cells: int = 4096) -> LengthPredictor:
    priors = {tier: LogNormal.from_mean(mean, sigma) for tier in TIERS}
    return LengthPredictor(priors, max_tenant_cells=cells)


def key(tier: Tier = "low", prompt: int = 1000, tenant: str = "", tools: bool = False) -> Key:
    return LengthPredictor.key(tier, tools, prompt, tenant)


def taught(lengths: LengthPredictor, its: Key, each: list[int]) -> LengthPredictor:
    for tokens in each:
        lengths.learn(its, tokens, complete=True)
    return lengths


# ---------------------------------------------------------------- bins


def test_the_bins_cover_every_length_once() -> None:
    for at in range(BINS):
        assert bin_of(STARTS[at]) == bin_of(STARTS[at] + WIDTHS[at] - 1) == at
    assert bin_of(0) == 0
    assert bin_of(10**9) == BINS - 1


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=40), st.integers(1, 5000))
def test_capped_means_are_those_of_lengths_even_within_their_bins(
    lengths: list[int], cap: int
) -> None:
    histogram = FadingHistogram(1e12)
    for each in lengths:
        histogram.add(bin_of(each))
    histogram.refresh()

    def mean_of(value: Callable[[int], float]) -> float:
        total = 0.0
        for each in lengths:
            at = bin_of(each)
            inside = range(STARTS[at], STARTS[at] + WIDTHS[at])
            total += sum(map(value, inside)) / WIDTHS[at]
        return total / len(lengths)

    assert histogram.mean_capped(mark(cap)) == pytest.approx(mean_of(lambda n: min(n, cap)))
    start = max(1, cap // 3)
    alive, tokens = histogram.beyond(mark(start), mark(cap))
    assert alive == pytest.approx(mean_of(lambda n: float(n > start)), abs=1e-9)
    assert tokens == pytest.approx(mean_of(lambda n: max(0, min(n, cap) - start)), abs=1e-6)


def test_a_histogram_outlives_the_range_of_floats() -> None:
    histogram = FadingHistogram(20.0)
    for n in range(20_000):
        histogram.add(bin_of(100 if n < 19_900 else 900))
    histogram.refresh()
    assert histogram.weight == pytest.approx(20.0)
    assert histogram.share_above(bin_of(500), 0.0) == pytest.approx(1.0, abs=0.01)


# ---------------------------------------------------------------- what is learned


def test_a_new_request_is_expected_at_the_priors_mean_but_never_over_its_limit() -> None:
    assert predictor().expected(key(), UNCUT) == pytest.approx(1000.0, rel=0.01)
    assert predictor().expected(key(), 64) <= 64.0


def test_the_expectation_takes_in_that_some_will_be_cut() -> None:
    prior = LogNormal.from_mean(1000.0, 1.0)
    rng = random.Random(3)
    drawn = [min(1000.0, rng.lognormvariate(prior.mu, prior.sigma)) for _ in range(40_000)]
    assert predictor().expected(key(), 1000) == pytest.approx(sum(drawn) / len(drawn), rel=0.02)


def test_finished_requests_move_the_estimate_of_their_tier_only() -> None:
    lengths, rng = predictor(), random.Random(1)
    taught(
        lengths, key("high"), [round(9000 * rng.lognormvariate(-0.125, 0.5)) for _ in range(2000)]
    )
    assert lengths.expected(key("high"), UNCUT) == pytest.approx(9000, rel=0.1)
    assert lengths.expected(key("low"), UNCUT) == pytest.approx(1000.0, rel=0.01)
    assert lengths.expected(key("medium"), UNCUT) == pytest.approx(1000.0, rel=0.01)


def test_the_prior_counts_as_twenty_requests() -> None:
    lengths = predictor(sigma=0.3)
    taught(lengths, key(prompt=10), [4000] * round(PRIOR_WEIGHT))
    # Asked for prompts of another length: only the tier's own cell has a say.
    assert lengths.expected(key(prompt=9000), UNCUT) == pytest.approx(2500.0, rel=0.05)


def test_old_requests_are_forgotten_when_the_traffic_changes() -> None:
    lengths = taught(predictor(), key(), [200] * 3000 + [5000] * 800)
    assert lengths.expected(key(), UNCUT) == pytest.approx(5000, rel=0.1)


def test_a_cell_without_news_fades_when_its_tier_learns_that_the_traffic_changed() -> None:
    lengths = taught(predictor(), key(tenant="rare"), [200] * 300)
    taught(lengths, key(tenant="usual"), [5000] * 6000)
    taught(lengths, key(tenant="rare"), [5000] * 3)
    assert lengths.expected(key(tenant="rare"), UNCUT) == pytest.approx(5000, rel=0.25)


def test_a_thin_cell_falls_back_on_the_wider_ones() -> None:
    lengths = taught(predictor(), key(tenant="usual"), [3000] * 500)
    stranger = lengths.expected(key(tenant="new"), UNCUT)
    assert stranger == pytest.approx(3000, rel=0.1)
    taught(lengths, key(tenant="new"), [300])
    once = lengths.expected(key(tenant="new"), UNCUT)
    taught(lengths, key(tenant="new"), [300] * 60)
    often = lengths.expected(key(tenant="new"), UNCUT)
    assert 0.8 * stranger < once < stranger
    assert often == pytest.approx(300, rel=0.35)


def test_tenants_tools_and_prompt_lengths_are_told_apart() -> None:
    lengths, rng = predictor(), random.Random(2)
    kinds = {
        key(tenant="brief"): 50,
        key(tenant="long"): 5000,
        key(tools=True): 120,
        key(prompt=60_000): 900,
    }
    for _ in range(3000):
        its, tokens = rng.choice(list(kinds.items()))
        lengths.learn(its, max(1, round(tokens * rng.lognormvariate(0.0, 0.1))), complete=True)
    for its, tokens in kinds.items():
        # A cell keeps 2 % of the wider ones', which are up to a hundred times as long.
        assert lengths.quantile(its, 0.5, UNCUT) == pytest.approx(tokens, rel=0.1)
        assert lengths.expected(its, UNCUT) == pytest.approx(tokens, rel=0.15, abs=100)


def test_tenants_that_do_not_differ_are_not_told_apart_by_chance() -> None:
    lengths, rng = predictor(), random.Random(4)
    tenants = [key(tenant=f"t{n}") for n in range(50)]
    for _ in range(4000):
        tokens = round(rng.lognormvariate(6.0, 1.0)) + 1
        lengths.learn(rng.choice(tenants), tokens, complete=True)
    medians = [lengths.quantile(each, 0.5, UNCUT) for each in tenants]
    apart = [abs(math.log(median / math.exp(6.0))) for median in medians]
    # The median of each one's own 80 would be 0.11 off on the mean.
    assert sum(apart) / len(apart) < 0.11


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 5000)), max_size=120))
def test_only_so_many_tenants_are_remembered(seen: list[tuple[int, int]]) -> None:
    lengths = predictor(cells=10)
    for tenant, tokens in seen:
        lengths.learn(key(tenant=f"t{tenant}"), tokens, complete=True)
        assert lengths.tenant_cells <= 10
    for tenant, _ in seen:
        assert lengths.expected(key(tenant=f"t{tenant}"), UNCUT) >= 1.0


@pytest.mark.parametrize("length", [0, 1, 10**6])
def test_one_outlier_moves_the_estimate_only_a_little(length: int) -> None:
    lengths = predictor()
    for _ in range(100):
        lengths.learn(key(), 1000, complete=True)
    before = lengths.quantile(key(), 0.5, UNCUT)
    lengths.learn(key(), length, complete=True)
    assert lengths.quantile(key(), 0.5, UNCUT) == pytest.approx(before, rel=0.05)


# ---------------------------------------------------------------- requests cut short


@pytest.mark.parametrize("cut", [150, 600])
def test_requests_cut_short_bias_nothing(cut: int) -> None:
    lengths, rng = predictor(), random.Random(5)
    dropped, taken = predictor(), predictor()
    whole = []
    for _ in range(6000):
        tokens = max(1, round(rng.lognormvariate(math.log(400.0), 1.0)))
        whole.append(tokens)
        is_cut = tokens > cut and rng.random() < 0.6
        lengths.learn(key(), cut if is_cut else tokens, complete=not is_cut)
        if not is_cut:
            dropped.learn(key(), tokens, complete=True)
        taken.learn(key(), cut if is_cut else tokens, complete=True)
    mean = sum(whole) / len(whole)
    assert lengths.expected(key(), UNCUT) == pytest.approx(mean, rel=0.25)
    assert lengths.quantile(key(), 0.5, UNCUT) == pytest.approx(400.0, rel=0.15)
    # And neither of the simple ways would do.
    assert dropped.quantile(key(), 0.5, UNCUT) < 340.0
    assert taken.expected(key(), UNCUT) < 0.8 * mean


def test_a_request_cut_at_its_limit_says_that_lengths_are_longer() -> None:
    lengths = predictor(mean=1000.0)
    for _ in range(200):
        lengths.learn(key(), 2000, complete=False)
    assert lengths.quantile(key(), 0.2, UNCUT) > 1500


@given(
    st.lists(st.tuples(st.integers(0, 10**7), st.booleans(), st.integers(0, 3)), max_size=40),
    st.integers(0, 10**12),
    st.integers(1, 10**9),
    st.sampled_from([0.05, 1.0, 3.0]),
)
def test_predictions_stay_sane_whatever_is_learned(
    learned: list[tuple[int, bool, int]], emitted: int, max_tokens: int, sigma: float
) -> None:
    lengths = predictor(sigma=sigma)
    for tokens, complete, tenant in learned:
        lengths.learn(key(tenant=f"t{tenant}"), tokens, complete=complete)
    for its in (key(tenant="t0"), key(tenant="new"), key("high", 5, tools=True)):
        assert 1.0 - 1e-9 <= lengths.expected(its, max_tokens) <= max_tokens
        remaining = lengths.remaining(its, emitted, max_tokens)
        assert 1.0 <= remaining < math.inf
        assert emitted + remaining <= max(max_tokens, emitted + 1) * (1.0 + 1e-9)
        quantiles = [lengths.quantile(its, level, max_tokens) for level in LEVELS]
        assert quantiles == sorted(quantiles)
        assert quantiles[0] >= 1.0
        assert quantiles[-1] <= max_tokens
        below, upto = lengths.interval(its, max(1, emitted))
        assert -1e-9 <= below <= upto <= 1.0 + 1e-9


# ---------------------------------------------------------------- what is left


def test_what_remains_grows_once_a_request_has_outlived_the_usual_length() -> None:
    usual, outlived = (predictor().remaining(key(), n, UNCUT) for n in (10, 20_000))
    assert outlived > usual


def test_what_remains_of_two_kinds_of_requests_follows_which_kind_it_still_can_be() -> None:
    lengths, rng = predictor(), random.Random(6)
    taught(lengths, key(), [rng.choice((rng.randint(30, 50), rng.randint(1900, 2100)))
                            for _ in range(3000)])  # fmt: skip
    assert lengths.expected(key(), UNCUT) == pytest.approx(1020, rel=0.1)
    assert lengths.remaining(key(), 10, UNCUT) == pytest.approx(1010, rel=0.1)
    # It has outlived the short kind, so it is one of the long.
    assert lengths.remaining(key(), 100, UNCUT) == pytest.approx(1900, rel=0.05)
    assert lengths.remaining(key(), 1500, UNCUT) == pytest.approx(500, rel=0.15)
    assert lengths.remaining(key(), 1500, 1600) == pytest.approx(100, rel=0.05)


def test_beyond_all_lengths_seen_the_prior_says_what_is_left() -> None:
    lengths = taught(predictor(), key(), [50] * 20_000)
    remaining = lengths.remaining(key(), 30_000, UNCUT)
    assert remaining == pytest.approx(LogNormal.from_mean(1000.0, 1.0).mean_beyond(30_000) - 30_000)


# ---------------------------------------------------------------- calibration


def lognormal(rng: random.Random, n: int) -> int:
    return max(1, round(rng.lognormvariate(6.0, 1.2)))


def bimodal(rng: random.Random, n: int) -> int:
    return max(1, round(rng.gauss(40, 6) if rng.random() < 0.6 else rng.lognormvariate(7.3, 0.3)))


def drifting(rng: random.Random, n: int) -> int:
    return max(1, round(rng.lognormvariate(5.5 + n / 6000.0, 0.8)))


def few_values(rng: random.Random, n: int) -> int:
    return rng.choice((7, 7, 7, 9, 10, 15))


@pytest.mark.parametrize("draw", [lognormal, bimodal, drifting, few_values])
def test_after_two_thousand_requests_quantiles_hold_within_five_points(
    draw: Callable[[random.Random, int], int],
) -> None:
    lengths, rng = predictor(), random.Random(7)
    calibration = Calibration(math.inf)
    for n in range(6000):
        its = key(prompt=rng.randrange(50, 9000), tenant=f"t{rng.randrange(5)}")
        tokens = draw(rng, n)
        if n >= 2000:
            calibration.record("low", *lengths.interval(its, tokens))
        lengths.learn(its, tokens, complete=True)
    assert calibration.requests("low") == 4000
    for level, share in calibration.coverage("low").items():
        assert share == pytest.approx(level, abs=0.05), (level, share)


def test_the_predictor_measures_its_own_calibration_also_on_requests_cut_short() -> None:
    lengths, rng = predictor(), random.Random(8)
    for n in range(6000):
        tokens = lognormal(rng, n)
        cut = rng.random() < 0.3 and tokens > 500
        lengths.learn(key("medium"), min(tokens, 500) if cut else tokens, complete=not cut)
    assert lengths.calibration.worst_error("medium") < 0.05
    assert lengths.calibration.coverage("low") == {}
    assert lengths.calibration.worst_error("low") == 0.0


def test_calibration_shows_predictions_that_are_too_short() -> None:
    lengths, rng = predictor(mean=50.0, sigma=0.3), random.Random(9)
    calibration = Calibration()
    for n in range(500):
        calibration.record("low", *lengths.interval(key(), lognormal(rng, n)))
    coverage = calibration.coverage("low")
    assert coverage[0.95] < 0.3
    assert calibration.worst_error("low") > 0.5


@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)), min_size=1, max_size=50))
def test_coverage_grows_with_the_level_and_stays_a_share(places: list[tuple[float, float]]) -> None:
    calibration = Calibration(50.0)
    for low, high in places:
        calibration.record("low", *sorted((low, high)))
    shares = list(calibration.coverage("low").values())
    assert shares == sorted(shares)
    assert shares[0] >= 0.0
    assert shares[-1] <= 1.0 + 1e-9


# ---------------------------------------------------------------- cost


def test_a_prediction_costs_microseconds() -> None:
    """Ten times what was measured, so that only a change of kind fails (a scan of bins, say)."""
    lengths, rng = predictor(), random.Random(10)
    keys = [key(tenant=f"t{n}", prompt=1 << n) for n in range(16)]
    for n in range(2000):
        lengths.learn(keys[n % 16], lognormal(rng, n), complete=True)

    def cost_us(call: Callable[[int], float | None], times: int = 2000) -> float:
        started_s = time.process_time()
        for n in range(times):
            call(n)
        return 1e6 * (time.process_time() - started_s) / times

    assert cost_us(lambda n: lengths.expected(keys[n % 16], 4096)) < 30
    assert cost_us(lambda n: lengths.remaining(keys[n % 16], n + 1, 8192)) < 50
    assert cost_us(lambda n: lengths.learn(keys[n % 16], n + 1, complete=True)) < 300
