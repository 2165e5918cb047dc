"""The rows of one site, dealt out to training, validation and test."""

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
    remainder, and the last row of a stratum always trains. Raises LocalError as `check_site` does.
    """
    check_site(plan.data, site, rows)
    strata = _strata(rows)
    rng = np.random.Generator(np.random.Philox(key=derive_seed(plan.seed, "split", site)))
    shuffled = rng.permutation(len(rows))
    order = shuffled[np.argsort(strata[shuffled], kind="stable")]  # stratum by stratum, each in random order
    sizes = np.bincount(strata)
    rank = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    test = _share(sizes, sizes, plan.data.test)
    validation = _share(sizes, sizes - test, plan.data.validation)
    part = (rank >= np.repeat(test, sizes)).astype(np.int64) + (rank >= np.repeat(test + validation, sizes))
    test_rows, validation_rows, train_rows = (rows.take(np.sort(order[part == index])) for index in range(3))
    return SiteData(site=site, train=train_rows, validation=validation_rows, test=test_rows)


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


def _share(sizes: I64, available: I64, share: float) -> I64:
    """How many rows each stratum gives: `share` of its size by largest remainder, and one row at least stays."""
    exact = sizes.astype(np.float64) * share
    limit = np.maximum(available - 1, 0)
    given = np.minimum(exact.astype(np.int64), limit)
    wanted = round(float(exact.sum())) - int(given.sum())
    open_ = np.flatnonzero(given < limit)
    most_owed = open_[np.argsort(given[open_] - exact[open_], kind="stable")]
    given[most_owed[: max(wanted, 0)]] += 1
    return given
