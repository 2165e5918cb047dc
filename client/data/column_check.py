"""One column of a schema against the cells of a batch: what they mean, which are missing, which break which rule.

A cell is the same whether a CSV file writes it as text or a Parquet file has it as a number.
"""

from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wardround.client.data.report import Rule
from wardround.client.data.schema import ColumnKind, DataSchema, SchemaColumn
from wardround.vector import F64

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Checked", "ColumnCheck", "Mask"]

Mask = NDArray[np.bool_]
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_LARGEST = float(np.finfo(np.float32).max)
_EXACT = 2.0**53
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Checked:
    """The cells of one column in one batch of n rows.

    `values`, shape (n,): float64 of a number (NaN: missing), bool, days since 1970, or an Arrow array of text.
    `missing` and the masks of `broken` have shape (n,); None means nowhere.
    """

    values: Any
    missing: Mask | None = None
    broken: tuple[tuple[Rule, Mask], ...] = ()


@dataclass(frozen=True, slots=True)
class ColumnCheck:
    """How the cells of `column` are checked. `decimal` is the mark in text."""

    column: SchemaColumn
    texts: tuple[str, ...]
    decimal: str = "."
    codes: F64 = field(init=False)
    """The numbers that mean a missing value."""
    known: Any = field(init=False)
    absent: Any = field(init=False)

    def __post_init__(self) -> None:
        import pyarrow as pa

        column = self.column
        known = column.true + column.false if column.type is ColumnKind.BOOLEAN else column.categories
        numbers = [number for text in self.texts if (number := _number(text)) is not None]
        object.__setattr__(self, "codes", np.array(numbers, dtype=np.float64))
        object.__setattr__(self, "known", pa.array(known, pa.string()))
        object.__setattr__(self, "absent", pa.array(self.texts, pa.string()))

    @classmethod
    def of(cls, schema: DataSchema, column: SchemaColumn) -> "ColumnCheck":
        return cls(column, schema.missing_in(column), schema.decimal if schema.csv else ".")

    def __call__(self, cells: "pa.Array") -> Checked:
        import pyarrow as pa

        if pa.types.is_dictionary(cells.type):
            cells = cells.dictionary_decode()
        kind = self.column.type
        if kind in (ColumnKind.NUMBER, ColumnKind.INTEGER):
            return self._numbers(cells)
        if kind is ColumnKind.DATE:
            return self._dates(cells)
        text = _as_text(cells)
        if text is None:
            return self._of_another_type(cells)
        if kind is ColumnKind.TEXT or self.column.identifier:
            text = self._null_when_stripped(text)
            return Checked(text, _mask_of_nulls(text))
        return self._choices(text)

    def _of_another_type(self, cells: "pa.Array") -> Checked:
        missing = _mask_of_nulls(cells)
        present = np.ones(len(cells), dtype=np.bool_) if missing is None else ~missing
        empty = np.full(len(cells), np.nan)
        return Checked(empty, missing, ((Rule.TYPE, present),) if present.any() else ())

    def _null(self, text: "pa.Array") -> "pa.Array":
        """With null where the text means a missing value."""
        import pyarrow as pa
        import pyarrow.compute as pc

        found = pc.is_in(text, value_set=self.absent)
        return pc.if_else(found, pa.scalar(None, pa.string()), text) if pc.any(found).as_py() else text

    def _null_when_stripped(self, text: "pa.Array") -> "pa.Array":
        return self._null(_stripped(text))

    # -- numbers --------------------------------------------------------------------------------------

    def _numbers(self, cells: "pa.Array") -> Checked:
        import pyarrow as pa

        types = pa.types
        strange: Mask | None = None
        if types.is_string(cells.type) or types.is_large_string(cells.type):
            cells, strange = self._parsed(cells)
        elif types.is_boolean(cells.type) or not _is_number(cells.type):
            return self._of_another_type(cells)
        else:
            cells = cells.cast(pa.float64(), safe=False)
        missing = _mask_of_nulls(cells)
        values: F64 = cells.to_numpy(zero_copy_only=False)
        low, high = self.column.range or (-_LARGEST, _LARGEST)
        if strange is None and not len(self.codes) and self._is_smooth(values, cells.null_count, low, high):
            return Checked(values, missing)
        return self._sorted_out(values, missing, strange, low, high)

    def _is_smooth(self, values: F64, missing: int, low: float, high: float) -> bool:
        """Whether all values but so many missing ones, which are NaN, keep to the rules: nearly every batch does."""
        if missing:
            if int(np.count_nonzero(np.isnan(values))) != missing:
                return False
            values = values[~np.isnan(values)]
        if not len(values):
            return True
        whole = self.column.type is not ColumnKind.INTEGER or bool(_whole(values).all())
        return whole and bool(low <= values.min() and values.max() <= high)  # NaN compares as outside

    def _sorted_out(self, values: F64, missing: Mask | None, strange: Mask | None, low: float, high: float) -> Checked:
        absent = np.zeros(len(values), dtype=np.bool_) if missing is None else missing
        if strange is not None:
            absent = absent & ~strange
        if len(self.codes):
            absent |= np.isin(values, self.codes)
        if "nan" in (text.lower() for text in self.texts):
            absent |= np.isnan(values) & (True if strange is None else ~strange)
        values = np.where(absent, np.nan, values)
        bad = ~np.isfinite(values) & ~absent
        whole = (self.column.type is not ColumnKind.INTEGER) | _whole(values) | bad | absent
        outside = ((values < low) | (values > high)) & ~bad & whole
        found = ((Rule.NUMBER, bad), (Rule.WHOLE, ~whole), (Rule.RANGE, outside))
        broken = tuple((rule, mask) for rule, mask in found if mask.any())
        return Checked(values, absent if absent.any() else None, broken)

    def _parsed(self, text: "pa.Array") -> tuple["pa.Array", Mask | None]:
        """Text as float64 with nulls, and where it is neither a number nor missing."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if self.decimal == ",":
            text = pc.replace_substring(pc.replace_substring(text, ".", "x"), ",", ".")
        for prepare in (None, self._null, self._null_when_stripped):
            text = text if prepare is None else prepare(text)
            try:
                return text.cast(pa.float64()), None
            except pa.ArrowInvalid:
                continue
        like = pc.match_substring_regex(text, _NUMBER)
        strange = pc.invert(pc.fill_null(like, True)).to_numpy(zero_copy_only=False)
        return pc.if_else(like, text, pa.scalar(None, pa.string())).cast(pa.float64()), strange

    # -- categories, booleans, dates ------------------------------------------------------------------

    def _choices(self, text: "pa.Array") -> Checked:
        import pyarrow.compute as pc

        known = pc.is_in(text, value_set=self.known)
        missing: Mask | None = None
        broken: tuple[tuple[Rule, Mask], ...] = ()
        if not pc.all(known).as_py():
            text = self._null_when_stripped(text)
            known, missing = pc.is_in(text, value_set=self.known), _mask_of_nulls(text)
            strange = ~known.to_numpy(zero_copy_only=False) & (True if missing is None else ~missing)
            if strange.any():
                boolean = self.column.type is ColumnKind.BOOLEAN
                broken = ((Rule.BOOLEAN if boolean else Rule.CATEGORY, strange),)
        if self.column.type is not ColumnKind.BOOLEAN:
            return Checked(text, missing, broken)
        true = pc.is_in(text, value_set=self.known.slice(0, len(self.column.true)))
        return Checked(true.to_numpy(zero_copy_only=False), missing, broken)

    def _dates(self, cells: "pa.Array") -> Checked:
        import pyarrow as pa
        import pyarrow.compute as pc

        strange: Mask | None = None
        if pa.types.is_date(cells.type) or pa.types.is_timestamp(cells.type):
            days = cells.cast(pa.date32(), safe=False)
        elif pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
            text = self._null_when_stripped(cells)
            days = _days_in(text, self.column.date_format)
            unread = pc.and_(pc.is_valid(text), pc.is_null(days))
            strange = unread.to_numpy(zero_copy_only=False)
            cells = text
        else:
            return self._of_another_type(cells)
        missing = _mask_of_nulls(cells)
        values = pc.fill_null(days.cast(pa.int32()), 0).to_numpy(zero_copy_only=False)
        outside = np.zeros(len(values), dtype=np.bool_)
        first, last = ((day - _EPOCH).days if day is not None else None for day in self.column.days)
        if first is not None:
            outside |= values < first
        if last is not None:
            outside |= values > last
        if missing is not None:
            outside &= ~missing
        if strange is not None:
            outside &= ~strange
        found = ((Rule.DATE, strange), (Rule.RANGE, outside))
        return Checked(values, missing, tuple((rule, mask) for rule, mask in found if mask is not None and mask.any()))


def _number(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if np.isfinite(found) and "_" not in text else None


def _is_number(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


def _whole(values: F64) -> Mask:
    found: Mask = (np.rint(values) == values) & (np.abs(values) < _EXACT)
    return found


def _mask_of_nulls(cells: "pa.Array") -> Mask | None:
    if cells.null_count == 0:
        return None
    found: Mask = cells.is_null().to_numpy(zero_copy_only=False)
    return found


def _stripped(text: "pa.Array") -> "pa.Array":
    import pyarrow.compute as pc

    return pc.utf8_trim_whitespace(text)


def _as_text(cells: "pa.Array") -> "pa.Array | None":
    """The cells as a CSV file would write them; None for what has no such form."""
    import pyarrow as pa
    import pyarrow.compute as pc

    types = pa.types
    if types.is_string(cells.type):
        return cells
    if types.is_large_string(cells.type) or types.is_boolean(cells.type) or types.is_integer(cells.type):
        return cells.cast(pa.string())
    if types.is_floating(cells.type):
        values = cells.cast(pa.float64())
        numbers = values.to_numpy(zero_copy_only=False)
        # each by itself: an id must not be another text, so another patient, for what else is in its batch
        whole = _whole(numbers)
        digits = pa.array(np.where(whole, numbers, 0).astype(np.int64)).cast(pa.string())
        written = digits if bool(whole.all()) else pc.if_else(pa.array(whole), digits, values.cast(pa.string()))
        return pc.if_else(pc.fill_null(pc.is_nan(values), True), pa.scalar(None, pa.string()), written)
    return None


def _days_in(text: "pa.Array", form: str) -> "pa.Array":
    """Text as days, null where it is no date in the format."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if form == "%Y-%m-%d":
        try:
            return text.cast(pa.date32())
        except pa.ArrowInvalid:
            pass
    read = pc.strptime(text, format=form, unit="s", error_is_null=True)
    written = pc.strftime(read, format=form)  # the 30th of February is read as another day
    same = pc.fill_null(pc.equal(written, text), False)
    return pc.if_else(same, read, pa.scalar(None, read.type)).cast(pa.date32(), safe=False)
