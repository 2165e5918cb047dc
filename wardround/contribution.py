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
    ACCEPTED = "accepted"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A line of the report: one contribution, how long its vector was, what became of it and why."""

    members: tuple[SiteId, ...]
    weight: float
    norm: float | None
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What a rule did, a line for each contribution."""

    lines: tuple[Evidence, ...] = ()
