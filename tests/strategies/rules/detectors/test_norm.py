from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.strategies.rules.detectors.norm import NormOutliers, deviations
from wardround.strategies.rules.rule import RoundContext
from wardround.strategies.rules.vectors import Vectors
from wardround.vector import F32, MemoryVector


def norms_of(*norms: float) -> Vectors:
    rows = np.zeros((len(norms), 5), np.float32)
    rows[np.arange(len(norms)), np.arange(len(norms)) % 5] = norms
    return Vectors.of([MemoryVector(row) for row in rows])


def inspect(detector: NormOutliers, vectors: Vectors) -> tuple[list[float], list[bool], tuple[str, ...]]:
    found = detector.inspect(vectors, [str(index) for index in range(vectors.n)], RoundContext(size=vectors.size))
    return found.scores.tolist(), found.flagged.tolist(), found.reasons


def test_robust_z_by_hand() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 100.0])
    spread = 1.4826 * 5 / 4.2 * 1.0
    np.testing.assert_allclose(deviations(values, 0.1), (values - 3.0) / spread)
    np.testing.assert_allclose(deviations(values, 10.0), (values - 3.0) / 10.0)


def test_the_robust_deviation_of_normal_values_is_about_one() -> None:
    generator = np.random.Generator(np.random.Philox(key=1))
    found = deviations(generator.normal(5.0, 2.0, size=20_001), 1e-9)
    assert found.std() == pytest.approx(1.0, abs=0.03)


def test_long_and_short_vectors_are_flagged_with_the_reason() -> None:
    scores, flagged, reasons = inspect(NormOutliers(), norms_of(1.0, 1.1, 0.95, 1.05, 1.0, 5.0, 0.2))
    assert flagged == [False] * 5 + [True, True]
    assert reasons[5].startswith("its norm is 5 times the median (") and reasons[5].endswith("3.5 allowed)")
    assert scores[5] == pytest.approx(np.log(5.0) / 0.1)


def test_small_differences_are_no_reason() -> None:
    _, flagged, _ = inspect(NormOutliers(), norms_of(1.0, 1.0, 1.0, 1.0, 1.0, 1.3))
    assert not any(flagged)
    _, flagged, _ = inspect(NormOutliers(least=0.01), norms_of(1.0, 1.0, 1.0, 1.0, 1.0, 1.3))
    assert flagged == [False] * 5 + [True]


@given(st.floats(1e-6, 1e6))
def test_the_unit_of_the_updates_does_not_matter(scale: float) -> None:
    norms = (1.0, 2.0, 1.5, 1.2, 9.0)
    once = inspect(NormOutliers(), norms_of(*norms))
    again = inspect(NormOutliers(), norms_of(*(norm * scale for norm in norms)))
    np.testing.assert_allclose(once[0], again[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"threshold": 0.0}, {"least": 0.0}, {"threshold": float("nan")}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected threshold > 0 and least > 0"):
        NormOutliers(**options)


def test_scores_of_vectors_beside_zero_vectors_are_those_without_them() -> None:
    rows: F32 = np.abs(np.random.Generator(np.random.Philox(key=2)).normal(size=(6, 4))).astype(np.float32)
    alone = NormOutliers().inspect(
        Vectors.of([MemoryVector(row) for row in rows]), list("abcdef"), RoundContext(size=4)
    )
    padded = np.concatenate((rows, np.zeros((3, 4), np.float32)))
    beside = NormOutliers().inspect(
        Vectors.of([MemoryVector(row) for row in padded]), list("abcdefghi"), RoundContext(size=4)
    )
    np.testing.assert_allclose(beside.scores[:6], alone.scores, rtol=1e-4)
    assert not beside.scores[6:].any()
