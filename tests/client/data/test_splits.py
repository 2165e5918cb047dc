"""Splits: every row once, every class in training, shares as asked."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.client.data.site_data import Rows
from wardround.client.data.splits import split_rows
from wardround.errors import LocalError
from wardround.orders import SiteId, Split
from wardround.plan import Plan, parse_plan

SITE = SiteId("north")


def plan(seed: int = 0, **more: Any) -> Plan:
    target = {"name": "y", "classes": ["no", "yes", "maybe"]}
    data = {"source": "arrays", "target": target, "min_examples": 1, **more}
    return parse_plan({"name": "x", "seed": seed, "rounds": 1, "task": {"name": "t"}, "data": data})


def rows(y: object) -> Rows:
    labels = np.asarray(y)
    labels = labels.astype(np.int64 if labels.dtype.kind == "i" else np.float32)
    return Rows(np.arange(len(labels), dtype=np.float32)[:, None], labels)


@settings(deadline=None)
@given(
    y=st.lists(st.integers(0, 2), min_size=2, max_size=80).filter(lambda y: len(set(y)) > 1),
    shares=st.sampled_from([(0.15, 0.2), (0.0, 0.0), (0.3, 0.3), (0.0, 0.5), (0.45, 0.5)]),
    seed=st.integers(0, 9),
)
def test_every_row_once_and_every_class_trains(y: list[int], shares: tuple[float, float], seed: int) -> None:
    validation, test = shares
    pool = rows(y)
    site = split_rows(plan(seed, validation=validation, test=test), SITE, pool)
    seen = np.concatenate([site.split(split).x[:, 0] for split in Split]).astype(int)
    assert sorted(seen.tolist()) == list(range(len(y)))
    assert set(site.train.y.tolist()) == set(y)
    for split in Split:
        part = site.split(split)
        assert part.y.tolist() == [y[int(index)] for index in part.x[:, 0]]
    sizes = np.bincount(y, minlength=3)
    room = sizes - 1
    for part, share in ((site.test, test), (site.validation, validation)):
        given, owed = np.bincount(part.y, minlength=3), np.floor(share * sizes + 1e-9)
        assert (given <= owed + (share > 0)).all() and (given >= np.minimum(owed, room)).all()
        room = room - given


def test_shares_are_exact_where_there_is_room() -> None:
    y = [0] * 61 + [1] * 33 + [2] * 6
    site = split_rows(plan(), SITE, rows(y))
    assert (len(site.train), len(site.validation), len(site.test)) == (65, 15, 20)
    assert np.bincount(site.test.y).tolist() == [12, 7, 1]
    assert np.bincount(site.validation.y).tolist() == [9, 5, 1]


def test_a_rare_class_is_seen_in_the_test() -> None:
    site = split_rows(plan(), SITE, rows([0] * 99 + [1] * 3))
    assert np.bincount(site.test.y).tolist() == [19, 1] and np.bincount(site.train.y)[1] == 2


def test_a_split_depends_on_seed_and_site_only() -> None:
    pool = rows([0, 1] * 50)
    first = split_rows(plan(), SITE, pool)
    assert np.array_equal(first.train.x, split_rows(plan(), SITE, pool).train.x)
    assert not np.array_equal(first.train.x, split_rows(plan(1), SITE, pool).train.x)
    assert not np.array_equal(first.train.x, split_rows(plan(), SiteId("south"), pool).train.x)


def test_numbers_to_predict_are_split_by_quartile() -> None:
    y = np.random.default_rng(0).permutation(100) / 100
    site = split_rows(plan(target={"name": "y", "range": [0, 1]}), SITE, rows(y))
    assert np.histogram(site.test.y, bins=(0, 0.25, 0.5, 0.75, 1))[0].tolist() == [5, 5, 5, 5]
    assert len(site.validation) == 15


@pytest.mark.parametrize(
    ("y", "more", "message"),
    [
        ([], {}, "north: expected at least 1 rows .*, got none .the site is empty."),
        ([0, 1] * 4, {"min_examples": 10}, r"north: expected at least 10 rows \(data.min_examples\), got 8"),
        ([1] * 12, {}, "north: expected rows of at least two classes, got 'yes' in all 12; .*allow_single_class"),
    ],
)
def test_sites_that_cannot_take_part(y: list[int], more: dict[str, Any], message: str) -> None:
    with pytest.raises(LocalError, match=message):
        split_rows(plan(**more), SITE, rows(np.array(y, dtype=np.int64)))


def test_one_class_is_accepted_where_the_plan_says_so() -> None:
    site = split_rows(plan(allow_single_class=True), SITE, rows([1] * 20))
    assert (len(site.train), len(site.validation), len(site.test)) == (13, 3, 4)
