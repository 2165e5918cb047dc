import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import HDBSCAN

from wardround.strategies.rules.detectors.flame import Flame, majority_cluster
from wardround.strategies.rules.rule import RoundContext
from wardround.strategies.rules.vectors import Vectors
from wardround.vector import F64, MemoryVector


def oracle(distances: F64) -> list[bool]:
    """scikit-learn's HDBSCAN, told what FLAME tells it."""
    n = len(distances)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        clusters = HDBSCAN(
            metric="precomputed", min_cluster_size=n // 2 + 1, min_samples=1, allow_single_cluster=True, copy=True
        ).fit_predict(distances)
    inside: list[bool] = (clusters == 0).tolist()
    return inside


def between(points: F64) -> F64:
    difference = points[:, None, :] - points[None, :, :]
    found: F64 = np.sqrt((difference**2).sum(axis=2))
    return found


@settings(deadline=None, max_examples=150)
@given(st.integers(4, 25), st.integers(0, 10**6), st.integers(1, 3), st.sampled_from(["even", "clumps", "grid"]))
def test_is_the_cluster_that_hdbscan_finds(n: int, seed: int, dimensions: int, kind: str) -> None:
    generator = np.random.Generator(np.random.Philox(key=seed))
    points = generator.normal(size=(n, dimensions))
    if kind == "clumps":
        points += 10.0 * generator.integers(0, 3, size=(n, 1))
    if kind == "grid":  # equal distances and points on top of each other
        points = np.round(points)
    distances = between(points)
    assert majority_cluster(distances)[1].tolist() == oracle(distances)


def test_the_length_is_the_longest_step_within_the_cluster() -> None:
    length, inside = majority_cluster(between(np.array([[0.0], [1.0], [3.0], [6.0], [20.0]])))
    assert (length, inside.tolist()) == (2.0, [True, True, True, False, False])


def inspect(rows: F64) -> tuple[list[float], list[bool], tuple[str, ...]]:
    vectors = Vectors.of([MemoryVector(row.astype(np.float32)) for row in rows])
    found = Flame().inspect(vectors, [str(index) for index in range(len(rows))], RoundContext(size=rows.shape[1]))
    return found.scores.tolist(), found.flagged.tolist(), found.reasons


@pytest.mark.parametrize("seed", range(8))
def test_flags_whom_hdbscan_leaves_out_of_the_cosine_distances(seed: int) -> None:
    generator = np.random.Generator(np.random.Philox(key=seed))
    rows = generator.normal(size=60) + generator.normal(size=(12, 60))
    rows[:3] *= -2
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    distances = np.maximum(1.0 - unit @ unit.T, 0.0)
    np.fill_diagonal(distances, 0.0)
    scores, flagged, reasons = inspect(rows)
    assert flagged == [not inside for inside in oracle((distances + distances.T) / 2)]
    assert all(flagged[:3]) and all((score > 1.0) == flag for score, flag in zip(scores, flagged, strict=True))
    assert reasons[0].startswith("outside the cluster of the majority")


def test_updates_that_differ_by_rounding_errors_are_one_cluster_whatever_their_length() -> None:
    random = np.random.Generator(np.random.Philox(key=9))
    row = random.normal(size=1000)
    assert not any(inspect(np.outer(np.geomspace(0.01, 100, 9), row))[1])
    assert not any(inspect(row * (1 + 3e-4 * random.normal(size=(9, 1000))))[1])
