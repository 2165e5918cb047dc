import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.strategies.rules.detectors.sketch import KEPT, CountSketch, Histories, cosines
from wardround.strategies.rules.vectors import Vectors
from wardround.vector import F32, MemoryVector


def vectors(rows: F32) -> Vectors:
    return Vectors.of([MemoryVector(row) for row in rows])


def normal(seed: int, *shape: int) -> F32:
    return np.random.Generator(np.random.Philox(key=seed)).normal(size=shape).astype(np.float32)


@given(st.integers(1, 64), st.integers(0, 99))
def test_short_vectors_are_kept_as_they_are(size: int, seed: int) -> None:
    rows = normal(seed, 3, size)
    np.testing.assert_array_equal(CountSketch(size, 64).of(vectors(rows)), rows)


def test_is_linear_and_each_column_goes_to_one_bucket_with_a_sign() -> None:
    size, width = 300, 16
    matrix = CountSketch(size, width).of(vectors(np.eye(size, dtype=np.float32)))
    assert matrix.shape == (size, width)
    np.testing.assert_array_equal((matrix != 0).sum(axis=1), 1)
    np.testing.assert_array_equal(np.abs(matrix).sum(axis=1), 1)
    rows = normal(1, 4, size)
    np.testing.assert_allclose(CountSketch(size, width).of(vectors(rows)), rows.astype(np.float64) @ matrix, rtol=1e-5)


def test_buckets_and_signs_are_evenly_drawn() -> None:
    size, width = 2000, 16
    matrix = CountSketch(size, width).of(vectors(np.eye(size, dtype=np.float32)))
    in_bucket = np.count_nonzero(matrix, axis=0)
    assert np.abs(in_bucket - size / width).max() < 4 * np.sqrt(size / width)
    assert np.abs(matrix.sum(axis=0)).max() < 4 * np.sqrt(size / width)
    assert abs(matrix.sum()) < 4 * np.sqrt(size)


def test_is_the_same_however_vectors_come_in_blocks() -> None:
    rows = normal(2, 60, 9000)
    sketch = CountSketch(9000, 256)
    many = sketch.of(vectors(rows))
    np.testing.assert_allclose(many[:2], sketch.of(vectors(rows[:2])), rtol=1e-12)
    np.testing.assert_allclose(many[0], CountSketch(9000, 256).of_one(rows[0]), rtol=1e-12)
    long = normal(3, 1, 200_000)
    np.testing.assert_allclose(
        CountSketch(200_000, 256).of(vectors(long))[0], CountSketch(200_000, 256).of_one(long[0]), rtol=1e-9, atol=1e-9
    )


def test_inner_products_are_off_by_no_more_than_stated() -> None:
    width, squares = 64, []
    for size in range(2000, 2200):  # every size has another map
        x, y = normal(4, 2, size)
        y = y + x
        exact = float(x.astype(np.float64) @ y)
        found = CountSketch(size, width).of(vectors(np.stack((x, y))))
        variance = (float(x @ x) * float(y @ y) + exact**2) / width
        squares.append((float(found[0] @ found[1]) - exact) ** 2 / variance)
    assert 0.6 < np.mean(squares) < 1.3


def test_another_size_or_width_is_another_map() -> None:
    row = np.ones(1000, np.float32)
    assert not np.array_equal(CountSketch(1000, 64).of_one(row), CountSketch(1001, 64).of_one(np.append(row, 0)))


@pytest.mark.parametrize("width", [0, 1, 3, 100, 1 << 21, -4])
def test_refuses_a_width_that_is_no_power_of_two(width: int) -> None:
    with pytest.raises(ValueError, match="expected a width that is a power of 2"):
        CountSketch(10, width)


def test_a_public_map_can_be_evaded() -> None:
    size, width = 200, 16
    matrix = CountSketch(size, width).of(vectors(np.eye(size, dtype=np.float32)))
    kernel = np.linalg.svd(matrix.T)[2][-1].astype(np.float32)
    assert np.linalg.norm(kernel) == pytest.approx(1.0)
    assert np.linalg.norm(CountSketch(size, width).of_one(kernel)) < 1e-5


def test_cosines_with_a_zero_row_are_zero() -> None:
    found = cosines(np.array([[1.0, 0.0], [0.0, 0.0], [-2.0, 2.0]]))
    np.testing.assert_allclose(found, [[1, 0, -np.sqrt(0.5)], [0, 0, 0], [-np.sqrt(0.5), 0, 1]])


KEYS = ["a", "a/b", "Zürich\x1f北京", "", "sum/a", "\u2028"]


def test_histories_survive_memory_whatever_contributors_are_called() -> None:
    rows = {key: np.arange(3.0) + index for index, key in enumerate(KEYS)}
    memory = Histories({}).updated(7, rows).memory("sum")
    assert all(array.dtype == np.float64 for array in memory.values())
    found = Histories.read({**memory, "other/a": np.zeros(4)}, "sum", 3)
    assert set(found.rows) == set(KEYS)
    for key, row in rows.items():
        entry = found.get(key)
        assert entry is not None and entry[0] == 7
        np.testing.assert_array_equal(entry[1], row)


def test_histories_of_another_length_are_dropped() -> None:
    memory = Histories({}).updated(1, {"a": np.zeros(3)}).memory("sum")
    assert Histories.read(memory, "sum", 4).get("a") is None


def test_histories_are_bounded_and_forget_who_was_away_longest() -> None:
    old = Histories({}).updated(1, {f"old{index:03}": np.zeros(1) for index in range(KEPT)})
    new = old.updated(2, {f"new{index:03}": np.zeros(1) for index in range(10)})
    assert len(new.rows) == KEPT and len(old.rows) == KEPT
    assert sum(key.startswith("new") for key in new.rows) == 10
    assert new.get("old000") is not None and new.get(f"old{KEPT - 1:03}") is None
