"""The models that were released: what was signed of each. The model itself stays where it is."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from wardround.server.state import tables
from wardround.server.state.database import Database

__all__ = ["Release", "Releases"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A release of a model's version: a further one has co-signatures that have come since. `sha256` is of its file.

    `plan` is in its canonical form.
    """

    name: str
    version: int
    number: int
    at: datetime
    manifest: bytes
    plan: bytes
    certificate: bytes
    signature: bytes
    sha256: bytes


class Releases:
    """The table of releases. Those of a version count from 1, and none is changed."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, release: Release) -> None:
        """Keep a release. Raises TakenError for a number that is taken."""
        with self._database.transaction() as connection:
            values = {name: getattr(release, name) for name in release.__slots__}
            connection.execute(sa.insert(tables.releases).values(**values))

    def newest(self, name: str, version: int) -> Release | None:
        """The last release of a version."""
        found = [one for one in self.list(name) if one.version == version]
        return found[-1] if found else None

    def list(self, name: str | None = None) -> list[Release]:
        """Every release, or those of one model, by name, version and number."""
        one = tables.releases
        condition = sa.true() if name is None else one.c.name == name
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(one).where(condition)).all()
        return sorted(map(_release, rows), key=lambda found: (found.name, found.version, found.number))


def _release(row: sa.Row[Any]) -> Release:
    return Release(**row._mapping)
