"""The ends of runs, and what came of them, of which each site is told until it has kept them: one at a time, in order.

What a site knows is one number in the database, that of the last end it was told of, among the events of the server. So
a site that never comes back costs the server a single notice, however many of its runs end.
"""

import asyncio
import json
from collections.abc import Iterable

from wardround.link.messages import Notice
from wardround.orders import SiteId
from wardround.server.runs.run_state import END_EVENTS
from wardround.server.runs.telling import Notices, Telling
from wardround.server.state.database import Database
from wardround.server.state.models import Models
from wardround.server.state.runs import Run, RunEnd, Runs
from wardround.server.state.settings import Settings
from wardround.server.state.sites import Sites, SiteState

__all__ = ["Ends"]

_KINDS = frozenset(f"run.{event}" for event in END_EVENTS)


class Ends:
    """Tells sites of ends; called in the server's loop. An end is owed from the transaction on that makes its event."""

    def __init__(self, database: Database, hub: Notices, telling: Telling) -> None:
        self._hub, self._telling = hub, telling
        self._runs, self._sites, self._settings = Runs(database), Sites(database), Settings(database)
        self._models = Models(database)
        self._again: set[SiteId] = set()

    def tell_all(self) -> None:
        """Tell every site what it is owed."""
        self.tell(site.name for site in self._sites.list() if site.state is SiteState.ACTIVE)

    def tell(self, sites: Iterable[SiteId]) -> None:
        """Tell these sites what they are owed."""
        for site in sites:
            self._again.add(site)  # for one that is at it
            self._telling.begin(("ended", site), self._tell(site))

    def repeat(self, site: SiteId, run: Run) -> None:
        """Tell a site of the end of a run once more, whatever it was told."""
        self._telling.begin(("ended again", run.id, site), self._notify(site, run.id, run.state))

    async def _tell(self, site: SiteId) -> None:
        while site in self._again:
            self._again.discard(site)
            while (end := await asyncio.to_thread(self._next, site)) is not None:
                await self._notify(site, end.run_id, end.state)
                await asyncio.to_thread(self._settings.advance, _told(site), end.event)

    async def _notify(self, site: SiteId, run_id: str, state: str) -> None:
        made = await asyncio.to_thread(self._models.of_run, run_id)
        model = None if made is None else made.sha256.hex()
        body = json.dumps({"run": run_id, "state": state, "model": model}).encode()
        await self._hub.notify(site, Notice(kind="ended", body=body))

    def _next(self, site: SiteId) -> RunEnd | None:
        known = self._sites.get(site)
        if known is None or known.state is SiteState.REVOKED:
            return None
        return self._runs.next_end(site, _KINDS, after=self._settings.counter(_told(site)))


def _told(site: SiteId) -> str:
    """The setting that has the number of the last end that a site was told of."""
    return f"runs.told {site}"
