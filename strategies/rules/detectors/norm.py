"""Updates of unusual length."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wardround.strategies.rules.detectors.detector import Detector, Findings
from wardround.strategies.rules.rule import RoundContext
from wardround.strategies.rules.vectors import Vectors
from wardround.vector import F64

__all__ = ["FEWEST", "NormOutliers", "deviations"]

FEWEST = 4
"""Of fewer vectors none is called an outlier."""


def deviations(values: F64, least: float) -> F64:
    """How far each of n values is above the median, in robust standard deviations, shape (n,); negative below.

    The standard deviation is 1.4826 · n/(n − 0.8) · MAD, but not under `least`. Source: Rousseeuw, Croux 1993,
    "Alternatives to the Median Absolute Deviation"; the factor for small n as in Croux, Rousseeuw 1992.
    """
    middle = float(np.median(values))
    n = len(values)
    spread = 1.4826 * n / (n - 0.8) * float(np.median(np.abs(values - middle)))
    found: F64 = (values - middle) / max(spread, least)
    return found


@dataclass(frozen=True, slots=True)
class NormOutliers(Detector):
    """Flags a vector whose length is far from the median, above or below: scaled updates, loud noise, near-nothing.

    The score is |z|, where z measures the logarithm of the norm in robust standard deviations, of which one is at
    least `least` (0.1: lengths that differ by 10 % are alike, however alike the others are); flagged above
    `threshold`. Vectors of norm 0 and rounds of fewer than 4 others are passed over.

    Measured, honest sites flagged per round, n = 10 and 20: none on i.i.d. Gaussian updates of 1000 values, 0.4 % of
    20 values, 1.4 and 0.6 % on mixtures of ten classes (Dirichlet 0.5) with sizes that vary by e^±0.5, up to 1 % in
    training on digits and breast cancer (3 % in single settings). Updates × −5 of a fifth are always found on the
    first, 10 to 18 % of them on the mixtures."""

    threshold: float = 3.5
    least: float = 0.1

    summary: ClassVar[str] = "updates much longer or shorter than the others"
    cost: ClassVar[str] = "O(n d)"
    source: ClassVar[str] = "robust z-scores: Iglewicz, Hoaglin 1993, Section 5"

    def __post_init__(self) -> None:
        if not (self.threshold > 0 and self.least > 0):
            raise ValueError(f"expected threshold > 0 and least > 0, got {self.threshold} and {self.least}")

    def inspect(self, vectors: Vectors, keys: Sequence[str], context: RoundContext) -> Findings:
        norms = np.sqrt(vectors.squared_norms)
        measured = np.flatnonzero(norms > 0.0)
        scores, flagged, reasons = np.zeros(vectors.n), np.zeros(vectors.n, dtype=np.bool_), [""] * vectors.n
        if len(measured) >= FEWEST:
            scores[measured] = np.abs(deviations(np.log(norms[measured]), self.least))
            flagged = scores > self.threshold
            middle = float(np.median(norms[measured]))
            for index in np.flatnonzero(flagged):
                reasons[index] = (
                    f"its norm is {norms[index] / middle:.3g} times the median "
                    f"({scores[index]:.3g} deviations, {self.threshold:g} allowed)"
                )
        return Findings(scores=scores, flagged=flagged, reasons=tuple(reasons))
