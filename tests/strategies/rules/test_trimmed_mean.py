"""The coordinate-wise trimmed mean, and the equal one."""

import numpy as np
import pytest

from wardround.strategies.rules.equal_mean import EqualMean
from wardround.strategies.rules.robust import Robust
from wardround.strategies.rules.trimmed_mean import TrimmedMean
from wardround.vector import F32


def rows(n: int, size: int = 700, seed: int = 1) -> F32:
    return np.random.Generator(np.random.Philox(key=seed)).standard_normal((n, size)).astype(np.float32)


@pytest.mark.parametrize(("n", "f"), [(1, 0), (3, 1), (10, 3), (50, 10), (51, 25), (90, 20)])
@pytest.mark.parametrize("size", [1, 62, 700, 40_000])
def test_the_largest_and_smallest_values_are_left_out(n: int, f: int, size: int) -> None:
    given = rows(n, size)
    made = Robust(TrimmedMean(f)).aggregate(given)
    assert made.vector is not None
    expected = np.sort(given.astype(np.float64), axis=0)[f : n - f].mean(axis=0)
    assert np.abs(made.vector - expected).max() < 1e-6


@pytest.mark.parametrize("size", [62, 40_000])
def test_with_none_to_leave_out_it_is_the_mean(size: int) -> None:
    given = rows(12, size)
    trimmed, mean = Robust(TrimmedMean(0)).aggregate(given), Robust(EqualMean()).aggregate(given)
    assert trimmed.vector is not None
    assert mean.vector is not None
    assert np.abs(trimmed.vector - given.astype(np.float64).mean(axis=0)).max() < 1e-6
    assert np.abs(mean.vector - given.astype(np.float64).mean(axis=0)).max() < 1e-6
    assert [line.weight for line in trimmed.report.lines] == pytest.approx([1 / 12] * 12)
    assert [line.weight for line in mean.report.lines] == pytest.approx([1 / 12] * 12)


def test_both_report_products_with_the_aggregate() -> None:
    given = rows(10, 3000)
    for rule in (TrimmedMean(3), EqualMean()):
        made = Robust(rule).aggregate(given)
        assert made.vector is not None
        wide, result = given.astype(np.float64), made.vector.astype(np.float64)
        cosines = wide @ result / np.linalg.norm(wide, axis=1) / np.linalg.norm(result)
        assert [line.cosine for line in made.report.lines] == pytest.approx(cosines.tolist(), abs=1e-5)


def test_a_huge_vector_that_is_left_out_costs_no_digits() -> None:
    given = rows(10, 700)
    given[4] *= 1e6
    made = Robust(TrimmedMean(2), norm_factor=1e9).aggregate(given)
    assert made.vector is not None
    expected = np.sort(given.astype(np.float64), axis=0)[2:8].mean(axis=0)
    assert np.abs(made.vector - expected).max() < 1e-6
    assert made.report.lines[4].weight < 0.01


def test_half_of_the_vectors_or_more_are_too_many() -> None:
    TrimmedMean(4).check(9)
    with pytest.raises(ValueError, match="expected num_byzantine < n / 2, got 5 of 10"):
        TrimmedMean(5).check(10)
    with pytest.raises(ValueError, match="expected num_byzantine < n, got 2 of 2"):
        EqualMean(2).check(2)
