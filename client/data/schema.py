"""What a site says of a table: its columns, their types, units, ranges and categories, and what a missing value is.

A schema is a TOML file that a person at the site has written or read. Nothing of it is drawn from the data, except in
a draft (`infer`), which says so.
"""

import hashlib
import json
import re
import tomllib
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from wardround.decoding import PlanError, check_bounds, decode, encode, key
from wardround.errors import LocalError

__all__ = [
    "DEFAULT_MISSING",
    "BadRows",
    "ColumnKind",
    "DataSchema",
    "Format",
    "IdentifierUse",
    "ImageFolder",
    "MissingValues",
    "SchemaColumn",
    "SchemaError",
    "parse_schema",
]

DEFAULT_MISSING = ("", "NA", "N/A", "#N/A", "n/a", "NaN", "nan", "NULL", "Null", "null", "None", "<NA>")
"""Text that means a missing value where a schema does not say."""
_TRUE = ("true", "True", "TRUE", "yes", "Yes", "YES", "y", "Y", "ja", "Ja", "JA", "j", "J", "t", "T", "1")
_FALSE = ("false", "False", "FALSE", "no", "No", "NO", "n", "N", "nein", "Nein", "NEIN", "f", "F", "0")
_POPULATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MOST_BYTES = 1 << 20


class SchemaError(LocalError):
    """A schema is refused; the message begins with the key's path."""


class Format(StrEnum):
    CSV = "csv"
    PARQUET = "parquet"
    IMAGES = "images"


class ColumnKind(StrEnum):
    NUMBER = "number"
    INTEGER = "integer"
    CATEGORY = "category"
    BOOLEAN = "boolean"
    DATE = "date"
    TEXT = "text"


class MissingValues(StrEnum):
    ALLOW = "allow"
    REFUSE = "refuse"
    DROP_ROW = "drop-row"


class IdentifierUse(StrEnum):
    DROP = "drop"
    HASH = "hash"


class BadRows(StrEnum):
    REFUSE = "refuse"
    DROP = "drop"


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaColumn:
    """[[columns]]: one column of the table."""

    name: str = key(doc="the column's name in the file's header")
    type: ColumnKind = key(doc="what its values are")
    unit: str = key("", doc="unit of a number, as plans name it")
    range: tuple[float, float] | None = key(None, doc="smallest and largest possible value of a number")
    categories: tuple[str, ...] = key((), doc="every value that a category may have")
    true: tuple[str, ...] = key(_TRUE, doc="how the file writes a true boolean")
    false: tuple[str, ...] = key(_FALSE, doc="how the file writes a false boolean")
    date_format: str = key("%Y-%m-%d", doc="how the file writes a date, as strftime does")
    earliest: str | None = key(None, doc="first possible date, YYYY-MM-DD")
    latest: str | None = key(None, doc="last possible date, YYYY-MM-DD")
    missing: MissingValues = key(MissingValues.REFUSE, doc="what a row without a value is: allowed, bad, or dropped")
    missing_texts: tuple[str, ...] | None = key(
        None, doc="what means that a value is missing, in this column; absent: as for the whole table"
    )
    identifier: bool = key(False, doc="names a person or a case; it is no input and reaches no training")
    identifier_use: IdentifierUse = key(
        IdentifierUse.DROP, doc="an identifier is not read at all, or hashed under a key of the site"
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        if not self.name:
            raise PlanError("name", "a column's name, got an empty one")
        number = self.type in (ColumnKind.NUMBER, ColumnKind.INTEGER)
        if self.range is not None and not (number and self.range[0] <= self.range[1]):
            raise PlanError("range", "[smallest, largest] of a number, with smallest <= largest", self.range)
        if self.unit and not number:
            raise PlanError("unit", "none for a column that is no number", self.unit)
        if self.type is ColumnKind.CATEGORY:
            if (not self.identifier and not self.categories) or len(set(self.categories)) != len(self.categories):
                raise PlanError("categories", "every value of the category, each once", self.categories)
        elif self.categories:
            raise PlanError("categories", 'none, unless type = "category"', self.categories)
        if not self.true or not self.false or set(self.true) & set(self.false):
            raise PlanError("true", "texts for true and others for false", self.true)
        if self.type is not ColumnKind.BOOLEAN and (self.true, self.false) != (_TRUE, _FALSE):
            raise PlanError("true", 'texts for true and false only where type = "boolean"')
        self._check_dates()
        if self.identifier and self.missing_texts == ():
            raise PlanError("missing_texts", "at least one text in an identifier, e.g. the empty one", [])
        if not self.identifier and self.identifier_use is not IdentifierUse.DROP:
            raise PlanError("identifier_use", "only where identifier = true", str(self.identifier_use))

    def _check_dates(self) -> None:
        dated = self.type is ColumnKind.DATE
        if not dated and (self.earliest or self.latest or self.date_format != "%Y-%m-%d"):
            raise PlanError("type", '"date" for a column with date_format, earliest or latest', str(self.type))
        if dated and (not re.fullmatch(r"(%[YmdHMS]|[ T./:-])+", self.date_format) or "%Y" not in self.date_format):
            raise PlanError("date_format", "%Y, %m, %d, %H, %M, %S and - . / : between them", self.date_format)
        first, last = (_day(name, getattr(self, name)) for name in ("earliest", "latest"))
        if first is not None and last is not None and first > last:
            raise PlanError("earliest", "a date that is not after the latest", self.earliest)

    @property
    def is_read(self) -> bool:
        """Whether values of the column are looked at; of a dropped identifier none is."""
        return not (self.identifier and self.identifier_use is IdentifierUse.DROP)

    @property
    def days(self) -> tuple[date | None, date | None]:
        """The first and the last possible date."""
        return _day("earliest", self.earliest), _day("latest", self.latest)

    def truth(self, text: str) -> bool | None:
        """What a text means in a boolean column; None for neither."""
        return True if text in self.true else False if text in self.false else None


def _day(name: str, text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise PlanError(name, "a date as YYYY-MM-DD", text) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFolder:
    """[images]: the images of a folder, one for each row of its label file."""

    column: str = key(doc="the label file's column with the images' file names, relative to the folder")
    shape: tuple[int, ...] = key(doc="[channels, height, width] of every image")
    range: tuple[float, float] = key((0.0, 255.0), doc="smallest and largest possible value of a pixel")

    def __post_init__(self) -> None:
        check_bounds(self)
        if len(self.shape) != 3 or not all(1 <= side <= 1 << 16 for side in self.shape):
            raise PlanError("shape", "[channels, height, width], each at least 1", self.shape)
        if not self.range[0] < self.range[1]:
            raise PlanError("range", "[smallest, largest] with smallest < largest", self.range)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSchema:
    """The whole schema of a data set."""

    format: Format = key(Format.CSV, doc="a table as CSV or Parquet, or a folder of images")
    delimiter: str | None = key(None, doc="what stands between two values of a CSV file; absent: , ; or a tab")
    decimal: str = key(".", doc="the decimal mark in a CSV file")
    population: str | None = key(
        None, doc="permanent id of the people in it, who share one privacy budget; absent: the data set's name"
    )
    patient: str | None = key(None, doc="the column that says whose a row is")
    on_bad_rows: BadRows = key(BadRows.REFUSE, doc="a row that breaks a rule: refuse the data, or drop the row")
    min_rows: int = key(1, doc="fewest good rows that the data set must have", ge=1)
    missing_texts: tuple[str, ...] = key(DEFAULT_MISSING, doc="what means that a value is missing")
    columns: tuple[SchemaColumn, ...] = key(doc="the columns; one of the file that is not named is never read")
    images: ImageFolder | None = key(None, doc='the images, where format = "images"')
    draft: str | None = key(None, doc="says that nobody has looked at it yet; such a schema is not taken")

    def __post_init__(self) -> None:
        check_bounds(self)
        if not self.columns:
            raise PlanError("columns", "at least one column")
        seen: set[str] = set()
        for index, column in enumerate(self.columns):
            if column.name in seen:
                raise PlanError(f"columns[{index}].name", "every column once", column.name)
            seen.add(column.name)
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n\0' or not self.csv):
            raise PlanError("delimiter", "one character, for a CSV file", self.delimiter)
        if self.decimal not in (".", ",") or self.decimal == self.delimiter:
            raise PlanError("decimal", '"." or ",", and not the delimiter', self.decimal)
        if self.decimal != "." and (not self.csv or self.delimiter is None):
            raise PlanError("decimal", '"." unless the file is CSV with a delimiter that is named', self.decimal)
        if self.population is not None and not _POPULATION.fullmatch(self.population):
            raise PlanError("population", "a name of letters, digits, _ . and -", self.population)
        if self.patient is not None:
            self._check_patient(self.patient)
        if (self.images is not None) != (self.format is Format.IMAGES):
            raise PlanError("images", 'the images where format = "images", and none elsewhere')
        if self.images is not None and not (found := self.column(self.images.column)):
            raise PlanError("images.column", "a column of the label file", self.images.column)
        elif self.images is not None and found and (found.type is not ColumnKind.TEXT or found.identifier):
            raise PlanError("images.column", 'a column with type = "text" and no identifier', self.images.column)

    def _check_patient(self, name: str) -> None:
        column = self.column(name)
        if column is None:
            raise PlanError("patient", "a column of the table", name)
        if not column.is_read:
            raise PlanError("patient", 'a column that is read: set identifier_use = "hash" there', name)
        if column.type not in (ColumnKind.TEXT, ColumnKind.INTEGER, ColumnKind.CATEGORY):
            raise PlanError("patient", "a column of text, whole numbers or categories", str(column.type))

    @property
    def csv(self) -> bool:
        """Whether its table is a CSV file; a folder of images has one with the labels."""
        return self.format is not Format.PARQUET

    def column(self, name: str) -> SchemaColumn | None:
        return next((column for column in self.columns if column.name == name), None)

    def missing_in(self, column: SchemaColumn) -> tuple[str, ...]:
        """The texts that mean a missing value in a column; what it lists as a category means that."""
        texts = self.missing_texts if column.missing_texts is None else column.missing_texts
        return tuple(text for text in texts if text not in column.categories)

    def encode(self) -> str:
        """The canonical form: JSON, its keys in order."""
        return json.dumps(encode(self), sort_keys=True, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def decode(cls, text: str) -> "DataSchema":
        """The inverse of `encode`. Raises SchemaError for anything else."""
        try:
            return _decoded(json.loads(text))
        except (ValueError, RecursionError):
            raise SchemaError("schema: expected its canonical form; register the data again") from None

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form, hex: the same for schemas that mean the same."""
        return hashlib.sha256(self.encode().encode()).hexdigest()


def parse_schema(data: bytes, name: str = "schema") -> DataSchema:
    """The schema in a TOML file's bytes. Raises SchemaError, with the key's path, for what is none."""
    if len(data) > _MOST_BYTES:
        raise SchemaError(f"{name}: expected at most {_MOST_BYTES} bytes, got {len(data)}")
    try:
        table = tomllib.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # of no UTF-8 as well
        raise SchemaError(f"{name}: expected TOML ({str(error)[:200]})") from None
    return _decoded(table, name)


def _decoded(table: object, name: str = "schema") -> DataSchema:
    try:
        return decode(DataSchema, table)
    except PlanError as error:
        raise SchemaError(str(error).replace("plan", name, 1)) from None
