"""Patients: numbers for ids, lots that no other row moves, the cap."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.client.data.patients import capped, codes_of_ids, codes_of_rows, copies, lots, numbered
from wardround.client.data.site_data import Rows, SiteData
from wardround.orders import SiteId
from wardround.vector import I64

codes = st.lists(st.integers(0, 5), max_size=40).map(lambda found: np.array(found, dtype=np.int64))


def rows(n: int) -> Rows:
    return Rows(np.arange(n, dtype=np.float32)[:, None], np.zeros(n, dtype=np.int64))


def test_the_same_id_has_the_same_code_and_others_do_not() -> None:
    found = codes_of_ids(["a", "b", "a", "é", "\ud800"])
    assert found[0] == found[2] and len(set(found.tolist())) == 4
    assert found.dtype == np.int64 and (found >= 0).all()
    assert codes_of_ids([]).shape == (0,)


def test_rows_are_told_apart_by_any_input_and_by_the_target() -> None:
    x = np.array([[1, 2], [1, 2], [1, 3], [1, 2]], dtype=np.float32)
    found = codes_of_rows(Rows(x, np.array([0, 0, 0, 1])))
    assert found[0] == found[1] and len(set(found.tolist())) == 3


@given(codes)
def test_numbers_and_copies_against_a_loop(found: I64) -> None:
    different = sorted(set(found.tolist()))
    assert numbered(found).tolist() == [different.index(code) for code in found.tolist()]
    assert copies(found).tolist() == [found[:at].tolist().count(code) for at, code in enumerate(found.tolist())]


def test_lots_are_even_and_depend_on_code_copy_and_seed_alone() -> None:
    many = codes_of_ids(map(str, range(20_000)))
    none = np.zeros_like(many)
    found = lots(many, none, 1)
    assert np.abs(np.sort(found) - np.arange(20_000) / 20_000).max() < 0.02  # Kolmogorov: 2.8 / √n, below 1e-6
    assert np.array_equal(lots(many[::-1], none, 1), found[::-1])
    for other in (lots(many, none + 1, 1), lots(many, none, 2)):
        assert abs(np.corrcoef(found, other)[0, 1]) < 0.05


@given(codes, st.integers(1, 4), st.integers(0, 2**63 - 1))
def test_the_cap_keeps_as_many_rows_of_each_patient_as_it_may(found: I64, most: int, seed: int) -> None:
    kept = capped(found, most, seed)
    assert kept.tolist() == sorted(set(kept.tolist()))
    sizes = np.bincount(found, minlength=6)
    assert np.bincount(found[kept], minlength=6).tolist() == np.minimum(sizes, most).tolist()


@given(codes, st.integers(0, 5), st.integers(1, 3))
def test_a_patient_who_is_not_there_changes_nothing_of_the_others(found: I64, gone: int, most: int) -> None:
    left = found != gone
    kept = capped(found, most, 3)
    expected = np.flatnonzero(left)[capped(found[left], most, 3)]
    assert np.array_equal(kept[left[kept]], expected)


def test_the_cap_draws_every_row_alike() -> None:
    """Of five rows of each of 4000 patients two are kept: each place 1600 times, give or take 6 deviations."""
    kept = capped(np.tile(codes_of_ids(map(str, range(4000))), 5), 2, 9)
    assert (np.abs(np.bincount(kept // 4000) - 1600) < 6 * (4000 * 0.4 * 0.6) ** 0.5).all()


@pytest.mark.parametrize(
    ("patients", "message"),
    [
        ([0, 1], "an int64 patient for each of 3 training rows"),
        ([0.0, 1.0, 1.0], "an int64 patient"),
        ([0, 2, 2], "patients 0 to m - 1"),
        ([1, 2, 3], "patients 0 to m - 1"),
        ([0, 1, -1], "patients 0 to m - 1"),
        ([0, 1, 1 << 62], "patients 0 to m - 1"),
    ],
)
def test_patients_of_a_site_are_0_to_m_each_with_a_row(patients: list[int], message: str) -> None:
    none = rows(0)
    site = SiteData(site=SiteId("a"), train=rows(3), validation=none, test=none, patients=np.array([1, 0, 1]))
    assert site.patients is not None
    with pytest.raises(ValueError, match=message):
        SiteData(site=SiteId("a"), train=rows(3), validation=none, test=none, patients=np.array(patients))
