"""The sites that have joined, and their signing keys."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from wardround.orders import SiteId
from wardround.plain_text import plain_text
from wardround.server.state import tables
from wardround.server.state.database import Database, TakenError
from wardround.signing_key import fingerprint_of

__all__ = ["Site", "SiteState", "Sites"]


class SiteState(StrEnum):
    ACTIVE = "active"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A site under the key that it joined with last; `last_seen` and `software` are of its last connection."""

    name: SiteId
    signing_public: bytes
    fingerprint: str
    state: SiteState
    joined: datetime
    revoked_at: datetime | None
    last_seen: datetime | None
    software: str


class Sites:
    """The table of sites."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, name: SiteId, signing_public: bytes, *, now: datetime, software: str = "") -> Site:
        """A site that joins, or joins again after it was revoked.

        Raises TakenError where the name is an active site's, or the key another's.
        """
        one = tables.sites
        values: dict[str, Any] = {
            "signing_public": signing_public,
            "fingerprint": fingerprint_of(signing_public),
            "state": SiteState.ACTIVE.value,
            "joined": now,
            "revoked_at": None,
            "software": software,
        }
        with self._database.transaction() as connection:
            again = connection.execute(
                sa.update(one).where(one.c.name == name, one.c.state == SiteState.REVOKED.value).values(**values)
            )
            if again.rowcount == 0:
                try:
                    with self._database.transaction():
                        connection.execute(sa.insert(one).values(name=name, **values))
                except TakenError:
                    raise TakenError(
                        f"{plain_text(name)}: expected a new name and a new key, got one of a site that has joined; "
                        "revoke that site first, or invite under another name"
                    ) from None
            return _site(connection.execute(sa.select(one).where(one.c.name == name)).one())

    def get(self, name: SiteId) -> Site | None:
        """The site of this name, revoked or not."""
        with self._database.reading() as connection:
            row = connection.execute(sa.select(tables.sites).where(tables.sites.c.name == name)).one_or_none()
        return None if row is None else _site(row)

    def list(self) -> list[Site]:
        """Every site, by name."""
        with self._database.reading() as connection:
            return sorted(map(_site, connection.execute(sa.select(tables.sites))), key=lambda one: one.name)

    def revoke(self, name: SiteId, now: datetime) -> bool:
        """Let it take part no more; False where it is revoked already, or not known."""
        one = tables.sites
        with self._database.transaction() as connection:
            done = connection.execute(
                sa.update(one)
                .where(one.c.name == name, one.c.state == SiteState.ACTIVE.value)
                .values(state=SiteState.REVOKED.value, revoked_at=now)
            )
        return done.rowcount == 1

    def seen(self, name: SiteId, now: datetime, software: str | None = None) -> None:
        """Note that it was connected, and with what software; never moves the time back."""
        one = tables.sites
        values: dict[str, Any] = {"last_seen": now} | ({} if software is None else {"software": software})
        with self._database.transaction() as connection:
            connection.execute(
                sa.update(one)
                .where(one.c.name == name, one.c.last_seen.is_(None) | (one.c.last_seen < now))
                .values(**values)
            )


def _site(row: sa.Row[Any]) -> Site:
    found = dict(row._mapping)
    return Site(**found | {"name": SiteId(found["name"]), "state": SiteState(found["state"])})
