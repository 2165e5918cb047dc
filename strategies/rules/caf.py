"""The covariance-bound agnostic filter: weight is taken from what stands out in the direction of most variance."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wardround.strategies.rules.rule import Decision, RoundContext, VectorRule, require
from wardround.strategies.rules.vectors import Vectors
from wardround.vector import F64

__all__ = ["Caf", "dominant", "lowered"]


def dominant(products: F64, shares: F64) -> tuple[float, F64]:
    """The largest eigenvalue of a weighted covariance, and the vectors' squared projections on its direction, (n,).

    `products`, shape (n, n), are around the mean with `shares`, shape (n,), that add up to 1.
    """
    roots = np.sqrt(shares)
    values, directions = np.linalg.eigh(roots[:, None] * products * roots)
    largest = float(values[-1])
    if largest <= 0.0:
        return 0.0, np.zeros(len(shares))
    projections: F64 = (products @ (roots * directions[:, -1])) ** 2 / largest
    return largest, projections


def lowered(weights: F64, projections: F64) -> F64:
    """The weights after one step of the filter: the vector that stands out most loses all, others in proportion.

    Those without weight do not count: one far off would otherwise be the farthest for ever, and nothing would change.
    """
    farthest = float(projections[weights > 0].max())
    return np.where(weights > 0, weights * np.maximum(1.0 - projections / farthest, 0.0), 0.0)


@dataclass(frozen=True, slots=True)
class Caf(VectorRule):
    """The weighted mean whose covariance has the smallest largest eigenvalue, of those that a filter comes by.

    The filter begins with equal weights and stops when their sum is at most n − 2 num_byzantine. Eigenvectors are
    exact, from n x n space. Without Byzantine vectors it is the mean. What it judged a vector by is the weight lost.

    Source: Allouah et al. 2025, "Towards Trustworthy Federated Learning with Untrusted Participants", Algorithm CAF.
    """

    num_byzantine: int

    summary: ClassVar[str] = "the mean after a filter for what stands out in the direction of most variance"
    tolerates: ClassVar[str] = "num_byzantine < n / 2"
    cost: ClassVar[str] = "O(n² d + n⁴)"
    source: ClassVar[str] = "Allouah et al. 2025, Algorithm CAF"

    def check(self, n: int) -> None:
        require(2 * self.num_byzantine < n, "num_byzantine < n / 2", self.num_byzantine, n)

    def decide(self, vectors: Vectors, context: RoundContext) -> Decision:
        n = vectors.n
        weights = best = np.ones(n)
        smallest = np.inf
        while weights.sum() > n - 2 * self.num_byzantine:
            shares = weights / weights.sum()
            largest, projections = dominant(vectors.products_around_mean(shares), shares)
            if largest < smallest:
                smallest, best = largest, weights
            if largest == 0.0:
                break
            weights = lowered(weights, projections)
        return Decision(weights=best / best.sum(), scores=1.0 - best)
