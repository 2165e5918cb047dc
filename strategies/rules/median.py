"""The coordinate-wise median."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wardround.strategies.rules.order_statistics import MiddleMean
from wardround.strategies.rules.rule import Decision, RoundContext, VectorRule, require
from wardround.strategies.rules.vectors import Vectors

__all__ = ["Median"]


@dataclass(frozen=True, slots=True)
class Median(VectorRule):
    """The median of every coordinate; of an even number the mean of the two in the middle.

    Source: Yin et al. 2018, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", Definition 1.
    """

    num_byzantine: int = 0

    summary: ClassVar[str] = "the middle of every coordinate"
    tolerates: ClassVar[str] = "num_byzantine < n / 2"
    cost: ClassVar[str] = "O(n log² n d)"
    source: ClassVar[str] = "Yin et al. 2018, Definition 1"

    def check(self, n: int) -> None:
        require(2 * self.num_byzantine < n, "num_byzantine < n / 2", self.num_byzantine, n)

    def decide(self, vectors: Vectors, context: RoundContext) -> Decision:
        n = vectors.n
        return Decision(weights=np.full(n, 1.0 / n), columns=MiddleMean(n, (n - 1) // 2, n // 2 + 1))
