"""Multi-Krum: the mean of the vectors whose nearest neighbours are nearest."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wardround.strategies.rules.krum import krum_scores
from wardround.strategies.rules.rule import Decision, RoundContext, VectorRule, require
from wardround.strategies.rules.vectors import Vectors

__all__ = ["MultiKrum"]


@dataclass(frozen=True, slots=True)
class MultiKrum(VectorRule):
    """The mean of the `selected` vectors with the lowest Krum scores; of equal ones the first. 0: n − num_byzantine.

    With `selected` = 1 it is Krum.

    Source: Blanchard et al. 2017, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
    "Multi-Krum".
    """

    num_byzantine: int
    selected: int = 0

    summary: ClassVar[str] = "the mean of the vectors whose neighbours are nearest"
    tolerates: ClassVar[str] = "num_byzantine < (n − 2) / 2"
    cost: ClassVar[str] = "O(n² d)"
    source: ClassVar[str] = "Blanchard et al. 2017, Multi-Krum"

    def __post_init__(self) -> None:
        if self.selected < 0:
            raise ValueError(f"expected selected >= 0, got {self.selected}")

    def check(self, n: int) -> None:
        require(2 * self.num_byzantine + 2 < n, "num_byzantine < (n − 2) / 2", self.num_byzantine, n)
        if self.selected > n - self.num_byzantine:
            most = n - self.num_byzantine
            raise ValueError(f"expected selected <= n − num_byzantine = {most}, got {self.selected}")

    def decide(self, vectors: Vectors, context: RoundContext) -> Decision:
        scores = krum_scores(vectors.squared_distances, self.num_byzantine)
        selected = self.selected or vectors.n - self.num_byzantine
        weights = np.zeros(vectors.n)
        weights[np.argsort(scores, kind="stable")[:selected]] = 1.0 / selected
        return Decision(weights=weights, scores=scores)
