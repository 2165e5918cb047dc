"""Curves of a report, computed exactly from a model's predictions on test rows; no row can be told from them."""

from dataclasses import dataclass

import numpy as np

from wardround.decoding import key
from wardround.server.runs.metrics import Kind, calibration_groups, confidence
from wardround.vector import F64, I64

__all__ = ["Calibration", "Roc", "calibration", "confusion", "roc"]

_ROC_POINTS = 200
_REGRESSION_GROUPS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Roc:
    """A receiver operating characteristic, from (0, 0) to (1, 1). For many classes: their average, one against rest."""

    model: str = key(doc="federated, pooled or alone")
    site: str = key("", doc="whose model, when alone")
    false_positive_rate: tuple[float, ...] = key(doc="1 - specificity, ascending")
    true_positive_rate: tuple[float, ...] = key(doc="sensitivity, ascending")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What a model said and what came true, in groups of rows with similar predictions.

    Classification: mean probability and observed rate in equal intervals of probability (empty ones left out).
    Regression: mean prediction and mean target in tenths of the rows, ordered by prediction.
    """

    model: str = key(doc="federated, pooled or alone")
    predicted: tuple[float, ...] = key(doc="mean prediction of each group")
    observed: tuple[float, ...] = key(doc="observed rate or mean of each group")
    count: tuple[int, ...] = key(doc="rows in each group")


def roc(kind: Kind, y: F64, predicted: F64, *, model: str, site: str = "") -> Roc | None:
    """The curve of `predicted`, thinned to about 200 points; None for regression or an absent class."""
    if kind is Kind.REGRESSION:
        return None
    if kind is Kind.BINARY:
        false, true = _rates(y, predicted)
        keep = np.unique(np.linspace(0, len(false) - 1, min(len(false), _ROC_POINTS)).astype(np.int64))
        false, true = false[keep], true[keep]
    else:
        curves = [_rates(y == label, predicted[:, label]) for label in range(predicted.shape[1])]
        false = np.linspace(0, 1, _ROC_POINTS)
        true = np.mean([np.interp(false, *curve) for curve in curves], axis=0)
        false, true = np.concatenate(([0.0], false)), np.concatenate(([0.0], true))
    if not np.isfinite(true).all() or not np.isfinite(false).all():
        return None
    return Roc(
        model=model, site=site, false_positive_rate=tuple(false.tolist()), true_positive_rate=tuple(true.tolist())
    )


def _rates(positive: F64, score: F64) -> tuple[F64, F64]:
    """False and true positive rates at the corners of the curve, from (0, 0) to (1, 1); NaN where a class is absent."""
    order = np.argsort(-score, kind="stable")
    last = np.append(np.diff(score[order]) != 0, True)
    hit = positive[order].astype(np.float64)
    true = np.concatenate(([0.0], np.cumsum(hit)[last]))
    false = np.concatenate(([0.0], np.cumsum(1 - hit)[last]))
    corner = np.ones(len(true), dtype=bool)
    corner[1:-1] = np.diff(true[:-1]) * np.diff(false[1:]) != np.diff(true[1:]) * np.diff(false[:-1])
    with np.errstate(invalid="ignore", divide="ignore"):
        return false[corner] / false[-1], true[corner] / true[-1]


def calibration(kind: Kind, y: F64, predicted: F64, *, model: str) -> Calibration:
    """The calibration of `predicted`; shapes as in `metrics`."""
    if kind is Kind.REGRESSION:
        said, came = predicted, y
        rank = np.argsort(np.argsort(said, kind="stable"), kind="stable")
        group = rank * _REGRESSION_GROUPS // max(len(y), 1)
    else:
        said, came = confidence(kind, y, predicted)
        group = calibration_groups(said)
    count = np.bincount(group)
    used = count > 0
    means = [np.bincount(group, weights=values)[used] / count[used] for values in (said, came)]
    return Calibration(
        model=model,
        predicted=tuple(means[0].tolist()),
        observed=tuple(means[1].tolist()),
        count=tuple(count[used].tolist()),
    )


def confusion(kind: Kind, y: F64, predicted: F64, classes: int) -> I64:
    """Label x prediction counts, (classes, classes); two classes are told apart at a probability of 0.5."""
    said = predicted > 0.5 if kind is Kind.BINARY else predicted.argmax(axis=1)
    cells = y.astype(np.int64) * classes + said.astype(np.int64)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes).astype(np.int64)
