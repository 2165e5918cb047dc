"""The strategy matrix against generic optimisers, closed forms, and every pattern of participation."""

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import binom

from wardround.strategies.privacy.banded_matrix import OPTIMISED_ROUNDS, BandedMatrix, banded_matrix
from wardround.vector import F64

SHAPES = [(1, 1), (2, 2), (7, 3), (12, 12), (50, 5), (OPTIMISED_ROUNDS + 44, 6)]


def squared_error(matrix: F64) -> float:
    """‖A C^-1‖² with A of ones on and below the diagonal."""
    ones = np.tril(np.ones_like(matrix))
    return float(np.linalg.norm(ones @ np.linalg.inv(matrix)) ** 2)


def best_error(rounds: int, bands: int) -> float:
    """The least error that scipy finds over all banded matrices with columns of norm 1, from a random start."""
    ones = np.tril(np.ones((rounds, rounds)))
    rows, columns = np.nonzero(np.tril(ones, -1) - np.tril(ones, -bands))

    def value_and_gradient(free: F64) -> tuple[float, F64]:
        matrix = np.eye(rounds)
        matrix[rows, columns] = free
        lengths = np.linalg.norm(matrix, axis=0)
        matrix /= lengths
        inverse = np.linalg.inv(matrix)
        product = ones @ inverse
        gradient = -2 * product.T @ product @ inverse.T
        gradient = (gradient - matrix * (matrix * gradient).sum(axis=0)) / lengths
        return float((product**2).sum()), gradient[rows, columns]

    start = 0.3 * np.random.Generator(np.random.Philox(key=rounds * 1000 + bands)).random(rows.size)
    found = minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", options={"maxiter": 5000, "maxfun": 9999})
    return float(found.fun)


def patterns(rounds: int, separation: int, first: int = 0) -> Iterator[list[int]]:
    """Every set of rounds that are at least `separation` apart."""
    yield []
    for start in range(first, rounds):
        for rest in patterns(rounds, separation, start + separation):
            yield [start, *rest]


def sensitivity_by_enumeration(matrix: F64, separation: int) -> float:
    """The most that contributions of norm 1 in rounds so far apart move Cx: signs can make every product positive."""
    gram = np.abs(matrix.T @ matrix)
    return math.sqrt(max(gram[np.ix_(rounds, rounds)].sum() for rounds in patterns(len(matrix), separation)))


def sensitivity_by_programme(matrix: F64, separation: int) -> float:
    """The same for many rounds, where only neighbouring participations share rows: best sum up to a last round."""
    gram = np.abs(matrix.T @ matrix)
    assert not np.triu(gram, 2 * separation).any()
    best = np.diag(gram).copy()
    for now in range(len(matrix)):
        before = range(now - separation + 1)
        best[now] += max((best[last] + 2 * gram[last, now] for last in before), default=0.0)
    return math.sqrt(best.max())


@pytest.mark.parametrize(("rounds", "bands"), SHAPES)
def test_it_is_banded_below_its_diagonal_with_columns_of_norm_one(rounds: int, bands: int) -> None:
    matrix = banded_matrix(rounds, bands).dense()
    assert matrix.shape == (rounds, rounds)
    assert not np.triu(matrix, 1).any() and not np.tril(matrix, -bands).any()
    lengths = np.linalg.norm(matrix, axis=0)
    assert (lengths <= 1).all() and (lengths > 1 - 1e-11).all()
    assert (np.diag(matrix, -bands + 1) > 0).all()  # the last band is used


@pytest.mark.parametrize(("rounds", "bands"), SHAPES)
def test_rows_and_deviations_are_those_of_the_dense_matrix(rounds: int, bands: int) -> None:
    matrix = banded_matrix(rounds, bands)
    for t in range(rounds):
        assert np.array_equal(matrix.row(t), matrix.dense()[t, max(0, t - bands + 1) : t + 1][::-1])
    noise = np.zeros((rounds, rounds))
    for t in range(rounds):  # forward substitution on the identity
        row = matrix.row(t)
        noise[t, t] = 1
        noise[t] = (noise[t] - row[1:] @ noise[t - len(row) + 1 : t][::-1]) / row[0]
    np.testing.assert_allclose(matrix.deviations(), np.sqrt((noise**2).sum(axis=1)), rtol=1e-9)


def test_one_band_is_plain_gaussian_noise() -> None:
    np.testing.assert_allclose(banded_matrix(9, 1).dense(), np.eye(9), rtol=0, atol=1e-11)


def test_two_rounds_reach_the_closed_form() -> None:
    # (3 - 2x) / (1 - x²) is least at x = (3 - √5) / 2, where it is the square of the golden ratio
    assert squared_error(banded_matrix(2, 2).dense()) == pytest.approx(((1 + 5**0.5) / 2) ** 2, rel=1e-5)


@pytest.mark.parametrize(("rounds", "bands"), [(6, 2), (12, 3), (20, 20), (50, 5), (64, 8)])
def test_the_error_is_that_of_the_best_banded_matrix(rounds: int, bands: int) -> None:
    ours, best = squared_error(banded_matrix(rounds, bands).dense()), best_error(rounds, bands)
    assert best * (1 - 1e-5) <= ours <= best * 1.001


def test_more_bands_have_less_error_and_all_have_less_than_the_gaussian() -> None:
    errors = [squared_error(banded_matrix(40, bands).dense()) for bands in (1, 2, 3, 5, 10, 20, 40)]
    assert errors[0] == pytest.approx(40 * 41 / 2)
    assert all(more < fewer for fewer, more in pairwise(errors))
    # noise at equal epsilon, with 5 bands and a client in 8 of 40 rounds either way: over 40 % less
    assert math.sqrt(errors[3] / errors[0]) < 0.6


def test_more_bands_than_rounds_are_as_many_as_rounds() -> None:
    few, many = banded_matrix(6, 6), banded_matrix(6, 20)
    assert np.array_equal(few.columns, many.columns)
    assert many.sensitivity == 1


def test_many_rounds_have_the_coefficients_of_the_inverse_square_root() -> None:
    rounds, bands = OPTIMISED_ROUNDS + 1, 4
    matrix = banded_matrix(rounds, bands).dense()
    coefficients = np.array([binom(2 * k, k) / 4**k for k in range(bands)])
    np.testing.assert_allclose(matrix[:bands, 0], coefficients / np.linalg.norm(coefficients), rtol=1e-9)
    short = coefficients[:2] / np.linalg.norm(coefficients[:2])
    np.testing.assert_allclose(matrix[-2:, -2], short, rtol=1e-9)
    assert squared_error(matrix) < 0.35 * rounds * (rounds + 1) / 2


def test_it_is_the_same_each_time() -> None:
    assert np.array_equal(banded_matrix(30, 4).columns, banded_matrix(30, 4).columns)


@pytest.mark.parametrize(("rounds", "bands"), [(9, 3), (10, 3), (12, 4), (13, 2), (11, 11)])
def test_sensitivity_is_that_of_the_worst_pattern_of_rounds_that_are_bands_apart(rounds: int, bands: int) -> None:
    matrix = banded_matrix(rounds, bands)
    assert sensitivity_by_enumeration(matrix.dense(), bands) == pytest.approx(matrix.sensitivity, rel=1e-9)
    assert matrix.sensitivity == math.sqrt(math.ceil(rounds / bands))


@pytest.mark.parametrize(("rounds", "bands", "separation"), [(12, 3, 3), (12, 4, 3), (13, 5, 4)])
def test_the_programme_agrees_with_enumeration(rounds: int, bands: int, separation: int) -> None:
    matrix = banded_matrix(rounds, bands).dense()
    expected = sensitivity_by_enumeration(matrix, separation)
    assert sensitivity_by_programme(matrix, separation) == pytest.approx(expected, rel=1e-12)


def test_rounds_closer_together_than_there_are_bands_are_worse_than_their_number() -> None:
    matrix = banded_matrix(50, 5)
    assert sensitivity_by_programme(matrix.dense(), 5) == pytest.approx(math.sqrt(10), rel=1e-9)
    assert matrix.sensitivity == math.sqrt(10)
    closer = sensitivity_by_programme(matrix.dense(), 4)
    assert closer == pytest.approx(4.21, abs=0.01) and closer > 1.15 * math.sqrt(13)
    # one who takes part at every fourth round reaches it
    apart = np.zeros(50)
    apart[1::4] = 1
    assert np.linalg.norm(matrix.dense() @ apart) == pytest.approx(closer, rel=0.01)


@pytest.mark.parametrize(("rounds", "bands"), [(0, 1), (3, 0), (-1, 2)])
def test_no_rounds_and_no_bands_are_refused(rounds: int, bands: int) -> None:
    with pytest.raises(ValueError, match="at least 1 round and 1 band"):
        banded_matrix(rounds, bands)


@pytest.mark.parametrize(
    "columns",
    [
        np.array([[1.0, np.nan], [1.0, 0.0]]),
        np.array([[0.8, 0.7], [1.0, 0.0]]),  # too long
        np.array([[0.6, 0.6], [0.6, 0.6]]),  # below the last row
        np.array([[0.0, 0.6], [0.6, 0.0]]),
        np.array([[-0.6, 0.6], [0.6, 0.0]]),
        np.array([[0.6, 0.6]]),  # more bands than rounds
        np.array([1.0, 1.0]),
    ],
)
def test_columns_that_break_the_sensitivity_are_refused(columns: F64) -> None:
    with pytest.raises(ValueError, match="expected"):
        BandedMatrix(columns)
