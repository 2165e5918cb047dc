import math

import mpmath
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.plan_privacy import Relation
from wardround.strategies.privacy.events import FixedSizeGaussian, Gaussian, PoissonGaussian
from wardround.strategies.privacy.gaussian_dp import delta_of_mu, epsilon_of_mu, mu_of

MUS = [1e-6, 1e-3, 0.05, 0.5, 1.0, 2.0**0.5, 4.0, 20.0, 300.0, 1e4]
EPSILONS = [0.0, 1e-3, 0.1, 1.0, 5.0, 30.0, 700.0, 2e4, 5.1e7]
DELTAS = [0.5, 0.01, 1e-3, 1e-5, 1e-6, 1e-10, 1e-30, 1e-300]


def exact_delta(mu: float, epsilon: float) -> mpmath.mpf:
    """Balle & Wang's formula as it stands, in enough digits that nothing cancels."""
    # exp(epsilon) may have 10^7 digits before and the tail as many zeros after the point
    with mpmath.workdps(60):
        m, e = mpmath.mpf(mu), mpmath.mpf(epsilon)
        return mpmath.ncdf(m / 2 - e / m) - mpmath.exp(e) * mpmath.ncdf(-m / 2 - e / m)


def gaussian(noise_std: float = 1.0, sensitivity: float = 1.0, count: int = 1) -> Gaussian:
    return Gaussian(noise_std=noise_std, sensitivity=sensitivity, relation=Relation.ADD_REMOVE, count=count)


@pytest.mark.parametrize("mu", MUS)
def test_delta_is_that_of_the_formula_and_never_less(mu: float) -> None:
    for epsilon in EPSILONS:
        exact = exact_delta(mu, epsilon)
        got = delta_of_mu(mu, epsilon)
        if exact < 1e-307:
            assert 0 <= got < 1e-306
        else:
            assert exact <= got <= min(1, exact * (1 + mpmath.mpf(1e-7)))


@pytest.mark.parametrize("mu", MUS)
@pytest.mark.parametrize("delta", DELTAS)
def test_epsilon_meets_delta_and_a_smaller_one_does_not(mu: float, delta: float) -> None:
    epsilon = epsilon_of_mu(mu, delta)
    assert exact_delta(mu, epsilon) <= delta
    if epsilon > 0:
        assert exact_delta(mu, epsilon * (1 - 1e-7)) > delta


def test_where_delta_alone_covers_it_epsilon_is_zero() -> None:
    # the total variation of N(0, 1) and N(0.01, 1) is 0.00399
    assert epsilon_of_mu(0.01, 0.004) == 0
    assert epsilon_of_mu(0.01, 0.0039) > 0


@given(st.floats(1e-3, 1e3), st.floats(1e-12, 0.9))
def test_delta_and_epsilon_are_each_others_inverse(mu: float, delta: float) -> None:
    epsilon = epsilon_of_mu(mu, delta)
    assert delta_of_mu(mu, epsilon) <= delta * (1 + 1e-9)
    if epsilon > 1e-6:
        assert delta_of_mu(mu, epsilon) == pytest.approx(delta, rel=1e-5)


@given(st.floats(1e-3, 100), st.floats(1.001, 2), st.floats(1e-15, 0.4))
def test_epsilon_grows_with_mu_and_falls_with_delta(mu: float, factor: float, delta: float) -> None:
    epsilon = epsilon_of_mu(mu, delta)
    assert epsilon_of_mu(mu * factor, delta) >= epsilon
    assert epsilon_of_mu(mu, delta * factor) <= epsilon
    if epsilon > 0:
        assert epsilon_of_mu(mu * factor, delta) > epsilon


def test_releases_add_up_by_their_squares() -> None:
    assert mu_of([]) == 0
    assert mu_of([gaussian(5, count=50)]) == pytest.approx(math.sqrt(2), rel=1e-15)
    # the same release with noise and sensitivity doubled; one of twice the sensitivity; one that did not happen
    events = [gaussian(10, 2, 50), gaussian(1, 2), gaussian(0.1, count=0)]
    assert mu_of(events) == pytest.approx(math.sqrt(2 + 4), rel=1e-15)


def test_a_sample_of_everyone_is_no_sample() -> None:
    everyone = PoissonGaussian(noise_std=2, sensitivity=1, relation=Relation.ADD_REMOVE, rate=1, count=4)
    assert mu_of([everyone]) == 1


@pytest.mark.parametrize(
    "event",
    [
        PoissonGaussian(noise_std=2, sensitivity=1, relation=Relation.ADD_REMOVE, rate=0.999),
        FixedSizeGaussian(noise_std=2, sensitivity=2, drawn=3, population=4),
    ],
)
def test_sampled_events_are_refused(event: PoissonGaussian | FixedSizeGaussian) -> None:
    with pytest.raises(ValueError, match="without sampling"):
        mu_of([gaussian(), event])


def test_extremes_are_infinite_or_zero_and_never_nan() -> None:
    assert mu_of([gaussian(1e-200, 1e200)]) == math.inf
    assert mu_of([gaussian(1e-200, 1e200, count=0)]) == 0
    assert epsilon_of_mu(math.inf, 0.1) == math.inf
    assert epsilon_of_mu(1e200, 0.1) == math.inf
    assert delta_of_mu(math.inf, 3) == 1
    assert delta_of_mu(1, math.inf) == 0
    assert delta_of_mu(0, 0) == epsilon_of_mu(0, 1e-300) == 0
    assert delta_of_mu(1e-200, 0) < 1e-13


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_a_delta_that_is_no_probability_is_refused(delta: float) -> None:
    with pytest.raises(ValueError, match="delta"):
        epsilon_of_mu(1, delta)


@pytest.mark.parametrize("bad", [-1.0, math.nan])
def test_negative_numbers_and_nan_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="at least 0"):
        epsilon_of_mu(bad, 0.1)
    with pytest.raises(ValueError, match="at least 0"):
        delta_of_mu(bad, 1)
    with pytest.raises(ValueError, match="at least 0"):
        delta_of_mu(1, bad)
