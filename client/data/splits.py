"""The rows of one site, dealt out to training, validation and test."""

from collections.abc import Sequence

import numpy as np

from wardround.client.data.site_data import Rows, SiteData
from wardround.errors import LocalError
from wardround.orders import SiteId, derive_seed
from wardround.plan import Plan
from wardround.plan_sections import Data
from wardround.vector import I64

__all__ = ["check_site", "split_rows"]

_REGRESSION_STRATA = 4


def split_rows(plan: Plan, site: SiteId, rows: Rows) -> SiteData:
    """The site's rows split by `data.validation` and `data.test`; the same for the same plan seed, site and rows.

    Stratified by class (or quartile of a number to predict): each stratum gives its share, rounded by largest
    remainder, rare classes first, and the last row of a stratum always trains. Raises LocalError as `check_site` does.
    """
    check_site(plan.data, site, rows)
    strata = _strata(rows)
    rng = np.random.Generator(np.random.Philox(key=derive_seed(plan.seed, "split", site)))
    shuffled = rng.permutation(len(rows))
    order = shuffled[np.argsort(strata[shuffled], kind="stable")]  # stratum by stratum, each in random order
    sizes = np.bincount(strata).tolist()
    test = _share(sizes, sizes, plan.data.test)
    left = [size - given for size, given in zip(sizes, test, strict=True)]
    validation = _share(sizes, left, plan.data.validation)
    parts: tuple[list[I64], list[I64], list[I64]] = ([], [], [])
    start = 0
    for size, *given in zip(sizes, test, validation, strict=True):
        middle, end = start + given[0], start + sum(given)
        for part, piece in zip(parts, (order[start:middle], order[middle:end], order[end : start + size]), strict=True):
            part.append(piece)
        start += size
    ordered = rows.take(np.concatenate([np.sort(np.concatenate(part)) for part in parts]))  # one copy, three views
    first, second = sum(test), sum(test) + sum(validation)
    return SiteData(
        site=site,
        train=Rows(ordered.x[second:], ordered.y[second:]),
        validation=Rows(ordered.x[first:second], ordered.y[first:second]),
        test=Rows(ordered.x[:first], ordered.y[:first]),
    )


def check_site(data: Data, site: SiteId, rows: Rows) -> None:
    """Raises LocalError for no rows, fewer than `data.min_examples`, or one class only (unless that is allowed)."""
    if len(rows) < data.min_examples:
        got = "none (the site is empty)" if len(rows) == 0 else str(len(rows))
        raise LocalError(
            f"{site}: expected at least {data.min_examples} rows (data.min_examples), got {got}; "
            "leave the site out or lower the limit"
        )
    if rows.y.dtype == np.int64 and not data.allow_single_class and (rows.y == rows.y[0]).all():
        label = data.target.classes[int(rows.y[0])] if data.target and data.target.classes else rows.y[0]
        raise LocalError(
            f"{site}: expected rows of at least two classes, got {label!r} in all {len(rows)}; "
            "leave the site out or set data.allow_single_class = true"
        )


def _strata(rows: Rows) -> I64:
    """The stratum of each row, shape (n,): its class, or the quartile of its number."""
    if rows.y.dtype == np.int64:
        return rows.y.astype(np.int64, copy=False)
    rank = np.empty(len(rows), dtype=np.int64)
    rank[np.argsort(rows.y, kind="stable")] = np.arange(len(rows))
    return rank * _REGRESSION_STRATA // len(rows)


def _share(sizes: Sequence[int], available: Sequence[int], share: float) -> list[int]:
    """How many rows each stratum gives: `share` of its size by largest remainder, and one row at least stays.

    A stratum that would give none although half a row is due comes first, so that rare classes are seen.
    """
    exact = [size * share for size in sizes]
    limit = [max(count - 1, 0) for count in available]
    given = [min(int(value), most) for value, most in zip(exact, limit, strict=True)]
    wanted = round(sum(exact)) - sum(given)
    owed = sorted(
        (not (given[i] == 0 and exact[i] >= 0.5), given[i] - exact[i], i)
        for i in range(len(sizes))
        if given[i] < limit[i]
    )
    for *_, index in owed[: max(wanted, 0)]:
        given[index] += 1
    return given
