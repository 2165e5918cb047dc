from collections import Counter

import pytest

from wardround.orders import SiteId
from wardround.strategies.cohort import draw_cohort

SITES = tuple(SiteId(f"s{i}") for i in range(20))


def test_every_site_is_drawn_about_as_often() -> None:
    counts = Counter(site for number in range(4000) for site in draw_cohort(SITES, 5, 7, "fit", number))
    assert set(counts) == set(SITES)
    assert all(850 < count < 1150 for count in counts.values())  # 1000 expected, sd 27


def test_is_ordered_without_repeats_and_reproducible() -> None:
    cohort = draw_cohort(SITES, 5, 7, "fit", 1)
    assert list(cohort) == sorted(set(cohort), key=SITES.index)
    assert cohort == draw_cohort(SITES, 5, 7, "fit", 1)
    assert {cohort} != {draw_cohort(SITES, 5, seed, "fit", 1) for seed in range(5)}


@pytest.mark.parametrize("size", [20, 21])
def test_all_of_them(size: int) -> None:
    assert draw_cohort(SITES, size, 0) == SITES
