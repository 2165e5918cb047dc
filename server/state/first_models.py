"""The model that the first round of a plan begins with, and what it is evaluated by."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from wardround.server.state import tables
from wardround.server.state.database import Database

__all__ = ["FirstModel", "FirstModels"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstModel:
    """The first model of a plan: `size` parameters in tensors by `layout`, in the sealed file `blob` of `models/`.

    `spec` is what `wardround.tally.encode_spec` gave, JSON.
    """

    plan_digest: str
    blob: str
    size: int
    layout: tuple[tuple[str, tuple[int, ...]], ...]
    spec: str


class FirstModels:
    """The table of first models: one for a plan, which is never replaced."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, plan_digest: str, *, blob: str, size: int, layout: Sequence[tuple[str, Sequence[int]]], spec: str
    ) -> FirstModel:
        """Note where the first model of a plan is. Raises TakenError where it has one, or is not known."""
        shapes = tuple((name, tuple(shape)) for name, shape in layout)
        text = json.dumps(shapes)
        with self._database.transaction() as connection:
            connection.execute(
                sa.insert(tables.first_models).values(
                    plan_digest=plan_digest, blob=blob, size=size, layout=text, spec=spec
                )
            )
        return FirstModel(plan_digest=plan_digest, blob=blob, size=size, layout=shapes, spec=spec)

    def get(self, plan_digest: str) -> FirstModel | None:
        """The first model of a plan."""
        one = tables.first_models
        with self._database.reading() as connection:
            row = connection.execute(sa.select(one).where(one.c.plan_digest == plan_digest)).one_or_none()
        return None if row is None else _first_model(row)


def _first_model(row: sa.Row[Any]) -> FirstModel:
    layout = tuple((name, tuple(shape)) for name, shape in json.loads(row.layout))
    return FirstModel(**dict(row._mapping) | {"layout": layout})
