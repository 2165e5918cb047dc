"""A first schema for a table, for a person to finish: it says what the file seems to hold, and is not taken as it is.

Its ranges and categories are drawn from the data, which no check of those data can be: the draft says so. What looks
like an identifier is marked as one, so that it is dropped unless somebody says otherwise.
"""

import csv
import json
import math
import re
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from wardround.client.data.column_check import ColumnCheck
from wardround.client.data.raw_batches import RawBatches, header_of
from wardround.client.data.schema import ColumnKind, DataSchema, Format, SchemaColumn
from wardround.errors import LocalError, MissingExtraError

__all__ = ["draft_schema"]

_MOST_CATEGORIES = 20
_ROWS_OF_A_CATEGORY = 5
"""A text that stands in fewer rows may name a person."""
_NAMES = re.compile(
    r"(^|[^a-z])(id|ids|mrn|ssn|uuid|guid|name|surname|forename|firstname|lastname|email|phone|tel|street|address|"
    r"patient|case|fall|fallnr|patnr|insurance|nhs|iban|birth|birthday|birthdate|dob|geburtsdatum|vorname|nachname)"
    r"($|[^a-z])"
)
_DATE_FORMATS = ("%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S")
_MOST_DIFFERENT = 1 << 16
_HEAD = """# A draft, made from the data. Read and finish it: nobody has checked that the columns are what they seem.
# - Ranges and categories are drawn from the data, so they find no fault in these data. Write what is possible
#   (widen a range, add a category that may come), and give each number its unit as the plans do: unit = "mmol/l".
# - identifier = true: the column is never read. A column that says whose a row is may be named by
#   patient = "column" at the top; then it has identifier_use = "hash" beside identifier = true.
# - A file with 12,5 for a number has decimal = "," at the top.
# - Delete the next line when you have done so.
"""


@dataclass(slots=True)
class _Seen:
    """What was seen of a column's cells, of which only a draft's lines are kept."""

    name: str
    missing: bool = False
    number: bool = True
    whole: bool = True
    low: float = math.inf
    high: float = -math.inf
    formats: list[str] = field(default_factory=lambda: list(_DATE_FORMATS))
    texts: dict[str, int] = field(default_factory=dict)
    rows: int = 0

    def take(self, cells: Any) -> None:
        """Cells of a batch, an Arrow array."""
        import pyarrow.compute as pc

        number = _check(self.name, ColumnKind.NUMBER)(cells) if self.number else None
        if number is not None and number.broken:
            self.number = False
        elif number is not None:
            values = number.values if number.missing is None else number.values[~number.missing]
            if len(values):
                self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
                self.whole = self.whole and bool((np.rint(values) == values).all())
        if not self.number:
            self.formats = [one for one in self.formats if not _check(self.name, ColumnKind.DATE, one)(cells).broken]
        text = _check(self.name, ColumnKind.TEXT)(cells)
        self.missing = self.missing or text.missing is not None
        if not text.broken and (self.whole or not self.number) and len(self.texts) < _MOST_DIFFERENT:
            for one in pc.value_counts(text.values.drop_null()).to_pylist():
                self.texts[one["values"]] = self.texts.get(one["values"], 0) + one["counts"]
            self.rows += len(cells) - text.values.null_count

    @property
    def names_somebody(self) -> str:
        """Why the column looks like an identifier; empty where it does not."""
        if _NAMES.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", self.name).lower()):
            return "its name"
        dated = bool(self.formats) and not self.number
        if (self.whole or not self.number) and not dated and len(self.texts) > 0.9 * self.rows > _MOST_CATEGORIES:
            return "nearly every row has another value"
        return ""

    def lines(self) -> list[str]:
        """Its part of the draft."""
        found = ["", "[[columns]]", f"name = {_quoted(self.name)}"]
        kind, more = self._kind()
        if why := self.names_somebody:
            kind = ColumnKind.TEXT
            more = [f"identifier = true  # a guess, for {why}; delete it if this is a measurement"]
        found += [f'type = "{kind}"', *more]
        if self.missing and not why:
            found.append('missing = "allow"  # there are such rows; or "drop-row", or "refuse"')
        return found

    def _kind(self) -> tuple[ColumnKind, list[str]]:
        if self.number and self.low <= self.high:
            if self.whole and self.texts.keys() <= {"0", "1"}:
                return ColumnKind.BOOLEAN, []
            low, high = _outward(self.low, self.high)
            kind = ColumnKind.INTEGER if self.whole else ColumnKind.NUMBER
            return kind, [f"range = [{low!r}, {high!r}]  # drawn from the data: write what is possible"]
        if self.formats and self.texts:
            form = self.formats[0]
            return ColumnKind.DATE, [] if form == _DATE_FORMATS[0] else [f"date_format = {_quoted(form)}"]
        boolean = _check(self.name, ColumnKind.BOOLEAN).column
        if self.texts and all(boolean.truth(text) is not None for text in self.texts):
            return ColumnKind.BOOLEAN, []
        if 0 < len(self.texts) <= _MOST_CATEGORIES and min(self.texts.values()) >= _ROWS_OF_A_CATEGORY:
            listed = ", ".join(_quoted(text) for text in sorted(self.texts))
            return ColumnKind.CATEGORY, [f"categories = [{listed}]  # drawn from the data"]
        return ColumnKind.TEXT, []


def draft_schema(file: BinaryIO, name: str, *, parquet: bool) -> str:
    """A draft of a schema for the table in an open file, as TOML. Raises LocalError for what is no table."""
    header, delimiter = _header(file, name, parquet)
    if not header:
        raise LocalError(f"{name}: expected a header and rows, got an empty file")
    form = Format.PARQUET if parquet else Format.CSV
    columns = tuple(SchemaColumn(name=one, type=ColumnKind.TEXT) for one in dict.fromkeys(header) if one)
    if len(columns) != len(header):
        raise LocalError(f"{name}: expected a name of its own for each column")
    seen = {one: _Seen(one) for one in header}
    for batch in RawBatches(DataSchema(format=form, columns=columns), file, name, header, ()):
        for column, about in seen.items():
            about.take(batch.column(column))
    if not any(one.rows or one.missing for one in seen.values()):
        raise LocalError(f"{name}: expected rows, got a header only")
    lines = ['draft = "not looked at"', "", f'format = "{form}"']
    lines += [] if parquet else [f"delimiter = {_quoted(delimiter)}"]
    lines += ['on_bad_rows = "refuse"', "min_rows = 1"]
    for about in seen.values():
        lines += about.lines()
    return _HEAD + "\n".join(lines) + "\n"


def _check(name: str, kind: ColumnKind, form: str = "%Y-%m-%d") -> ColumnCheck:
    column = SchemaColumn(name=name, type=kind, date_format=form if kind is ColumnKind.DATE else "%Y-%m-%d")
    return ColumnCheck.of(DataSchema(columns=(column,)), column)


def _header(file: BinaryIO, name: str, parquet: bool) -> tuple[list[str], str]:
    """The columns' names, and the delimiter of a CSV file."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise MissingExtraError("job", "pyarrow") from None
    try:
        return (list(pyarrow.parquet.read_schema(file).names), "") if parquet else header_of(file)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError, csv.Error):
        kind = "Parquet file" if parquet else "CSV file in UTF-8"
        raise LocalError(f"{name}: expected a valid {kind}") from None


def _outward(low: float, high: float) -> tuple[float, float]:
    """A range around, with one digit that counts in its width."""
    step = 10.0 ** math.floor(math.log10(max(high - low, abs(high), 1e-6)))
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    return (round(low, 9), round(high, 9)) if low < high else (round(low - step, 9), round(high + step, 9))


def _quoted(text: str) -> str:
    """A TOML string on one line."""
    return json.dumps(text, ensure_ascii=True)
