from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.orders import SiteId
from wardround.strategies.privacy.participation import spaced_cohort, too_soon


def sites(n: int) -> tuple[SiteId, ...]:
    return tuple(SiteId(f"s{i}") for i in range(n))


@given(
    size=st.integers(1, 5), separation=st.integers(1, 6), more=st.integers(0, 9), seed=st.integers(0, 2**40),
    start=st.integers(0, 1000),
)  # fmt: skip
def test_a_site_keeps_away_for_so_many_indices_and_all_have_their_turn(
    size: int, separation: int, more: int, seed: int, start: int
) -> None:
    everyone = sites(size * separation + more)
    last: dict[SiteId, int] = {}
    turns: Counter[SiteId] = Counter()
    for index in range(start, start + len(everyone)):
        cohort = spaced_cohort(everyone, size, seed, index, separation)
        assert len(cohort) == size and list(cohort) == sorted(set(cohort), key=everyone.index)
        for site in cohort:
            assert not too_soon(last.get(site), index, separation)
            last[site] = index
        turns.update(cohort)
    assert turns == dict.fromkeys(everyone, size)


def test_separation_is_reached_and_not_more_than_there_is_room_for() -> None:
    drawn = [spaced_cohort(sites(8), 2, 3, index, 4) for index in range(9)]
    assert drawn[0] == drawn[4] == drawn[8]
    assert not set(drawn[0]) & {site for cohort in drawn[1:4] for site in cohort}


def test_it_depends_on_the_seed_and_on_nothing_else() -> None:
    one = [spaced_cohort(sites(12), 3, 7, index, 2) for index in range(4)]
    assert one == [spaced_cohort(sites(12), 3, 7, index, 2) for index in range(4)]
    assert {one[0]} != {spaced_cohort(sites(12), 3, seed, 0, 2) for seed in range(5)}


def test_too_few_sites_are_refused_with_how_many_it_takes() -> None:
    spaced_cohort(sites(15), 3, 0, 0, 5)
    with pytest.raises(ValueError, match=r"at least 3 x 5 sites.* got 14"):
        spaced_cohort(sites(14), 3, 0, 0, 5)


def test_a_site_that_is_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="every site once"):
        spaced_cohort((*sites(5), SiteId("s0")), 1, 0, 0, 2)


@pytest.mark.parametrize(("size", "index", "separation"), [(0, 0, 1), (1, -1, 1), (1, 0, 0)])
def test_numbers_that_mean_nothing_are_refused(size: int, index: int, separation: int) -> None:
    with pytest.raises(ValueError, match="expected size and separation"):
        spaced_cohort(sites(5), size, 0, index, separation)


@pytest.mark.parametrize(
    ("last", "now", "soon"),
    [(None, 0, False), (0, 4, True), (0, 5, False), (7, 11, True), (7, 12, False), (7, 7, True), (7, 2, True)],
)
def test_too_soon_is_within_the_separation_or_not_forward(last: int | None, now: int, soon: bool) -> None:
    assert too_soon(last, now, 5) is soon


def test_a_separation_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        too_soon(0, 1, 0)
