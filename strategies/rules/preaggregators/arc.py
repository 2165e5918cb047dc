"""Adaptive robust clipping: the longest vectors are made as long as the next one."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wardround.strategies.rules.preaggregators.clipping import shortened
from wardround.strategies.rules.preaggregators.preaggregator import PreAggregator
from wardround.strategies.rules.rule import RoundContext, require
from wardround.strategies.rules.vectors import Vectors
from wardround.vector import F64

__all__ = ["Arc", "threshold"]


def threshold(norms: F64, num_byzantine: int) -> float:
    """The length of the longest vector that is not clipped: ⌊2 (f / n) (n − f)⌋ of the n are longer."""
    n = len(norms)
    return float(np.sort(norms)[n - 1 - 2 * num_byzantine * (n - num_byzantine) // n])


@dataclass(frozen=True, slots=True)
class Arc(PreAggregator):
    """Each of the ⌊2 (f / n) (n − f)⌋ longest vectors made as long as the longest of the others, f = num_byzantine.

    Without Byzantine vectors nothing changes.

    Source: Allouah et al. 2025, "Adaptive Gradient Clipping for Robust Federated Learning", Algorithm 2.
    """

    num_byzantine: int

    summary: ClassVar[str] = "the longest vectors made as long as the next one"
    tolerates: ClassVar[str] = "num_byzantine < n / 2"
    cost: ClassVar[str] = "O(n d)"
    source: ClassVar[str] = "Allouah et al. 2025, Algorithm 2"

    def check(self, n: int) -> None:
        require(2 * self.num_byzantine < n, "num_byzantine < n / 2", self.num_byzantine, n)

    def mix(self, vectors: Vectors, context: RoundContext) -> F64:
        norms = np.sqrt(vectors.squared_norms)
        return np.diag(shortened(norms, threshold(norms, self.num_byzantine)))
