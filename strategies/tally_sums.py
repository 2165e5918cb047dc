"""Sums of what sites count, where one of them may count something else."""

from collections.abc import Sequence

from wardround.orders import SiteId
from wardround.tally import Tally, TallySpec

__all__ = ["TallySums"]


class TallySums:
    """Adds tallies up by kind; the total is that of the kind that most sites sent (of equal ones the first)."""

    def __init__(self) -> None:
        self._sums: dict[TallySpec, Tally] = {}
        self._sites: dict[TallySpec, list[SiteId]] = {}
        self.contributions = 0
        """How many were added."""

    def add(self, members: Sequence[SiteId], tally: Tally) -> None:
        """Add the tally of one contribution."""
        self.contributions += 1
        known = self._sums.get(tally.spec)
        self._sums[tally.spec] = tally if known is None else known + tally
        self._sites.setdefault(tally.spec, []).extend(members)

    @property
    def total(self) -> Tally | None:
        """The sum over the sites that agree on what is counted; None before the first tally."""
        return self._sums[self._kind] if self._sums else None

    @property
    def odd(self) -> list[SiteId]:
        """The sites that counted something else."""
        return [site for kind, sites in self._sites.items() if kind != self._kind for site in sites]

    @property
    def _kind(self) -> TallySpec:
        return max(self._sites, key=lambda kind: len(self._sites[kind]))
