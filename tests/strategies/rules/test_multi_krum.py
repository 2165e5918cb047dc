"""Multi-Krum."""

import numpy as np
import pytest

from wardround.strategies.rules.krum import Krum, krum_scores
from wardround.strategies.rules.multi_krum import MultiKrum
from wardround.strategies.rules.robust import Robust
from wardround.vector import F32


def rows(n: int, size: int = 300, seed: int = 1) -> F32:
    return np.random.Generator(np.random.Philox(key=seed)).standard_normal((n, size)).astype(np.float32)


@pytest.mark.parametrize(("selected", "expected"), [(0, 8), (1, 1), (3, 3), (8, 8)])
def test_it_is_the_mean_of_the_best(selected: int, expected: int) -> None:
    vectors = rows(10)
    wide = vectors.astype(np.float64)
    scores = krum_scores(((wide[:, None] - wide[None]) ** 2).sum(axis=2), 2)
    best = np.argsort(scores)[:expected]
    made = Robust(MultiKrum(2, selected)).aggregate(vectors)
    assert made.vector is not None
    assert np.abs(made.vector - wide[best].mean(axis=0)).max() < 1e-6
    assert {index for index, line in enumerate(made.report.lines) if line.weight} == set(best.tolist())
    assert [line.score for line in made.report.lines] == pytest.approx(scores.tolist(), rel=1e-5)


def test_of_one_it_is_krum() -> None:
    vectors = rows(11)
    one, krum = Robust(MultiKrum(3, 1)).aggregate(vectors), Robust(Krum(3)).aggregate(vectors)
    assert one.vector is not None
    assert krum.vector is not None
    assert np.array_equal(one.vector, krum.vector)


def test_of_equal_ones_the_first_are_chosen() -> None:
    lines = Robust(MultiKrum(1, 2)).aggregate(np.repeat(rows(1), 6, axis=0)).report.lines
    assert [line.weight for line in lines] == [0.5, 0.5, 0, 0, 0, 0]


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="expected selected >= 0, got -1"):
        MultiKrum(1, -1)
    with pytest.raises(ValueError, match="expected selected <= n − num_byzantine = 8, got 9"):
        MultiKrum(2, 9).check(10)
    with pytest.raises(ValueError, match=r"expected num_byzantine < \(n − 2\) / 2, got 4 of 10"):
        MultiKrum(4).check(10)
