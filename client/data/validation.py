"""Whether a table is what its schema says, and its good rows for a plan.

The file is read once, in batches: memory does not grow with it, but by what is kept for a plan. CSV and Parquet are
checked by the same rules. Of what is found only counts are told.
"""

import hmac
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from wardround.client.data.column_check import Checked, ColumnCheck, Mask
from wardround.client.data.encoding import texts
from wardround.client.data.raw_batches import RawBatches
from wardround.client.data.report import Fault, Rule, ValidationReport
from wardround.client.data.schema import BadRows, ColumnKind, DataSchema, MissingValues, SchemaColumn
from wardround.client.data.table import Table
from wardround.errors import LocalError
from wardround.plan_sections import Column as PlanColumn
from wardround.plan_sections import ColumnType, Data

__all__ = ["GoodRows", "TablePass", "hash_of_id", "hashed_ids", "named", "read_good_rows", "validate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GoodRows:
    """The rows of a file that keep to its schema, and what the validation counted.

    `ids`, shape (n,), are the keyed hashes of the rows' patients as text, empty where a row is nobody's; None where the
    schema does not say whose a row is.
    """

    table: Table
    report: ValidationReport
    ids: NDArray[Any] | None


def validate(schema: DataSchema, file: BinaryIO, name: str) -> ValidationReport:
    """What the rows of an open file break of a schema. Raises LocalError for what is no such table at all."""
    return TablePass(schema, file, name, ()).run()


def read_good_rows(schema: DataSchema, data: Data, file: BinaryIO, name: str, *, key: bytes) -> GoodRows:
    """The good rows of an open file, for the `data` section of a plan; `key` is the one that ids are hashed under.

    Raises LocalError where the data do not fit their schema, and for a column that the schema gives to no training.
    """
    target = [] if data.target is None else [data.target.name]
    wanted = [column.name for column in data.columns] + target
    listed = [named(schema, column, name) for column in wanted]
    also = [one for one in (data.patient, schema.patient) if one is not None]
    passed = TablePass(schema, file, name, dict.fromkeys((*wanted, *also)))
    report = passed.run()
    report.check(name)
    columns = {one.name: passed.column(one.name) for one in listed}
    for plan_column in (*data.columns, *_target_column(data)):
        schema_column = named(schema, plan_column.name, name)
        if schema_column.type is ColumnKind.BOOLEAN:
            columns[plan_column.name] = _as_planned(columns[plan_column.name], plan_column, schema_column)
    hashed = {one: hashed_ids(passed.column(one), key) for one in dict.fromkeys(also)}
    if data.patient is not None:
        columns[data.patient] = hashed[data.patient]
    table = Table(
        source=name if report.kept == report.rows else f"{name}, its good rows",
        columns={one: values for one, values in columns.items() if one not in target},
        target=columns[target[0]] if target else None,
        target_name=target[0] if target else "target",
        first_row=1,
    )
    return GoodRows(table=table, report=report, ids=None if schema.patient is None else hashed[schema.patient])


def named(schema: DataSchema, column: str, name: str) -> SchemaColumn:
    """The column that training may see. Raises LocalError for an identifier, and one that the schema does not have."""
    found = schema.column(column)
    if found is None:
        raise LocalError(f"{name}: expected a column of the schema, got {column!r}, which it does not have")
    if found.identifier:
        raise LocalError(f"{name}: column {column!r} is an identifier; it is no input and no target")
    return found


def hash_of_id(key: bytes, text: str) -> str:
    """What stands for a patient's id at this site: HMAC-SHA256 under a key of the site, hex; equal for equal ids.

    Letters that look the same are the same, however a keyboard or a file composes them (Unicode's form C).
    """
    composed = unicodedata.normalize("NFC", text.strip())
    return hmac.digest(key, composed.encode(errors="surrogatepass"), "sha256").hex()


def hashed_ids(ids: NDArray[Any], key: bytes) -> NDArray[Any]:
    """Keyed hashes of ids, shape (n,); empty where there is none. A whole number is its digits."""
    values, missing = texts(ids)
    known = {each: hash_of_id(key, each) for each in np.unique(values).tolist()}
    return np.array(
        ["" if none else known[each] for each, none in zip(values.tolist(), missing.tolist(), strict=True)],
        dtype=object,
    )


def _target_column(data: Data) -> Sequence[PlanColumn]:
    target = data.target
    if target is None:
        return ()
    if not target.classes:
        return (PlanColumn(name=target.name),)
    return (PlanColumn(name=target.name, type=ColumnType.CATEGORY, categories=target.classes),)


def _as_planned(values: NDArray[Any], planned: PlanColumn, column: SchemaColumn) -> NDArray[Any]:
    """Booleans as the plan writes them: 1 and 0, or its category of that meaning; None stays None."""
    missing = np.equal(values, np.array(None, dtype=object)).astype(np.bool_)
    if planned.type is ColumnType.NUMBER:
        return np.where(missing, np.nan, np.where(missing, False, values).astype(np.float64))
    meaning = {column.truth(text): text for text in planned.categories}
    if not {True, False} <= meaning.keys():
        raise LocalError(f"column {planned.name!r}: expected categories of the plan for true and for false")
    written = np.where(np.where(missing, False, values).astype(np.bool_), meaning[True], meaning[False]).astype(object)
    written[missing] = None
    return written


class TablePass:
    """One pass over a file: counts of all rules, and the cells of `wanted` columns in good rows."""

    def __init__(self, schema: DataSchema, file: BinaryIO, name: str, wanted: Collection[str]) -> None:
        self._schema, self._name = schema, name
        self._columns = [column for column in schema.columns if column.is_read]
        self._checks = {column.name: ColumnCheck.of(schema, column) for column in self._columns}
        texts = [set(check.texts) for check in self._checks.values()]
        shared = sorted(set.intersection(*texts)) if texts and schema.csv else []
        self._batches = RawBatches(schema, file, name, list(self._checks), shared)
        self._kept: dict[str, list[NDArray[Any]]] = {one: [] for one in wanted}
        for one in wanted:
            if one not in self._checks:
                raise LocalError(f"{name}: expected a column of the schema that is read, got {one!r}")

    def run(self) -> ValidationReport:
        counts: Counter[tuple[str, Rule]] = Counter()
        rows = bad = dropped = kept = 0
        for batch in self._batches:
            broken, absent, size = None, None, batch.num_rows
            found: dict[str, Checked] = {}
            for column in self._columns:
                checked = found[column.name] = self._checks[column.name](batch.column(column.name))
                for rule, mask in checked.broken:
                    counts[column.name, rule] += int(np.count_nonzero(mask))
                    broken = mask if broken is None else broken | mask
                if checked.missing is None or column.missing is MissingValues.ALLOW:
                    continue
                counts[column.name, Rule.MISSING] += int(np.count_nonzero(checked.missing))
                if column.missing is MissingValues.REFUSE:
                    broken = checked.missing if broken is None else broken | checked.missing
                else:
                    absent = checked.missing if absent is None else absent | checked.missing
            good = self._good(broken, absent, size)
            lost = 0 if broken is None else int(np.count_nonzero(broken))
            left = size if good is None else int(np.count_nonzero(good))
            rows, bad, kept, dropped = rows + size, bad + lost, kept + left, dropped + size - lost - left
            if bad and self._schema.on_bad_rows is BadRows.REFUSE and self._schema.images is None:
                self._forget()  # the rest is counted only
            else:
                self._keep(found, good)
        misshapen = self._batches.misshapen
        if misshapen:
            counts["", Rule.FIELDS] += misshapen
        if rows + misshapen == 0:
            raise LocalError(f"{self._name}: expected rows, got a header only")
        order = {column.name: at for at, column in enumerate(self._columns)}
        faults = [Fault(column=column, rule=rule, count=count) for (column, rule), count in counts.items() if count]
        return ValidationReport(
            rows=rows + misshapen,
            bad=bad + misshapen,
            dropped=dropped,
            kept=kept,
            min_rows=self._schema.min_rows,
            drops_bad=self._schema.on_bad_rows is BadRows.DROP,
            unlisted=len(self._batches.header) - len(self._schema.columns),
            faults=tuple(sorted(faults, key=lambda one: (order.get(one.column, -1), list(Rule).index(one.rule)))),
        )

    @staticmethod
    def _good(broken: Mask | None, absent: Mask | None, size: int) -> Mask | None:
        """The rows to keep; None for all."""
        if broken is None and absent is None:
            return None
        good = np.ones(size, dtype=np.bool_)
        for mask in (broken, absent):
            if mask is not None:
                good &= ~mask
        return good

    def _forget(self) -> None:
        for parts in self._kept.values():
            parts.clear()

    def _keep(self, found: dict[str, Checked], good: Mask | None) -> None:
        for column, parts in self._kept.items():
            parts.append(_plain(found[column], good))

    def column(self, name: str) -> NDArray[Any]:
        """The good rows of a column, shape (n,): float64, or objects with None for a missing value."""
        parts = self._kept[name]
        return np.concatenate(parts) if parts else np.empty(0, dtype=object)


def _plain(checked: Checked, good: Mask | None) -> NDArray[Any]:
    values = checked.values
    if isinstance(values, np.ndarray) and values.dtype == np.float64:
        return values if good is None else values[good]
    cells = values if isinstance(values, np.ndarray) else values.to_numpy(zero_copy_only=False)
    cells = cells.astype(object)
    if checked.missing is not None:
        cells[checked.missing] = None
    return cells if good is None else cells[good]
