"""Standardisation against scikit-learn's StandardScaler."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from wardround.errors import RemoteError
from wardround.orders import Statistics
from wardround.plan_sections import Column, ColumnType, Data, Standardize, Target
from wardround.standardization import (
    robust_statistics,
    standardize,
    statistics_fault,
    statistics_of,
    statistics_spec,
    statistics_tally,
)
from wardround.tally import Tally, decode_spec, encode_spec
from wardround.vector import F32, F64

TARGET = Target(name="y", classes=("0", "1"))
CATEGORY = Column(name="ward", type=ColumnType.CATEGORY, categories=("a", "b"))


def data(*ranges: tuple[float, float], how: Standardize = Standardize.FEDERATED) -> Data:
    """Number columns with a category of two inputs after the first."""
    numbers = [Column(name=f"n{i}", range=limits, mean=0.0, std=1.0) for i, limits in enumerate(ranges)]
    return Data(source="arrays", target=TARGET, columns=(numbers[0], CATEGORY, *numbers[1:]), standardize=how)


def inputs(numbers: F64) -> F32:
    """Rows of the columns of `data`."""
    ward = np.tile([1.0, 0.0], (len(numbers), 1))
    return np.concatenate((numbers[:, :1], ward, numbers[:, 1:]), axis=1).astype(np.float32)


RANGES = ((0.0, 50.0), (-1e4, 3e4), (0.0, 1e-3))


@pytest.mark.parametrize("noisy", [False, True])
def test_what_is_summed_of_many_columns_is_said_in_few_bytes(noisy: bool) -> None:
    spec = statistics_spec(data(*30_000 * [(0.0, 1.0)]), noisy=noisy)
    assert spec.size == 60_001 and len(encode_spec(spec)) < 100
    assert decode_spec(encode_spec(spec)) == spec != statistics_spec(data(*RANGES), noisy=noisy)
    assert Tally(spec, np.ones(spec.size, dtype=np.int64)).metrics() == {}  # figures of a model: none


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 2**32))
def test_sums_over_sites_standardise_as_all_rows_together_would(sizes: list[int], seed: int) -> None:
    generator = np.random.Generator(np.random.Philox(key=seed))
    low, high = np.array(RANGES).T
    numbers = (low + (high - low) * generator.beta(2, 5, size=(sum(sizes), 3))).astype(np.float32).astype(np.float64)
    section = data(*RANGES)
    x = inputs(numbers)
    tallies = [statistics_tally(section, part) for part in np.split(x, np.cumsum(sizes)[:-1])]
    statistics = statistics_of(section, sum(tallies[1:], tallies[0]))
    scaler = StandardScaler().fit(numbers)
    width = high - low
    assert statistics.mean == pytest.approx(scaler.mean_, abs=1e-8 * width.max())
    if len(numbers) > 1:
        assert np.array(statistics.std) / width == pytest.approx(np.sqrt(scaler.var_) / width, rel=1e-4, abs=3e-5)
        out = standardize(section, x, statistics)
        assert np.array_equal(out[:, 1:3], x[:, 1:3])
        assert out[:, [0, 3, 4]] == pytest.approx(scaler.transform(numbers), abs=2e-3)


@pytest.mark.parametrize("sites", [1, 7, 100])
@pytest.mark.parametrize("value", [0.1, 37.7, 49.999])
def test_a_column_without_spread_has_deviation_one(sites: int, value: float) -> None:
    """Also where every site's sums are rounded to fixed point."""
    section = data((0.0, 50.0))
    tally = statistics_tally(section, inputs(np.full((3, 1), value)))
    total = tally
    for _ in range(sites - 1):
        total = total + tally
    found = statistics_of(section, total)
    assert found.std == (1.0,)
    assert found.mean == pytest.approx((value,), rel=1e-6)


def test_a_narrow_column_keeps_its_spread() -> None:
    """A deviation of a thousandth of the range is data, not rounding."""
    numbers = 25 + 0.05 * np.random.Generator(np.random.Philox(key=1)).normal(size=(500, 1))
    found = statistics_of(data((0.0, 50.0)), statistics_tally(data((0.0, 50.0)), inputs(numbers)))
    assert found.std == pytest.approx((numbers.std(),), rel=1e-3)


def test_plan_constants() -> None:
    section = Data(
        source="arrays",
        target=TARGET,
        columns=(Column(name="a", mean=10.0, std=4.0), CATEGORY, Column(name="b", mean=-1.0, std=0.5)),
        standardize=Standardize.PLAN,
    )
    x = np.array([[14, 1, 0, 0], [10, 0, 1, -1]], dtype=np.float32)
    assert standardize(section, x, None).tolist() == [[1, 1, 0, 2], [0, 0, 1, 0]]
    assert x[0, 0] == 14  # the rows themselves stay


def test_none_leaves_the_rows_alone() -> None:
    x = inputs(np.ones((2, 1)))
    assert standardize(data((0.0, 2.0), how=Standardize.NONE), x, None) is x


def test_what_does_not_fit_is_refused() -> None:
    section = data((0.0, 2.0))
    x = inputs(np.ones((2, 1)))
    with pytest.raises(RemoteError, match="an order with federated statistics"):
        standardize(section, x, None)
    with pytest.raises(RemoteError, match="expected 1 columns, got 2"):
        standardize(section, x, Statistics(mean=(0.0, 0.0), std=(1.0, 1.0)))
    with pytest.raises(RemoteError, match="sums over at least one row"):
        statistics_of(section, Tally.of_means(3, {"a": 1.0}))
    with pytest.raises(RemoteError, match="sums over at least one row"):
        statistics_of(section, Tally.empty(statistics_tally(section, x).spec))


def test_one_site_cannot_carry_off_the_medians_as_it_does_the_sums() -> None:
    generator = np.random.Generator(np.random.Philox(key=3))
    section = data(*RANGES)
    low, high = np.array(RANGES).T
    rows = [inputs(low + (high - low) * generator.beta(2, 5, size=(60, 3))) for _ in range(5)]
    honest = [statistics_tally(section, x) for x in rows]
    n = 1 << 30
    liar = Tally(honest[0].spec, np.array([n, *[n << 32] * 6], dtype=np.int64))  # so many rows, all at the upper end
    assert statistics_fault(section, liar) == ""
    summed = statistics_of(section, sum(honest[1:], start=honest[0]) + liar)
    robust, truth = (
        robust_statistics(section, [*honest, liar]),
        statistics_of(section, sum(honest[1:], start=honest[0])),
    )
    np.testing.assert_allclose(summed.mean, high, rtol=1e-3)
    np.testing.assert_allclose(robust.mean, truth.mean, atol=0.1 * float((high - low).max()), rtol=0.2)
    np.testing.assert_allclose(robust.std, truth.std, rtol=0.2)


def test_sums_that_no_site_can_have_are_named() -> None:
    section = data(*RANGES)
    good = statistics_tally(section, inputs(np.array([[1.0, 5.0, 1e-4], [50.0, 3e4, 1e-3]])))
    assert statistics_fault(section, good) == ""

    def changed(place: int, value: int) -> str:
        counts = good.counts.copy()
        counts[place] = value
        return statistics_fault(section, Tally(good.spec, counts))

    assert changed(0, 0).startswith("expected 1 to") and changed(0, -(10**6)).startswith("expected 1 to")
    for place, value in ((1, 1 << 62), (1, -1), (4, 1 << 62), (4, -(1 << 40))):
        assert changed(place, value) == "expected sums of values within the columns' ranges"
    assert statistics_fault(section, Tally.of_means(3, {"a": 1.0})) == "expected sums of the plan's columns"


def noisy(tally: Tally) -> Tally:
    """The same sums under the names of noisy ones."""
    return Tally(statistics_spec(data(*RANGES), noisy=True), tally.counts)


def test_noise_is_the_least_that_a_variance_can_be_told_by() -> None:
    """The floor is the variance's own noise, √(1 + 4 mean²) σ / n, and 1/12 of the squared range at most."""
    section, n = data(*RANGES), 400
    low, high = np.array(RANGES).T
    flat = noisy(statistics_tally(section, inputs(np.tile(low + (high - low) * 0.5, (n, 1)))))
    for std, expected in ((0.4, 2**0.5 * 1e-3), (4.0, 2**0.5 * 1e-2), (400.0, 1 / 12)):
        found = statistics_of(section, flat, std)
        np.testing.assert_allclose(np.array(found.std) / (high - low), expected**0.5, rtol=1e-3)
        np.testing.assert_allclose(found.mean, (low + high) / 2, rtol=1e-6)
    spread = inputs(low + (high - low) * np.random.Generator(np.random.Philox(key=4)).beta(2, 5, size=(n, 3)))
    clear = statistics_tally(section, spread)
    assert statistics_of(section, noisy(clear), 0.4) == statistics_of(section, clear)
    several = robust_statistics(section, [flat] * 9, 4.0)
    of_median = 2**0.5 * 1e-2 * (np.pi / 2) ** 0.5 / 3
    np.testing.assert_allclose(np.array(several.std) / (high - low), of_median**0.5, rtol=1e-3)
