"""The mean with equal weights."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wardround.strategies.rules.rule import Decision, RoundContext, VectorRule, require
from wardround.strategies.rules.vectors import Vectors

__all__ = ["EqualMean"]


@dataclass(frozen=True, slots=True)
class EqualMean(VectorRule):
    """The mean of the vectors, each with the same weight; no number of bad ones is tolerated.

    It is what rules are compared with, and the rule to put behind a pre-aggregator that is robust itself.

    Source: McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data",
    Algorithm 1, for sites with equal numbers of examples.
    """

    num_byzantine: int = 0

    summary: ClassVar[str] = "the mean with equal weights; one bad vector moves it anywhere"
    tolerates: ClassVar[str] = "num_byzantine = 0, unless a pre-aggregator tolerates more"
    cost: ClassVar[str] = "O(n d)"
    source: ClassVar[str] = "McMahan et al. 2017, Algorithm 1"

    def check(self, n: int) -> None:
        require(self.num_byzantine < n, "num_byzantine < n", self.num_byzantine, n)

    def decide(self, vectors: Vectors, context: RoundContext) -> Decision:
        return Decision(weights=np.full(vectors.n, 1.0 / vectors.n))
