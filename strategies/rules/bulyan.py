"""Bulyan: what Krum selects one by one, and of that the values around every coordinate's median."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wardround.strategies.rules.krum import krum_scores
from wardround.strategies.rules.order_statistics import NearestToMedian
from wardround.strategies.rules.rule import Decision, RoundContext, VectorRule, require
from wardround.strategies.rules.vectors import Vectors
from wardround.vector import F64

__all__ = ["Bulyan", "krum_selection"]


def krum_selection(squared_distances: F64, num_byzantine: int, count: int) -> list[int]:
    """The first `count` of n vectors that Krum chooses, each from those that are left, in the order of choice."""
    left = list(range(len(squared_distances)))
    chosen = []
    for _ in range(count):
        scores = krum_scores(squared_distances[np.ix_(left, left)], num_byzantine)
        chosen.append(left.pop(int(np.argmin(scores))))
    return chosen


@dataclass(frozen=True, slots=True)
class Bulyan(VectorRule):
    """Krum chooses n − 2f vectors, one after the other without those chosen before, f being num_byzantine.

    The result is, in every coordinate, the mean of the n − 4f chosen values nearest to their median.

    Source: El Mhamdi et al. 2018, "The Hidden Vulnerability of Distributed Learning in Byzantium", "Bulyan".
    """

    num_byzantine: int

    summary: ClassVar[str] = "Krum again and again, then the values around every coordinate's median"
    tolerates: ClassVar[str] = "num_byzantine ≤ (n − 3) / 4"
    cost: ClassVar[str] = "O(n² d + n³ log n)"
    source: ClassVar[str] = "El Mhamdi et al. 2018, Bulyan"

    def check(self, n: int) -> None:
        require(4 * self.num_byzantine + 3 <= n, "num_byzantine <= (n − 3) / 4", self.num_byzantine, n)

    def decide(self, vectors: Vectors, context: RoundContext) -> Decision:
        n, f = vectors.n, self.num_byzantine
        distances = vectors.squared_distances
        rows = krum_selection(distances, f, n - 2 * f)
        weights = np.zeros(n)
        weights[rows] = 1.0 / len(rows)
        columns = NearestToMedian(n, tuple(sorted(rows)), n - 4 * f)
        return Decision(weights=weights, columns=columns, scores=krum_scores(distances, f))
