import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.strategies.rules.preaggregators.arc import Arc
from wardround.strategies.rules.preaggregators.bucketing import Bucketing
from wardround.strategies.rules.preaggregators.clipping import Clipping
from wardround.strategies.rules.preaggregators.nnm import Nnm
from wardround.strategies.rules.preaggregators.preaggregator import PreAggregator
from wardround.strategies.rules.rule import RoundContext
from wardround.strategies.rules.vectors import Vectors
from wardround.vector import F32, F64, MemoryVector


def rows_of(n: int, size: int, seed: int) -> F32:
    return np.random.Generator(np.random.Philox(key=seed)).normal(size=(n, size)).astype(np.float32)


def weights_of(part: PreAggregator, rows: F32, *, seed: int = 0, turn: int = 1) -> F64:
    vectors = Vectors.of([MemoryVector(row) for row in rows])
    return part.mix(vectors, RoundContext(size=rows.shape[1], seed=seed, round=turn))


@given(st.integers(2, 12), st.integers(0, 5), st.integers(0, 1000))
def test_nnm_takes_the_nearest_and_the_vector_itself(n: int, f: int, seed: int) -> None:
    f = min(f, (n - 1) // 2)
    rows = rows_of(n, 3, seed)
    weights = weights_of(Nnm(f), rows)
    distances = np.linalg.norm(rows[:, None].astype(np.float64) - rows[None], axis=2)
    for index, row in enumerate(weights):
        taken = np.flatnonzero(row)
        assert len(taken) == n - f and index in taken
        np.testing.assert_allclose(row[taken], 1 / (n - f))
        assert distances[index, taken].max() <= distances[index, np.flatnonzero(row == 0)].min(initial=np.inf) + 1e-5


def test_nnm_keeps_a_vector_among_more_copies_than_it_takes() -> None:
    weights = weights_of(Nnm(2), np.zeros((5, 4), np.float32))
    assert (np.diag(weights) == 1 / 3).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)


@given(st.integers(1, 30), st.integers(0, 6), st.integers(0, 8), st.integers(0, 2**64))
def test_bucketing_puts_every_vector_in_one_bucket(n: int, f: int, size: int, seed: int) -> None:
    part = Bucketing(f, size=size)
    weights = weights_of(part, rows_of(n, 2, 1), seed=seed)
    assert weights.shape == (part.mixtures(n), n)
    np.testing.assert_array_equal((weights > 0).sum(axis=0), 1)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    in_bucket = np.sort((weights > 0).sum(axis=1))
    assert (in_bucket[1:] == in_bucket[-1]).all() and (size == 0 or in_bucket[-1] == min(size, n))


@given(st.integers(1, 60), st.integers(1, 12))
def test_bucketing_takes_the_largest_size_that_leaves_a_good_majority(n: int, f: int) -> None:
    good = [size for size in range(1, n + 1) if 2 * f < math.ceil(n / size)]
    part = Bucketing(f)
    if not good:
        with pytest.raises(ValueError, match=f"expected num_byzantine < n / 2, got {f} of {n}"):
            part.check(n)
        return
    part.check(n)
    assert part.mixtures(n) == math.ceil(n / max(good))
    assert max(good) in (n // (2 * f), n // (2 * f) - 1)  # the paper's, or one less


def test_bucketing_refuses_a_size_that_leaves_too_few_buckets() -> None:
    with pytest.raises(ValueError, match="expected num_byzantine < buckets / 2 with 3 vectors in a bucket, got 2 of 4"):
        Bucketing(2, size=3).check(12)
    with pytest.raises(ValueError, match="expected size >= 0, got -1"):
        Bucketing(2, size=-1)


def test_bucketing_draws_anew_for_every_round_and_seed_and_the_same_for_the_same() -> None:
    rows = rows_of(12, 3, 1)
    draws = [weights_of(Bucketing(1, size=3), rows, seed=seed, turn=turn) for seed in (1, 2) for turn in (1, 2)]
    for index, one in enumerate(draws):
        assert not any(np.array_equal(one, other) for other in draws[:index])
    np.testing.assert_array_equal(draws[0], weights_of(Bucketing(1, size=3), rows, seed=1, turn=1))


def test_clipping_shortens_the_long_ones_and_leaves_the_others() -> None:
    rows = np.array([[3, 4], [0.3, 0.4], [0, 0], [0, -10]], np.float32)
    np.testing.assert_allclose(weights_of(Clipping(radius=1.0), rows), np.diag([0.2, 1, 1, 0.1]), rtol=1e-6)


@pytest.mark.parametrize("radius", [0.0, -1.0, math.nan])
def test_clipping_needs_a_radius(radius: float) -> None:
    with pytest.raises(ValueError, match=f"expected radius > 0, got {radius:g}"):
        Clipping(radius=radius)


@pytest.mark.parametrize(("n", "f", "clipped"), [(10, 0, 0), (10, 1, 1), (10, 2, 3), (10, 3, 4), (10, 4, 4), (3, 1, 1)])
def test_arc_shortens_so_many_to_the_next_length(n: int, f: int, clipped: int) -> None:
    rows = np.diag(np.arange(1, n + 1)).astype(np.float32)[::-1]
    lengths = np.linalg.norm(weights_of(Arc(f), rows) @ rows, axis=1)
    expected = np.minimum(np.arange(n, 0, -1), n - clipped)
    np.testing.assert_allclose(lengths, expected, rtol=1e-6)


def test_arc_on_equal_lengths_changes_nothing() -> None:
    np.testing.assert_allclose(weights_of(Arc(2), np.eye(6, dtype=np.float32)), np.eye(6), rtol=1e-6)
    np.testing.assert_array_equal(weights_of(Arc(1), np.zeros((4, 3), np.float32)), np.eye(4))


@pytest.mark.parametrize(
    "part", [Nnm(5), Arc(5), Clipping(5, radius=1.0), Bucketing(5)], ids=lambda p: type(p).__name__
)
def test_too_many_byzantine_vectors_are_refused(part: PreAggregator) -> None:
    with pytest.raises(ValueError, match=r"^expected num_byzantine < n / 2, got 5 of 10$"):
        part.check(10)
    part.check(11)
