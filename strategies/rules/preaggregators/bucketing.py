"""Bucketing: the means of random groups of vectors."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wardround.strategies.rules.preaggregators.preaggregator import PreAggregator
from wardround.strategies.rules.rule import RoundContext, require
from wardround.strategies.rules.vectors import Vectors
from wardround.vector import F64, I64

__all__ = ["Bucketing", "buckets"]


def buckets(order: I64, size: int) -> list[I64]:
    """`order` cut into pieces of `size`; the last may be shorter."""
    return [order[start : start + size] for start in range(0, len(order), size)]


@dataclass(frozen=True, slots=True)
class Bucketing(PreAggregator):
    """The vectors in a random order, `size` after `size` replaced by their mean; the last bucket may be smaller.

    As many buckets as vectors may be bad, of fewer buckets, so the rule that follows has the same num_byzantine and
    checks it against ⌈n / size⌉. `size` 0 is the largest that leaves more than 2 num_byzantine buckets: the paper's
    ⌊n / (2 num_byzantine)⌋, or one less where that leaves exactly half of them bad; 1 without Byzantine vectors.
    The order follows from the context's seed and round.

    Source: Karimireddy et al. 2022, "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing", Algorithm 1.
    """

    num_byzantine: int
    size: int = 0

    summary: ClassVar[str] = "the means of random groups of vectors, which evens hospitals out"
    tolerates: ClassVar[str] = "num_byzantine < ⌈n / size⌉ / 2"
    cost: ClassVar[str] = "O(n)"
    source: ClassVar[str] = "Karimireddy et al. 2022, Algorithm 1"

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"expected size >= 0, got {self.size}")

    def check(self, n: int) -> None:
        require(2 * self.num_byzantine < n, "num_byzantine < n / 2", self.num_byzantine, n)
        count = self.mixtures(n)
        expected = f"num_byzantine < buckets / 2 with {self._size(n)} vectors in a bucket"
        require(2 * self.num_byzantine < count, expected, self.num_byzantine, count)

    def mix(self, vectors: Vectors, context: RoundContext) -> F64:
        generator = np.random.Generator(np.random.Philox(key=context.seed, counter=context.round << 192))
        groups = buckets(generator.permutation(vectors.n), self._size(vectors.n))
        weights = np.zeros((len(groups), vectors.n))
        for row, members in zip(weights, groups, strict=True):
            row[members] = 1.0 / len(members)
        return weights

    def mixtures(self, n: int) -> int:
        return math.ceil(n / self._size(n))

    def _size(self, n: int) -> int:
        return self.size or (max(1, (n - 1) // (2 * self.num_byzantine)) if self.num_byzantine else 1)
