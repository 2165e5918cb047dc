"""The coordinate-wise median."""

import numpy as np
import pytest

from wardround.contribution import Verdict
from wardround.strategies.rules.median import Median
from wardround.strategies.rules.robust import Robust
from wardround.vector import F32


def rows(n: int, size: int = 700, seed: int = 1) -> F32:
    return np.random.Generator(np.random.Philox(key=seed)).standard_normal((n, size)).astype(np.float32)


@pytest.mark.parametrize("n", [1, 2, 5, 10, 51])
@pytest.mark.parametrize("size", [1, 62, 700, 40_000])
def test_it_is_the_median_of_every_coordinate(n: int, size: int) -> None:
    given = rows(n, size)
    made = Robust(Median()).aggregate(given)
    assert made.vector is not None
    np.testing.assert_array_max_ulp(made.vector, np.median(given.astype(np.float64), axis=0).astype(np.float32))


def test_the_report_gives_a_vector_in_the_middle_more_than_one_at_the_edge() -> None:
    given = rows(9, 5000)
    given[3] = 0.0
    given[7] = 50.0
    made = Robust(Median(2)).aggregate(given)
    weights = np.array([line.weight for line in made.report.lines])
    assert weights.sum() == pytest.approx(1.0)
    assert weights[3] == weights.max() > 0.2
    assert weights[7] == 0.0
    assert made.report.lines[7].verdict is Verdict.REJECTED
    assert all(line.verdict is Verdict.ACCEPTED for line in made.report.lines[:3])


def test_half_of_the_vectors_or_more_are_too_many() -> None:
    Median(4).check(9)
    with pytest.raises(ValueError, match="expected num_byzantine < n / 2, got 5 of 10"):
        Median(5).check(10)
