from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.contribution import Contribution
from wardround.errors import LocalError
from wardround.orders import SiteId
from wardround.strategies.rules.mean import Mean
from wardround.tally import Tally
from wardround.vector import F32, MemoryVector


def contribution(values: F32, weight: int, site: str = "a") -> Contribution:
    return Contribution(
        members=(SiteId(site),), weight=weight, vector=MemoryVector(values), tally=Tally.of_means(weight, {})
    )


@given(
    st.integers(1, 6),
    st.integers(1, 70_000),
    st.integers(0, 2**32),
)
def test_is_the_weighted_average_in_float64(n: int, size: int, seed: int) -> None:
    generator = np.random.Generator(np.random.Philox(key=seed))
    rows = generator.normal(size=(n, size)).astype(np.float32)
    weights = generator.integers(1, 1000, size=n)
    vector, report = Mean().apply(contribution(row, int(w)) for row, w in zip(rows, weights, strict=True))
    expected = np.average(rows.astype(np.float64), axis=0, weights=weights)
    np.testing.assert_allclose(vector, expected.astype(np.float32), rtol=1e-6, atol=1e-7)
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    np.testing.assert_allclose([line.norm or 0.0 for line in report.lines], norms, rtol=1e-4)


def test_sums_in_float64() -> None:
    big, small = np.full(1, 2**24, np.float32), np.full(1, 1, np.float32)
    vector, _ = Mean().apply([contribution(big, 1), *(contribution(small, 1) for _ in range(4)), contribution(-big, 1)])
    assert vector[0] == np.float32(4 / 6)  # float32 would have lost every one of the small ones


def test_keeps_no_contribution() -> None:
    buffer = np.zeros(4, np.float32)

    def reused() -> Iterator[Contribution]:
        for i in range(3):
            buffer[:] = i
            yield contribution(buffer, 1)

    vector, _ = Mean().apply(reused())
    np.testing.assert_array_equal(vector, np.ones(4, np.float32))


def test_vectors_that_come_in_small_pieces() -> None:
    class Pieces:
        size = 5

        def chunks(self, floats: int = 1) -> Iterator[F32]:
            yield np.array([1, 2], np.float32)
            yield np.array([3, 4, 5], np.float32)

    pieces = Contribution(members=(SiteId("a"),), weight=2, vector=Pieces(), tally=Tally.of_means(2, {}))
    vector, report = Mean().apply([pieces, contribution(np.ones(5, np.float32), 2)])
    np.testing.assert_array_equal(vector, np.array([1, 1.5, 2, 2.5, 3], np.float32))
    assert report.lines[0].norm == pytest.approx(np.sqrt(55))


def test_nothing_to_average() -> None:
    with pytest.raises(LocalError, match="at least one contribution"):
        Mean().apply([])
    with pytest.raises(LocalError, match="weight above 0"):
        Mean().apply([contribution(np.ones(2, np.float32), 0)])
