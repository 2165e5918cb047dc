"""What has happened, in order: the timeline of the server and of each run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from wardround.server.state import tables
from wardround.server.state.database import Database

__all__ = ["Event", "Events"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to `subject` (a site, a run, an account); `who` did it, `detail` is JSON.

    `kind` is a noun and what happened to it: `site.joined`, `account.login_failed`.
    """

    id: int
    at: datetime
    kind: str
    subject: str
    run_id: str | None
    who: str
    detail: Mapping[str, Any] = field(default_factory=dict)


class Events:
    """The table of events, to which lines are only added."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        kind: str,
        *,
        now: datetime,
        subject: str = "",
        run_id: str | None = None,
        who: str = "",
        detail: Mapping[str, Any] | None = None,
    ) -> Event:
        """Add one. Numbers become visible in order, so a reader that goes on after the last one misses none.

        Until its transaction ends no other can add one: within a larger transaction, add events last.
        """
        detail = dict(detail or {})
        text = json.dumps(detail, allow_nan=False)
        with self._database.transaction() as connection:
            self._database.serialise("events")
            done = connection.execute(
                sa.insert(tables.events).values(at=now, kind=kind, subject=subject, run_id=run_id, who=who, detail=text)
            )
            (number,) = done.inserted_primary_key or (0,)  # always there after one insert
        return Event(id=number, at=now, kind=kind, subject=subject, run_id=run_id, who=who, detail=detail)

    def list(self, *, after: int = 0, run_id: str | None = None, most: int = 1000) -> list[Event]:
        """At most `most` events with a number above `after`, of one run or of all, in order."""
        one = tables.events
        condition = one.c.id > after
        if run_id is not None:
            condition &= one.c.run_id == run_id
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(one).where(condition).order_by(one.c.id).limit(most)).all()
        return [_event(row) for row in rows]

    def newest(self) -> int:
        """The number of the last event; 0 where there is none."""
        with self._database.reading() as connection:
            return connection.scalar(sa.select(sa.func.max(tables.events.c.id))) or 0


def _event(row: sa.Row[Any]) -> Event:
    return Event(**dict(row._mapping) | {"detail": json.loads(row.detail)})
