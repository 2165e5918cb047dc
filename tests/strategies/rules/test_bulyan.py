"""Bulyan, beside an implementation that follows the paper word by word."""

import numpy as np
import pytest

from wardround.strategies.rules.bulyan import Bulyan, krum_selection
from wardround.strategies.rules.robust import Robust
from wardround.vector import F32, F64


def rows(n: int, size: int, seed: int = 1) -> F32:
    return np.random.Generator(np.random.Philox(key=seed)).standard_normal((n, size)).astype(np.float32)


def literal_selection(vectors: F64, f: int) -> list[int]:
    """Krum's choice is moved from those received to those selected, until n − 2f are."""
    received, selected = list(range(len(vectors))), list[int]()
    while len(selected) < len(vectors) - 2 * f:
        scores = {}
        for i in received:
            distances = sorted(float(((vectors[i] - vectors[j]) ** 2).sum()) for j in received if j != i)
            scores[i] = sum(distances[: max(len(received) - f - 2, 1)])
        chosen = min(received, key=lambda i: (scores[i], i))
        received.remove(chosen)
        selected.append(chosen)
    return selected


def literal(vectors: F64, f: int) -> F64:
    """The mean of the n − 4f selected values that are nearest to the median, coordinate by coordinate."""
    chosen = vectors[literal_selection(vectors, f)]
    found = []
    for column in chosen.T:
        median = np.median(column)
        nearest = sorted((abs(value - median), value) for value in column)[: len(vectors) - 4 * f]
        found.append(np.mean([value for _, value in nearest]))
    return np.array(found)


@pytest.mark.parametrize(("n", "f"), [(3, 0), (7, 1), (8, 1), (11, 2), (20, 4), (30, 3)])
@pytest.mark.parametrize("size", [50, 1000])
def test_it_is_what_the_paper_says(n: int, f: int, size: int) -> None:
    vectors = rows(n, size, seed=n)
    vectors[:f] += 3.0
    made = Robust(Bulyan(f)).aggregate(vectors)
    assert made.vector is not None
    assert np.abs(made.vector - literal(vectors.astype(np.float64), f)).max() < 1e-5
    kept = {int(line.members[0]) for line in made.report.lines if line.weight}
    assert kept <= set(literal_selection(vectors.astype(np.float64), f))
    assert sum(line.weight for line in made.report.lines) == pytest.approx(1.0)


def test_krum_is_asked_again_without_those_chosen_before() -> None:
    """The best ones by the first scores are others: two groups, and the smaller one's score falls late."""
    differing = 0
    for seed in range(20):
        wide = rows(15, 6, seed).astype(np.float64)
        distances = ((wide[:, None] - wide[None]) ** 2).sum(axis=2)
        again = krum_selection(distances, 3, 9)
        assert again == literal_selection(wide, 3)
        once = np.argsort([sum(sorted(line)[1:11]) for line in distances])[:9]
        differing += set(again) != set(once.tolist())
    assert differing > 0


def test_vectors_that_are_all_the_same_give_that_vector() -> None:
    one = rows(1, 600)
    made = Robust(Bulyan(2)).aggregate(np.repeat(one, 11, axis=0))
    assert made.vector is not None
    assert np.abs(made.vector - one[0]).max() < 1e-6


def test_it_asks_for_enough_vectors() -> None:
    Bulyan(2).check(11)
    with pytest.raises(ValueError, match=r"expected num_byzantine <= \(n − 3\) / 4, got 2 of 10"):
        Bulyan(2).check(10)
