"""Static clipping: no vector longer than a radius."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wardround.strategies.rules.preaggregators.preaggregator import PreAggregator
from wardround.strategies.rules.rule import RoundContext, require
from wardround.strategies.rules.vectors import Vectors
from wardround.vector import F64

__all__ = ["Clipping", "shortened"]


def shortened(norms: F64, radius: float) -> F64:
    """The factor for each of the lengths `norms` that makes it at most `radius`."""
    return np.where(norms > radius, radius / np.where(norms > radius, norms, 1.0), 1.0)


@dataclass(frozen=True, slots=True)
class Clipping(PreAggregator):
    """Each vector times min(1, radius / its norm). `radius` has no default that fits: it must be given.

    It bounds what a vector can do and tells no bad one from a good one: robustness is that of the rule that follows.

    Source: Pascanu et al. 2013, "On the difficulty of training recurrent neural networks", Algorithm 1, on updates.
    """

    num_byzantine: int = 0
    radius: float = 0.0

    summary: ClassVar[str] = "no vector longer than a given radius"
    tolerates: ClassVar[str] = "num_byzantine < n / 2"
    cost: ClassVar[str] = "O(n d)"
    source: ClassVar[str] = "Pascanu et al. 2013, Algorithm 1"

    def __post_init__(self) -> None:
        if not self.radius > 0:
            raise ValueError(f"expected radius > 0, got {self.radius:g}")

    def check(self, n: int) -> None:
        require(2 * self.num_byzantine < n, "num_byzantine < n / 2", self.num_byzantine, n)

    def mix(self, vectors: Vectors, context: RoundContext) -> F64:
        return np.diag(shortened(np.sqrt(vectors.squared_norms), self.radius))
