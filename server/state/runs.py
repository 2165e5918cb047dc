"""The runs, and where each stands."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from wardround.orders import SiteId
from wardround.server.state import tables
from wardround.server.state.database import Database
from wardround.server.state.ids import new_id

__all__ = ["ENDED", "Run", "RunEnd", "Runs"]

ENDED = frozenset({"finished", "stopped", "failed"})
"""The states that no run leaves."""
_STARTED = "running"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run; `number` is for people, `round` the last durable one, `reason` why it is in its state."""

    id: str
    number: int
    plan_digest: str
    name: str
    state: str
    reason: str
    created: datetime
    created_by: str
    started: datetime | None
    ended: datetime | None
    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    """How a run has ended; `event` is the number of the event that says so."""

    event: int
    run_id: str
    state: str


class Runs:
    """The table of runs. Which state may follow which is for the caller; that it still holds is checked here."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        *,
        plan_digest: str,
        name: str,
        sites: Sequence[SiteId],
        created_by: str,
        now: datetime,
        run_id: str | None = None,
    ) -> Run:
        """A new run in the state `waiting`, with a row for each of `sites`, none of which has decided.

        Raises TakenError for a plan or a site that is not known.
        """
        with self._database.transaction() as connection:
            self._database.serialise("runs.number")
            last = connection.scalar(sa.select(sa.func.max(tables.runs.c.number)))
            run = Run(
                id=run_id or new_id(),
                number=(last or 0) + 1,
                plan_digest=plan_digest,
                name=name,
                state="waiting",
                reason="",
                created=now,
                created_by=created_by,
                started=None,
                ended=None,
                round=0,
            )
            connection.execute(sa.insert(tables.runs).values(**{one: getattr(run, one) for one in run.__slots__}))
            if sites:
                rows = [{"run_id": run.id, "site": site, "verdict": "waiting", "reason": ""} for site in sites]
                connection.execute(sa.insert(tables.run_sites), rows)
        return run

    def get(self, run_id: str) -> Run | None:
        """The run of this id."""
        return self._one(tables.runs.c.id == run_id)

    def numbered(self, number: int) -> Run | None:
        """The run that people call by this number."""
        return self._one(tables.runs.c.number == number) if 0 < number < 1 << 31 else None

    def list(self, states: Collection[str] | None = None) -> list[Run]:
        """Every run, or those in `states`, by number."""
        one = tables.runs
        condition = sa.true() if states is None else one.c.state.in_(sorted(states))
        with self._database.reading() as connection:
            return [_run(row) for row in connection.execute(sa.select(one).where(condition).order_by(one.c.number))]

    def next_end(self, site: SiteId, kinds: Collection[str], *, after: int) -> RunEnd | None:
        """The first end of a run of `site` above the event `after`; `kinds` are those of events that end runs."""
        run, of, event = tables.runs, tables.run_sites, tables.events
        number = sa.func.max(event.c.id)
        found = (
            sa.select(number, run.c.id, run.c.state)
            .join_from(of, run, of.c.run_id == run.c.id)
            .join(event, event.c.run_id == run.c.id)
            .where(of.c.site == site, run.c.state.in_(sorted(ENDED)))
            .where(event.c.id > after, event.c.kind.in_(sorted(kinds)))
            .group_by(run.c.id, run.c.state)
            .order_by(number)
            .limit(1)
        )
        with self._database.reading() as connection:
            row = connection.execute(found).one_or_none()
        return None if row is None else RunEnd(event=row[0], run_id=row[1], state=row[2])

    def move(self, run_id: str, from_states: Collection[str], to_state: str, *, reason: str, now: datetime) -> bool:
        """Move it to `to_state`; False, and nothing changes, unless it is in one of `from_states`.

        Sets `started` the first time that it runs, and `ended` where the new state is one of `ENDED`.
        """
        one = tables.runs
        values: dict[str, Any] = {"state": str(to_state), "reason": reason}
        if to_state == _STARTED:
            values["started"] = sa.func.coalesce(one.c.started, now, type_=one.c.started.type)
        values["ended"] = now if to_state in ENDED else None
        may_leave = sorted(str(state) for state in set(from_states) - ENDED)
        with self._database.transaction() as connection:
            done = connection.execute(
                sa.update(one).where(one.c.id == run_id, one.c.state.in_(may_leave)).values(**values)
            )
        return done.rowcount == 1

    def set_round(self, run_id: str, round_number: int) -> bool:
        """Note that a round is durable; False, and nothing changes, unless it is above the one that is stored."""
        one = tables.runs
        with self._database.transaction() as connection:
            done = connection.execute(
                sa.update(one).where(one.c.id == run_id, one.c.round < round_number).values(round=round_number)
            )
        return done.rowcount == 1

    def _one(self, condition: sa.ColumnElement[bool]) -> Run | None:
        with self._database.reading() as connection:
            row = connection.execute(sa.select(tables.runs).where(condition)).one_or_none()
        return None if row is None else _run(row)


def _run(row: sa.Row[Any]) -> Run:
    return Run(**row._mapping)
