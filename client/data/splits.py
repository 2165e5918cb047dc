"""The rows of one site, dealt out to training, validation and test."""

from collections.abc import Sequence

import numpy as np

from wardround.client.data.column_check import Mask
from wardround.client.data.patients import capped, codes_of_rows, copies, lots, numbered
from wardround.client.data.site_data import Rows, SiteData
from wardround.decoding import PlanError
from wardround.errors import LocalError
from wardround.orders import SiteId, derive_seed
from wardround.plan import Plan
from wardround.plan_privacy import Unit
from wardround.plan_sections import Data
from wardround.vector import F32, I64

__all__ = ["check_site", "split_rows"]

_REGRESSION_STRATA = 4
_TEST, _VALIDATION, _TRAIN = range(3)


def split_rows(
    plan: Plan, site: SiteId, rows: Rows, patients: I64 | None = None, withdrawn: Mask | None = None
) -> SiteData:
    """The site's rows split by `data.validation` and `data.test`; the same for the same plan seed, site and rows.

    `patients`, shape (n,), are codes (`Encoded.patients`): all rows of a patient go to one part, and the shares are of
    patients. Stratified by class (or quartile of a number to predict): each stratum gives its share, rounded by largest
    remainder, rare classes first, and the last row of a stratum always trains. A patient belongs to the rarest class
    that they have, or to the quartile of their mean.

    Where rows or patients are hidden (`privacy.unit`), each of them draws a lot for its part instead, so that one more
    or less moves no other: the shares are those of chance. With `privacy.unit = "patient"`, `privacy.max_rows` training
    rows of a patient are kept, drawn by lot.

    Rows of `withdrawn`, shape (n,), are taken out last: they move no other, and what was not seen in training before
    is not seen afterwards.

    Raises LocalError as `check_site` does, PlanError when patients are hidden that nobody names.
    """
    check_site(plan.data, site, rows)
    if plan.privacy.unit is Unit.PATIENT and patients is None:
        raise PlanError("data.patient", 'the column that says whose a row is, since privacy.unit = "patient"')
    seed = derive_seed(plan.seed, "split", site)
    part = (
        _by_lot(plan.data, seed, rows, patients)
        if plan.privacy.per_example
        else _dealt(plan.data, seed, rows, patients)
    )
    test, validation, train = (np.flatnonzero(part == number) for number in (_TEST, _VALIDATION, _TRAIN))
    if patients is not None:
        if plan.privacy.unit is Unit.PATIENT:
            kept = capped(patients[train], plan.privacy.max_rows, derive_seed(plan.seed, "patients' rows", site))
            train = train[kept]
    whole = train
    if withdrawn is not None:
        test, validation, train = (part[~withdrawn[part]] for part in (test, validation, train))
    gone_patients = 0
    if patients is not None:
        gone_patients = len(np.unique(patients[whole])) - len(np.unique(patients[train]))
        patients = numbered(patients[train])
    ordered = rows.take(np.concatenate((test, validation, train)))  # one copy, three views
    first, second = len(test), len(test) + len(validation)
    return SiteData(
        site=site,
        train=Rows(ordered.x[second:], ordered.y[second:]),
        validation=Rows(ordered.x[first:second], ordered.y[first:second]),
        test=Rows(ordered.x[:first], ordered.y[:first]),
        patients=patients,
        gone_rows=len(whole) - len(train),
        gone_patients=gone_patients,
    )


def _by_lot(data: Data, seed: int, rows: Rows, patients: I64 | None) -> I64:
    """The part of each row, shape (n,), by the lot of its patient, or of the row among its copies."""
    if patients is None:
        codes = codes_of_rows(rows)
        lot = lots(codes, copies(codes), seed)
    else:
        lot = lots(patients, np.zeros_like(patients), seed)
    return np.searchsorted((data.test, data.test + data.validation), lot, side="right").astype(np.int64)


def _dealt(data: Data, seed: int, rows: Rows, patients: I64 | None) -> I64:
    """The part of each row, shape (n,), stratum by stratum; of patients, all rows of one in the same."""
    unit = None if patients is None else numbered(patients)
    strata = _strata(rows.y if unit is None else _targets(rows.y, unit))
    rng = np.random.Generator(np.random.Philox(key=seed))
    shuffled = rng.permutation(len(strata))
    order = shuffled[np.argsort(strata[shuffled], kind="stable")]  # stratum by stratum, each in random order
    sizes = np.bincount(strata).tolist()
    test = _share(sizes, sizes, data.test)
    left = [size - given for size, given in zip(sizes, test, strict=True)]
    validation = _share(sizes, left, data.validation)
    train = [size - given for size, given in zip(left, validation, strict=True)]
    runs = np.column_stack((test, validation, train)).ravel()
    part = np.empty(len(strata), dtype=np.int64)
    part[order] = np.repeat(np.tile((_TEST, _VALIDATION, _TRAIN), len(sizes)), runs)
    return part if unit is None else part[unit]


def _targets(y: I64 | F32, unit: I64) -> I64 | F32:
    """What each patient is stratified by, shape (m,): the rarest class of their rows, or the mean of their numbers."""
    if y.dtype == np.int64:
        by_rarity = np.argsort(np.bincount(y), kind="stable")
        rarest = np.full(unit.max() + 1, len(by_rarity) - 1)
        np.minimum.at(rarest, unit, np.argsort(by_rarity)[y])
        return by_rarity[rarest]
    return (np.bincount(unit, weights=y) / np.bincount(unit)).astype(np.float32)


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


def _strata(y: I64 | F32) -> I64:
    """The stratum of each target, shape (n,): its class, or the quartile of its number."""
    if y.dtype == np.int64:
        return y.astype(np.int64, copy=False)
    rank = np.empty(len(y), dtype=np.int64)
    rank[np.argsort(y, kind="stable")] = np.arange(len(y))
    return rank * _REGRESSION_STRATA // len(y)


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
