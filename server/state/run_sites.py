"""The sites of each run, and what each has decided about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from wardround.orders import SiteId
from wardround.server.state import tables
from wardround.server.state.database import Database

__all__ = ["RunSite", "RunSites", "Verdict"]


class Verdict(StrEnum):
    WAITING = "waiting"
    APPROVED = "approved"
    DENIED = "denied"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSite:
    """A site of a run. `units` is what it said it has (patients or examples), `signature` that of its decision."""

    run_id: str
    site: SiteId
    verdict: Verdict
    reason: str
    units: int | None
    signature: bytes | None
    decided: datetime | None


class RunSites:
    """The table of the sites of runs. A site decides once about a run."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    def offer(self, run_id: str, sites: Sequence[SiteId]) -> None:
        """Further sites that have to decide. Raises TakenError for one that is there already, or not known."""
        rows = [{"run_id": run_id, "site": site, "verdict": Verdict.WAITING.value, "reason": ""} for site in sites]
        if rows:
            with self._database.transaction() as connection:
                connection.execute(sa.insert(tables.run_sites), rows)

    def decide(
        self,
        run_id: str,
        site: SiteId,
        verdict: Verdict,
        *,
        reason: str,
        units: int | None,
        signature: bytes,
        now: datetime,
    ) -> bool:
        """Keep what a site has decided; False, and nothing changes, where it has before or is not of this run."""
        if verdict is Verdict.WAITING:
            raise ValueError("expected a decision, got `waiting`")
        one = tables.run_sites
        with self._database.transaction() as connection:
            done = connection.execute(
                sa.update(one)
                .where(one.c.run_id == run_id, one.c.site == site, one.c.verdict == Verdict.WAITING.value)
                .values(verdict=verdict.value, reason=reason, units=units, signature=signature, decided=now)
            )
        return done.rowcount == 1

    def get(self, run_id: str, site: SiteId) -> RunSite | None:
        """One site of a run."""
        found = self._where((tables.run_sites.c.run_id == run_id) & (tables.run_sites.c.site == site))
        return found[0] if found else None

    def of_site(self, site: SiteId) -> list[RunSite]:
        """The runs that a site was asked about, by id."""
        return self._where(tables.run_sites.c.site == site)

    def _where(self, condition: sa.ColumnElement[bool]) -> list[RunSite]:
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(tables.run_sites).where(condition)).all()
        return sorted(map(_run_site, rows), key=lambda one: (one.site, one.run_id))

    def list(self, run_id: str) -> list[RunSite]:
        """The sites of a run, by name."""
        return self._where(tables.run_sites.c.run_id == run_id)


def _run_site(row: sa.Row[Any]) -> RunSite:
    found = dict(row._mapping)
    return RunSite(**found | {"site": SiteId(found["site"]), "verdict": Verdict(found["verdict"])})
