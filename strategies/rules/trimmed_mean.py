"""The coordinate-wise trimmed mean."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wardround.strategies.rules.order_statistics import MiddleMean
from wardround.strategies.rules.rule import Decision, RoundContext, VectorRule, require
from wardround.strategies.rules.vectors import Vectors

__all__ = ["TrimmedMean"]


@dataclass(frozen=True, slots=True)
class TrimmedMean(VectorRule):
    """The mean of every coordinate without its num_byzantine largest and smallest values.

    With num_byzantine = 0 it is the mean.

    Source: Yin et al. 2018, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", Definition 2,
    whose share β of values to drop at either end is num_byzantine / n here.
    """

    num_byzantine: int

    summary: ClassVar[str] = "the mean of every coordinate without its largest and smallest values"
    tolerates: ClassVar[str] = "num_byzantine < n / 2"
    cost: ClassVar[str] = "O(n log² n d)"
    source: ClassVar[str] = "Yin et al. 2018, Definition 2"

    def check(self, n: int) -> None:
        require(2 * self.num_byzantine < n, "num_byzantine < n / 2", self.num_byzantine, n)

    def decide(self, vectors: Vectors, context: RoundContext) -> Decision:
        n, dropped = vectors.n, self.num_byzantine
        return Decision(weights=np.full(n, 1.0 / n), columns=MiddleMean(n, dropped, n - dropped))
