"""Krum."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.contribution import Verdict
from wardround.strategies.rules.krum import Krum, krum_scores
from wardround.strategies.rules.robust import Robust
from wardround.vector import F32, F64


def rows(n: int, size: int = 300, seed: int = 1) -> F32:
    return np.random.Generator(np.random.Philox(key=seed)).standard_normal((n, size)).astype(np.float32)


def scores_one_by_one(vectors: F64, f: int) -> list[float]:
    found = []
    for i, one in enumerate(vectors):
        differences = [one - other for j, other in enumerate(vectors) if j != i]
        found.append(sum(sorted(float(np.square(one).sum()) for one in differences)[: len(vectors) - f - 2]))
    return found


@given(st.integers(5, 14), st.integers(0, 1), st.integers(0, 9))
def test_scores_are_sums_of_distances_to_the_nearest_others(n: int, f: int, seed: int) -> None:
    vectors = rows(n, 40, seed).astype(np.float64)
    distances = ((vectors[:, None] - vectors[None]) ** 2).sum(axis=2)
    before = distances.copy()
    assert krum_scores(distances, f) == pytest.approx(scores_one_by_one(vectors, f))
    assert np.array_equal(distances, before)


def test_so_few_vectors_that_no_neighbour_is_left_are_judged_by_the_nearest() -> None:
    distances = np.array([[0.0, 1.0, 5.0], [1.0, 0.0, 4.0], [5.0, 4.0, 0.0]])
    assert krum_scores(distances, 3).tolist() == [1.0, 1.0, 4.0]
    assert krum_scores(np.zeros((1, 1)), 0).tolist() == [0.0]


def test_the_winner_is_returned_as_it_is() -> None:
    vectors = rows(9)
    made = Robust(Krum(2)).aggregate(vectors)
    winner = int(np.argmin(scores_one_by_one(vectors.astype(np.float64), 2)))
    assert made.vector is not None
    assert np.array_equal(made.vector, vectors[winner])
    assert [line.weight for line in made.report.lines] == [float(index == winner) for index in range(9)]
    assert made.report.lines[winner].verdict is Verdict.ACCEPTED


def test_of_equal_ones_the_first_is_chosen() -> None:
    vectors = np.repeat(rows(1), 7, axis=0)
    lines = Robust(Krum(1)).aggregate(vectors).report.lines
    assert [line.weight for line in lines] == [1.0, *[0.0] * 6]


def uncentred_winner(vectors: F32, f: int) -> tuple[int, int]:
    """As others have it: float32 products of the vectors as they are. The winner, and how many pairs are negative."""
    squares = np.square(vectors).sum(axis=1)
    distances = squares[:, None] + squares[None, :] - 2 * vectors @ vectors.T
    nearest = [np.argsort(line)[1 : len(vectors) - f - 1] for line in distances]
    scores = [distances[i, chosen].sum() for i, chosen in enumerate(nearest)]
    return int(np.argmin(scores)), int((distances[~np.eye(len(vectors), dtype=bool)] < 0).sum())


def nearly_alike(seed: int) -> F32:
    """Updates that differ by a ten-thousandth of their length."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    return (generator.standard_normal(20_000) + 1e-4 * generator.standard_normal((20, 20_000))).astype(np.float32)


@pytest.mark.parametrize("seed", range(10))
def test_updates_that_differ_by_a_ten_thousandth_have_the_winner_of_float64(seed: int) -> None:
    vectors = nearly_alike(seed)
    exact = int(np.argmin(scores_one_by_one(vectors.astype(np.float64), 4)))
    lines = Robust(Krum(4)).aggregate(vectors).report.lines
    assert [int(line.members[0]) for line in lines if line.weight] == [exact]


def test_without_centring_those_updates_have_negative_distances_and_other_winners() -> None:
    """So the test before this one can fail."""
    others = 0
    for seed in range(10):
        vectors = nearly_alike(seed)
        winner, negative = uncentred_winner(vectors, 4)
        others += winner != int(np.argmin(scores_one_by_one(vectors.astype(np.float64), 4)))
        assert negative > 0
    assert others >= 5


def test_it_asks_for_enough_vectors() -> None:
    Krum(2).check(7)
    with pytest.raises(ValueError, match=r"expected num_byzantine < \(n − 2\) / 2, got 3 of 8"):
        Krum(3).check(8)
