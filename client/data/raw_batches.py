"""A table in a file, batch by batch, as it is written there: nothing is interpreted yet.

What fails here fails for the whole file, with a message that names the file and a column, never a value.
"""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

from wardround.client.data.schema import DataSchema, Format
from wardround.errors import LocalError, MissingExtraError
from wardround.plain_text import plain_text
from wardround.registry import nearest

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["RawBatches", "header_of", "opened_lines"]

_DELIMITERS = ",;\t"
_BLOCK_BYTES = 2 << 20
_BATCH_ROWS = 1 << 15
_MOST_HEADER = 1 << 20


class RawBatches:
    """The columns `wanted` of a table, from its beginning; iterated once. `file` stays the caller's, and open.

    `misshapen` counts the rows with another number of values than the header, which come in no batch. With
    `missing_texts` a CSV file's cells of these texts are null. Raises LocalError for what is no such table.
    """

    def __init__(
        self, schema: DataSchema, file: BinaryIO, name: str, wanted: Sequence[str], missing_texts: Sequence[str]
    ) -> None:
        self._schema, self._file, self._name, self._wanted = schema, file, name, list(wanted)
        self._missing = list(missing_texts)
        self.misshapen = 0
        self.header: list[str] = []

    def __iter__(self) -> Iterator["pa.RecordBatch"]:
        try:
            import pyarrow as pa
        except ModuleNotFoundError:
            raise MissingExtraError("job", "pyarrow") from None
        parquet = self._schema.format is Format.PARQUET
        try:
            yield from self._parquet() if parquet else self._csv()
        except UnicodeDecodeError:
            raise LocalError(f"{self._name}: expected text in UTF-8; save the file in this encoding") from None
        except (pa.ArrowException, OSError) as error:  # its text may hold a row
            hint = " in UTF-8" if "UTF8" in str(error) else ""
            raise LocalError(f"{self._name}: expected a valid {'Parquet' if parquet else 'CSV'} file{hint}") from None
        except csv.Error:
            raise LocalError(f"{self._name}: expected a header of a CSV file") from None

    def _check_header(self) -> None:
        if not self.header:
            raise LocalError(f"{self._name}: expected a header and rows, got an empty file")
        for column in self._schema.columns:
            found = self.header.count(column.name)
            if not found:
                hint = plain_text(nearest(column.name, self.header, listing=False))
                raise LocalError(f"{self._name}: expected a column {column.name!r}, as the schema says{hint}")
            if found > 1:
                raise LocalError(f"{self._name}: expected the column {column.name!r} once, got it {found} times")

    def _csv(self) -> Iterator["pa.RecordBatch"]:
        import pyarrow as pa
        import pyarrow.csv

        self.header, delimiter = header_of(self._file, self._schema.delimiter)
        self._check_header()
        self._file.seek(0)
        with pyarrow.csv.open_csv(
            self._file_like(pa),
            read_options=pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=self._skip
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=self._wanted,
                column_types=dict.fromkeys(self._wanted, pa.string()),
                null_values=self._missing,
                strings_can_be_null=bool(self._missing),
            ),
        ) as reader:
            yield from reader

    def _skip(self, row: Any) -> str:
        self.misshapen += 1
        return "skip"

    def _parquet(self) -> Iterator["pa.RecordBatch"]:
        import pyarrow as pa
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(self._file_like(pa)) as file:
            self.header = list(file.schema_arrow.names)
            self._check_header()
            for batch in file.iter_batches(_BATCH_ROWS, columns=self._wanted, use_threads=False):
                batch.validate(full=True)  # what says that it is UTF-8 need not be
                yield batch

    def _file_like(self, pa: Any) -> Any:
        return pa.PythonFile(_Unclosed(self._file), mode="r")


class _Unclosed:
    """A file that whoever reads it cannot close: it is the caller's."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def __getattr__(self, name: str) -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(self._file, name)
        return found


def header_of(file: BinaryIO, delimiter: str | None = None) -> tuple[list[str], str]:
    """The column names of a CSV file, and its delimiter: the given one, else that of its first line."""
    with opened_lines(file) as text:
        line = text.readline(_MOST_HEADER)
        delimiter = delimiter or max(_DELIMITERS, key=line.count)
        text.seek(0)
        return next(csv.reader(text, delimiter=delimiter), []), delimiter


@contextmanager
def opened_lines(file: BinaryIO) -> Iterator[io.TextIOWrapper]:
    """The text of a binary file from its beginning; the file stays open."""
    file.seek(0)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    try:
        yield text
    finally:
        text.detach()
