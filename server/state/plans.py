"""The plans that were uploaded: their text, and the files of their code, sealed."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from wardround.server.state import tables
from wardround.server.state.database import Database
from wardround.server.state.vault import Vault

__all__ = ["Plans", "StoredPlan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPlan:
    """A plan as it was uploaded; `digest` is `Plan.digest`, which covers the code files too."""

    digest: str
    name: str
    toml: str
    created: datetime
    created_by: str


class Plans:
    """The tables of plans and of their files. What has one digest is one plan."""

    __slots__ = ("_database", "_vault")

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database, self._vault = database, vault

    def add(
        self,
        *,
        digest: str,
        name: str,
        toml: str,
        files: Mapping[str, bytes],
        created_by: str,
        now: datetime,
    ) -> StoredPlan:
        """Keep a plan, whose digest the caller has checked; the one that is there already, where it is."""
        sealed = [
            {"plan_digest": digest, "path": path, "sealed": self._vault.seal(_label(digest, path), data)}
            for path, data in files.items()
        ]
        with self._database.transaction() as connection:
            self._database.serialise("plans")
            if (found := self._get(connection, digest)) is not None:
                return found
            plan = StoredPlan(digest=digest, name=name, toml=toml, created=now, created_by=created_by)
            values = {name: getattr(plan, name) for name in plan.__slots__}
            connection.execute(sa.insert(tables.plans).values(**values))
            if sealed:
                connection.execute(sa.insert(tables.plan_files), sealed)
        return plan

    def get(self, digest: str) -> StoredPlan | None:
        """The plan of this digest."""
        with self._database.reading() as connection:
            return self._get(connection, digest)

    def list(self) -> list[StoredPlan]:
        """Every plan, the oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(tables.plans).order_by(tables.plans.c.created))
            return [_plan(row) for row in rows]

    def files(self, digest: str) -> dict[str, bytes]:
        """The code files of a plan by path, in order; LocalError for one that was changed from outside."""
        one = tables.plan_files
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(one.c.path, one.c.sealed).where(one.c.plan_digest == digest)).all()
        return {path: self._vault.open(_label(digest, path), sealed) for path, sealed in sorted(rows)}

    def _get(self, connection: sa.Connection, digest: str) -> StoredPlan | None:
        row = connection.execute(sa.select(tables.plans).where(tables.plans.c.digest == digest)).one_or_none()
        return None if row is None else _plan(row)


def _label(digest: str, path: str) -> str:
    return f"plan_files/{digest}/{hashlib.sha256(path.encode()).hexdigest()}"


def _plan(row: sa.Row[Any]) -> StoredPlan:
    return StoredPlan(**row._mapping)
