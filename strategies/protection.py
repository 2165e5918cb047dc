"""The server's side of a protection: how contributions are obtained from a cohort."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from flwr.serverapp import Grid

from wardround import _flower
from wardround.contribution import Contribution
from wardround.orders import Order, OrderKind, SiteId
from wardround.strategies.records import Absence
from wardround.strategies.secagg.round_evidence import ProtectionRecord

__all__ = ["MESSAGE_TYPES", "Protection"]

MESSAGE_TYPES = {
    OrderKind.STATISTICS: _flower.STATISTICS,
    OrderKind.FIT: "train",
    OrderKind.EVALUATE: "evaluate",
}
"""Flower's name for each kind of order."""


class Protection(Protocol):
    """What stands between the sites' updates and the server."""

    @property
    def absences(self) -> Sequence[Absence]:
        """The members of the cohort that the last `collect` did without, known once it is exhausted."""
        ...

    @property
    def record(self) -> ProtectionRecord | None:
        """What the last `collect` leaves as evidence, known once it is exhausted; None without protection."""
        ...

    def open(self, grid: Grid, cohort: Mapping[SiteId, int]) -> None:
        """Prepare for a cohort (site → node id): agree on keys, form groups."""
        ...

    def collect(self, grid: Grid, order: Order, model: bytes | None = None) -> Iterator[Contribution]:
        """Send `order` to the cohort and yield what comes back, as it comes."""
        ...
