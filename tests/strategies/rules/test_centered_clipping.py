import numpy as np
import pytest

from wardround.strategies.rules.centered_clipping import CenteredClipping
from wardround.strategies.rules.robust import Robust, chain
from wardround.strategies.rules.rule import Aggregate, RoundContext
from wardround.vector import F32, F64


def rows_of(n: int, size: int, seed: int) -> F32:
    return np.random.Generator(np.random.Philox(key=seed)).normal(size=(n, size)).astype(np.float32)


def by_hand(rows: F64, centre: F64, radius: float, iterations: int) -> F64:
    """On the vectors themselves; radius 0: the median distance, anew each time."""
    for _ in range(iterations):
        differences = rows - centre
        lengths = np.linalg.norm(differences, axis=1)
        limit = radius or np.median(lengths)
        centre = centre + (differences * np.minimum(1.0, limit / lengths)[:, None]).mean(axis=0)
    return centre


def clipped(rule: CenteredClipping, rows: F32, made: Aggregate | None = None) -> Aggregate:
    memory = {} if made is None else made.memory
    return chain(rule).aggregate(rows, RoundContext(size=rows.shape[1], memory=memory))


def vector_of(made: Aggregate) -> F32:
    assert made.vector is not None
    return made.vector


@pytest.mark.parametrize("radius", [0.0, 3.0, 1000.0])
@pytest.mark.parametrize("iterations", [1, 5])
def test_is_its_definition_over_rounds(radius: float, iterations: int) -> None:
    rule, centre, made = CenteredClipping(2, radius=radius, iterations=iterations), np.zeros(80), None
    for seed in range(3):
        rows = rows_of(9, 80, seed) + np.float32(1)
        made = clipped(rule, rows, made)
        centre = by_hand(rows.astype(np.float64), centre, radius, iterations)
        np.testing.assert_allclose(vector_of(made), centre, rtol=0, atol=5e-6)


def test_keeps_the_aggregate_as_its_centre_and_changes_no_memory() -> None:
    rows = rows_of(5, 10, 1)
    first = clipped(CenteredClipping(), rows)
    (name,) = first.memory
    assert name == "rule/centre" and first.memory[name].dtype == np.float64
    np.testing.assert_array_equal(first.memory[name], vector_of(first).astype(np.float64))
    before = first.memory[name].copy()
    first.memory[name].setflags(write=False)
    clipped(CenteredClipping(), rows + 1, first)
    np.testing.assert_array_equal(first.memory[name], before)


def test_a_vector_moves_it_by_at_most_radius_over_n_in_an_iteration() -> None:
    rows = rows_of(8, 20, 2)
    moved = rows.copy()
    moved[0] *= 1e12
    rule = Robust(CenteredClipping(1, radius=0.5, iterations=1), norm_factor=np.inf)
    vectors = [rule.aggregate(some).vector for some in (rows, moved)]
    assert vectors[0] is not None and vectors[1] is not None
    assert np.linalg.norm(vectors[0] - vectors[1]) <= 2 * 0.5 / 8 + 1e-6


def test_a_radius_beyond_all_vectors_gives_the_mean() -> None:
    rows = rows_of(6, 30, 4)
    np.testing.assert_allclose(vector_of(clipped(CenteredClipping(radius=1e6), rows)), rows.mean(axis=0), atol=1e-6)


def test_equal_vectors_and_zeros() -> None:
    rows = np.repeat(rows_of(1, 12, 5), 4, axis=0)
    first = clipped(CenteredClipping(), rows)
    np.testing.assert_allclose(vector_of(first), rows[0], rtol=1e-6)
    np.testing.assert_allclose(vector_of(clipped(CenteredClipping(), rows, first)), rows[0], rtol=1e-6)
    np.testing.assert_array_equal(vector_of(clipped(CenteredClipping(), np.zeros((3, 4), np.float32))), np.zeros(4))


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="expected radius >= 0, got -1"):
        CenteredClipping(radius=-1)
    with pytest.raises(ValueError, match="expected iterations >= 1, got 0"):
        CenteredClipping(iterations=0)
