"""Reading the rows of a site from a CSV or Parquet file."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from wardround.client.data.encoding import MISSING_TEXTS
from wardround.client.data.raw_batches import header_of
from wardround.client.data.table import Table
from wardround.errors import LocalError, MissingExtraError
from wardround.plan_sections import ColumnType, Data
from wardround.registry import nearest

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["read_table"]


def read_table(
    data: Data, path: Path, *, target: bool = True, extra: Iterable[str] = (), file: BinaryIO | None = None
) -> Table:
    """The plan's columns of the file at `path`, its target and patients unless `target` is false, `extra` columns.

    With `file`, an open one, that is read, and `path` is only its name. A name that ends in .parquet or .pq is read as
    Parquet, any other as CSV (UTF-8, a header; comma, semicolon or tab).
    Rows are counted as records: a CSV file's header is row 1 and empty lines do not count; a Parquet file begins
    with row 1. Messages name columns and rows, never a value. Raises LocalError for a file that cannot be read,
    a missing column, a duplicate one, no rows; MissingExtraError without pyarrow.
    """
    wanted = [column.name for column in data.columns]
    if not wanted:
        raise LocalError(f"{path}: expected a plan with data.columns, to know what to read")
    name = data.target.name if target and data.target is not None else None
    patient = data.patient if target else None
    also = (other for other in (name, patient, *extra) if other is not None)
    wanted += [other for other in dict.fromkeys(also) if other not in wanted]
    numbers = {column.name for column in data.columns if column.type is ColumnType.NUMBER}
    if name and data.target is not None and data.target.range is not None:
        numbers.add(name)
    try:
        import pyarrow
    except ModuleNotFoundError:
        raise MissingExtraError("job", "pyarrow") from None
    parquet = path.suffix.lower() in (".parquet", ".pq")
    try:
        with nullcontext(file) if file is not None else path.open("rb") as opened:
            table = _parquet(opened, path, wanted) if parquet else _csv(opened, path, wanted, numbers)
    except OSError as error:
        raise LocalError(f"{path}: expected a readable file ({error.strerror or 'not Parquet'})") from None
    except UnicodeDecodeError:
        raise LocalError(f"{path}: expected text in UTF-8; save the file in this encoding") from None
    except pyarrow.ArrowInvalid as error:  # its text may hold a row
        kind = "Parquet" if parquet else "CSV"
        hint = " in UTF-8" if "UTF8" in str(error) else ""
        raise LocalError(f"{path}: expected a valid {kind} file{hint}") from None
    if table.num_rows == 0:
        raise LocalError(f"{path}: expected rows, got an empty file{'' if parquet else ' (a header only)'}")
    columns = {
        column: table.column(column).to_numpy(zero_copy_only=False) for column in dict.fromkeys(table.column_names)
    }
    return Table(
        source=str(path),
        columns={column: array for column, array in columns.items() if column != name},
        target=columns[name] if name else None,
        target_name=name or "target",
        first_row=1 if parquet else 2,
    )


def _check_header(path: Path, header: Sequence[str], wanted: Sequence[str]) -> None:
    for column in wanted:
        if column not in header:
            raise LocalError(f"{path}: expected a column {column!r}{nearest(column, header)}")
        if header.count(column) > 1:
            raise LocalError(f"{path}: expected the column {column!r} once, got it {header.count(column)} times")


def _parquet(opened: BinaryIO, path: Path, wanted: list[str]) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(opened) as file:
        _check_header(path, file.schema_arrow.names, wanted)
        table = file.read(columns=wanted, use_threads=False)
    for index, field in enumerate(table.schema):
        plain = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if pa.types.is_decimal(plain):
            plain = pa.float64()
        if plain != field.type:
            table = table.set_column(index, field.name, table.column(index).cast(plain))
    return table


def _csv(opened: BinaryIO, path: Path, wanted: list[str], numbers: set[str]) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.csv

    header, delimiter = header_of(opened)
    if not header:
        raise LocalError(f"{path}: expected a header and rows, got an empty file")
    _check_header(path, header, wanted)
    broken: list[Any] = []

    def note(row: Any) -> str:
        broken.append(row)
        return "error"

    def read(types: dict[str, pa.DataType]) -> "pa.Table":
        opened.seek(0)
        return pyarrow.csv.read_csv(
            opened,
            read_options=pyarrow.csv.ReadOptions(use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=note
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=wanted, column_types=types, null_values=list(MISSING_TEXTS), strings_can_be_null=False
            ),
        )

    text = dict.fromkeys(wanted, pa.string())
    try:
        try:
            return read(text | dict.fromkeys(numbers, pa.float64()))
        except pa.ArrowInvalid:
            if broken:
                raise
            return read(text)  # text in a number column: the encoding names its row
    except pa.ArrowInvalid:
        if not broken:
            raise
        row = broken[0]
        raise LocalError(
            f"{path}: row {row.number}: expected {row.expected_columns} values, got {row.actual_columns}"
        ) from None
