"""What the federation reached, what each hospital would have reached alone, and what pooling all rows would reach.

Every model is judged on the same test rows, hospital by hospital and overall, with 95 % percentile bootstrap
intervals (Efron and Tibshirani 1993, chapter 13) over patients: each resample draws every hospital's test rows anew,
with replacement and within the hospital, and judges all models on the same draw, so that differences are paired.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import numpy as np

from wardround.decoding import PlanError, decode, encode, key
from wardround.errors import LocalError
from wardround.orders import SiteId
from wardround.plan_sections import Target
from wardround.server.runs.curves import Calibration, Roc, calibration, confusion, roc
from wardround.server.runs.metrics import PRIMARY, Kind, metrics
from wardround.vector import F64

__all__ = ["Comparison", "Estimate", "Model", "Predictions", "Scores", "SiteScores", "compare"]

_CHUNK_CELLS = 1_000_000
_ALL_CELLS = 200_000_000
_FEWEST_RESAMPLES = 100
_SITES_WITH_CURVES = 40
_DEFINED_SHARE = 0.5
"""A metric that fewer of the resamples define (one class drawn, say) gets no interval."""


class Model(StrEnum):
    FEDERATED = "federated"
    ALONE = "alone"
    POOLED = "pooled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A metric on test rows and its 95 % bootstrap interval; absent where too few resamples define it."""

    value: float = key(doc="on the rows as they are")
    low: float | None = key(None, doc="2.5 % quantile over resamples")
    high: float | None = key(None, doc="97.5 % quantile over resamples")


Scores = dict[str, Estimate]
"""By metric; one that is undefined on the rows (AUC of one class) is absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteScores:
    """One hospital's test rows. `alone` is empty when its own model was not trained."""

    site: str = key(doc="the hospital")
    test_rows: int = key(doc="its test rows")
    own: dict[str, Scores] = key({}, doc="each model on this hospital's test rows")
    gain: dict[str, Scores] = key({}, doc="federated minus `alone` and `pooled` on this hospital's test rows, paired")
    elsewhere: Scores = key({}, doc="this hospital's own model on all hospitals' test rows")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Every model's scores. An entry `alone` that stands for all hospitals is the mean over their models."""

    kind: Kind = key(doc="what is predicted")
    primary: str = key(doc="the metric to lead with")
    test_rows: int = key(doc="test rows of all hospitals")
    resamples: int = key(doc="bootstrap resamples behind the intervals; 0: no intervals")
    alone_models: int = key(0, doc="hospitals whose own model was trained and judged")
    overall: dict[str, Scores] = key({}, doc="each model on all test rows")
    own: dict[str, Scores] = key({}, doc="each model on each hospital's test rows, averaged over `sites`")
    gain: dict[str, Scores] = key({}, doc="federated minus `alone` and `pooled`, on all test rows, paired")
    own_gain: dict[str, Scores] = key({}, doc="the same on each hospital's test rows, averaged over `sites`")
    sites: tuple[SiteScores, ...] = key((), doc="each hospital with test rows")
    roc: tuple[Roc, ...] = key((), doc="curves on all test rows")
    calibration: tuple[Calibration, ...] = key((), doc="of the federated and the pooled model, on all test rows")
    confusion: tuple[tuple[int, ...], ...] = key((), doc="label x prediction counts of the federated model")
    note: str = key("", doc="in what the run is not what hospitals run (see `caveat`)")

    def to_json(self) -> str:
        """JSON that `from_json` reads back to an equal comparison."""
        return json.dumps(encode(self), allow_nan=False)

    @staticmethod
    def from_json(text: str) -> "Comparison":
        """The inverse of `to_json`. Raises LocalError for anything else."""
        try:
            return decode(Comparison, json.loads(text))
        except PlanError as error:
            raise LocalError(f"results: {error.path}: expected {error.expected}") from None
        except ValueError as error:
            raise LocalError(f"results: expected JSON ({error})") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """What each model says about the test rows of all `sites`, one hospital's rows after the other.

    `y` has shape (rows,), predictions (rows,) or, for more than two classes, (rows, classes); see `metrics`.
    `alone` may hold some hospitals' models only; each predicts every hospital's rows. `pooled` may be absent.
    """

    sites: tuple[SiteId, ...]
    sizes: tuple[int, ...]
    y: F64
    federated: F64
    pooled: F64 | None
    alone: Mapping[SiteId, F64]

    def __post_init__(self) -> None:
        others = [] if self.pooled is None else [self.pooled]
        if any(len(array) != sum(self.sizes) for array in (self.y, self.federated, *others, *self.alone.values())):
            raise ValueError(f"expected a label and a prediction of every model for each of {sum(self.sizes)} rows")
        if unknown := sorted(set(self.alone) - set(self.sites)):
            raise ValueError(f"expected models of hospitals with test rows, got one of {unknown[0]!r}")

    @property
    def rows(self) -> dict[SiteId, slice]:
        """Where each hospital's rows are; hospitals without test rows are left out."""
        ends = np.cumsum((0, *self.sizes)).tolist()
        return {site: slice(*ends) for site, ends in zip(self.sites, pairwise(ends), strict=True) if ends[0] < ends[1]}


Path = tuple[str, ...]
"""Where in a comparison an estimate belongs, e.g. ("overall", "pooled", "auc")."""


def compare(target: Target, predictions: Predictions, *, resamples: int, seed: int) -> Comparison | None:
    """Judge every model on every hospital's test rows; None when there is no test row.

    Deterministic for `seed`. Where there are very many rows and models, fewer resamples are drawn (at least 100; the
    result says how many).
    """
    if not len(predictions.y):
        return None
    kind = Kind.of(target)
    cells = len(predictions.y) * (2 + len(predictions.alone)) * max(len(target.classes), 1)
    resamples = min(resamples, max(_FEWEST_RESAMPLES, _ALL_CELLS // cells))
    estimates = _estimates(_judge(kind, predictions, weights) for weights in _draws(predictions, resamples, seed))
    return Comparison(
        kind=kind,
        primary=PRIMARY[kind],
        test_rows=len(predictions.y),
        resamples=resamples,
        alone_models=len(predictions.alone),
        overall=_table(estimates, "overall"),
        own=_table(estimates, "own"),
        gain=_table(estimates, "gain"),
        own_gain=_table(estimates, "own_gain"),
        sites=tuple(
            SiteScores(
                site=site,
                test_rows=rows.stop - rows.start,
                own=_table(estimates, "site", site),
                gain=_table(estimates, "site_gain", site),
                elsewhere=_table(estimates, "elsewhere").get(site, {}),
            )
            for site, rows in predictions.rows.items()
        ),
        roc=tuple(_curves(kind, predictions)),
        calibration=tuple(
            calibration(kind, predictions.y, predicted, model=model)
            for model, predicted in ((Model.FEDERATED, predictions.federated), (Model.POOLED, predictions.pooled))
            if predicted is not None
        ),
        confusion=()
        if kind is Kind.REGRESSION
        else tuple(map(tuple, confusion(kind, predictions.y, predictions.federated, len(target.classes)).tolist())),
    )


def _draws(predictions: Predictions, resamples: int, seed: int) -> Iterator[F64]:
    """How often each row is drawn, (rows, resamples) in pieces; the first column of all is the rows as they are."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    sizes = np.array(predictions.sizes)
    size = np.repeat(sizes, sizes)[:, None]
    start = np.repeat(np.cumsum(sizes) - sizes, sizes)[:, None]
    n = len(size)
    original = np.ones((n, 1))
    while True:
        columns = min(resamples, max(1, _CHUNK_CELLS // n))
        drawn = start + (generator.random((n, columns)) * size).astype(np.int64)
        cells = drawn * columns + np.arange(columns)
        counts = np.bincount(cells.ravel(), minlength=n * columns).reshape(n, columns).astype(np.float64)
        yield np.concatenate((original, counts), axis=1)
        original = original[:, :0]
        resamples -= columns
        if resamples <= 0:
            return


def _judge(kind: Kind, predictions: Predictions, weights: F64) -> dict[Path, F64]:
    """Every figure of the comparison for each column of `weights`, shape (columns,)."""
    y = predictions.y
    models = {Model.FEDERATED: predictions.federated, Model.POOLED: predictions.pooled}
    present = {model: predicted for model, predicted in models.items() if predicted is not None}
    overall = {model: metrics(kind, y, predicted, weights) for model, predicted in present.items()}
    elsewhere = {site: metrics(kind, y, predicted, weights) for site, predicted in predictions.alone.items()}
    if elsewhere:
        overall[Model.ALONE] = _mean(elsewhere.values())
    sites: dict[str, dict[Model, dict[str, F64]]] = {}
    for site, rows in predictions.rows.items():
        own = present | ({Model.ALONE: predictions.alone[site]} if site in predictions.alone else {})
        sites[site] = {
            model: metrics(kind, y[rows], predicted[rows], weights[rows]) for model, predicted in own.items()
        }
    gains = {site: _gain(own) for site, own in sites.items()}
    own_mean = {model: _mean(own[model] for own in sites.values() if model in own) for model in overall}
    gain_mean = {
        model: _mean(gain[model] for gain in gains.values() if model in gain)
        for model in (Model.ALONE, Model.POOLED)
        if model in overall
    }
    return dict(
        _paths(
            {
                "overall": overall,
                "gain": _gain(overall),
                "elsewhere": elsewhere,
                "own": own_mean,
                "own_gain": gain_mean,
                "site": sites,
                "site_gain": gains,
            }
        )
    )


def _gain(scores: Mapping[Model, dict[str, F64]]) -> dict[Model, dict[str, F64]]:
    """Federated minus each other model."""
    federated = scores[Model.FEDERATED]
    return {
        model: {name: federated[name] - values for name, values in found.items()}
        for model, found in scores.items()
        if model is not Model.FEDERATED
    }


def _mean(scores: Iterable[dict[str, F64]]) -> dict[str, F64]:
    """The mean over hospitals, leaving out those where a metric is undefined."""
    found = list(scores)
    if not found:
        return {}
    stacked = {name: np.stack([values[name] for values in found]) for name in found[0]}
    means = {}
    for name, values in stacked.items():
        defined = np.isfinite(values)
        with np.errstate(invalid="ignore"):
            means[name] = np.where(defined, values, 0.0).sum(axis=0) / defined.sum(axis=0)
    return means


def _paths(tree: Mapping[str, object], above: Path = ()) -> Iterator[tuple[Path, F64]]:
    """The leaves of nested dicts with their paths."""
    for name, branch in tree.items():
        if isinstance(branch, Mapping):
            yield from _paths(branch, (*above, str(name)))
        elif isinstance(branch, np.ndarray):
            yield (*above, str(name)), branch


def _estimates(pieces: Iterable[dict[Path, F64]]) -> dict[Path, Estimate]:
    """An estimate for each path from its values on the rows as they are (first) and on every resample."""
    collected: dict[Path, list[F64]] = {}
    for piece in pieces:
        for path, values in piece.items():
            collected.setdefault(path, []).append(values)
    return {path: found for path, parts in collected.items() if (found := _estimate(np.concatenate(parts)))}


def _estimate(values: F64) -> Estimate | None:
    """From the value on the rows as they are, then on every resample; None when the first is undefined."""
    if not np.isfinite(values[0]):
        return None
    defined = values[1:][np.isfinite(values[1:])]
    if len(defined) <= _DEFINED_SHARE * (len(values) - 1):
        return Estimate(value=float(values[0]))
    low, high = np.quantile(defined, (0.025, 0.975)).tolist()
    return Estimate(value=float(values[0]), low=low, high=high)


def _table(estimates: Mapping[Path, Estimate], *above: str) -> dict[str, Scores]:
    """The estimates two levels below a path, as nested dicts."""
    table: dict[str, Scores] = {}
    for path, estimate in estimates.items():
        if path[:-2] == above:
            table.setdefault(path[-2], {})[path[-1]] = estimate
    return table


def _curves(kind: Kind, predictions: Predictions) -> Iterator[Roc]:
    y = predictions.y
    named: list[tuple[Model, str, F64 | None]] = [
        (Model.FEDERATED, "", predictions.federated),
        (Model.POOLED, "", predictions.pooled),
        *((Model.ALONE, site, predicted) for site, predicted in list(predictions.alone.items())[:_SITES_WITH_CURVES]),
    ]
    for model, site, predicted in named:
        if predicted is not None and (curve := roc(kind, y, predicted, model=model, site=site)) is not None:
            yield curve
