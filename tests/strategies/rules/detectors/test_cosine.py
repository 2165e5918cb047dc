from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from wardround.strategies.rules.detectors.cosine import CosineOutliers, agreement, pairwise_cosines
from wardround.strategies.rules.rule import RoundContext
from wardround.strategies.rules.vectors import Vectors
from wardround.vector import F32, F64, MemoryVector


def normal(seed: int, *shape: int) -> F64:
    return np.random.Generator(np.random.Philox(key=seed)).normal(size=shape)


def vectors(rows: F64) -> Vectors:
    return Vectors.of([MemoryVector(row.astype(np.float32)) for row in rows])


def test_pairwise_cosines_are_those_of_float64() -> None:
    rows: F32 = normal(1, 6, 50).astype(np.float32)
    rows[3] = 0.0
    cosines, norms = pairwise_cosines(vectors(rows.astype(np.float64)))
    wide = rows.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1)
    unit = wide / np.where(lengths, lengths, 1.0)[:, None]
    expected = unit @ unit.T
    np.testing.assert_allclose(cosines, expected, atol=1e-5)
    np.testing.assert_allclose(norms, lengths, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_agreement_is_the_cosine_to_the_geometric_median_of_the_directions(seed: int) -> None:
    rows = normal(seed, 1, 4) + normal(seed + 50, 9, 4)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    median = minimize(
        lambda point: np.linalg.norm(unit - point, axis=1).sum(),
        unit.mean(axis=0),
        method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 20_000},
    ).x
    np.testing.assert_allclose(agreement(unit @ unit.T), unit @ median / np.linalg.norm(median), atol=1e-3)


def test_directions_that_cancel_out_agree_with_nothing() -> None:
    unit = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    np.testing.assert_allclose(agreement(unit @ unit.T), 0.0)


def test_length_does_not_matter() -> None:
    rows = normal(2, 1, 30) + normal(3, 8, 30)
    rows[0] *= -1
    scale = np.exp(normal(4, 8, 1))
    once = CosineOutliers().inspect(vectors(rows), list("abcdefgh"), RoundContext(size=30))
    again = CosineOutliers().inspect(vectors(rows * scale), list("abcdefgh"), RoundContext(size=30))
    np.testing.assert_allclose(once.scores, again.scores, rtol=1e-3, atol=1e-3)
    assert once.flagged.tolist() == [True] + [False] * 7
    assert once.reasons[0].startswith("its cosine to the centre of all directions is -0.")


def test_a_large_minority_is_found_although_it_agrees_with_itself() -> None:
    rows = normal(5, 1, 200) + 0.5 * normal(6, 11, 200)
    rows[:5] = -rows[5] + 0.01 * normal(7, 5, 200)
    found = CosineOutliers().inspect(vectors(rows), list("abcdefghijk"), RoundContext(size=200))
    assert found.scores[:5].min() > found.scores[5:].max()


@pytest.mark.parametrize("options", [{"threshold": -1.0}, {"least": 0.0}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected threshold > 0 and least > 0"):
        CosineOutliers(**options)
