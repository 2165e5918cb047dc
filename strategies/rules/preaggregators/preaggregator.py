"""The interface of a pre-aggregator."""

from abc import ABC, abstractmethod
from typing import ClassVar

from wardround.strategies.rules.rule import RoundContext
from wardround.strategies.rules.vectors import Vectors
from wardround.vector import F64

__all__ = ["PreAggregator"]


class PreAggregator(ABC):
    """Mixes n vectors to m, by weights that follow from their geometry.

    A subclass is a frozen dataclass registered in the entry-point group `wardround.preaggregators`. The class
    variables are those of `VectorRule`.
    """

    summary: ClassVar[str]
    tolerates: ClassVar[str]
    cost: ClassVar[str]
    source: ClassVar[str]

    @property
    @abstractmethod
    def num_byzantine(self) -> int: ...

    @abstractmethod
    def check(self, n: int) -> None:
        """Raise ValueError unless it works for `n` vectors; see `require`."""

    @abstractmethod
    def mix(self, vectors: Vectors, context: RoundContext) -> F64:
        """The mixtures' weights, shape (m, n); what a row lacks to a sum of 1 goes to the origin (`Vectors.mix`)."""

    def mixtures(self, n: int) -> int:
        """m, the number of mixtures of `n` vectors."""
        return n
