"""Updates that point another way."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wardround.strategies.rules.detectors.detector import Detector, Findings
from wardround.strategies.rules.detectors.norm import FEWEST, deviations
from wardround.strategies.rules.rule import RoundContext
from wardround.strategies.rules.vectors import Vectors
from wardround.vector import F64

__all__ = ["CosineOutliers", "agreement", "pairwise_cosines"]

_STEPS = 50
_NEAR = 1e-6
"""The least squared distance to the centre that counts, so that no direction has all the weight."""


def pairwise_cosines(vectors: Vectors) -> tuple[F64, F64]:
    """Cosines of the angles between each two of n updates, shape (n, n), and their norms, shape (n,).

    0 with an update that is zero.
    """
    norms = np.sqrt(vectors.squared_norms)
    scale = np.where(norms > 0.0, norms, np.inf)
    return np.clip(vectors.products() / np.outer(scale, scale), -1.0, 1.0), norms


def agreement(cosines: F64) -> F64:
    """The cosine of each of n directions to their geometric median, shape (n,), from those between them, (n, n).

    Weiszfeld's iteration on the unit vectors, in the n weights that write their median; fewer than half of the
    directions cannot turn it around. 0 where the directions cancel out.
    """
    n = len(cosines)
    weights = np.full(n, 1.0 / n)
    for _ in range(_STEPS):
        products = cosines @ weights
        weights = 1.0 / np.sqrt(np.maximum(1.0 - 2.0 * products + weights @ products, _NEAR))
        weights /= weights.sum()
    products = cosines @ weights
    length = float(np.sqrt(max(float(weights @ products), 0.0)))
    found: F64 = products / length if length > _NEAR else np.zeros(n)
    return found


@dataclass(frozen=True, slots=True)
class CosineOutliers(Detector):
    """Flags an update that points away from where the others do: flipped signs, noise, another task.

    Of each update the cosine to the centre is taken, the geometric median of all directions, which less than half of
    the updates cannot turn around. The score is how far that is below the median of those cosines, in robust standard
    deviations, of which one is at least `least`; flagged above `threshold`. Where updates have no direction in common
    nothing is flagged. Vectors of norm 0 and rounds of fewer than 4 others are passed over.

    Measured, honest sites flagged per round, n = 10 and 20: none on i.i.d. Gaussian updates of 1000 values, with and
    without a common direction, 1 % of 20 values, below 1 % on mixtures of ten classes (Dirichlet 0.5), up to 1.6 % in
    training on breast cancer (3 % in single settings). Flipped signs of a fifth are always found on these, noise of
    the usual length in 87 to 100 %; in training on breast cancer, where late rounds have no direction in common, most
    flips are missed."""

    threshold: float = 3.5
    least: float = 0.05

    summary: ClassVar[str] = "updates that point elsewhere than the others"
    cost: ClassVar[str] = "O(n² d)"
    source: ClassVar[str] = "robust z-scores (Iglewicz, Hoaglin 1993, Section 5) of cosines to the geometric median"

    def __post_init__(self) -> None:
        if not (self.threshold > 0 and self.least > 0):
            raise ValueError(f"expected threshold > 0 and least > 0, got {self.threshold} and {self.least}")

    def inspect(self, vectors: Vectors, keys: Sequence[str], context: RoundContext) -> Findings:
        cosines, norms = pairwise_cosines(vectors)
        measured = np.flatnonzero(norms > 0.0)
        scores, flagged, reasons = np.zeros(vectors.n), np.zeros(vectors.n, dtype=np.bool_), [""] * vectors.n
        if len(measured) >= FEWEST:
            found = agreement(cosines[np.ix_(measured, measured)])
            scores[measured] = np.maximum(-deviations(found, self.least), 0.0)
            flagged = scores > self.threshold
            middle = float(np.median(found))
            for index, own in zip(measured.tolist(), found.tolist(), strict=True):
                if flagged[index]:
                    reasons[index] = (
                        f"its cosine to the centre of all directions is {own:.2f}, their median {middle:.2f} "
                        f"({scores[index]:.3g} deviations, {self.threshold:g} allowed)"
                    )
        return Findings(scores=scores, flagged=flagged, reasons=tuple(reasons))
