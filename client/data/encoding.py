"""Raw rows to what a model takes: range-checked numbers, one-hot categories, class indices.

Messages name the column and the first row, never a patient's value.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.client.data.patients import codes_of_ids
from wardround.client.data.site_data import Rows
from wardround.client.data.table import Column, Table
from wardround.decoding import PlanError
from wardround.errors import LocalError
from wardround.plan_sections import Column as PlanColumn
from wardround.plan_sections import ColumnType, Data, Image, Missing, Target
from wardround.vector import F32, F64, I64

__all__ = ["MISSING_TEXTS", "Encoded", "Inputs", "encode_inputs", "encode_rows", "encode_table", "texts"]

MISSING_TEXTS = ("", "NA", "N/A", "#N/A", "n/a", "NaN", "nan", "NULL", "Null", "null", "None", "<NA>")
"""Text that means a missing value, unless the plan lists it as a category or a class."""

Mask = NDArray[np.bool_]
_NONE: Any = None


@dataclass(frozen=True, slots=True)
class Inputs:
    """Encoded inputs of the rows `kept`, shape (n,): indices into the table."""

    x: F32
    kept: I64


@dataclass(frozen=True, slots=True)
class Encoded:
    """Encoded rows, where they stood in the table (`kept`, shape (n,)), and how many had to be dropped.

    `patients`, shape (n,), is the code of each row's patient (see `codes_of_ids`), None without `data.patient`.
    """

    rows: Rows
    kept: I64
    dropped: int
    patients: I64 | None = None


def encode_rows(data: Data, table: Table, where: str = "") -> Rows:
    """The rows of `table` as the plan's `data` section describes them; `where` (a site) leads every message.

    Raises LocalError for what does not fit: a missing column or value, text among numbers, a value out of its range,
    an unknown category or class, NaN, infinity, an image of another shape, nobody's row where patients are named.
    """
    return encode_table(data, table, where).rows


def encode_table(data: Data, table: Table, where: str = "") -> Encoded:
    """As `encode_rows`, and says which rows were kept."""
    cells = _Cells(table, where)
    x, missing = _inputs(data, cells)
    if data.target is None or table.target is None:
        raise cells.error("", "a target", "none")
    y, no_target = _target(data.target, cells)
    cells.note_missing(data, table.target_name, no_target)
    missing |= no_target
    patients = None
    if data.patient is not None:
        patients, nobody = _patients(data, data.patient, cells)
        missing |= nobody
    if not missing.any():
        return Encoded(Rows(x, y), np.arange(len(y)), 0, patients)
    kept = np.flatnonzero(~missing)
    return Encoded(Rows(x, y).take(kept), kept, int(missing.sum()), None if patients is None else patients.take(kept))


def encode_inputs(data: Data, table: Table, where: str = "") -> Inputs:
    """The inputs alone, for rows whose target is not known. Raises LocalError as `encode_rows` does."""
    x, missing = _inputs(data, _Cells(table, where))
    kept = np.flatnonzero(~missing)
    return Inputs(x[kept] if missing.any() else x, kept)


@dataclass(frozen=True, slots=True)
class _Cells:
    """A table and how to speak of its cells."""

    table: Table
    where: str

    def error(self, column: str, expected: str, got: str) -> LocalError:
        place = ", ".join(part for part in (self.where, self.table.source) if part)
        return LocalError(f"{place}: {f'column {column!r}: ' if column else ''}expected {expected}, got {got}")

    def refuse(self, column: str, bad: Mask, expected: str, what: str) -> None:
        """Raise for the rows of `bad`, if any: how many, and the first."""
        count = int(np.count_nonzero(bad))
        if count:
            row = self.table.row(int(np.argmax(bad)))
            raise self.error(column, expected, f"{what} in {count} row{'s'[: count != 1]}, first in row {row}")

    def note_missing(self, data: Data, column: str, missing: Mask) -> None:
        if data.missing is Missing.REFUSE:
            self.refuse(column, missing, 'a value in every row (or data.missing = "drop-row")', "none")


def _inputs(data: Data, cells: _Cells) -> tuple[F32, Mask]:
    table = cells.table
    missing = np.zeros(len(table), dtype=np.bool_)
    if data.image is not None:
        return _images(data.image, cells), missing
    if not data.columns:
        return _as_given(cells), missing
    x = np.zeros((len(table), data.num_inputs), dtype=np.float32)
    at = 0
    for column in data.columns:
        if column.type is ColumnType.NUMBER:
            values = _numbers(column.name, table.column(column.name), cells)
            absent = np.isnan(values)
            _check_range(column, values, cells)
            x[:, at] = values
        else:
            codes, absent = _codes(column.name, table.column(column.name), column.categories, cells)
            present = np.flatnonzero(~absent)
            x[present, at + codes[present]] = 1
        cells.note_missing(data, column.name, absent)
        missing |= absent
        at += column.width
    return x, missing


def _check_range(column: PlanColumn, values: F64, cells: _Cells) -> None:
    largest = float(np.finfo(np.float32).max)
    low, high = column.range or (-largest, largest)
    cells.refuse(column.name, np.isinf(values), "finite numbers", "infinity")
    bad = (values < low) | (values > high)  # a missing value (NaN) is neither
    unit = f" {column.unit}" if column.unit else ""
    cells.refuse(column.name, bad, f"values from {low:g} to {high:g}{unit}", "one outside")


def _images(image: Image, cells: _Cells) -> F32:
    images = cells.table.array
    if images is None or images.shape[1:] != image.shape:
        got = "no images" if images is None else f"{images.shape[1:]}"
        raise cells.error("", f"images of shape {image.shape} (data.image.shape)", got)
    low, high = image.range
    # one pass decides: NaN compares as outside
    inside = (images >= low) & (images <= high)
    expected = f"pixels from {low:g} to {high:g} (data.image.range)"
    cells.refuse("", np.logical_not(inside.all(axis=(1, 2, 3))), expected, "one outside, or NaN,")
    scaled: F32 = ((images - low) / (high - low)).astype(np.float32)
    return scaled


def _as_given(cells: _Cells) -> F32:
    """The table's array without columns or an image to check it against: finite float32 numbers."""
    if cells.table.array is None:
        raise cells.error("", "an array of inputs, since the plan lists no columns", "none")
    with np.errstate(over="ignore"):
        x: F32 = np.ascontiguousarray(cells.table.array, dtype=np.float32)
    finite = np.asarray(np.isfinite(x).all(axis=tuple(range(1, x.ndim))))
    cells.refuse("", ~finite, "finite float32 inputs", "NaN, infinity or a larger number")
    return x


def _target(target: Target, cells: _Cells) -> tuple[I64 | F32, Mask]:
    raw = cells.table.column(cells.table.target_name)
    name = cells.table.target_name
    if target.classes:
        return _codes(name, raw, target.classes, cells)
    values = _numbers(name, raw, cells)
    column = PlanColumn(name=name, range=target.range, unit=target.unit)
    _check_range(column, values, cells)
    low, high = target.range or (0.0, 1.0)
    return ((values - low) / (high - low)).astype(np.float32), np.isnan(values)


def _patients(data: Data, name: str, cells: _Cells) -> tuple[I64, Mask]:
    """The code of each row's patient, and where a row is nobody's, both of shape (n,)."""
    if name == cells.table.target_name or any(name == column.name for column in data.columns):
        raise PlanError("data.patient", "a column that is neither an input nor the target", name)
    ids, missing = texts(cells.table.column(name))
    missing |= np.isin(ids, MISSING_TEXTS)
    cells.note_missing(data, name, missing)
    return codes_of_ids(ids.tolist()), missing


def texts(column: Column) -> tuple[NDArray[np.str_], Mask]:
    """Every value of a raw column as text, and where there is none (NaN, None), both of shape (n,).

    A whole number has no decimals (1.0 is "1"), bools are "true" and "false", space around text is taken off.
    """
    if column.dtype.kind == "b":
        return np.where(column, "true", "false"), np.zeros(len(column), dtype=np.bool_)
    if column.dtype.kind in "iu":
        return column.astype(np.str_), np.zeros(len(column), dtype=np.bool_)
    missing: Mask = np.asarray(column != column, dtype=np.bool_)
    if column.dtype.kind == "f":
        filled = np.where(missing, 0.0, column)
        if np.all((np.abs(filled) < 2**53) & (filled == np.rint(filled))):
            return filled.astype(np.int64).astype(np.str_), missing
        return filled.astype(np.str_), missing
    if column.dtype.kind == "O":
        missing |= np.asarray(np.equal(column, _NONE), dtype=np.bool_)
        column = np.where(missing, "", column)
    return np.char.strip(column.astype(np.str_)), missing


def _codes(name: str, column: Column, known: tuple[str, ...], cells: _Cells) -> tuple[I64, Mask]:
    """Each value's place in `known`, and where there is none because the value is missing; both of shape (n,)."""
    values, missing = texts(column)
    names = np.array(known)
    order = np.argsort(names)
    at = np.minimum(np.searchsorted(names, values, sorter=order), len(known) - 1)
    codes: I64 = order[at].astype(np.int64)
    unknown = (names[codes] != values) & ~missing
    strange = np.flatnonzero(unknown)
    missing[strange] = np.isin(values[strange], MISSING_TEXTS)
    listed = ", ".join(repr(value) for value in known[:12]) + (", ..." if len(known) > 12 else "")
    cells.refuse(name, unknown & ~missing, f"one of {listed}", "another value")
    return codes, missing


def _numbers(name: str, column: Column, cells: _Cells) -> F64:
    """A raw column as float64, shape (n,), NaN where a value is missing."""
    if column.dtype.kind in "biuf":
        return column.astype(np.float64, copy=False)
    values, missing = texts(column)
    missing |= np.isin(values, MISSING_TEXTS)
    values = np.where(missing, "nan", values)
    try:
        if np.char.find(values, "_").max(initial=-1) >= 0:  # Python would read 1_0 as 10
            raise ValueError
        return values.astype(np.float64)
    except ValueError:
        bad = np.array([not _is_number(value) for value in values], dtype=np.bool_)
        cells.refuse(name, bad, "numbers", "text")
        raise


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return "_" not in value
