"""Krum: the vector whose nearest neighbours are nearest."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wardround.strategies.rules.rule import Decision, RoundContext, VectorRule, require
from wardround.strategies.rules.vectors import Vectors
from wardround.vector import F64

__all__ = ["Krum", "krum_scores"]


def krum_scores(squared_distances: F64, num_byzantine: int) -> F64:
    """For each of n vectors the sum of squared distances to its n − num_byzantine − 2 nearest others, shape (n,).

    To one other at least: Bulyan asks Krum about so few that the formula leaves none.
    """
    n = len(squared_distances)
    others = squared_distances.copy()
    np.fill_diagonal(others, np.inf)
    others.sort(axis=1)
    scores: F64 = others[:, : min(max(n - num_byzantine - 2, 1), n - 1)].sum(axis=1)
    return scores


@dataclass(frozen=True, slots=True)
class Krum(VectorRule):
    """One of the vectors: the one with the lowest Krum score; of equal ones the first.

    Source: Blanchard et al. 2017, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
    "The Krum Function".
    """

    num_byzantine: int

    summary: ClassVar[str] = "the one vector whose neighbours are nearest; throws away what the others learned"
    tolerates: ClassVar[str] = "num_byzantine < (n − 2) / 2"
    cost: ClassVar[str] = "O(n² d)"
    source: ClassVar[str] = "Blanchard et al. 2017, The Krum Function"

    def check(self, n: int) -> None:
        require(2 * self.num_byzantine + 2 < n, "num_byzantine < (n − 2) / 2", self.num_byzantine, n)

    def decide(self, vectors: Vectors, context: RoundContext) -> Decision:
        scores = krum_scores(vectors.squared_distances, self.num_byzantine)
        weights = np.zeros(vectors.n)
        weights[int(np.argmin(scores))] = 1.0
        return Decision(weights=weights, scores=scores)
