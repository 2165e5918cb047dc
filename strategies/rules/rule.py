"""The interfaces of aggregation rules: on contributions, and on vectors."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from wardround.contribution import Contribution, Report
from wardround.strategies.rules.ingest import LONGEST
from wardround.strategies.rules.vectors import Vectors
from wardround.vector import F32, F64

__all__ = ["Aggregate", "Decision", "Memory", "Needs", "RoundContext", "Rule", "VectorRule", "require"]

Memory = Mapping[str, NDArray[np.float64]]
"""What a rule or a detector keeps between rounds, by name. A checkpoint carries it; it is never changed in place."""


class Needs(Enum):
    """How a rule reads its contributions."""

    SUM = "each once, as it comes; none is kept"
    MATRIX = "all at once"
    TWO_PASS = "all, twice"  # noqa: S105 (a pass over the data)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundContext:
    """What a rule may know beside the contributions.

    `size` is the length that every vector must have. `seed` is for draws that attackers should not foresee.
    `references` are vectors of the server itself: "root" is its own update (FLTrust). `model` is the global model of
    the round, shape (size,). No honest vector is longer than `longest`. `left_out` bad sites are in quarantine: where
    too few are left for a rule's num_byzantine, it works for so many less.
    """

    size: int
    longest: float = LONGEST
    left_out: int = 0
    round: int = 1
    seed: int = 0
    memory: Memory = field(default_factory=dict)
    references: Mapping[str, F32] = field(default_factory=dict)
    model: F32 | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """What came of a round: the aggregated update, shape (d,), or None when no rule could be applied.

    `reason` says why there is none.
    """

    vector: F32 | None
    report: Report
    memory: Memory = field(default_factory=dict)
    reason: str = ""


class Rule(Protocol):
    """Contributions to one vector and a report. `passes` is how often each vector is read."""

    @property
    def passes(self) -> int: ...

    @property
    def needs(self) -> Needs: ...

    def apply(self, contributions: Iterable[Contribution], context: RoundContext) -> Aggregate:
        """The aggregated update and a line of evidence for each contribution.

        A contribution that no honest site sends (non-finite, of another size) is refused in the report, never raised.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How a rule makes one vector of n: a weighted sum, or a function of each column.

    `weights`, shape (n,): of each vector in the sum; for a function of columns the share of columns in which it
    counted, as far as that is known. `references`: the weights in the sum of the context's references, by name.
    `columns` maps a block of shape (n, b) to shape (b,); None for a weighted sum. `scores`, shape (n,): what the
    rule judged each vector by, higher is more suspicious; None: its distance to the aggregate.
    """

    weights: F64
    references: Mapping[str, float] = field(default_factory=dict)
    columns: Callable[[F32], F32] | None = None
    scores: F64 | None = None


class VectorRule(ABC):
    """A rule on n vectors of equal rank: what sites claim about themselves (numbers of examples) is not asked.

    A subclass is a frozen dataclass registered in the entry-point group `wardround.rules`; `num_byzantine` of the n
    vectors may be anything. `summary` is one line for people, `tolerates` the number of Byzantine vectors, `cost` the
    work, `source` the paper.
    """

    summary: ClassVar[str]
    tolerates: ClassVar[str]
    cost: ClassVar[str]
    source: ClassVar[str]
    trusts_majority: ClassVar[bool] = True
    """Whether more than half of the vectors must be honest, so that medians over them are those of honest ones."""

    @property
    @abstractmethod
    def num_byzantine(self) -> int: ...

    @abstractmethod
    def check(self, n: int) -> None:
        """Raise ValueError unless the rule works for `n` vectors; see `require`."""

    @abstractmethod
    def decide(self, vectors: Vectors, context: RoundContext) -> Decision:
        """What the rule makes of the vectors, of which there are enough."""

    def references(self, context: RoundContext) -> Mapping[str, F32]:
        """The vectors beside the contributions that `decide` measures distances to, by name."""
        return {}

    def remember(self, context: RoundContext, vector: F32) -> Memory:
        """What the rule keeps after a round that gave `vector`."""
        return {}


def require(condition: bool, expected: str, num_byzantine: int, n: int) -> None:
    """Raise ValueError when a pre-condition does not hold: `expected num_byzantine < n / 2, got 5 of 10`."""
    if num_byzantine < 0:
        raise ValueError(f"expected num_byzantine >= 0, got {num_byzantine}")
    if not condition:
        raise ValueError(f"expected {expected}, got {num_byzantine} of {n}")
