"""What the server can see, and what it notes about it."""

from dataclasses import dataclass
from enum import StrEnum

from wardround.orders import SiteId
from wardround.tally import Tally
from wardround.vector import VectorSource

__all__ = ["Contribution", "Evidence", "Report", "Verdict"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """One vector, the sites in it, its weight and the sum of their tallies.

    Without protection each site is one contribution; under secure aggregation it is the sum of a group.
    `vector` is valid until the next contribution is asked for, unless a rule needs all of them.
    """

    members: tuple[SiteId, ...]
    weight: int
    vector: VectorSource
    tally: Tally


class Verdict(StrEnum):
    """What became of a contribution."""

    ACCEPTED = "accepted"
    DOWN_WEIGHTED = "down-weighted"
    """The rule gave it less than half of an equal share."""
    REJECTED = "rejected"
    """The rule took nothing of it."""
    REFUSED = "refused"
    """The rule never saw it: no honest site sends such a vector."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A line of the report: one contribution, what was measured of it, what became of it and why.

    `weight` is what the rule gave it, relative to the other lines. `norm` is the vector's L2 norm, `cosine` that of
    its angle to the aggregate, `score` what the rule judged it by (each rule says what; higher is more suspicious).
    `flags` names the detectors that found it suspicious. What was not measured is None.
    """

    members: tuple[SiteId, ...]
    weight: float
    norm: float | None
    verdict: Verdict
    reason: str = ""
    cosine: float | None = None
    score: float | None = None
    flags: tuple[str, ...] = ()

    @property
    def suspicious(self) -> bool:
        """Whether it counts against its members: refused, or flagged by a detector."""
        return self.verdict is Verdict.REFUSED or bool(self.flags)


@dataclass(frozen=True, slots=True)
class Report:
    """What a rule did, a line for each contribution."""

    lines: tuple[Evidence, ...] = ()

    @property
    def refused(self) -> int:
        """How many contributions the rule never saw."""
        return sum(line.verdict is Verdict.REFUSED for line in self.lines)
