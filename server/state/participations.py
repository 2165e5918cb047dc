"""What the sites of a run have signed in the end: that they took part, and which model came of it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from wardround.orders import SiteId
from wardround.server.state import tables
from wardround.server.state.database import Database

__all__ = ["Participation", "Participations"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Participation:
    """A site's co-signature of a run's model. `rounds` is in how many it answered, None where a plan hides that.

    `at` is the time that the site signed, to the second.
    """

    run_id: str
    site: SiteId
    model_sha256: bytes
    rounds: int | None
    at: datetime
    signature: bytes


class Participations:
    """The table of co-signatures. A site signs once of a run."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, one: Participation) -> bool:
        """Keep one; False, and nothing changes, where the site has signed of this run before."""
        with self._database.transaction() as connection:
            self._database.serialise("participations")
            if self.get(one.run_id, one.site) is not None:
                return False
            connection.execute(sa.insert(tables.participations).values(**{k: getattr(one, k) for k in one.__slots__}))
        return True

    def get(self, run_id: str, site: SiteId) -> Participation | None:
        """What a site has signed of a run."""
        return self.of_run(run_id).get(site)

    def of_run(self, run_id: str) -> dict[SiteId, Participation]:
        """What the sites have signed of a run."""
        one = tables.participations
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(one).where(one.c.run_id == run_id)).all()
        return {found.site: found for found in map(_participation, rows)}


def _participation(row: sa.Row[Any]) -> Participation:
    found = dict(row._mapping)
    return Participation(**found | {"site": SiteId(found["site"])})
