"""Partitions: every row at one site, and the skew that each is named after."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.client.data.site_data import Rows
from wardround.errors import LocalError
from wardround.plan_simulation import Partition
from wardround.registry import load, names
from wardround.simulations.partitions.partition import GROUP, Assign, Pool
from wardround.vector import I64

KINDS = ("dirichlet", "feature-shift", "iid", "quantity")


def pool(n: int = 2000, classes: int = 2, *, minimum: int = 10, two: bool = True, seed: int = 0) -> Pool:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n) if classes else rng.random(n).astype(np.float32)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    ward = rng.choice(["b", "c", "a"], n)
    return Pool(rows=Rows(x, y), min_examples=minimum, two_classes=two and classes > 0, values=ward)


def deal(kind: str, what: Pool, sites: int = 10, seed: int = 1, **more: object) -> list[I64]:
    assign: Assign = load(GROUP, kind)
    if kind == "feature-shift" and what.values is not None and what.values.dtype.kind == "U":
        what = Pool(rows=what.rows, min_examples=what.min_examples, two_classes=what.two_classes)
    return assign(what, Partition(kind=kind, **more), sites, seed)  # type: ignore[arg-type]


def test_all_kinds_are_registered() -> None:
    assert set(names(GROUP)) >= {*KINDS, "column"}


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(sites=st.integers(1, 12), seed=st.integers(0, 99), classes=st.sampled_from([0, 2, 5]))
def test_every_row_is_at_one_good_site(kind: str, sites: int, seed: int, classes: int) -> None:
    what = pool(600, classes, seed=seed)
    dealt = deal(kind, what, sites, seed)
    assert len(dealt) == sites
    assert sorted(np.concatenate(dealt).tolist()) == list(range(600))
    assert all(len(index) >= 10 and (not classes or len(np.unique(what.rows.y[index])) > 1) for index in dealt)
    again = deal(kind, what, sites, seed)
    assert all(np.array_equal(one, other) for one, other in zip(dealt, again, strict=True))


def label_distance(what: Pool, dealt: list[I64]) -> float:
    whole = np.bincount(what.rows.y) / len(what)
    parts = [np.bincount(what.rows.y[index], minlength=len(whole)) / len(index) for index in dealt]
    return float(np.mean([np.abs(part - whole).sum() / 2 for part in parts]))


def test_dirichlet_skews_labels_more_for_smaller_alpha() -> None:
    what = pool(5000, 5, minimum=1, two=False)
    near, middle, far = (label_distance(what, deal("dirichlet", what, alpha=alpha)) for alpha in (100.0, 1.0, 0.1))
    assert near < 0.1 < middle < 0.4 < far


def test_dirichlet_shares_have_the_distributions_moments() -> None:
    """A site's share of a class is Beta(alpha, (sites − 1) alpha): mean 1/10, variance 0.09 / 6 for alpha 0.5."""
    what = pool(10_000, 2, minimum=1, two=False)
    ones = int(what.rows.y.sum())
    shares = [what.rows.y[index].sum() / ones for seed in range(200) for index in deal("dirichlet", what, seed=seed)]
    assert np.mean(shares) == pytest.approx(0.1)
    assert np.var(shares) == pytest.approx(0.09 / 6, rel=0.15)


def test_dirichlet_skews_a_number_to_predict() -> None:
    what = pool(2000, 0)
    means = [float(what.rows.y[index].mean()) for index in deal("dirichlet", what, alpha=0.2)]
    assert np.std(means) > 5 * np.std([float(what.rows.y[index].mean()) for index in deal("iid", what)])


def test_quantity_skews_sizes_and_not_labels() -> None:
    what = pool(5000, 2, two=False)
    dealt = deal("quantity", what, alpha=0.3)
    sizes = np.array([len(index) for index in dealt])
    assert sizes.max() > 5 * np.median(sizes) and sizes.min() >= 10
    large = [index for index in dealt if len(index) > 300]
    assert label_distance(what, large) < 0.1


def test_feature_shift_sorts_by_a_column() -> None:
    what = pool()
    age = np.random.default_rng(5).uniform(0, 90, len(what))
    sorted_by = Pool(rows=what.rows, min_examples=10, two_classes=True, values=age)
    means = [float(age[index].mean()) for index in deal("feature-shift", sorted_by, column="age")]
    assert means == sorted(means) and means[-1] - means[0] > 45
    with pytest.raises(LocalError, match="expected a column of finite numbers to sort by, got 'ward'"):
        load(GROUP, "feature-shift")(what, Partition(kind="feature-shift", column="ward"), 10, 1)


def test_feature_shift_finds_the_first_principal_direction() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 6)) @ rng.normal(size=(6, 6))
    what = Pool(rows=Rows(x.astype(np.float32), rng.integers(0, 2, 3000)), min_examples=10, two_classes=True)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    first = z @ np.linalg.svd(z, full_matrices=False)[2][0]
    means = [float(first[index].mean()) for index in deal("feature-shift", what)]
    assert means in (sorted(means), sorted(means, reverse=True))
    assert np.ptp(means) > 2 * first.std()


def test_column_values_name_the_sites() -> None:
    what = pool()
    assert what.values is not None
    dealt = deal("column", what, 3, column="ward")
    assert [set(what.values[index].tolist()) for index in dealt] == [{"a"}, {"b"}, {"c"}]
    with pytest.raises(LocalError, match=r"simulation.sites: expected 3, the number of values in column 'ward', got 4"):
        deal("column", what, 4, column="ward")
    holes = np.where(what.values == "a", "", what.values)
    with pytest.raises(LocalError, match="expected a value in every row of 'ward'"):
        deal("column", Pool(rows=what.rows, min_examples=1, two_classes=False, values=holes), 3, column="ward")


@pytest.mark.parametrize("kind", KINDS)
def test_an_impossible_deal_is_refused(kind: str) -> None:
    rare = Rows(np.zeros((100, 1), dtype=np.float32), (np.arange(100) == 0).astype(np.int64))
    with pytest.raises(LocalError, match=r"simulation.partition: expected 4 sites of at least 5 rows of two classes"):
        deal(kind, Pool(rows=rare, min_examples=5, two_classes=True), 4)


@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_sites_are_dealt_out(kind: str) -> None:
    what = pool(1_000_000)
    dealt = deal(kind, what, 10_000)
    assert len(dealt) == 10_000 and sum(map(len, dealt)) == 1_000_000
    assert min(map(len, dealt)) >= 10
