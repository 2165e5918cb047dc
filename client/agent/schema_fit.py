"""Whether a plan and the schema of a data set mean the same: decided before any data are read."""

import unicodedata
from collections.abc import Iterator

from wardround.client.data.schema import ColumnKind, DataSchema, IdentifierUse, SchemaColumn
from wardround.errors import LocalError
from wardround.plan_sections import Column, ColumnType, Data

__all__ = ["check_fit", "misfits"]

_NUMBERS = (ColumnKind.NUMBER, ColumnKind.INTEGER, ColumnKind.BOOLEAN)
_CATEGORIES = (ColumnKind.CATEGORY, ColumnKind.BOOLEAN, ColumnKind.INTEGER)


def check_fit(data: Data, schema: DataSchema, name: str) -> None:
    """Raise LocalError, with the first reason, where the `data` section of a plan does not go with a schema."""
    for reason in misfits(data, schema):
        raise LocalError(f"data {name}: {reason}")


def misfits(data: Data, schema: DataSchema) -> Iterator[str]:
    """Every reason why they do not go together, one line each: expected, got, and what to do."""
    if (data.image is not None) != (schema.images is not None):
        expected, got = ("images", "a table") if data.image is not None else ("a table", "images")
        yield f"expected {expected}, as the plan needs, got {got}"
        return
    if data.image is not None and schema.images is not None:
        if data.image.shape != schema.images.shape:
            yield f"expected images of shape {data.image.shape}, as the plan has it, got {schema.images.shape}"
        yield from _misfit_of_range("image", data.image.range, schema.images.range)
    for column in data.columns:
        yield from _misfits_of(column, schema.column(column.name))
    if (target := data.target) is not None:
        kind = ColumnType.CATEGORY if target.classes else ColumnType.NUMBER
        planned = Column(name=target.name, type=kind, unit=target.unit, range=target.range, categories=target.classes)
        yield from _misfits_of(planned, schema.column(target.name))
    if data.patient is not None:
        yield from _misfits_of_patient(data.patient, schema)


def _misfits_of_patient(name: str, schema: DataSchema) -> Iterator[str]:
    column = schema.column(name)
    if column is None:
        yield f"column {name!r}: expected a column of the schema, since the plan says that it names the patient"
    elif column.identifier and column.identifier_use is not IdentifierUse.HASH:
        yield f'column {name!r}: expected identifier_use = "hash", since the plan says that it names the patient'
    elif schema.patient is not None and schema.patient != name:
        yield f"column {name!r}: expected the plan's patient to be the schema's, {schema.patient!r}"


def _misfits_of(planned: Column, column: SchemaColumn | None) -> Iterator[str]:
    where = f"column {planned.name!r}"
    if column is None:
        yield f"{where}: expected a column of the schema, which does not have it; add it there and register again"
        return
    if column.identifier:
        yield f"{where}: is an identifier in the schema, and the plan wants it as an input or target: it stays here"
        return
    allowed = _NUMBERS if planned.type is ColumnType.NUMBER else _CATEGORIES
    if column.type not in allowed:
        yield f"{where}: expected {_listed(allowed)} for the plan's {planned.type}, got {column.type} in the schema"
        return
    if planned.unit and _unit(planned.unit) != _unit(column.unit):
        got = repr(column.unit) if column.unit else "none"
        yield f"{where}: unit mismatch: expected {planned.unit!r}, as the plan has it, got {got} in the schema"
    if planned.range is not None and column.range is not None:
        yield from _misfit_of_range(where, planned.range, column.range)
    if planned.type is ColumnType.CATEGORY:
        yield from _misfits_of_categories(where, planned, column)


def _misfits_of_categories(where: str, planned: Column, column: SchemaColumn) -> Iterator[str]:
    if column.type is ColumnKind.BOOLEAN:
        meanings = [column.truth(text) for text in planned.categories]
        if sorted(str(one) for one in meanings) != ["False", "True"]:
            yield f"{where}: expected a true and a false category, as the schema writes them, got {planned.categories}"
    elif column.type is ColumnKind.CATEGORY:
        strange = ", ".join(repr(text) for text in column.categories if text not in planned.categories)
        if strange:
            yield f"{where}: expected the plan's categories only, got {strange} in the schema too"


def _misfit_of_range(where: str, planned: tuple[float, float], own: tuple[float, float]) -> Iterator[str]:
    if own[0] > planned[1] or own[1] < planned[0]:
        yield (
            f"{where}: expected a range that meets the plan's [{planned[0]:g}, {planned[1]:g}], got "
            f"[{own[0]:g}, {own[1]:g}] in the schema: is it another unit?"
        )


def _unit(text: str) -> str:
    """Signs that look alike are the same: two signs for micro, superscripts."""
    return "".join(unicodedata.normalize("NFKC", text).split())


def _listed(kinds: tuple[ColumnKind, ...]) -> str:
    return ", ".join(kinds[:-1]) + f" or {kinds[-1]}"
