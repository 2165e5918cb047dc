"""Tallies: integer counts that can be added up over sites before anyone looks at them.

An evaluation is a tally of integers, so that it can travel through the same protection as an update;
accuracy, AUC, calibration and error are computed from the sum alone. Real numbers (losses, squared
errors) are fixed-point integers with `FRACTION_BITS` fractional bits.
"""

import json
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from wardround.decoding import PlanError, check_bounds, decode, encode, key
from wardround.errors import RemoteError
from wardround.plain_text import plain_text
from wardround.vector import F64, I64

__all__ = [
    "FRACTION_BITS",
    "LOGIT_LIMIT",
    "ClassificationSpec",
    "MeansSpec",
    "MomentsSpec",
    "RegressionSpec",
    "Tally",
    "TallySpec",
    "decode_spec",
    "encode_spec",
    "fixed_point",
]

FRACTION_BITS = 20
LOGIT_LIMIT = 12.0
"""Scores are binned by their log-odds between -LOGIT_LIMIT and LOGIT_LIMIT; the end bins take the rest."""

_MAX_CELLS = 1 << 22
_MOST_SPEC_BYTES = 1 << 16
"""Of classes, of a range, of a number of columns or of the names of a few metrics."""
_LARGEST = 1 << 52
_LARGEST_SUM = 1 << 56
"""Of a site: several batches, each of which may have saturated."""
_MOST_EXAMPLES = 1 << 32


def fixed_point(value: float) -> int:
    """`value` as an integer with `FRACTION_BITS` fractional bits, saturated at ±2^52.

    What is not a number counts as the largest: a loss that diverged must not look like none.
    """
    scaled = float(value) * (1 << FRACTION_BITS)
    return round(min(max(scaled, -_LARGEST), _LARGEST)) if scaled == scaled else _LARGEST


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassificationSpec:
    """Cells: n, loss sum, confusion (label x prediction), score histograms (curve x label x bin).

    One curve for two classes (the score of the second), else one per class against the rest.
    """

    classes: int = key(doc="number of classes", ge=2, le=1024)
    bins: int = key(512, doc="bins of the score histograms", ge=2, le=1 << 16)

    def __post_init__(self) -> None:
        check_bounds(self)

    @property
    def curves(self) -> int:
        return 1 if self.classes == 2 else self.classes

    @property
    def size(self) -> int:
        return 2 + self.classes**2 + self.curves * 2 * self.bins


@dataclass(frozen=True, slots=True, kw_only=True)
class RegressionSpec:
    """Cells: n, then sums of loss, error, |error|, error², y, y², with values scaled from [low, high] to [0, 1]."""

    low: float = key(doc="smallest target")
    high: float = key(doc="largest target")

    def __post_init__(self) -> None:
        check_bounds(self)
        if not 0 < self.high - self.low < float("inf"):
            raise PlanError("high", f"more than low = {self.low:g}", self.high)

    @property
    def size(self) -> int:
        return 7


@dataclass(frozen=True, slots=True, kw_only=True)
class MeansSpec:
    """Cells: n, then for each name the sum over examples of a real value."""

    names: tuple[str, ...] = key((), doc="what is averaged")

    @property
    def size(self) -> int:
        return 1 + len(self.names)


@dataclass(frozen=True, slots=True, kw_only=True)
class MomentsSpec:
    """Cells: n, then Σx of each of the plan's number columns, then Σx² of each; as long as a number, however many.

    `noisy` is part of it, so that sums that lack their noise are never taken for some that have it.
    """

    columns: int = key(doc="number columns of the plan", ge=0, le=_MAX_CELLS // 2)
    noisy: bool = key(False, doc="whether each sum has noise in it")

    def __post_init__(self) -> None:
        check_bounds(self)

    @property
    def size(self) -> int:
        return 1 + 2 * self.columns


TallySpec = ClassificationSpec | RegressionSpec | MeansSpec | MomentsSpec
_KINDS: dict[str, type[ClassificationSpec] | type[RegressionSpec] | type[MeansSpec] | type[MomentsSpec]] = {
    "classification": ClassificationSpec,
    "regression": RegressionSpec,
    "means": MeansSpec,
    "moments": MomentsSpec,
}


@lru_cache(maxsize=64)
def encode_spec(spec: TallySpec) -> bytes:
    """The wire form of a spec: JSON."""
    kind = next(name for name, cls in _KINDS.items() if isinstance(spec, cls))
    return json.dumps({"kind": kind, **encode(spec)}, sort_keys=True).encode()


def decode_spec(data: bytes) -> TallySpec:
    """The inverse of `encode_spec`. Raises RemoteError for anything else, for too many bytes or too many cells."""
    if len(data) > _MOST_SPEC_BYTES:  # before it is remembered
        raise RemoteError(f"tally: expected a kind of tally of at most {_MOST_SPEC_BYTES} bytes, got {len(data)}")
    return _decoded_spec(data)


@lru_cache(maxsize=64)
def _decoded_spec(data: bytes) -> TallySpec:
    try:
        table = json.loads(data)
        kind = _KINDS[table.pop("kind")]
        spec: TallySpec = decode(kind, table)
        size = spec.size
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, PlanError) as error:
        raise RemoteError(
            f"tally: expected a known kind of tally, got {data[:80]!r} ({plain_text(str(error))})"
        ) from None
    if size > _MAX_CELLS:
        raise RemoteError(f"tally: expected at most {_MAX_CELLS} cells, got {size}")
    return spec


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of shape (spec.size,), int64."""

    spec: TallySpec
    counts: I64

    def __post_init__(self) -> None:
        if self.counts.shape != (self.spec.size,) or self.counts.dtype != np.int64:
            got = f"{self.counts.dtype} {self.counts.shape}"
            raise ValueError(f"expected int64 counts of shape ({self.spec.size},), got {got}")

    @classmethod
    def empty(cls, spec: TallySpec) -> "Tally":
        return cls(spec, np.zeros(spec.size, dtype=np.int64))

    @classmethod
    def of_means(cls, n: int, sums: dict[str, float]) -> "Tally":
        """A tally of `n` examples with the sum over them of each named value."""
        names = tuple(sorted(sums))
        return cls(MeansSpec(names=names), np.array([n, *(fixed_point(sums[k]) for k in names)], dtype=np.int64))

    def __add__(self, other: "Tally") -> "Tally":
        if self.spec != other.spec:
            raise ValueError(f"expected a tally of {self.spec}, got one of {other.spec}")
        return Tally(self.spec, self.counts + other.counts)

    def fault(self) -> str:
        """Why no honest site counts this, or an empty string: counts that do not add up, endless sums.

        What it cannot see is whether the examples were there.
        """
        if not 0 <= self.n <= _MOST_EXAMPLES:
            return f"expected 0 to {_MOST_EXAMPLES} examples, got {self.n}"
        sums = self.counts[1:2] if isinstance(self.spec, ClassificationSpec) else self.counts[1:]
        if sums.size and not -_LARGEST_SUM <= int(sums.min()) <= int(sums.max()) <= _LARGEST_SUM:
            return f"expected sums of at most {_LARGEST_SUM} either way, got {int(sums.min())} to {int(sums.max())}"
        if isinstance(self.spec, ClassificationSpec):
            cells = self.counts[2:]
            if not 0 <= int(cells.min()) <= int(cells.max()) <= self.n:
                return f"expected counts from 0 to {self.n}, got {int(cells.min())} to {int(cells.max())}"
            if int(self.confusion.sum()) != self.n or (self.histograms.sum(axis=(1, 2)) != self.n).any():
                return f"expected counts that add up to {self.n} examples"
        if isinstance(self.spec, RegressionSpec):
            _, _, absolute, square, y, yy = (int(cell) for cell in sums)
            if min(absolute, square, y, yy) < 0:
                return "expected squares, sizes and scaled targets that are not negative"
        return ""

    @property
    def n(self) -> int:
        """How many examples were counted."""
        return int(self.counts[0])

    def metrics(self) -> dict[str, float]:
        """What the counts say, by name; what they cannot say (nothing counted, one class) is absent."""
        if self.n <= 0:
            return {}
        if isinstance(self.spec, ClassificationSpec):
            return _classification(self.spec, self.counts)
        if isinstance(self.spec, RegressionSpec):
            return _regression(self.spec, self.counts)
        if isinstance(self.spec, MomentsSpec):
            return {}  # of columns, not of a model
        return {name: _real(self.counts[1 + i]) / self.n for i, name in enumerate(self.spec.names)}

    @property
    def confusion(self) -> I64:
        """Label x prediction counts, shape (classes, classes)."""
        spec = self._classification_spec()
        cells: I64 = self.counts[2 : 2 + spec.classes**2].reshape(spec.classes, spec.classes)
        return cells

    @property
    def histograms(self) -> I64:
        """Score histograms, shape (curves, 2, bins): [:, 1] the positives, [:, 0] the rest."""
        spec = self._classification_spec()
        cells: I64 = self.counts[2 + spec.classes**2 :].reshape(spec.curves, 2, spec.bins)
        return cells

    def roc(self, curve: int = 0) -> tuple[F64, F64]:
        """False and true positive rates at every threshold, from (0, 0) to (1, 1)."""
        negatives, positives = self.histograms[curve].astype(np.float64)
        false = np.concatenate(([0.0], np.cumsum(negatives[::-1])))
        true = np.concatenate(([0.0], np.cumsum(positives[::-1])))
        return false / max(false[-1], 1.0), true / max(true[-1], 1.0)

    def calibration(self, groups: int = 10, curve: int = 0) -> tuple[F64, F64, I64]:
        """Mean predicted probability, observed rate and count in `groups` equal intervals of probability.

        Empty intervals are left out.
        """
        spec = self._classification_spec()
        probability = bin_probabilities(spec.bins)
        negatives, positives = self.histograms[curve]
        group = np.minimum((probability * groups).astype(np.int64), groups - 1)
        count = np.bincount(group, weights=negatives + positives, minlength=groups)
        hit = np.bincount(group, weights=positives, minlength=groups)
        predicted = np.bincount(group, weights=(negatives + positives) * probability, minlength=groups)
        used = count > 0
        return predicted[used] / count[used], hit[used] / count[used], count[used].astype(np.int64)

    def _classification_spec(self) -> ClassificationSpec:
        if not isinstance(self.spec, ClassificationSpec):
            raise ValueError("expected a classification tally")
        return self.spec


def bin_probabilities(bins: int) -> F64:
    """The probability at the middle of each score bin, shape (bins,)."""
    edges = np.linspace(-LOGIT_LIMIT, LOGIT_LIMIT, bins + 1)
    middles: F64 = 1.0 / (1.0 + np.exp(-(edges[:-1] + edges[1:]) / 2))
    return middles


def _real(cell: np.int64) -> float:
    return int(cell) / (1 << FRACTION_BITS)


def _auc(negatives: I64, positives: I64) -> float | None:
    """Area under the ROC curve from two histograms; ties inside a bin count one half (Mann-Whitney)."""
    below = np.concatenate(([0], np.cumsum(negatives)[:-1])).astype(np.float64)
    pairs = float(negatives.sum()) * float(positives.sum())
    if pairs == 0:
        return None
    return float(positives @ (below + negatives / 2)) / pairs


def _classification(spec: ClassificationSpec, counts: I64) -> dict[str, float]:
    tally = Tally(spec, counts)
    n, confusion = tally.n, tally.confusion
    found = {"loss": _real(counts[1]) / n, "accuracy": float(np.trace(confusion)) / n}
    areas = [_auc(*tally.histograms[curve]) for curve in range(spec.curves)]
    present = [area for area in areas if area is not None]
    if present and (spec.classes == 2 or len(present) == spec.curves):
        found["auc"] = sum(present) / len(present)
    if spec.classes == 2:
        (tn, fp), (fn, tp) = confusion.tolist()
        if tp + fn:
            found["sensitivity"] = tp / (tp + fn)
        if tn + fp:
            found["specificity"] = tn / (tn + fp)
        probability = bin_probabilities(spec.bins)
        negatives, positives = tally.histograms[0]
        found["brier"] = float(negatives @ probability**2 + positives @ (1 - probability) ** 2) / n
        predicted, observed, count = tally.calibration()
        found["calibration_error"] = float(np.abs(predicted - observed) @ count) / n
    return found


def _regression(spec: RegressionSpec, counts: I64) -> dict[str, float]:
    n, scale = int(counts[0]), spec.high - spec.low
    loss, _error, absolute, square, y, yy = (_real(cell) / n for cell in counts[1:])
    found = {"loss": loss, "mae": absolute * scale, "rmse": float(np.sqrt(max(square, 0.0))) * scale}
    variance = yy - y * y
    if variance > 0:
        found["r2"] = 1 - square / variance
    return found
