"""The rows of a site's open file as a plan takes them: the way that every job reads its data."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from wardround.client.data.column_check import Mask
from wardround.client.data.encoding import encode_table
from wardround.client.data.files import read_table
from wardround.client.data.schema import DataSchema, Format
from wardround.client.data.site_data import Rows
from wardround.client.data.table_rules import TableRules
from wardround.errors import LocalError
from wardround.plan_sections import Data
from wardround.vector import I64

__all__ = ["SiteRows", "read_site_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRows:
    """Encoded rows, whose they are (`Encoded.patients`), and which belong to somebody who has withdrawn."""

    rows: Rows
    patients: I64 | None
    withdrawn: Mask | None


def read_site_rows(data: Data, file: BinaryIO, name: str, form: str, rules: TableRules) -> SiteRows:
    """The rows of an open file (`form`: csv, parquet or images) for the `data` section of a plan.

    With a schema the whole table is validated first, and identifiers are hashed or never read. Raises LocalError where
    the data do not fit the schema, with counts, or the plan.
    """
    if rules.schema is None:
        if rules.withdrawn:
            raise LocalError(f"{name}: expected a schema that says whose a row is, since patients have withdrawn")
        encoded = encode_table(data, read_table(replace(data, source=form, path=name), Path(name), file=file))
        return SiteRows(rows=encoded.rows, patients=encoded.patients, withdrawn=None)
    schema = DataSchema.decode(rules.schema)
    if schema.format != form:
        raise LocalError(f"{name}: expected a schema for {form}, got one for {schema.format}")
    if schema.format is Format.IMAGES:
        from wardround.client.data.image_rows import read_good_images

        found = read_good_images(schema, data, file, name, key=rules.key)
    else:
        from wardround.client.data.validation import read_good_rows

        found = read_good_rows(schema, data, file, name, key=rules.key)
    encoded = encode_table(data, found.table)
    if not rules.withdrawn:
        return SiteRows(rows=encoded.rows, patients=encoded.patients, withdrawn=None)
    if found.ids is None:
        raise LocalError(f"{name}: expected a schema that says whose a row is, since patients have withdrawn")
    gone = np.isin(found.ids.astype(np.str_), np.array(rules.withdrawn, dtype=np.str_))
    left = len(gone) - int(gone.sum())
    if left < schema.min_rows:
        raise LocalError(f"{name}: expected at least {schema.min_rows} good rows (min_rows), got {left}")
    return SiteRows(rows=encoded.rows, patients=encoded.patients, withdrawn=gone[encoded.kept])
