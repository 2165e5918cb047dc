"""Vectors: distances, mixtures, passes, beside float64."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.strategies.rules.krum import Krum
from wardround.strategies.rules.median import Median
from wardround.strategies.rules.order_statistics import MiddleMean
from wardround.strategies.rules.preaggregators.nnm import Nnm
from wardround.strategies.rules.robust import Robust, chain
from wardround.strategies.rules.rule import RoundContext
from wardround.strategies.rules.trimmed_mean import TrimmedMean
from wardround.strategies.rules.vectors import ORIGIN, Vectors
from wardround.vector import F32, F64, FileVector, MemoryVector, VectorSource


def rows(n: int, size: int, seed: int = 1) -> F32:
    return np.random.Generator(np.random.Philox(key=seed)).standard_normal((n, size)).astype(np.float32)


def of(values: F32, references: dict[str, F32] | None = None) -> Vectors:
    return Vectors.of([MemoryVector(row) for row in values], references)


def exact_distances(values: F32) -> F64:
    wide = values.astype(np.float64)
    return np.array([[np.square(one - other).sum() for one in wide] for other in wide])


def assert_close(found: F64, expected: F64, rel: float = 1e-5) -> None:
    off = ~np.eye(len(expected), dtype=bool) if expected.ndim == 2 else np.ones(len(expected), dtype=bool)
    assert np.all(np.abs(found - expected)[off] <= rel * np.abs(expected[off]))


# -- geometry ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "size"), [(1, 5), (2, 1), (5, 62), (12, 40_000), (70, 3000)])
def test_distances_are_those_of_float64(n: int, size: int) -> None:
    values = rows(n, size)
    found = of(values).squared_distances
    assert_close(found, exact_distances(values))
    assert np.array_equal(found, found.T)
    assert np.all(np.diag(found) == 0)


@pytest.mark.parametrize("seed", range(10))
def test_distances_of_updates_that_are_nearly_the_same_are_those_of_float64(seed: int) -> None:
    generator = np.random.Generator(np.random.Philox(key=seed))
    common = generator.standard_normal(20_000)
    values = (common + 1e-4 * generator.standard_normal((20, 20_000))).astype(np.float32)
    assert_close(of(values).squared_distances, exact_distances(values), rel=1e-4)


@pytest.mark.parametrize("far", [(0,), (3,), (0, 6, 12), (19, 18, 17, 16, 15)])
def test_vectors_a_million_times_as_long_spoil_no_distance_among_the_others(far: tuple[int, ...]) -> None:
    values = rows(20, 30_000)
    values[list(far)] *= np.float32(1e6)
    others = [index for index in range(20) if index not in far]
    found = of(values).squared_distances
    assert_close(found[np.ix_(others, others)], exact_distances(values[others]))
    assert_close(found, exact_distances(values), rel=1e-4)


def test_distances_between_vectors_that_are_the_same_are_next_to_nothing() -> None:
    values = np.repeat(rows(1, 20_000), 6, axis=0)
    assert of(values).squared_distances.max() <= 1e-9 * float(np.dot(values[0], values[0]))


@given(st.integers(1, 12), st.integers(1, 200), st.integers(0, 5))
def test_norms_products_and_references_are_those_of_float64(n: int, size: int, seed: int) -> None:
    values, root = rows(n, size, seed), rows(1, size, seed + 100)[0]
    vectors = of(values, {"root": root})
    wide, wide_root = values.astype(np.float64), root.astype(np.float64)
    scale = 1e-5 * (wide**2).sum(axis=1).max() + 1e-5 * (wide_root**2).sum()
    assert np.abs(vectors.squared_norms - (wide**2).sum(axis=1)).max() <= scale
    assert np.abs(vectors.products() - wide @ wide.T).max() <= scale
    assert np.abs(vectors.products("root") - (wide - wide_root) @ (wide - wide_root).T).max() <= 4 * scale
    assert np.abs(vectors.products_with("root") - wide @ wide_root).max() <= scale
    assert np.abs(vectors.squared_distances_to("root") - ((wide - wide_root) ** 2).sum(axis=1)).max() <= 4 * scale
    assert vectors.reference_squared_norm("root") == pytest.approx((wide_root**2).sum(), abs=scale)
    assert vectors.reference_squared_norm(ORIGIN) == 0.0
    around = wide - wide.mean(axis=0)
    assert np.abs(vectors.products_around_mean(np.full(n, 1 / n)) - around @ around.T).max() <= 4 * scale


def test_mixtures_have_the_geometry_of_what_they_are() -> None:
    values = rows(9, 4000)
    weights = np.random.Generator(np.random.Philox(key=5)).random((4, 9))
    weights[0] /= weights[0].sum()  # the others add up to anything: the rest is the origin's
    made = (weights @ values.astype(np.float64)).astype(np.float32)
    mixed = of(values).mix(weights)
    assert mixed.n == 4
    assert_close(mixed.squared_distances, exact_distances(made), rel=1e-4)
    assert mixed.squared_norms == pytest.approx((made.astype(np.float64) ** 2).sum(axis=1), rel=1e-4)
    again = mixed.mix(np.full((1, 4), 0.25))
    assert again.squared_norms == pytest.approx([(made.astype(np.float64).mean(axis=0) ** 2).sum()], rel=1e-4)
    for at, block in mixed.blocks():
        assert np.abs(block - made[:, at : at + block.shape[1]]).max() < 1e-5


# -- passes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("measured_before", [False, True])
@pytest.mark.parametrize("weights", [[0.5, 0.0, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0], [0.3, 0.3, -0.1, 0.9]])
def test_a_weighted_sum_and_its_products(measured_before: bool, weights: list[float]) -> None:
    values, root = rows(4, 60_000), rows(1, 60_000, seed=9)[0]
    vectors = of(values, {"root": root})
    if measured_before:
        assert vectors.squared_distances.shape == (4, 4)
    made = vectors.weighted_sum(np.array(weights), {"root": 0.5})
    expected = np.array(weights) @ values.astype(np.float64) + 0.5 * root
    assert np.abs(made.vector - expected).max() < 1e-5
    assert made.shares.tolist() == weights
    assert made.products == pytest.approx(values.astype(np.float64) @ expected, rel=1e-3, abs=1.0)


def test_a_sum_of_one_vector_is_that_vector_bit_for_bit() -> None:
    values = rows(4, 30_000)
    vectors = of(values)
    for _ in range(2):
        assert np.array_equal(vectors.weighted_sum(np.eye(4)[2]).vector, values[2])
        assert vectors.squared_distances.shape == (4, 4)


def test_nothing_is_the_zero_vector() -> None:
    vectors = of(rows(3, 100))
    for _ in range(2):
        assert vectors.weighted_sum(np.zeros(3)).vector.tolist() == [0.0] * 100
        assert vectors.squared_distances.shape == (3, 3)


def test_a_plain_function_of_columns_may_overwrite_its_block() -> None:
    values = rows(5, 50_000)
    before = values.copy()

    def largest(block: F32) -> F32:
        block.sort(axis=0)
        return np.array(block[-1])

    made = of(values).by_columns(largest, np.full(5, 0.2))
    assert np.array_equal(made.vector, before.max(axis=0))
    assert np.array_equal(values, before)
    assert made.shares.tolist() == [0.2] * 5
    assert made.products == pytest.approx(before.astype(np.float64) @ before.max(axis=0), rel=1e-4, abs=1.0)


def test_shares_of_columns_are_measured_all_over_the_vector() -> None:
    """The first vector is in the middle in the first tenth only, far outside behind it."""
    values = rows(5, 100_000)
    values[0] = 100.0
    values[0, :10_000] = 0.0
    made = of(values).by_columns(MiddleMean(5, 2, 3), np.full(5, 0.2))
    middle = np.argsort(values, axis=0, kind="stable")[2]
    exact = np.bincount(middle, minlength=5) / values.shape[1]
    assert made.shares.sum() == pytest.approx(1.0)
    assert np.abs(made.shares - exact).max() < 0.03


# -- sources -------------------------------------------------------------------------------------


@dataclass
class Pieces:
    """A vector that comes in pieces of its own sizes, whatever is asked for, and counts how often it is read."""

    values: F32
    sizes: tuple[int, ...]
    reads: list[int] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.values)

    def chunks(self, floats: int = 1 << 18) -> Iterator[F32]:
        self.reads.append(floats)
        at, turn = 0, 0
        buffer = np.empty(max(self.sizes), dtype=np.float32)
        while at < self.size:
            piece = buffer[: min(self.sizes[turn % len(self.sizes)], self.size - at)]
            piece[:] = self.values[at : at + len(piece)]
            yield piece
            buffer[:] = np.nan  # a piece is valid until the next is asked for
            at, turn = at + len(piece), turn + 1


def pieces(values: F32) -> list[Pieces]:
    sizes = [(1 << 18,), (7,), (1000, 1, 63), (16_368,), (16_369, 3), (40_000,), (5, 100_000)]
    return [Pieces(row, sizes[index % len(sizes)]) for index, row in enumerate(values)]


def results(sources: list[VectorSource]) -> list[F64 | F32]:
    n = len(sources)
    vectors = Vectors.of(sources)
    found: list[F64 | F32] = [vectors.by_columns(MiddleMean(n, 2, n - 2), np.full(n, 1 / n)).vector]
    found.append(vectors.weighted_sum(np.full(n, 1 / n)).vector)
    found.append(vectors.squared_distances)
    found.append(vectors.weighted_sum(np.full(n, 1 / n)).vector)
    mixed = vectors.mix(Nnm(2).mix(vectors, RoundContext(size=vectors.size)))
    made = mixed.by_columns(MiddleMean(n, 2, n - 2), np.full(n, 1 / n))
    return [*found, made.vector, made.shares, made.products]


@pytest.mark.parametrize("size", [1, 62, 16_368, 50_001])
def test_odd_pieces_change_no_bit(size: int) -> None:
    values = rows(9, size)
    whole = results([MemoryVector(row) for row in values])
    for one, other in zip(whole, results(list(pieces(values))), strict=True):
        assert np.array_equal(one, other)


def test_files_change_no_bit(tmp_path: Path) -> None:
    values = rows(9, 50_001)
    path = tmp_path / "updates"
    path.write_bytes(b"head" + values.astype("<f4").tobytes())
    files: list[VectorSource] = [FileVector(path, 50_001, 4 + 4 * 50_001 * index) for index in range(9)]
    for one, other in zip(results([MemoryVector(row) for row in values]), results(files), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(("far", "expected"), [(False, 2), (True, 3)])
def test_sources_are_read_twice_and_once_more_when_the_centre_moves(far: bool, expected: int) -> None:
    values = rows(9, 20_000)
    if far:
        values[0] *= 1e6
    sources = pieces(values)
    vectors = Vectors.of(sources)
    context = RoundContext(size=20_000)
    mixed = vectors.mix(Nnm(2).mix(vectors, context))
    decision = TrimmedMean(2).decide(mixed, context)
    assert decision.columns is not None
    mixed.by_columns(decision.columns, decision.weights)
    assert [len(source.reads) for source in sources] == [expected] * 9


def test_a_rule_of_columns_reads_once_and_krum_reads_its_winner_alone_again() -> None:
    sources = pieces(rows(9, 20_000))
    vectors, context = Vectors.of(sources), RoundContext(size=20_000)
    decision = Median().decide(vectors, context)
    assert decision.columns is not None
    vectors.by_columns(decision.columns, decision.weights)
    assert [len(source.reads) for source in sources] == [1] * 9
    winner = Krum(2).decide(vectors, context).weights
    vectors.weighted_sum(winner)
    assert [len(source.reads) for source in sources] == [3 if weight else 2 for weight in winner]


def test_no_rule_changes_what_it_is_given() -> None:
    values = rows(60, 3000)
    before = values.copy()
    for rule in (Robust(Median()), Robust(TrimmedMean(5)), Robust(Krum(5)), chain(Nnm(5), TrimmedMean(5))):
        rule.aggregate(values)
        assert np.array_equal(values, before)
