"""Tails of chi-square, normal and binomial variables, against scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from wardround.strategies.privacy.tail_probability import (
    binomial_limits,
    binomial_tails,
    chi_square_limits,
    chi_square_tails,
    normal_limit,
)


@pytest.mark.parametrize("freedom", [0.5, 1, 2, 3, 8, 62, 1000, 65_536, 1 << 20])
def test_chi_square_tails_are_scipys(freedom: float) -> None:
    for deviations in np.linspace(-7, 8, 31):
        value = freedom + deviations * math.sqrt(2 * freedom)
        if value > 0:
            expected = stats.chi2.cdf(value, freedom), stats.chi2.sf(value, freedom)
            found = chi_square_tails(value, freedom)
            smaller = int(np.argmin(expected))
            assert found[smaller] == pytest.approx(expected[smaller], rel=1e-6)
            assert sum(found) == pytest.approx(1)


def test_chi_square_tails_at_the_ends() -> None:
    assert chi_square_tails(0.0, 5) == (0.0, 1.0)
    assert chi_square_tails(math.inf, 5) == (1.0, 0.0)


@pytest.mark.parametrize(("value", "freedom"), [(math.nan, 3), (-1.0, 3), (1.0, 0), (1.0, math.nan), (1.0, math.inf)])
def test_chi_square_tails_refuse_what_is_no_value(value: float, freedom: float) -> None:
    with pytest.raises(ValueError, match="freedom above 0"):
        chi_square_tails(value, freedom)


@pytest.mark.parametrize(("freedom", "chance"), [(8, 1e-12), (62, 1e-7), (65_536, 5e-8)])
def test_chi_square_limits_leave_out_exactly_the_chance(freedom: float, chance: float) -> None:
    low, high = chi_square_limits(freedom, chance)
    assert stats.chi2.cdf(low, freedom) == pytest.approx(chance, rel=1e-6)
    assert stats.chi2.sf(high, freedom) == pytest.approx(chance, rel=1e-6)


def test_normal_limits_leave_out_exactly_the_chance() -> None:
    for chance in (0.05, 1e-7, 1e-12):
        assert 2 * stats.norm.sf(normal_limit(chance)) == pytest.approx(chance)


@pytest.mark.parametrize("n", [1, 2, 64, 1000, 1_000_000])
@pytest.mark.parametrize("p", [0.0, 1e-9, 0.0027, 0.5, 0.731, 1 - 1e-6, 1.0])
def test_binomial_tails_are_scipys(n: int, p: float) -> None:
    for deviations in (-8, -5, -1, 0, 0.5, 1, 5, 8):
        count = int(n * p + deviations * math.sqrt(n * p * (1 - p)))
        expected = stats.binom.cdf(count, n, p), stats.binom.sf(count - 1, n, p)
        found = binomial_tails(count, n, p)
        smaller = int(np.argmin(expected))
        assert found[smaller] == pytest.approx(expected[smaller], rel=1e-6, abs=1e-300)
        assert found[1 - smaller] == pytest.approx(expected[1 - smaller], rel=1e-6)


def test_binomial_tails_far_out_are_0_and_1() -> None:
    assert binomial_tails(1000, 1_000_000, 0.5) == (0.0, 1.0)
    assert binomial_tails(999_000, 1_000_000, 0.5) == (1.0, 0.0)


def test_binomial_tails_refuse_what_is_no_probability() -> None:
    for p in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="probability"):
            binomial_tails(1, 3, p)


@pytest.mark.parametrize(
    ("n", "p", "chance"),
    [(64_000, 0.1, 1e-8), (100, 0.5, 1e-7), (64, 0.02, 1e-9), (64, 0.89, 1e-9), (8, 0.5, 1e-7), (1, 0.5, 0.1)],
)
def test_binomial_limits_hold_all_that_is_not_unlikely_and_nothing_else(n: int, p: float, chance: float) -> None:
    low, high = binomial_limits(n, p, chance)
    assert stats.binom.cdf(low, n, p) >= chance
    assert stats.binom.sf(high - 1, n, p) >= chance
    assert low == 0 or stats.binom.cdf(low - 1, n, p) < chance
    assert high == n or stats.binom.sf(high, n, p) < chance
