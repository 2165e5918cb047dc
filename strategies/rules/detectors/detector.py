"""The interface of a detector."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from wardround.strategies.rules.rule import Memory, RoundContext
from wardround.strategies.rules.vectors import Vectors
from wardround.vector import F64

__all__ = ["Detector", "Findings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a detector found in a round, for each of n vectors, and what it keeps for the next.

    `scores`, shape (n,), higher is more suspicious; `flagged`, shape (n,): the suspicious ones; `reasons`: why, in a
    few words, empty for the others.
    """

    scores: F64
    flagged: NDArray[np.bool_]
    reasons: tuple[str, ...]
    memory: Memory = field(default_factory=dict)


class Detector(ABC):
    """Finds vectors that look unlike honest ones. Hospitals whose patients differ may look so too.

    A subclass is a frozen dataclass registered in the entry-point group `wardround.detectors`; `summary`, `cost` and
    `source` are those of `VectorRule`.
    """

    summary: ClassVar[str]
    cost: ClassVar[str]
    source: ClassVar[str]

    @abstractmethod
    def inspect(self, vectors: Vectors, keys: Sequence[str], context: RoundContext) -> Findings:
        """Findings on the raw contributions; `keys` say which is which over the rounds, in the order of the vectors.

        `context.memory` is what this detector kept. Never raises for few vectors: then nothing is flagged.
        """
