"""How good predictions are, on many weighted versions of the same rows at once.

A bootstrap resample is a column of weights (how often each row was drawn), so that one matrix product or one
cumulative sum judges every resample. Definitions agree with those of `wardround.tally`, which computes them
from sums that sites may share; here the rows are at hand and nothing is binned.
"""

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from wardround.plan_sections import Target
from wardround.vector import F64

__all__ = ["CALIBRATION_GROUPS", "PRIMARY", "Kind", "auc", "calibration_groups", "confidence", "metrics"]

CALIBRATION_GROUPS = 10


class Kind(StrEnum):
    """What is predicted, which decides what predictions look like and how they are judged."""

    BINARY = "binary"
    MULTICLASS = "multiclass"
    REGRESSION = "regression"

    @classmethod
    def of(cls, target: Target) -> "Kind":
        if not target.classes:
            return cls.REGRESSION
        return cls.BINARY if len(target.classes) == 2 else cls.MULTICLASS


PRIMARY = {Kind.BINARY: "auc", Kind.MULTICLASS: "accuracy", Kind.REGRESSION: "rmse"}
"""The metric that a report leads with."""


def metrics(kind: Kind, y: F64, predicted: F64, weights: F64) -> dict[str, F64]:
    """Every metric of `kind` for each column of `weights`, shape (versions,); NaN where it is undefined.

    `y` and `predicted` have shape (rows,): 0 or 1 and the probability of 1, or values in the target's unit. For
    MULTICLASS `y` holds class indices and `predicted` is (rows, classes). `weights` has shape (rows, versions).
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        if kind is Kind.REGRESSION:
            return _regression(y, predicted, weights)
        if kind is Kind.BINARY:
            return {"auc": auc(y == 1, predicted, weights), **_binary(y, predicted, weights)}
        labels = np.arange(predicted.shape[1])
        areas = np.stack([auc(y == label, predicted[:, label], weights) for label in labels])
        correct = (predicted.argmax(axis=1) == y).astype(np.float64)
        square = ((predicted - (y[:, None] == labels)) ** 2).sum(axis=1)
        n, hits, squares = _sums(weights, np.ones_like(correct), correct, square)
        return {"accuracy": hits / n, "auc": areas.mean(axis=0), "brier": squares / n} | _calibration(
            *confidence(kind, y, predicted), weights
        )


def auc(positive: NDArray[np.bool_], score: F64, weights: F64) -> F64:
    """Area under the ROC curve for each column of `weights`: the share of (positive, negative) pairs in order.

    Ties count one half: the Mann-Whitney statistic (Hanley and McNeil 1982), exact. NaN where a class is absent.
    """
    order = np.argsort(score[~positive], kind="stable")
    ordered = score[~positive][order]
    below = np.zeros((len(order) + 1, weights.shape[1]))
    np.cumsum(weights[~positive][order], axis=0, out=below[1:])
    hits = weights[positive]
    lost, tied = (np.searchsorted(ordered, score[positive], side=side) for side in ("left", "right"))
    pairs = (np.einsum("ij,ij->j", hits, below[lost]) + np.einsum("ij,ij->j", hits, below[tied])) / 2
    with np.errstate(invalid="ignore"):
        area: F64 = pairs / (hits.sum(axis=0) * below[-1])
    return area


def confidence(kind: Kind, y: F64, predicted: F64) -> tuple[F64, F64]:
    """What calibration compares, both (rows,): the stated probability, and 1 where it came true.

    BINARY: the probability of the positive class. MULTICLASS: of the likeliest class (Guo et al. 2017).
    """
    if kind is Kind.BINARY:
        return predicted, y
    return predicted.max(axis=1), (predicted.argmax(axis=1) == y).astype(np.float64)


def calibration_groups(probability: F64) -> NDArray[np.int64]:
    """Which of the `CALIBRATION_GROUPS` equal intervals of probability each row falls into, shape (rows,)."""
    return np.minimum((probability * CALIBRATION_GROUPS).astype(np.int64), CALIBRATION_GROUPS - 1)


def _sums(weights: F64, *columns: F64) -> F64:
    """The weighted sum of each column, shape (columns, versions)."""
    sums: F64 = np.stack(columns) @ weights
    return sums


def _calibration(probability: F64, hit: F64, weights: F64) -> dict[str, F64]:
    member = calibration_groups(probability) == np.arange(CALIBRATION_GROUPS)[:, None]
    gaps = (member * (probability - hit)) @ weights
    return {"calibration_error": np.abs(gaps).sum(axis=0) / weights.sum(axis=0)}


def _binary(y: F64, probability: F64, weights: F64) -> dict[str, F64]:
    said = (probability > 0.5).astype(np.float64)
    sums = _sums(weights, np.ones_like(y), y, y * said, (1 - y) * (1 - said), (probability - y) ** 2)
    n, positives, true_positives, true_negatives, squares = sums
    return {
        "accuracy": (true_positives + true_negatives) / n,
        "sensitivity": true_positives / positives,
        "specificity": true_negatives / (n - positives),
        "brier": squares / n,
    } | _calibration(probability, y, weights)


def _regression(y: F64, predicted: F64, weights: F64) -> dict[str, F64]:
    error = predicted - y
    centred = y - y.mean()
    sums = _sums(weights, np.ones_like(y), np.abs(error), error**2, centred, centred**2)
    n, absolute, square, first, second = sums
    spread = second - first**2 / n
    r2 = np.where(spread > 1e-9 * second, 1 - square / np.where(spread > 0, spread, np.nan), np.nan)
    return {"rmse": np.sqrt(square / n), "mae": absolute / n, "r2": r2}
