from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.contribution import Contribution, Verdict
from wardround.orders import SiteId
from wardround.strategies.rules.mean import Mean
from wardround.strategies.rules.rule import Aggregate, RoundContext
from wardround.tally import Tally
from wardround.vector import F32, MemoryVector


def contribution(values: F32, weight: int, site: str = "a") -> Contribution:
    return Contribution(
        members=(SiteId(site),), weight=weight, vector=MemoryVector(values), tally=Tally.of_means(weight, {})
    )


def mean(contributions: Iterable[Contribution], size: int) -> Aggregate:
    return Mean().apply(contributions, RoundContext(size=size))


def vector_of(aggregate: Aggregate) -> F32:
    assert aggregate.vector is not None
    return aggregate.vector


@given(
    st.integers(1, 6),
    st.integers(1, 70_000),
    st.integers(0, 2**32),
)
def test_is_the_weighted_average_in_float64(n: int, size: int, seed: int) -> None:
    generator = np.random.Generator(np.random.Philox(key=seed))
    rows = generator.normal(size=(n, size)).astype(np.float32)
    weights = generator.integers(1, 1000, size=n)
    found = mean((contribution(row, int(w)) for row, w in zip(rows, weights, strict=True)), size)
    expected = np.average(rows.astype(np.float64), axis=0, weights=weights)
    np.testing.assert_allclose(vector_of(found), expected.astype(np.float32), rtol=1e-6, atol=1e-7)
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    np.testing.assert_allclose([line.norm or 0.0 for line in found.report.lines], norms, rtol=1e-4)


def test_sums_in_float64() -> None:
    big, small = np.full(1, 2**24, np.float32), np.full(1, 1, np.float32)
    given = [contribution(big, 1), *(contribution(small, 1) for _ in range(4)), contribution(-big, 1)]
    assert vector_of(mean(given, 1))[0] == np.float32(4 / 6)  # float32 would have lost every one of the small ones


def test_keeps_no_contribution() -> None:
    buffer = np.zeros(4, np.float32)

    def reused() -> Iterator[Contribution]:
        for i in range(3):
            buffer[:] = i
            yield contribution(buffer, 1)

    np.testing.assert_array_equal(vector_of(mean(reused(), 4)), np.ones(4, np.float32))


def test_vectors_that_come_in_small_pieces() -> None:
    class Pieces:
        size = 5

        def chunks(self, floats: int = 1) -> Iterator[F32]:
            yield np.array([1, 2], np.float32)
            yield np.array([3, 4, 5], np.float32)

    pieces = Contribution(members=(SiteId("a"),), weight=2, vector=Pieces(), tally=Tally.of_means(2, {}))
    found = mean([pieces, contribution(np.ones(5, np.float32), 2)], 5)
    np.testing.assert_array_equal(vector_of(found), np.array([1, 1.5, 2, 2.5, 3], np.float32))
    assert found.report.lines[0].norm == pytest.approx(np.sqrt(55))


def test_what_no_honest_site_sends_is_refused_and_the_rest_averaged() -> None:
    bad = [np.array([np.nan, 1]), np.array([1, np.inf]), np.ones(3), np.array([1e18, 0]), np.array([3e38, 3e38])]
    found = mean([contribution(v.astype(np.float32), 9) for v in bad] + [contribution(np.ones(2, np.float32), 1)], 2)
    np.testing.assert_array_equal(vector_of(found), np.ones(2, np.float32))
    assert [line.verdict for line in found.report.lines] == [Verdict.REFUSED] * 5 + [Verdict.ACCEPTED]
    reasons = [line.reason for line in found.report.lines[:5]]
    assert reasons[:2] == ["expected finite values, got 1 that are not"] * 2
    assert reasons[2] == "expected 2 values, got 3"
    assert all(reason.startswith("expected a norm of at most 1e+15") for reason in reasons[3:])


def test_nothing_to_average() -> None:
    for none in ([], [contribution(np.ones(2, np.float32), 0)]):
        found = mean(none, 2)
        assert found.vector is None and found.reason == "no contribution has a weight above 0"
