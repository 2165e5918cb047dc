"""The models that runs have made, by name and version."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from wardround.server.state import tables
from wardround.server.state.database import Database

__all__ = ["Models", "StoredModel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """A run's model, in the sealed file `blob` of `models/`; `sha256` is of what is in it."""

    name: str
    version: int
    run_id: str
    plan_digest: str
    blob: str
    sha256: bytes
    created: datetime


class Models:
    """The table of models. Versions of a name count from 1 without a gap, and no model is replaced."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, *, name: str, run_id: str, plan_digest: str, blob: str, sha256: bytes, now: datetime) -> StoredModel:
        """The model of a run, as the next version of `name`; the one that is there already, where the run has one."""
        one = tables.models
        with self._database.transaction() as connection:
            self._database.serialise("models.version")
            if (row := connection.execute(sa.select(one).where(one.c.run_id == run_id)).one_or_none()) is not None:
                return _model(row)
            last = connection.scalar(sa.select(sa.func.max(one.c.version)).where(one.c.name == name))
            model = StoredModel(
                name=name,
                version=(last or 0) + 1,
                run_id=run_id,
                plan_digest=plan_digest,
                blob=blob,
                sha256=sha256,
                created=now,
            )
            connection.execute(sa.insert(one).values(**{key: getattr(model, key) for key in model.__slots__}))
        return model

    def get(self, name: str, version: int | None = None) -> StoredModel | None:
        """A version of a model, or its newest."""
        found = [one for one in self.list(name) if version is None or one.version == version]
        return found[-1] if found else None

    def of_run(self, run_id: str) -> StoredModel | None:
        """The model of a run."""
        found = self._where(tables.models.c.run_id == run_id)
        return found[0] if found else None

    def _where(self, condition: sa.ColumnElement[bool]) -> list[StoredModel]:
        with self._database.reading() as connection:
            return [_model(row) for row in connection.execute(sa.select(tables.models).where(condition))]

    def list(self, name: str | None = None) -> list[StoredModel]:
        """Every model, or every version of one, by name and version."""
        condition = sa.true() if name is None else tables.models.c.name == name
        return sorted(self._where(condition), key=lambda one: (one.name, one.version))


def _model(row: sa.Row[Any]) -> StoredModel:
    return StoredModel(**row._mapping)
