"""Length prediction: the log-normal's closed forms, learning, and what is left of a request."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import TIERS
from deployments.router import LogNormal
from deployments.router.predict import PRIOR_WEIGHT, LengthPredictor


def mean_beyond_by_integration(lengths: LogNormal, tokens: float, steps: int = 20_000) -> float:
    """E[L | L > tokens] by the trapezoidal rule over z, with L = exp(mu + sigma·z).

    Weights are relative to the density at the lower end, so that nothing underflows far out.
    """
    low = (math.log(tokens) - lengths.mu) / lengths.sigma
    low = max(low, -12.0)
    high = max(low, lengths.sigma, 0.0) + 12.0
    top = max(low, min(0.0, high))
    width = (high - low) / steps
    mass = moment = 0.0
    for i in range(steps + 1):
        z = low + i * width
        weight = math.exp((top * top - z * z) / 2.0) * (0.5 if i in (0, steps) else 1.0)
        mass += weight
        moment += weight * math.exp(lengths.mu + lengths.sigma * z)
    return moment / mass


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 1.6])
@pytest.mark.parametrize("z", [-3.0, -1.0, 0.0, 1.0, 2.5, 5.0, 7.0, 12.0])
def test_the_closed_form_of_the_conditional_mean_agrees_with_integration(
    sigma: float, z: float
) -> None:
    lengths = LogNormal.from_mean(20_000.0, sigma)
    tokens = lengths.quantile(z)
    expected = mean_beyond_by_integration(lengths, tokens)
    # At least one more token is always expected, which decides for small and narrow tails.
    assert lengths.mean_beyond(tokens) == pytest.approx(max(expected, tokens + 1.0), rel=2e-4)


def test_the_conditional_mean_before_the_first_token_is_the_mean() -> None:
    lengths = LogNormal.from_mean(1300.0, 1.0)
    assert lengths.mean == pytest.approx(1300.0)
    assert lengths.mean_beyond(0) == lengths.mean
    assert lengths.mean_beyond(1e-6) == pytest.approx(lengths.mean)


@given(
    st.floats(1.0, 1e5),
    st.floats(0.05, 3.0),
    st.lists(st.floats(1.0, 1e12), min_size=2, max_size=2),
)
def test_the_longer_a_request_has_run_the_longer_it_will_be_in_all(
    mean: float, sigma: float, points: list[float]
) -> None:
    lengths = LogNormal.from_mean(mean, sigma)
    before, after = (lengths.mean_beyond(point) for point in sorted(points))
    assert math.isfinite(after)
    # A hair of slack where the closed form hands over to the tail's asymptotic form.
    assert after >= before * (1.0 - 1e-3)


def test_quantiles_follow_the_normal_of_the_logarithm() -> None:
    lengths = LogNormal(mu=5.0, sigma=0.5)
    assert lengths.quantile(0.0) == pytest.approx(math.exp(5.0))
    assert lengths.quantile(2.0) == pytest.approx(math.exp(6.0))


def predictor(mean: float = 1000.0, sigma: float = 1.0) -> LengthPredictor:
    return LengthPredictor({tier: LogNormal.from_mean(mean, sigma) for tier in TIERS})


def test_a_new_request_is_expected_at_the_priors_mean_but_never_over_its_limit() -> None:
    assert predictor().expected("low", 100_000) == pytest.approx(1000.0)
    assert predictor().expected("low", 64) == 64.0


def test_finished_requests_move_the_estimate_of_their_tier_only() -> None:
    lengths, rng = predictor(), random.Random(1)
    for _ in range(2000):
        lengths.learn("high", round(9000 * rng.lognormvariate(-0.125, 0.5)))
    learned = lengths.distribution("high")
    assert learned.mean == pytest.approx(9000, rel=0.1)
    assert learned.sigma == pytest.approx(0.5, rel=0.15)
    assert lengths.expected("low", 100_000) == pytest.approx(1000.0)
    assert lengths.expected("medium", 100_000) == pytest.approx(1000.0)


def test_the_prior_counts_as_twenty_requests() -> None:
    lengths = LengthPredictor({tier: LogNormal(math.log(1000.0), 0.3) for tier in TIERS})
    for _ in range(round(PRIOR_WEIGHT)):
        lengths.learn("low", 4000)
    # As many at 4000 as the prior stands for at 1000: half-way, in logarithms.
    assert lengths.distribution("low").mu == pytest.approx(math.log(2000.0), abs=0.05)


def test_old_requests_are_forgotten_when_the_traffic_changes() -> None:
    lengths = predictor()
    for _ in range(3000):
        lengths.learn("medium", 200)
    for _ in range(1500):
        lengths.learn("medium", 5000)
    assert lengths.expected("medium", 100_000) == pytest.approx(5000, rel=0.25)


def test_identical_lengths_leave_a_usable_spread() -> None:
    lengths = predictor()
    for _ in range(5000):
        lengths.learn("low", 300)
    assert lengths.distribution("low").sigma >= 0.05
    assert lengths.remaining("low", 299, 100_000) >= 1.0


@pytest.mark.parametrize("length", [0, 1, 10**6])
def test_one_outlier_moves_the_estimate_only_a_little(length: int) -> None:
    lengths = predictor()
    lengths.learn("low", length)
    assert lengths.expected("low", 10**9) == pytest.approx(1000.0, rel=0.5)
    assert lengths.expected("low", 10**9) != 1000.0


@given(
    st.sampled_from(TIERS),
    st.integers(0, 10**12),
    st.integers(1, 10**9),
    st.lists(st.integers(0, 10**7), max_size=30),
)
def test_a_running_request_always_has_at_least_one_token_to_go(
    tier: str, emitted: int, max_tokens: int, learned: list[int]
) -> None:
    lengths = predictor()
    for length in learned:
        lengths.learn("low", length)
    remaining = lengths.remaining(tier, emitted, max_tokens)  # type: ignore[arg-type]
    assert 1.0 <= remaining < math.inf
    assert emitted + remaining <= max(max_tokens, emitted + 1)


def test_what_remains_grows_once_a_request_has_outlived_the_usual_length() -> None:
    lengths = predictor(mean=1000.0)
    usual, outlived = (lengths.remaining("low", n, 10**9) for n in (10, 20_000))
    assert outlived > usual
