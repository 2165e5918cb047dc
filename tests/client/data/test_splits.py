"""Splits: every row once, every class in training, shares as asked."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.client.data.patients import codes_of_ids
from wardround.client.data.site_data import Rows, SiteData
from wardround.client.data.splits import split_rows
from wardround.errors import LocalError
from wardround.orders import SiteId, Split
from wardround.plan import Plan, PlanError, parse_plan
from wardround.plan_privacy import Privacy, Unit
from wardround.vector import I64

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


# -- patients -----------------------------------------------------------------------------------------


def hidden(unit: Unit, plan: Plan, max_rows: int = 1) -> Plan:
    return replace(plan, privacy=Privacy(unit=unit, epsilon=1.0, max_rows=max_rows, public_sizes=True))


def parts(site: SiteData) -> list[list[int]]:
    """The rows of each part, by the number that `rows` gives them."""
    return [site.split(split).x[:, 0].astype(int).tolist() for split in Split]


def ids(patients: list[int]) -> I64:
    return codes_of_ids(map(str, patients))


@given(
    rows_of=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2)), min_size=2, max_size=80),
    shares=st.sampled_from([(0.15, 0.2), (0.0, 0.0), (0.45, 0.5)]),
    seed=st.integers(0, 9),
    unit=st.sampled_from([Unit.OFF, Unit.ROW, Unit.CLIENT, Unit.PATIENT]),
)
def test_no_patient_is_split_up(
    rows_of: list[tuple[int, int]], shares: tuple[float, float], seed: int, unit: Unit
) -> None:
    patients, y = [patient for patient, _ in rows_of], [label for _, label in rows_of]
    asked = plan(seed, validation=shares[0], test=shares[1], allow_single_class=True)
    if unit is not Unit.OFF:
        asked = hidden(unit, asked, max_rows=80 if unit is Unit.PATIENT else 1)
    site = split_rows(asked, SITE, rows(y), ids(patients))
    found = parts(site)
    assert sorted(row for part in found for row in part) == list(range(len(y)))
    assert not any(
        {patients[row] for row in one} & {patients[row] for row in other}
        for one, other in ((found[0], found[1]), (found[0], found[2]), (found[1], found[2]))
    )
    assert site.patients is not None
    names = {number: patients[row] for number, row in zip(site.patients.tolist(), found[0], strict=True)}
    assert [names[number] for number in site.patients.tolist()] == [patients[row] for row in found[0]]
    assert len(set(names.values())) == len(names)


def test_patients_are_dealt_in_the_plans_shares_and_by_class() -> None:
    y = np.repeat([0] * 61 + [1] * 33 + [2] * 6, 4)
    site = split_rows(plan(), SITE, rows(y), ids(np.repeat(range(100), 4).tolist()))
    assert (len(site.train), len(site.validation), len(site.test)) == (4 * 65, 4 * 15, 4 * 20)
    assert np.bincount(site.test.y).tolist() == [4 * 12, 4 * 7, 4 * 1]


def test_a_patient_counts_by_the_rarest_class_that_they_have() -> None:
    """Each of 40 patients has rows of the common class, and 10 of them one of the rare class."""
    y = [label for patient in range(40) for label in ([0, 1, 0] if patient % 4 == 0 else [0, 0, 0])]
    for seed in range(9):
        site = split_rows(plan(seed), SITE, rows(y), ids(np.repeat(range(40), 3).tolist()))
        assert [np.bincount(site.split(split).y)[1] for split in Split] == [7, 1, 2]


def test_patients_with_a_number_to_predict_are_split_by_the_quartile_of_their_mean() -> None:
    y = np.random.default_rng(0).permutation(100) / 100
    site = split_rows(plan(target={"name": "y", "range": [0, 1]}), SITE, rows(np.tile(y, 2)), ids([*range(100)] * 2))
    assert np.histogram(site.test.y, bins=(0, 0.25, 0.5, 0.75, 1))[0].tolist() == [10, 10, 10, 10]


@given(
    rows_of=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 1)), min_size=3, max_size=60),
    gone=st.integers(0, 59),
    seed=st.integers(0, 9),
)
def test_one_patient_more_or_less_moves_no_other(rows_of: list[tuple[int, int]], gone: int, seed: int) -> None:
    patients, y = [patient for patient, _ in rows_of], [label for _, label in rows_of]
    asked = hidden(Unit.PATIENT, plan(seed, allow_single_class=True), max_rows=2)
    pool, codes = rows(y), ids(patients)
    left = np.array([row for row, patient in enumerate(patients) if patient != patients[gone % len(patients)]])
    if len(left) == 0:
        return
    with_all = parts(split_rows(asked, SITE, pool, codes))
    without = parts(split_rows(asked, SITE, pool.take(left), codes[left]))
    kept = set(left.tolist())
    assert [[row for row in part if row in kept] for part in with_all] == without


@given(
    values=st.lists(st.integers(0, 3), min_size=3, max_size=40),
    gone=st.integers(0, 39),
    seed=st.integers(0, 9),
)
def test_one_row_more_or_less_moves_no_other_as_far_as_values_tell(values: list[int], gone: int, seed: int) -> None:
    """Rows of equal values cannot be told apart, so that parts are compared as what values they have."""
    asked = hidden(Unit.ROW, plan(seed, allow_single_class=True))
    gone %= len(values)
    fewer = values[:gone] + values[gone + 1 :]

    def split(found: list[int]) -> list[list[int]]:
        pool = Rows(np.array(found, dtype=np.float32)[:, None], np.zeros(len(found), dtype=np.int64))
        return [sorted(part) for part in parts(split_rows(asked, SITE, pool))]

    more, less = split(values), split(fewer)
    differences = [
        sum(abs(one.count(value) - other.count(value)) for value in range(4))
        for one, other in zip(more, less, strict=True)
    ]
    assert sorted(differences) == [0, 0, 1]
    assert split(values[::-1]) == more


def test_shares_by_lot_are_those_of_chance() -> None:
    for patients in (None, ids([*range(4000)])):
        site = split_rows(hidden(Unit.ROW, plan()), SITE, rows([0, 1] * 2000), patients)
        for part, share in ((site.test, 0.2), (site.validation, 0.15)):
            assert abs(len(part) - share * 4000) < 6 * (4000 * share * (1 - share)) ** 0.5


def test_training_rows_of_a_hidden_patient_are_capped() -> None:
    patients = [0] * 50 + [1] * 3 + [*range(2, 30)]
    y = np.arange(len(patients)) % 2
    asked = hidden(Unit.PATIENT, plan(validation=0.0, test=0.0), max_rows=3)
    site = split_rows(asked, SITE, rows(y), ids(patients))
    assert site.patients is not None and np.bincount(site.patients).max() == 3 and len(site.train) == 3 + 3 + 28
    again = split_rows(asked, SITE, rows(1 - y), ids(patients))
    assert np.array_equal(again.train.x, site.train.x), "which rows are kept must not depend on what they say"
    assert len(split_rows(hidden(Unit.ROW, asked), SITE, rows(y), ids(patients)).train) == len(patients)


def test_rows_without_patients_cannot_hide_patients() -> None:
    with pytest.raises(PlanError, match=r"plan\.data\.patient: expected the column that says whose a row is"):
        split_rows(hidden(Unit.PATIENT, plan()), SITE, rows([0, 1] * 10))


def test_a_plan_that_hides_clients_splits_as_one_that_hides_nobody() -> None:
    asked = hidden(Unit.CLIENT, plan())
    pool = rows([0, 1] * 50)
    assert parts(split_rows(asked, SITE, pool)) == parts(split_rows(plan(), SITE, pool))
