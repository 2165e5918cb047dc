"""The server's side of a protection: how contributions are obtained from a cohort."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from flwr.serverapp import Grid

from wardround.contribution import Contribution
from wardround.orders import Order, SiteId
from wardround.strategies.records import Absence

__all__ = ["Protection"]


class Protection(Protocol):
    """What stands between the sites' updates and the server."""

    @property
    def absences(self) -> Sequence[Absence]:
        """The members of the cohort that the last `collect` did without, known once it is exhausted."""
        ...

    def open(self, grid: Grid, cohort: Mapping[SiteId, int]) -> None:
        """Prepare for a cohort (site → node id): agree on keys, form groups."""
        ...

    def collect(self, grid: Grid, order: Order, model: bytes | None = None) -> Iterator[Contribution]:
        """Send `order` to the cohort and yield what comes back, as it comes."""
        ...
