"""How many rows of a data set belong to given patients; for the command by which they withdraw."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wardround.client.data.image_pack import unpacked
from wardround.client.data.open_data import open_data
from wardround.client.data.schema import BadRows, ColumnKind, DataSchema, Format, SchemaColumn
from wardround.client.data.validation import TablePass, hash_of_id, hashed_ids
from wardround.errors import LocalError

__all__ = ["PatientRows", "count_patients"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientRows:
    """`hashes` of the ids, how many `rows` they have, and how many of them are in no row (`unknown`)."""

    hashes: tuple[str, ...]
    rows: int
    unknown: int


def count_patients(schema: DataSchema, path: Path, ids: Sequence[str], *, key: bytes) -> PatientRows:
    """Look the ids up in the patient column of a data set. Raises LocalError where it cannot be read."""
    column = None if schema.patient is None else schema.column(schema.patient)
    if column is None:
        raise LocalError(f"{path}: expected a schema that says whose a row is")
    alone = replace(
        schema,
        format=Format.PARQUET if schema.format is Format.PARQUET else Format.CSV,
        images=None,
        columns=(column,),
        on_bad_rows=BadRows.DROP,
    )
    with os.fdopen(open_data(path, schema), "rb") as file:
        table = io.BytesIO(next(unpacked(file))[1]) if schema.format is Format.IMAGES else file
        passed = TablePass(alone, table, str(path), [column.name])
        passed.run()
    hashes = tuple(dict.fromkeys(hash_of_id(key, _as_in_rows(column, one)) for one in ids))
    found = hashed_ids(passed.column(column.name), key).astype(np.str_)
    wanted = np.isin(found, np.array(hashes, dtype=np.str_))
    return PatientRows(hashes=hashes, rows=int(wanted.sum()), unknown=len(hashes) - len(np.unique(found[wanted])))


def _as_in_rows(column: SchemaColumn, text: str) -> str:
    """An id as rows have it: of whole numbers, 007 is 7."""
    if column.type is ColumnKind.INTEGER and text.strip().isdecimal():
        return str(int(text))
    return text
