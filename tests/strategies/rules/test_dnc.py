import numpy as np
import pytest

from wardround.strategies.rules.dnc import Dnc
from wardround.strategies.rules.robust import Robust
from wardround.strategies.rules.rule import Aggregate
from wardround.vector import F32, F64


def rows_of(n: int, size: int, seed: int) -> F32:
    return np.random.Generator(np.random.Philox(key=seed)).normal(size=(n, size)).astype(np.float32)


def vector_of(made: Aggregate) -> F32:
    assert made.vector is not None
    return made.vector


def divided(rule: Dnc, rows: F32) -> Aggregate:
    return Robust(rule, norm_factor=np.inf).aggregate(rows)


def by_hand(rows: F64, left_out: int, at_once: int) -> F64:
    """On the vectors themselves, with numpy's singular value decomposition."""
    kept = np.arange(len(rows))
    while left_out:
        centred = rows[kept] - rows[kept].mean(axis=0)
        top = np.linalg.svd(centred, full_matrices=False)[2][0]
        count = min(at_once, left_out)
        kept = kept[np.argsort((centred @ top) ** 2)[: len(kept) - count]]
        left_out -= count
    mean: F64 = rows[kept].mean(axis=0)
    return mean


@pytest.mark.parametrize(("filtering", "left_out"), [(1.0, 3), (1.5, 5), (0.5, 2)])
@pytest.mark.parametrize("at_once", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_is_its_definition(seed: int, at_once: int, filtering: float, left_out: int) -> None:
    rows = rows_of(10, 300, seed)
    rows[7:] += 1
    vector = vector_of(divided(Dnc(3, filtering=filtering, at_once=at_once), rows))
    np.testing.assert_allclose(vector, by_hand(rows.astype(np.float64), left_out, at_once), rtol=0, atol=2e-6)


def test_one_direction_for_all_misses_a_far_vector_in_another() -> None:
    rows = rows_of(10, 60, 2)
    rows[7:] = 0
    rows[7, 0], rows[8, 0], rows[9, 1] = 1e6, -1e6, 1e5
    honest = rows[:7].mean(axis=0)
    np.testing.assert_allclose(vector_of(divided(Dnc(3), rows)), honest, atol=1e-5)
    papers = vector_of(divided(Dnc(3, at_once=3), rows))
    assert np.linalg.norm(papers - honest) > 1e4


def test_without_byzantine_vectors_it_is_the_mean() -> None:
    rows = rows_of(7, 50, 1)
    np.testing.assert_allclose(vector_of(divided(Dnc(0), rows)), rows.mean(axis=0), atol=1e-6)


def test_equal_vectors_are_all_kept() -> None:
    made = divided(Dnc(1), np.zeros((5, 3), np.float32))
    np.testing.assert_array_equal(vector_of(made), np.zeros(3))
    assert [line.weight for line in made.report.lines] == [0.2] * 5


def test_scores_of_what_was_left_out_are_above_those_of_the_rest() -> None:
    rows = rows_of(9, 40, 3)
    rows[7:] += 3
    scores = [line.score or 0.0 for line in divided(Dnc(2), rows).report.lines]
    assert min(scores[7:]) > max(scores[:7])


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="expected filtering > 0, got 0"):
        Dnc(1, filtering=0.0)
    with pytest.raises(ValueError, match="expected at_once >= 1, got 0"):
        Dnc(1, at_once=0)
    with pytest.raises(ValueError, match="expected 4 num_byzantine < n, got 2 of 8"):
        Dnc(2, filtering=4).check(8)
