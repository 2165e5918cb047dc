"""All rows of a database as lines of JSON, and back: the same from SQLite and from PostgreSQL.

    {"format": 1, "revision": "0001"}
    {"table": "accounts", "columns": {"id": "plain", "created": "time", ...}}
    [...]                                      a row, in the order of the columns; bytes are base64, times ISO 8601
    {"rows": {"accounts": 1, ...}}             the last line

A table stands after those that it refers to.
"""

import base64
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.types import TypeEngine

from wardround.errors import LocalError
from wardround.plain_text import plain_text
from wardround.server.state import schema
from wardround.server.state.column_types import UtcTime
from wardround.server.state.database import Database
from wardround.server.state.tables import METADATA

__all__ = ["copy_rows", "dump", "load"]

_FORMAT = 1
_BATCH = 500
_KINDS: dict[str, Callable[[], TypeEngine[Any]]] = {
    "plain": lambda: sa.types.NULLTYPE,
    "bytes": sa.LargeBinary,
    "time": UtcTime,
}


def dump(database: Database, write: Callable[[bytes], object]) -> None:
    """Hand every line, with its end, to `write`; all rows are of one moment.

    LocalError unless the tables are those of this program.
    """
    with database.reading() as connection:
        revision = schema.revision(connection)
        if revision != schema.newest():
            raise LocalError(
                f"{database.where}: expected tables of revision {schema.newest()}, got {revision}; start the server of "
                "this version once, or use the version that made them"
            )
        write(_line({"format": _FORMAT, "revision": revision}))
        rows: dict[str, int] = {}
        for table in METADATA.sorted_tables:
            write(_line({"table": table.name, "columns": {one.name: _kind(one.type) for one in table.columns}}))
            rows[table.name] = 0
            for row in connection.execute(
                sa.select(table).order_by(*table.primary_key).execution_options(yield_per=_BATCH)
            ):
                write(_line([_encoded(value) for value in row]))
                rows[table.name] += 1
        write(_line({"rows": rows}))


def load(database: Database, lines: Iterable[bytes]) -> dict[str, int]:
    """Fill an empty database with what `dump` wrote, in one transaction, and bring it to the newest tables.

    Gives the number of rows of each table. LocalError for lines that are not whole, not a dump, or of a newer program.
    """
    lines = iter(lines)
    head = _object(next(lines, b""))
    revision = head.get("revision")
    if head.get("format") != _FORMAT or not isinstance(revision, str):
        raise LocalError("database: expected a dump made by wardround; take another backup")
    if revision not in schema.known():
        raise LocalError(
            f"database: expected revision {schema.newest()} or older, got {revision}; a newer wardround made this"
        )
    with database.transaction() as connection:
        database.migrate(to=revision)
        found: dict[str, int] = {}
        try:
            last = _loaded(connection, lines, found)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise LocalError(f"database: expected rows as wardround writes them ({plain_text(str(error))})") from None
        if last != found or found.keys() != _tables_of(connection):
            raise LocalError("database: expected every table and row of the dump; it is cut or damaged")
        _set_sequences(connection)
        database.migrate()
    return found


def copy_rows(source: Database, target: Database) -> None:
    """Make the tables of `target` hold the rows of `source`, in one transaction; both have the newest tables."""
    with source.reading() as reading, target.transaction() as writing:
        for table in reversed(METADATA.sorted_tables):
            writing.execute(sa.delete(table))
        for table in METADATA.sorted_tables:
            rows = reading.execute(sa.select(table).execution_options(yield_per=_BATCH))
            for batch in rows.mappings().partitions(_BATCH):
                writing.execute(sa.insert(table), [dict(row) for row in batch])
        _set_sequences(writing)


def _loaded(connection: sa.Connection, lines: Iterator[bytes], found: dict[str, int]) -> dict[str, Any]:
    """Insert the rows of every table, and count them in `found`; what the last line says."""
    while True:
        head = _object(next(lines, b""))
        if "rows" in head:
            if next(lines, None) is not None or not isinstance(head["rows"], dict):
                raise LocalError("database: expected the counts of rows in the last line")
            return head["rows"]
        name, kinds = head.get("table"), head.get("columns")
        if not isinstance(name, str) or not isinstance(kinds, dict) or name in found:
            raise LocalError("database: expected a table and its columns; the dump is damaged")
        seen = sa.inspect(connection)
        if name not in _tables_of(connection) or {one["name"] for one in seen.get_columns(name)} != kinds.keys():
            raise LocalError(f"database: expected the tables of the dump's own revision, got {name[:40]!r} among them")
        lines = _insert(connection, name, kinds, lines, found)


def _insert(
    connection: sa.Connection, name: str, kinds: dict[str, str], lines: Iterator[bytes], found: dict[str, int]
) -> Iterator[bytes]:
    """Insert the rows that follow; the lines after them."""
    types = {column: _KINDS[kind]() for column, kind in kinds.items()}
    table = sa.table(name, *(sa.column(column, type_) for column, type_ in types.items()))
    found[name] = 0
    rows: list[dict[str, Any]] = []

    def flush() -> None:
        if rows:
            connection.execute(sa.insert(table), rows)
            rows.clear()

    for line in lines:
        if not line.startswith(b"["):
            flush()
            return _chained(line, lines)
        values = json.loads(line)
        if len(values) != len(kinds):
            raise LocalError(f"database: expected {len(kinds)} values in a row of {name}, got {len(values)}")
        rows.append(
            {column: _decoded(kind, value) for (column, kind), value in zip(kinds.items(), values, strict=True)}
        )
        found[name] += 1
        if len(rows) == _BATCH:
            flush()
    raise LocalError("database: expected the counts of rows in the last line; the dump is cut")


def _chained(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _set_sequences(connection: sa.Connection) -> None:
    """Let PostgreSQL give numbers above those that were inserted; SQLite does of its own."""
    if connection.dialect.name == "postgresql":
        newest = connection.scalar(sa.text("SELECT max(id) FROM events"))
        if newest is not None:
            connection.execute(sa.text("SELECT setval(pg_get_serial_sequence('events', 'id'), :id)"), {"id": newest})


def _tables_of(connection: sa.Connection) -> set[str]:
    return set(sa.inspect(connection).get_table_names()) - {"alembic_version"}


def _kind(type_: TypeEngine[Any]) -> str:
    if isinstance(type_, UtcTime):
        return "time"
    return "bytes" if isinstance(type_, sa.LargeBinary) else "plain"


def _encoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if isinstance(value, datetime) else value


def _decoded(kind: str, value: Any) -> Any:
    if value is None or kind == "plain":
        return value
    return base64.b64decode(value, validate=True) if kind == "bytes" else datetime.fromisoformat(value)


def _line(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def _object(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise LocalError("database: expected a dump made by wardround; it is cut or damaged")
    return found
