import dataclasses
from typing import Any

import numpy as np
import pytest

from tests.private_rows import keyed, private_plan
from tests.sites_of_rows import site_of
from wardround.client.data.site_data import SiteData
from wardround.client.trainer.private_sample import Units
from wardround.errors import LocalError
from wardround.plan import Plan
from wardround.plan_privacy import Relation, Sampling, Unit
from wardround.strategies.privacy.terms import site_terms
from wardround.vector import I64

PATIENTS = np.array([2, 0, 1, 2, 4, 0, 3, 2, 1, 4])


def _patients(patients: I64 = PATIENTS) -> SiteData:
    return dataclasses.replace(site_of("st-mary", len(patients), 0), patients=patients)


def _plan(max_rows: int = 3, batch: int = 2, **privacy: Any) -> Plan:
    return private_plan({"batch_size": batch}, unit=Unit.PATIENT, max_rows=max_rows, **privacy)


def test_rows_are_units_of_their_own() -> None:
    units = Units.of(private_plan(), site_of("a", 7, 0))
    assert len(units) == 7
    assert units.rows_of(np.array([1, 4, 6])).tolist() == [1, 4, 6]
    assert units.rows_of(np.array([], dtype=np.int64)).tolist() == []


def test_all_rows_of_a_patient_belong_together() -> None:
    units = Units.of(_plan(), _patients())
    assert len(units) == 5
    assert sorted(units.rows_of(np.array([2])).tolist()) == [0, 3, 7]
    assert sorted(units.rows_of(np.array([0, 3, 4])).tolist()) == [1, 4, 5, 6, 9]
    assert sorted(units.rows_of(np.arange(5)).tolist()) == list(range(10))
    assert units.rows_of(np.array([], dtype=np.int64)).size == 0
    alone = Units.of(_plan(max_rows=1), _patients(np.array([2, 0, 1])))
    assert alone.rows_of(np.array([0, 2])).tolist() == [1, 0]


def test_a_patient_with_more_rows_than_the_noise_is_for_is_refused() -> None:
    expected = r"st-mary: expected at most 2 training rows of one patient \(privacy.max_rows\), got 3"
    with pytest.raises(LocalError, match=expected):
        Units.of(_plan(max_rows=2), _patients())


def test_patients_must_be_known_where_they_are_hidden() -> None:
    with pytest.raises(LocalError, match="st-mary: expected a patient of each training row"):
        Units.of(_plan(), site_of("st-mary", 5, 0))
    assert len(Units.of(private_plan(), _patients())) == 10  # rows are hidden there, not patients


def test_a_site_without_training_rows_is_named() -> None:
    with pytest.raises(LocalError, match="site st-mary: expected at least one training row, got none"):
        Units.of(private_plan(), site_of("st-mary", 0, 0))


def test_a_poisson_sample_takes_each_patient_by_chance_and_all_of_its_rows() -> None:
    plan, random = _plan(batch=2), keyed()
    units = Units.of(plan, _patients())
    terms = site_terms(plan, len(units))
    assert terms.rate == pytest.approx(0.4)
    draws = 4000
    taken = np.zeros(10)
    sizes = set()
    for _ in range(draws):
        rows = units.draw(terms, random)
        counts = np.bincount(PATIENTS[rows], minlength=5)
        assert all(count in (0, whole) for count, whole in zip(counts, np.bincount(PATIENTS), strict=True))
        taken[rows] += 1
        sizes.add(np.count_nonzero(counts))
    assert sizes == {0, 1, 2, 3, 4, 5}
    # 6.5 standard deviations of a binomial: beyond with a chance below 1e-9 for ten of them
    assert np.abs(taken / draws - 0.4).max() < 6.5 * (0.4 * 0.6 / draws) ** 0.5


def test_full_participation_takes_every_row_and_a_fixed_size_so_many_units() -> None:
    plan = _plan(sampling=Sampling.FULL)
    units = Units.of(plan, _patients())
    assert sorted(units.draw(site_terms(plan, 5), keyed()).tolist()) == list(range(10))
    fixed = private_plan({"batch_size": 3}, sampling=Sampling.FIXED_SIZE, relation=Relation.REPLACE_ONE)
    rows = Units.of(fixed, site_of("a", 9, 0))
    random = keyed()
    found = [tuple(rows.draw(site_terms(fixed, 9), random).tolist()) for _ in range(40)]
    assert {len(set(each)) for each in found} == {3} and len(set(found)) > 10


def test_a_shuffle_is_no_sample() -> None:
    plan = private_plan({"batch_size": 2}, sampling=Sampling.POISSON)
    terms = dataclasses.replace(site_terms(plan, 5), sampling=Sampling.SHUFFLE)
    with pytest.raises(LocalError, match="expected full, poisson or fixed-size, got shuffle"):
        Units.of(plan, site_of("a", 5, 0)).draw(terms, keyed())
