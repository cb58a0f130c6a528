"""The log-normal: its closed forms against integration."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.router.lognormal import LogNormal


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


@pytest.mark.parametrize("sigma", [0.2, 1.0])
def test_the_distribution_function_and_the_quantiles_undo_each_other(sigma: float) -> None:
    lengths = LogNormal.from_mean(4000.0, sigma)
    assert lengths.cdf(0.0) == 0.0
    for z, share in ((-1.0, 0.158655), (0.0, 0.5), (1.0, 0.841345)):
        assert lengths.cdf(lengths.quantile(z)) == pytest.approx(share, abs=1e-6)


def test_without_any_deviation_all_lengths_are_the_same() -> None:
    lengths = LogNormal(math.log(300.0), 0.0)
    assert (lengths.cdf(299.0), lengths.cdf(300.5)) == (0.0, 1.0)
    assert lengths.mean_beyond(100.0) == pytest.approx(300.0)
    assert lengths.mean_beyond(400.0) == 401.0
