import numpy as np
import pytest

from wardround.strategies.rules.caf import Caf
from wardround.strategies.rules.robust import Robust
from wardround.vector import F32


def rows_of(n: int, size: int, seed: int) -> F32:
    return np.random.Generator(np.random.Philox(key=seed)).normal(size=(n, size)).astype(np.float32)


def filtered(rows: F32, num_byzantine: int) -> F32:
    vector = Robust(Caf(num_byzantine), norm_factor=np.inf).aggregate(rows).vector
    assert vector is not None
    return vector


def test_without_byzantine_vectors_it_is_the_mean() -> None:
    rows = rows_of(7, 50, 1)
    np.testing.assert_allclose(filtered(rows, 0), rows.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("length", [1e3, 1e6, 1e12])
def test_far_vectors_in_different_directions_all_lose_their_weight(length: float) -> None:
    rows = rows_of(10, 60, 2)
    rows[7:] = 0
    for index in range(3):
        rows[7 + index, index] = length
    made = Robust(Caf(3), norm_factor=np.inf).aggregate(rows)
    assert made.vector is not None
    np.testing.assert_allclose(made.vector, rows[:7].mean(axis=0), atol=max(1e-5, 1 / length))
    assert [line.weight for line in made.report.lines[7:]] == pytest.approx([0, 0, 0], abs=1e-9)
    assert [line.score for line in made.report.lines[7:]] == pytest.approx([1, 1, 1])


def test_equal_vectors_stay_what_they_are() -> None:
    rows = np.repeat(rows_of(1, 12, 5), 5, axis=0)
    np.testing.assert_allclose(filtered(rows, 2), rows[0], rtol=1e-6)
    np.testing.assert_array_equal(filtered(np.zeros((3, 4), np.float32), 1), np.zeros(4))
