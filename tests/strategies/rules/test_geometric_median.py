import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wardround.strategies.rules.geometric_median import GeometricMedian, coordinates, median_weights
from wardround.strategies.rules.robust import Robust
from wardround.vector import F32, F64


def median(rows: F32, num_byzantine: int = 0) -> F32:
    vector = Robust(GeometricMedian(num_byzantine), norm_factor=np.inf).aggregate(rows).vector
    assert vector is not None
    return vector


def weiszfeld(rows: F64, steps: int = 5000) -> F64:
    """The textbook iteration on the vectors themselves, which is no good at a data point."""
    place: F64 = rows.mean(axis=0)
    for _ in range(steps):
        inverse = 1.0 / np.linalg.norm(rows - place, axis=1)
        place = inverse @ rows / inverse.sum()
    return place


def rows_of(n: int, size: int, seed: int) -> F32:
    return np.random.Generator(np.random.Philox(key=seed)).normal(size=(n, size)).astype(np.float32)


@pytest.mark.parametrize(("n", "size"), [(3, 2), (10, 3), (20, 500), (50, 2000)])
def test_is_where_weiszfelds_iteration_goes(n: int, size: int) -> None:
    rows = rows_of(n, size, 3)
    np.testing.assert_allclose(median(rows), weiszfeld(rows.astype(np.float64)), rtol=0, atol=2e-6)


@given(arrays(np.int64, st.tuples(st.integers(1, 9), st.integers(1, 4)), elements=st.integers(-3, 3)))
def test_the_residual_is_met_with_ties_duplicates_and_lines(places: np.ndarray) -> None:
    points = places.astype(np.float64)
    weights, residual = median_weights(points, 1e-6, 200)
    assert residual <= 1e-6
    assert weights.min() >= 0 and weights.sum() == pytest.approx(1.0)
    at = weights @ points
    best = float(np.linalg.norm(points - at, axis=1).sum())
    spread = float(np.ptp(points)) + 1.0
    # nothing around it is better, nor any of the points
    generator = np.random.Generator(np.random.Philox(key=len(points)))
    around = at + generator.normal(size=(50, points.shape[1])) * np.geomspace(1e-3, 1, 50)[:, None]
    for other in (*points, *around):
        assert best <= float(np.linalg.norm(points - other, axis=1).sum()) + 1e-5 * spread


@given(st.integers(0, 10_000), st.integers(2, 8), st.integers(-6, 12))
def test_the_residual_is_met_with_one_point_near_or_far(seed: int, n: int, power: int) -> None:
    points = rows_of(n, 3, seed).astype(np.float64)
    points[0] *= 10.0**power
    assert median_weights(coordinates(points @ points.T), 1e-6, 200)[1] <= 1e-6


def test_too_few_iterations_are_owned_up_to() -> None:
    points = rows_of(9, 4, 2).astype(np.float64)
    assert median_weights(points, 1e-12, 1)[1] > 1e-12


def test_more_than_half_at_one_place_are_the_median() -> None:
    rows = rows_of(9, 40, 1)
    rows[4:] = rows[4]
    np.testing.assert_allclose(median(rows), rows[4], rtol=1e-6)


def test_a_vector_in_the_middle_of_the_others_is_the_median() -> None:
    corners = np.array([[1, 0], [-1, 0], [0, 1], [0, -1], [0, 0]], np.float32)
    np.testing.assert_array_equal(median(corners + 3), [3, 3])


def test_an_iterate_that_would_fall_on_a_vector_that_is_not_the_median_goes_on() -> None:
    """The mean, where Weiszfeld begins, is the first point, and the median is another one (Vardi & Zhang 2000)."""
    points = np.array([[0, 0], [3, 0], [3, 0], [3, 0], [-9, 0]], np.float32)
    np.testing.assert_allclose(median(points), [3, 0], atol=1e-6)


def test_one_two_and_equal_vectors() -> None:
    rows = rows_of(2, 30, 1)
    np.testing.assert_array_equal(median(rows[:1]), rows[0])
    np.testing.assert_allclose(median(rows), rows.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(median(np.repeat(rows[:1], 6, axis=0)), rows[0], rtol=1e-6)
    np.testing.assert_array_equal(median(np.zeros((3, 4), np.float32)), np.zeros(4))


def test_on_a_line_it_is_the_middle_or_between_the_two_in_the_middle() -> None:
    line = np.array([[0.0], [1.0], [5.0], [9.0], [100.0]], np.float32)
    np.testing.assert_allclose(median(line), [5.0])
    np.testing.assert_allclose(median(line[:4]), [3.0])


@pytest.mark.parametrize("length", [1e3, 1e6, 1e12])
def test_far_vectors_cost_the_others_no_precision(length: float) -> None:
    rows = rows_of(20, 300, 7)
    rows[13:] *= length
    found = median(rows, 7)
    np.testing.assert_allclose(found, weiszfeld(rows.astype(np.float64), 20_000), rtol=0, atol=1e-5)


def test_small_updates_on_top_of_a_common_one() -> None:
    spread = rows_of(10, 500, 4) * np.float32(1e-4)
    rows = (rows_of(1, 500, 5) + spread).astype(np.float32)
    expected = weiszfeld(rows.astype(np.float64))
    assert np.linalg.norm(median(rows) - expected) < 1e-3 * np.linalg.norm(rows.std(axis=0))


def test_coordinates_keep_inner_products_of_any_length() -> None:
    points = rows_of(6, 6, 8).astype(np.float64) * np.array([1, 1e-9, 1e12, 1, 0, 1])[:, None]
    gram = points @ points.T
    found = coordinates(gram)
    lengths = np.linalg.norm(points, axis=1)
    np.testing.assert_array_less(np.abs(found @ found.T - gram), 1e-13 * lengths[:, None] * lengths + 1e-300)


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="expected tolerance > 0, got 0"):
        GeometricMedian(tolerance=0.0)
    with pytest.raises(ValueError, match="expected iterations >= 1, got 0"):
        GeometricMedian(iterations=0)
