"""Divide and conquer: vectors that stand out in the direction of most variance are left out."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wardround.strategies.rules.caf import dominant
from wardround.strategies.rules.rule import Decision, RoundContext, VectorRule, require
from wardround.strategies.rules.vectors import Vectors
from wardround.vector import F64, I64

__all__ = ["Dnc", "outermost"]


def outermost(scores: F64, count: int) -> I64:
    """Where the `count` highest scores are; of equal ones the first."""
    highest: I64 = np.argsort(-scores, kind="stable")[:count]
    return highest


@dataclass(frozen=True, slots=True)
class Dnc(VectorRule):
    """The mean without the `filtering` x num_byzantine vectors with the largest projections on the top direction.

    That is the top right singular vector of the centred vectors. Two differences to the paper's Algorithm 2. It judges
    by a random subset of coordinates, because a singular vector of all is too dear; from n x n space it costs nothing,
    so all are used and there is nothing to repeat. (Attackers can foresee that direction; a subset would hide it, but
    also miss what is done to few coordinates.) And it leaves out all by one direction, so that a far vector in
    another one passes; here, after every `at_once` of them the direction is found anew. `at_once` = num_byzantine is
    the paper's.

    What it judged a vector by is its squared projection in units of their mean, when it was left out or at the end.

    Source: Shejwalkar and Houmansadr 2021, "Manipulating the Byzantine: Optimizing Model Poisoning Attacks and
    Defenses for Federated Learning", Algorithm 2.
    """

    num_byzantine: int
    filtering: float = 1.0
    at_once: int = 1

    summary: ClassVar[str] = "the mean without what stands out in the direction of most variance"
    tolerates: ClassVar[str] = "num_byzantine < n / 2"
    cost: ClassVar[str] = "O(n² d + num_byzantine n³)"
    source: ClassVar[str] = "Shejwalkar & Houmansadr 2021, Algorithm 2"

    def __post_init__(self) -> None:
        if not self.filtering > 0:
            raise ValueError(f"expected filtering > 0, got {self.filtering}")
        if self.at_once < 1:
            raise ValueError(f"expected at_once >= 1, got {self.at_once}")

    def check(self, n: int) -> None:
        require(2 * self.num_byzantine < n, "num_byzantine < n / 2", self.num_byzantine, n)
        require(self._left_out < n, f"{self.filtering:g} num_byzantine < n", self.num_byzantine, n)

    @property
    def _left_out(self) -> int:
        return math.ceil(self.filtering * self.num_byzantine)

    def decide(self, vectors: Vectors, context: RoundContext) -> Decision:
        kept, left, scores = np.ones(vectors.n), self._left_out, np.zeros(vectors.n)
        while True:
            shares = kept / kept.sum()
            largest, projections = dominant(vectors.products_around_mean(shares), shares)
            if largest == 0.0:  # all that are left are equal
                break
            scores = np.where(kept > 0, projections / largest, scores)
            if not left:
                break
            count = min(self.at_once, left)
            kept = kept.copy()
            kept[outermost(np.where(kept > 0, projections, -1.0), count)] = 0.0
            left -= count
        return Decision(weights=kept / kept.sum(), scores=scores)
