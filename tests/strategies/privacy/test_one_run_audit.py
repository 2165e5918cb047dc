"""What guesses about canaries show of epsilon, against published figures and a reading of the theorem of our own."""

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from wardround.strategies.privacy.gaussian_dp import epsilon_of_mu
from wardround.strategies.privacy.one_run_audit import (
    CHANCE,
    LARGEST_DELTA,
    coin_flips,
    least_epsilon,
    measure,
    p_value,
)
from wardround.strategies.privacy.secure_random import SecureRandom
from wardround.vector import F64


def stream(number: int) -> SecureRandom:
    return SecureRandom(hashlib.sha256(f"one run {number}".encode()).digest())


def gaussian_canaries(mu: float, number: int, m: int = 1000) -> tuple[NDArray[np.bool_], F64]:
    """Who was put in, and scores that differ by mu with standard normal noise."""
    random = stream(number)
    included = coin_flips(random, m)
    return included, included * mu + random.normal(m)


def test_the_published_figures_are_met() -> None:
    """Steinke et al. 2023, Appendix D (m = 1000) and section 7 (m = 100,000); the second is printed cut off."""
    assert least_epsilon(1000, 100, 75, 1e-4, 0.05) == pytest.approx(0.673, abs=5e-4)
    assert 2.675 <= least_epsilon(100_000, 1510, 1439, 1e-5, 0.05) < 2.676


def test_without_delta_it_is_a_binomial_tail() -> None:
    for correct in (0, 40, 75, 100):
        expected = stats.binom.sf(correct - 1, 100, 0.75)
        assert p_value(500, 100, correct, math.log(3), 0.0) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("m", "guesses", "correct"), [(50, 50, 44), (200, 80, 70), (1000, 1000, 640)])
@pytest.mark.parametrize("delta", [1e-8, 1e-5, 1e-3])
def test_it_is_the_theorem_as_written(m: int, guesses: int, correct: int, delta: float) -> None:
    """P[at least v right] <= f(v) + 2 m delta max over i of (f(v - i) - f(v)) / i, f the tail of a binomial."""
    epsilon = 0.8
    right = stats.binom(guesses, math.exp(epsilon) / (1 + math.exp(epsilon)))
    rises = ((right.sf(correct - i - 1) - right.sf(correct - 1)) / i for i in range(1, m + 1))
    expected = min(1.0, right.sf(correct - 1) + 2 * m * delta * max(rises))
    assert p_value(m, guesses, correct, epsilon, delta) == pytest.approx(expected, rel=1e-9)


@given(
    guesses=st.integers(1, 200),
    more=st.integers(0, 300),
    part=st.floats(0, 1),
    epsilon=st.floats(0, 8),
    delta=st.floats(0, 1e-3),
)
def test_more_epsilon_explains_more_and_more_right_guesses_show_more(
    guesses: int, more: int, part: float, epsilon: float, delta: float
) -> None:
    m, correct = guesses + more, round(part * guesses)
    found = p_value(m, guesses, correct, epsilon, delta)
    assert 0 <= found <= 1
    assert p_value(m, guesses, correct, epsilon + 0.5, delta) >= found * (1 - 1e-9)
    least = least_epsilon(m, guesses, correct, delta, CHANCE)
    assert least == 0 or p_value(m, guesses, correct, least, delta) < CHANCE
    if correct < guesses:
        assert least_epsilon(m, guesses, correct + 1, delta, CHANCE) >= least


@pytest.mark.parametrize(
    ("canaries", "guesses", "correct", "epsilon", "delta"),
    [
        (10, 11, 5, 1.0, 0.0),
        (10, 5, 6, 1.0, 0.0),
        (10, 5, -1, 1.0, 0.0),
        (0, 0, 0, 1.0, 0.0),
        (10, 5, 5, math.nan, 0.0),
        (10, 5, 5, -1.0, 0.0),
        (10, 5, 5, 1.0, math.nan),
        (10, 5, 5, 1.0, 1.5),
    ],
)
def test_numbers_that_do_not_fit_are_refused(
    canaries: int, guesses: int, correct: int, epsilon: float, delta: float
) -> None:
    with pytest.raises(ValueError, match="expected"):
        p_value(canaries, guesses, correct, epsilon, delta)


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="finite scores"):
        measure(np.array([True, False]), np.array([0.0, math.nan]), 1e-8)
    with pytest.raises(ValueError, match="a score for each"):
        measure(np.array([True, False]), np.zeros(3), 1e-8)


def test_coins_are_fair_and_differ() -> None:
    flips = np.array([coin_flips(stream(number), 1000) for number in range(20)])
    assert stats.binomtest(int(flips.sum()), flips.size).pvalue > 1e-9
    assert len({row.tobytes() for row in flips}) == 20


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("mu", [0.1, 0.27, 1.0, 3.0])
def test_no_more_is_shown_than_holds(mu: float, number: int) -> None:
    """Canaries under a Gaussian mechanism, whose epsilon is known exactly."""
    found = measure(*gaussian_canaries(mu, number), LARGEST_DELTA)
    assert found.epsilon <= epsilon_of_mu(mu, LARGEST_DELTA)


@pytest.mark.parametrize("number", range(5))
def test_a_tenth_of_the_noise_shows(number: int) -> None:
    """Epsilon 1 at delta 1e-5, the largest that is allowed; with a tenth of the noise mu is ten times as large."""
    mu = 0.2681
    assert epsilon_of_mu(mu, 1e-5) == pytest.approx(1, abs=1e-3)
    claimed = epsilon_of_mu(mu, LARGEST_DELTA)
    assert 1.3 < claimed < 1.5
    assert measure(*gaussian_canaries(10 * mu, number), LARGEST_DELTA).epsilon > 1.5 * claimed


def test_canaries_that_seldom_take_part_show_as_well() -> None:
    """One in six is drawn at all, as in few steps of small batches; only its high score tells something."""
    random = stream(9)
    included = coin_flips(random, 1000)
    drawn = included & (random.uniform(1000) < 1 / 6)
    found = measure(included, np.asarray(8.0 * drawn + random.normal(1000), dtype=np.float64), LARGEST_DELTA)
    assert found.epsilon > 1


def test_blind_above_five() -> None:
    """Right in every guess: a thousand canaries show no more than this, whatever leaks."""
    included = coin_flips(stream(1), 1000)
    found = measure(included, np.asarray(included * 1e9, dtype=np.float64), LARGEST_DELTA)
    assert found.correct == found.guesses == 1000
    assert found.epsilon == found.most
    assert 4 < found.most < 5
    assert found.most == least_epsilon(1000, 1000, 1000, LARGEST_DELTA, CHANCE / 9), "nine ways share the chance"


def test_a_larger_delta_would_hide_everything() -> None:
    assert max(least_epsilon(m, m, m, 1e-5, CHANCE) for m in (50, 100, 200, 1000, 10_000)) < 1.82


@pytest.mark.parametrize("m", [2, 3, 5, 20])
def test_few_canaries_show_nothing_and_break_nothing(m: int) -> None:
    included = np.arange(m) % 2 == 0
    found = measure(included, included * 1.0, LARGEST_DELTA)
    assert 0 <= found.epsilon <= found.most < 1
