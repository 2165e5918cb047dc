"""A small hospital table and its schema, for tests; and ways to write the same cells as CSV and as Parquet."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from wardround.client.data.report import Rule, ValidationReport
from wardround.client.data.schema import DataSchema, parse_schema
from wardround.client.data.validation import validate

__all__ = ["GOOD", "SCHEMA", "as_csv", "as_parquet", "counts", "report_of", "schema_of"]

SCHEMA = """
patient = "mrn"
[[columns]]
name = "mrn"
type = "text"
identifier = true
identifier_use = "hash"
[[columns]]
name = "age"
type = "integer"
unit = "a"
range = [0, 120]
[[columns]]
name = "crea"
type = "number"
unit = "mg/dl"
range = [0.1, 20]
missing = "allow"
missing_texts = ["", "-9"]
[[columns]]
name = "sex"
type = "category"
categories = ["f", "m"]
[[columns]]
name = "smoker"
type = "boolean"
missing = "drop-row"
[[columns]]
name = "admitted"
type = "date"
earliest = "2000-01-01"
latest = "2030-12-31"
"""
GOOD: dict[str, Sequence[Any]] = {
    "mrn": ["A1", "A1", "B2", "C3"],
    "age": ["50", "51", "34", "77"],
    "crea": ["1.1", "-9", "", "0.9"],
    "sex": ["f", "f", "m", "m"],
    "smoker": ["ja", "nein", "yes", "0"],
    "admitted": ["2020-01-01", "2021-02-28", "2022-12-31", "2030-01-01"],
}


def schema_of(text: str = SCHEMA, *, parquet: bool = False, head: str = "") -> DataSchema:
    return parse_schema((('format = "parquet"\n' if parquet else "") + head + text).encode())


def as_csv(columns: Mapping[str, Sequence[Any]], delimiter: str = ",") -> io.BytesIO:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return io.BytesIO(text.getvalue().encode())


def as_parquet(columns: Mapping[str, Sequence[Any]], types: Mapping[str, pa.DataType] | None = None) -> io.BytesIO:
    """Text columns, but for those in `types`."""
    arrays = {name: pa.array(cells, (types or {}).get(name, pa.string())) for name, cells in columns.items()}
    file = io.BytesIO()
    pyarrow.parquet.write_table(pa.table(arrays), file)
    file.seek(0)
    return file


def report_of(columns: Mapping[str, Sequence[Any]], text: str = SCHEMA, head: str = "") -> ValidationReport:
    """Of the cells as CSV; the same as Parquet, or the test fails."""
    found = validate(schema_of(text, head=head), as_csv(columns), "x.csv")
    other = validate(schema_of(text, parquet=True, head=head), as_parquet(columns), "x.parquet")
    assert found == other
    return found


def counts(report: ValidationReport) -> dict[tuple[str, Rule], int]:
    return {(one.column, one.rule): one.count for one in report.faults}
