"""The interface of an aggregation rule."""

from collections.abc import Iterable
from enum import Enum
from typing import Protocol

from wardround.contribution import Contribution, Report
from wardround.vector import F32

__all__ = ["Needs", "Rule"]


class Needs(Enum):
    """How a rule reads its contributions."""

    SUM = "each once, as it comes; none is kept"
    MATRIX = "all at once"
    TWO_PASS = "all, twice"  # noqa: S105 (a pass over the data)


class Rule(Protocol):
    """Contributions to one vector and a report. `passes` is how often each vector is read."""

    @property
    def passes(self) -> int: ...

    @property
    def needs(self) -> Needs: ...

    def apply(self, contributions: Iterable[Contribution]) -> tuple[F32, Report]:
        """The aggregated update, shape (d,), and a line of evidence for each contribution.

        Raises LocalError when no contribution is usable.
        """
        ...
