"""Networks and functions of columns, beside numpy's sort."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.strategies.rules.order_statistics import MiddleMean, NearestToMedian, network
from wardround.vector import F32

COUNTS = (*range(1, 65), 100, 200)
WIDE = 600  # columns enough for a network


def block_of(n: int, columns: int, seed: int = 0) -> F32:
    """Normal values, large and small ones, ties, zeros of both signs, and rows that are alike."""
    generator = np.random.Generator(np.random.Philox(key=seed + 1000 * n))
    block = generator.standard_normal((n, columns)).astype(np.float32)
    block[:, 100:200] = generator.integers(-2, 3, (n, min(100, max(columns - 100, 0)))) * np.float32(0.5)
    block[:, 200:220] *= np.float32(1e15)
    block[:, 220:240] *= np.float32(1e-30)
    block[:, 240:260] = np.where(generator.random((n, len(block[0, 240:260]))) < 0.5, 0.0, -0.0)
    block[n // 2 :, 260:300] = block[: n - n // 2, 260:300]
    return block


@pytest.mark.parametrize("n", COUNTS)
def test_a_network_with_all_places_wanted_sorts(n: int) -> None:
    block = block_of(n, 300)
    before = block.copy()
    assert np.array_equal(np.array(network(tuple(range(n))).run(list(block))), np.sort(before, axis=0))
    assert np.array_equal(block, before)


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("dropped", ["none", "some", "all but the middle"])
def test_a_pruned_network_gives_the_wanted_values_in_any_order(n: int, dropped: str) -> None:
    outside = {"none": 0, "some": n // 5, "all but the middle": (n - 1) // 2}[dropped]
    block = block_of(n, 300)
    made = network((-1,) * outside + (0,) * (n - 2 * outside) + (-1,) * outside).run(list(block))
    assert np.array_equal(np.sort(made, axis=0), np.sort(block, axis=0)[outside : n - outside])


def test_pruning_leaves_comparators_out() -> None:
    whole = network(tuple(range(50)))
    median = network((-1,) * 24 + (0, 0) + (-1,) * 24)
    everything = network((0,) * 50)
    assert len(median.steps) < 0.8 * len(whole.steps)
    assert everything.steps == ()


def test_a_network_keeps_no_more_rows_than_it_needs() -> None:
    for n in (2, 7, 50):
        assert network(tuple(range(n))).registers <= 2 * n + 1


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("columns", [1, WIDE])
def test_the_middle_of_an_odd_or_even_number_is_the_median(n: int, columns: int) -> None:
    block = block_of(n, columns)
    median = MiddleMean(n, (n - 1) // 2, n // 2 + 1)(block.copy())
    assert median.dtype == np.float32
    assert median.shape == (columns,)
    np.testing.assert_array_max_ulp(median, np.median(block.astype(np.float64), axis=0).astype(np.float32), maxulp=1)


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("columns", [3, WIDE])
def test_the_mean_of_the_middle_is_that_of_sorted_values(n: int, columns: int) -> None:
    dropped = n // 4
    block = block_of(n, columns)
    middle = np.sort(block.astype(np.float64), axis=0)[dropped : n - dropped]
    found = MiddleMean(n, dropped, n - dropped)(block)
    assert np.all(np.abs(found - middle.mean(axis=0)) <= 1e-6 * np.abs(middle).max(axis=0))


@pytest.mark.parametrize("n", [6, 48, 49, 60])
def test_a_function_leaves_its_block_as_it_is(n: int) -> None:
    for columns in (10, WIDE):
        block = block_of(n, columns)
        before = block.copy()
        MiddleMean(n, 2, n - 2)(block)
        NearestToMedian(n, tuple(range(1, n)), n - 4)(block)
        assert np.array_equal(block, before)


def nearest_to_median(block: F32, rows: tuple[int, ...], count: int) -> F32:
    """Value by value, the smaller of two that are equally far."""
    found = []
    for column in block[list(rows)].T:
        median = np.float32((np.sort(column)[(len(column) - 1) // 2] + np.sort(column)[len(column) // 2]) / 2)
        nearest = sorted((abs(value - median), value) for value in column)[:count]
        found.append(np.mean([float(value) for _, value in nearest]))
    return np.array(found)


@pytest.mark.parametrize(("n", "f"), [(3, 0), (7, 1), (11, 2), (12, 2), (23, 5), (27, 3), (70, 8), (75, 18)])
@pytest.mark.parametrize("columns", [300, WIDE])
def test_the_nearest_to_the_median_are_those_found_one_by_one(n: int, f: int, columns: int) -> None:
    rows, count = tuple(range(f, n - f)), n - 4 * f
    block = block_of(n, columns)
    block[:, 300:500] = np.random.Generator(np.random.Philox(key=n)).standard_normal(block[:, 300:500].shape)
    expected = nearest_to_median(block, rows, count)
    scale = np.abs(block).max(axis=0)
    assert np.all(np.abs(NearestToMedian(n, rows, count)(block) - expected) <= 1e-6 * scale)


def test_far_values_do_not_blur_the_mean_of_the_nearest() -> None:
    block = block_of(7, WIDE)
    block[:2] = np.float32(3e15)
    tame = NearestToMedian(7, tuple(range(7)), 3)(block)
    assert np.all(np.abs(tame[:100] - nearest_to_median(block[:, :100], tuple(range(7)), 3)) < 1e-6)


@given(st.integers(1, 30), st.data())
def test_shares_add_up_to_one_and_follow_the_rows(n: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, (n - 1) // 2))
    order = data.draw(st.permutations(range(n)))
    block = np.random.Generator(np.random.Philox(key=n)).standard_normal((n, 40)).astype(np.float32)
    function = MiddleMean(n, first, n - first)
    shares = function.shares(block)
    assert shares.sum() == pytest.approx(1.0)
    assert np.allclose(function.shares(block[list(order)]), shares[list(order)])


def test_a_row_that_is_always_outside_has_no_share_and_one_in_the_middle_has_all() -> None:
    block = np.arange(-2, 3, dtype=np.float32)[:, None] * np.ones((1, 8), dtype=np.float32)
    assert MiddleMean(5, 2, 3).shares(block).tolist() == [0, 0, 1, 0, 0]
    assert MiddleMean(5, 1, 4).shares(block) == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3, 0])
    assert NearestToMedian(5, (0, 1, 2, 4), 2).shares(block) == pytest.approx([0, 1 / 2, 1 / 2, 0, 0])


@pytest.mark.parametrize("n", [9, 60])
def test_shares_are_those_of_the_values_that_were_used(n: int) -> None:
    """A value that is not used can be anything: shares say which are."""
    block = block_of(n, WIDE)[:, :50]
    function = NearestToMedian(n, tuple(range(n)), n - 4)
    one = block[:, :1]
    used = function.shares(one) > 0
    other = one.copy()
    other[~used] += np.sign(other[~used] - np.median(one))
    assert used.sum() == n - 4
    assert np.array_equal(function(other), function(one))
