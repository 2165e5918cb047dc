"""Nearest-neighbour mixing: every vector replaced by the mean of its nearest neighbours."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wardround.strategies.rules.preaggregators.preaggregator import PreAggregator
from wardround.strategies.rules.rule import RoundContext, require
from wardround.strategies.rules.vectors import Vectors
from wardround.vector import F64

__all__ = ["Nnm"]


@dataclass(frozen=True, slots=True)
class Nnm(PreAggregator):
    """Each vector becomes the mean of the n − num_byzantine vectors that are nearest to it, itself included.

    Source: Allouah et al. 2023, "Fixing by Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity", Algorithm 2.
    """

    num_byzantine: int

    summary: ClassVar[str] = "each vector replaced by the mean of its nearest neighbours, which evens hospitals out"
    tolerates: ClassVar[str] = "num_byzantine < n / 2"
    cost: ClassVar[str] = "O(n² d)"
    source: ClassVar[str] = "Allouah et al. 2023, Algorithm 2"

    def check(self, n: int) -> None:
        require(2 * self.num_byzantine < n, "num_byzantine < n / 2", self.num_byzantine, n)

    def mix(self, vectors: Vectors, context: RoundContext) -> F64:
        kept = vectors.n - self.num_byzantine
        distances = vectors.squared_distances.copy()
        np.fill_diagonal(distances, -1.0)  # itself first, whatever is beside it
        nearest = np.argsort(distances, axis=1, kind="stable")[:, :kept]
        weights = np.zeros((vectors.n, vectors.n))
        np.put_along_axis(weights, nearest, 1.0 / kept, axis=1)
        return weights
