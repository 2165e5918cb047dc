import math
from functools import reduce

import mpmath
import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SampledWithoutReplacementDpEvent
from dp_accounting.privacy_accountant import NeighboringRelation
from dp_accounting.rdp import RdpAccountant, compute_epsilon
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wardround.plan_privacy import Relation
from wardround.strategies.privacy.events import Event, FixedSizeGaussian, Gaussian, PoissonGaussian
from wardround.strategies.privacy.gaussian_dp import epsilon_of_mu
from wardround.strategies.privacy.rdp import ORDERS, epsilon_of_rdp, rdp_of

WHOLE = [2.0, 3.0, 4.0, 7.0, 16.0, 33.0, 64.0, 200.0]
FRACTIONAL = [1.01, 1.1, 1.5, 1.9, 2.5, 4.7, 10.3, 60.5]

Wide = NDArray[np.longdouble]
Parts = tuple[tuple[float, float], ...]


def gaussian(noise_std: float, count: int = 1, sensitivity: float = 1.0) -> Gaussian:
    return Gaussian(noise_std=noise_std, sensitivity=sensitivity, relation=Relation.ADD_REMOVE, count=count)


def poisson(
    noise_std: float, rate: float, count: int = 1, relation: Relation = Relation.ADD_REMOVE, sensitivity: float = 1.0
) -> PoissonGaussian:
    return PoissonGaussian(noise_std=noise_std, sensitivity=sensitivity, relation=relation, rate=rate, count=count)


def fixed_size(noise_std: float, drawn: int, population: int, count: int = 1) -> FixedSizeGaussian:
    return FixedSizeGaussian(noise_std=noise_std, sensitivity=1, drawn=drawn, population=population, count=count)


def mixture(x: Wide, std: float, *parts: tuple[float, float]) -> Wide:
    """Log densities at x of normal distributions of one standard deviation, each (weight, mean), without a constant."""
    logs = [np.log(np.longdouble(weight)) - ((x - mean) / std) ** 2 / 2 for weight, mean in parts]
    return reduce(np.logaddexp, logs)


def renyi(std: float, p: Parts, q: Parts, order: float) -> float:
    """The Rényi divergence of mixture p from q: the integral as it stands, by a sum over a fine grid."""
    reach = 14 * std + 2 * order
    x = np.linspace(-reach, reach, 40_001).astype(np.longdouble)
    log_p, log_q = mixture(x, std, *p), mixture(x, std, *q)
    moment = np.exp(order * log_p + (1 - order) * log_q).sum() / np.exp(log_q).sum()
    return float(np.log(moment) / (order - 1))


def sampled_moment(ratio: float, rate: float, order: int) -> float:
    """log E[(1 + q (L − 1))^α] / (α − 1): the binomial sum as it stands, in 60 digits."""
    with mpmath.workdps(60):
        q, r = mpmath.mpf(rate), mpmath.mpf(ratio)
        terms = (
            mpmath.binomial(order, k) * (1 - q) ** (order - k) * q**k * mpmath.exp((k * k - k) / (2 * r * r))
            for k in range(order + 1)
        )
        return float(mpmath.log(mpmath.fsum(terms)) / (order - 1))


def test_gaussian_releases_cost_half_the_order_over_the_squared_ratio() -> None:
    events = [gaussian(2, count=3), gaussian(4, sensitivity=2)]
    assert rdp_of(events, [1.5, 2, 100]) == pytest.approx(np.array([1.5, 2, 100]) / 2, rel=1e-15)
    assert rdp_of([], ORDERS).tolist() == [0.0] * len(ORDERS)
    assert rdp_of([gaussian(1, count=0)], [2.0]).tolist() == [0.0]


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.7, 1.0, 3.0, 20.0, 1e4])
@pytest.mark.parametrize("rate", [1e-6, 1e-3, 0.05, 0.5, 0.99])
def test_poisson_at_whole_orders_is_the_binomial_sum_and_never_less(ratio: float, rate: float) -> None:
    orders = [2, 3, 5, 16, 64, 300]
    exact = np.array([sampled_moment(ratio, rate, order) for order in orders])
    found = rdp_of([poisson(ratio, rate)], orders)
    assert (found >= exact).all()
    assert found == pytest.approx(exact, rel=1e-8)


@pytest.mark.parametrize("ratio", [0.3, 0.7, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("rate", [1e-3, 0.05, 0.5, 0.99])
def test_poisson_between_whole_orders_is_the_divergence_of_the_mixture(ratio: float, rate: float) -> None:
    orders = [1.02, 1.1, 1.9, 2.5, 4.7, 11.3]
    exact = [renyi(ratio, ((1 - rate, 0), (rate, 1)), ((1, 0),), order) for order in orders]
    assert rdp_of([poisson(ratio, rate)], orders) == pytest.approx(np.array(exact), rel=1e-7, abs=1e-12)


def test_with_little_noise_fractional_orders_are_bounded_by_their_neighbours() -> None:
    orders = [1.02, 1.5, 2.5, 7.3]
    exact = np.array([renyi(0.15, ((0.9, 0), (0.1, 1)), ((1, 0),), order) for order in orders])
    found = rdp_of([poisson(0.15, 0.1)], orders)
    assert (found >= exact).all()
    assert (found <= rdp_of([poisson(0.15, 0.1)], np.ceil(orders))).all()


@pytest.mark.parametrize(("ratio", "rate", "order"), [(0.7, 0.3, 1.5), (1.0, 0.05, 4.0), (3.0, 0.5, 9.5)])
def test_the_other_direction_of_add_remove_costs_less(ratio: float, rate: float, order: float) -> None:
    other = renyi(ratio, ((1, 0),), ((1 - rate, 0), (rate, 1)), order)
    assert 0 < other < rdp_of([poisson(ratio, rate)], [order])[0]


@pytest.mark.parametrize("ratio", [0.25, 0.6, 1.0, 4.0, 50.0])
@pytest.mark.parametrize("rate", [1e-4, 0.01, 0.3, 0.9])
def test_poisson_at_whole_orders_is_dp_accountings(ratio: float, rate: float) -> None:
    theirs = RdpAccountant(WHOLE).compose(PoissonSampledDpEvent(rate, GaussianDpEvent(ratio)), 7).rdp
    # their sum starts from 1, so that it has few digits where there is next to nothing to pay
    assert rdp_of([poisson(ratio, rate, 7)], WHOLE) == pytest.approx(theirs, rel=1e-6, abs=1e-11)


def test_tiny_rates_keep_their_digits() -> None:
    rate, ratio = 1e-9, 30.0
    leading = np.array(FRACTIONAL + WHOLE) / 2 * rate**2 * math.expm1(ratio**-2)
    assert rdp_of([poisson(ratio, rate)], FRACTIONAL + WHOLE) == pytest.approx(leading, rel=1e-6)


@given(st.floats(0.05, 1000), st.floats(1e-6, 1))
def test_poisson_grows_with_the_order_and_never_exceeds_no_sampling(ratio: float, rate: float) -> None:
    found = rdp_of([poisson(ratio, rate)], ORDERS)
    assert (np.diff(found) >= -1e-9 * found[1:]).all()
    assert (found > 0).all()
    assert (found <= rdp_of([gaussian(ratio)], ORDERS) * (1 + 1e-12)).all()


@given(st.floats(0.1, 100), st.floats(1e-5, 0.9), st.floats(1.01, 3))
def test_poisson_falls_with_noise_and_grows_with_the_rate(ratio: float, rate: float, factor: float) -> None:
    found = rdp_of([poisson(ratio, rate)], WHOLE + FRACTIONAL)
    assert (rdp_of([poisson(ratio * factor, rate)], WHOLE + FRACTIONAL) <= found).all()
    assert (rdp_of([poisson(ratio, min(1, rate * factor))], WHOLE + FRACTIONAL) >= found).all()


def test_zero_out_costs_what_add_remove_costs() -> None:
    zero_out = poisson(1.3, 0.1, relation=Relation.ZERO_OUT)
    assert rdp_of([zero_out], ORDERS).tolist() == rdp_of([poisson(1.3, 0.1)], ORDERS).tolist()


def test_poisson_under_replace_one_is_refused_at_any_noise() -> None:
    for noise in (1e-6, 5.0):
        with pytest.raises(ValueError, match="replace-one"):
            rdp_of([poisson(noise, 0.1, relation=Relation.REPLACE_ONE)], ORDERS)
    everyone = poisson(5, 1, relation=Relation.REPLACE_ONE, sensitivity=2)
    assert rdp_of([everyone], [3.0]) == pytest.approx([3 / (2 * 2.5**2)])


@pytest.mark.parametrize("ratio", [0.4, 1.0, 2.5, 10.0, 40.0])
@pytest.mark.parametrize(("drawn", "population"), [(1, 1000), (1, 20), (10, 20), (19, 20)])
def test_fixed_size_is_dp_accountings_bound_or_no_amplification(ratio: float, drawn: int, population: int) -> None:
    orders = [2, 3, 4, 5, 8, 16, 33]  # at higher ones their differences run out of digits
    event = SampledWithoutReplacementDpEvent(population, drawn, GaussianDpEvent(ratio))
    # at the same ratio: dp-accounting's RDP leaves the sensitivity of an exchange to its caller
    theirs = RdpAccountant(orders, NeighboringRelation.REPLACE_ONE).compose(event).rdp
    expected = np.minimum(theirs, rdp_of([gaussian(ratio)], orders))
    assert rdp_of([fixed_size(ratio, drawn, population)], orders) == pytest.approx(expected, rel=1e-6, abs=1e-11)


@pytest.mark.parametrize("ratio", [1.0, 10.0, 40.0])
def test_fixed_size_at_a_high_order_is_the_theorem_in_many_digits(ratio: float) -> None:
    order, rate = 64, 0.05
    with mpmath.workdps(400):
        r, q = mpmath.mpf(ratio), mpmath.mpf(1) / 20

        def power(k: int) -> mpmath.mpf:
            return mpmath.exp(k * (k - 1) / (2 * r * r))

        def central(size: int) -> mpmath.mpf:
            return mpmath.fsum((-1) ** (size - k) * mpmath.binomial(size, k) * power(k) for k in range(size + 1))

        total = mpmath.mpf(1)
        for j in range(2, order + 1):
            tight = 4 * mpmath.sqrt(central(j // 2 * 2) * central((j + 1) // 2 * 2))
            total += q**j * mpmath.binomial(order, j) * min(tight, 2 * power(j))
        exact = float(mpmath.log(total) / (order - 1))
    found = rdp_of([fixed_size(ratio, round(20 * rate), 20)], [order])[0]
    assert min(exact, order / (2 * ratio**2)) <= found * (1 + 1e-12)
    assert found == pytest.approx(min(exact, order / (2 * ratio**2)), rel=1e-6)


@pytest.mark.parametrize("ratio", [0.4, 1.0, 2.5, 10.0])
@pytest.mark.parametrize("drawn", [1, 10, 18])
def test_fixed_size_bounds_the_divergence_of_real_neighbours(ratio: float, drawn: int) -> None:
    share = drawn / 20
    opposite: Parts = ((1 - share, 0), (share, 0.5))
    mirrored: Parts = ((1 - share, 0), (share, -0.5))
    # all others at one end: the exchanged unit, drawn, takes the place of one of them
    among: Parts = ((1 - share, 0), (share, 1))
    orders = [1.2, 1.7, 2.0, 2.5, 3.0, 6.4, 12.0]
    found = rdp_of([fixed_size(ratio, drawn, 20)], orders)
    for one, other in ((opposite, mirrored), (among, ((1, 0),)), (((1, 0),), among)):
        exact = np.array([renyi(ratio, one, other, order) for order in orders])
        assert (exact > 0).all()
        assert (found >= exact * (1 - 1e-9)).all()


def test_a_fixed_size_of_everyone_is_no_sample() -> None:
    assert rdp_of([fixed_size(2, 20, 20)], WHOLE).tolist() == rdp_of([gaussian(2)], WHOLE).tolist()


@given(st.floats(0.05, 300), st.integers(1, 50), st.integers(0, 1000))
def test_fixed_size_is_between_nothing_and_no_sampling(ratio: float, drawn: int, others: int) -> None:
    found = rdp_of([fixed_size(ratio, drawn, drawn + others)], ORDERS)
    assert (found > 0).all()
    assert (found <= rdp_of([gaussian(ratio)], ORDERS) * (1 + 1e-12)).all()


def test_events_add_up() -> None:
    events: list[Event] = [gaussian(3), poisson(1, 0.1, 5), fixed_size(2, 3, 10, 2)]
    whole = rdp_of(events, ORDERS)
    assert whole == pytest.approx(sum(rdp_of([event], ORDERS) for event in events), rel=1e-14)
    assert rdp_of([poisson(1, 0.1, 5)], ORDERS) == pytest.approx(5 * rdp_of([poisson(1, 0.1)], ORDERS), rel=1e-14)


def test_next_to_no_noise_costs_a_lot_and_is_never_nan() -> None:
    for noise in (1e-200, 1e-9, 1e-3, 0.01, 0.1):
        for event in (gaussian(noise), poisson(noise, 0.01), fixed_size(noise, 1, 100)):
            assert (rdp_of([event], ORDERS) > 5).all()
    assert rdp_of([poisson(1e-200, 0.01)], [2.0]).tolist() == [math.inf]
    assert rdp_of([gaussian(1e-200, count=0)], [2.0]).tolist() == [0.0]


def test_noise_beyond_measure_costs_next_to_nothing() -> None:
    for event in (poisson(1e200, 0.01), fixed_size(1e200, 1, 100)):
        assert (rdp_of([event], ORDERS) < 1e-20).all()


@pytest.mark.parametrize("order", [1.0, 0.5, math.inf, math.nan])
def test_orders_up_to_one_are_refused(order: float) -> None:
    with pytest.raises(ValueError, match="above 1"):
        rdp_of([gaussian(1)], [2.0, order])


def test_unknown_events_are_refused() -> None:
    class Laplace:
        noise_std, sensitivity, count = 1.0, 1.0, 1

    with pytest.raises(TypeError, match="expected an event"):
        rdp_of([Laplace()], [2.0])  # type: ignore[list-item]


@given(
    st.lists(st.tuples(st.floats(1.02, 500), st.floats(0, 1e3)), min_size=1, max_size=9),
    st.floats(1e-15, 0.99),
)
def test_conversion_is_dp_accountings(points: list[tuple[float, float]], delta: float) -> None:
    orders, rdp = np.array(points).T
    theirs, _ = compute_epsilon(orders.tolist(), rdp.tolist(), delta)
    assert epsilon_of_rdp(orders, rdp, delta) == pytest.approx(theirs, rel=1e-9, abs=1e-9)


@given(st.floats(0.01, 50), st.floats(1e-12, 0.4))
def test_conversion_never_claims_less_than_the_closed_form(mu: float, delta: float) -> None:
    exact = epsilon_of_mu(mu, delta)
    found = epsilon_of_rdp(ORDERS, rdp_of([gaussian(1 / mu)], ORDERS), delta)
    assert found >= exact * (1 - 1e-9)


@pytest.mark.parametrize("mu", [0.01, 0.1, 1.0, 10.0, 40.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-6, 1e-10])
def test_the_orders_are_close_enough(mu: float, delta: float) -> None:
    event = gaussian(1 / mu)
    fine = 1 + np.geomspace(1e-3, 1e5, 20_000)
    best = epsilon_of_rdp(fine, rdp_of([event], fine), delta)
    assert epsilon_of_rdp(ORDERS, rdp_of([event], ORDERS), delta) <= best * 1.002 + 1e-4


def test_without_noise_no_order_helps() -> None:
    assert epsilon_of_rdp([2.0], np.array([math.inf]), 0.1) == math.inf
    assert epsilon_of_rdp([], np.array([]), 0.1) == math.inf


@pytest.mark.parametrize("rdp", [math.nan, -1e-9])
def test_nan_and_negative_divergences_are_refused(rdp: float) -> None:
    with pytest.raises(ValueError, match="at least 0"):
        epsilon_of_rdp([2.0, 3.0], np.array([1.0, rdp]), 0.1)


@pytest.mark.parametrize("delta", [0.0, 1.0, math.nan])
def test_a_delta_that_is_no_probability_is_refused(delta: float) -> None:
    with pytest.raises(ValueError, match="delta"):
        epsilon_of_rdp([2.0], np.array([1.0]), delta)


def test_a_caller_cannot_change_what_is_remembered() -> None:
    before = rdp_of([poisson(1.7, 0.2)], WHOLE)
    before *= 0
    assert (rdp_of([poisson(1.7, 0.2)], WHOLE) > 0).all()
