"""The database of the server: SQLite in a file by default, PostgreSQL by URL.

SQLite runs with a write-ahead log, `synchronous = FULL` (what was committed survives a power cut), foreign keys, and
one writer at a time, which begins with `BEGIN IMMEDIATE`: a transaction that reads and then writes cannot find that
another was faster. On PostgreSQL (READ COMMITTED) such rules are conditional updates, constraints, and locks by name.
"""

import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError, StatementError

from wardround.errors import LocalError, MissingExtraError, WardroundError
from wardround.plain_text import plain_text
from wardround.server.state import schema

__all__ = ["Database", "TakenError", "checked_url", "sqlite_url"]

_BUSY_MS = 60_000  # waiting writers of SQLite do not queue, and each commit waits for the disk
_ON_THIS_MACHINE = {"", "localhost", "127.0.0.1", "::1"}
_WRITES = "wardround_writes"
_LOCKS = int.from_bytes(b"ward", "big")  # the first half of our advisory locks' numbers
_SERVER = _LOCKS << 32 | _LOCKS


class TakenError(LocalError):
    """A constraint of the database says no: what should be added is there already, or what it needs is not."""


@dataclass(slots=True, kw_only=True)
class _Open:
    """The transaction that this context is in; `gone` where SQLite itself has undone all of it, as on a full disk."""

    connection: sa.Connection
    writes: bool
    thread: int
    gone: bool = False

    def check(self, where: str) -> None:
        """Without its transaction every further statement would stand alone, and be kept."""
        if self.gone:
            raise LocalError(f"{where}: the transaction was undone; nothing was changed, begin it again")


class Database:
    """A pool of connections; threads may share it, forked processes may not. Make one with `open`.

    Every call of a repository is one transaction, or part of the one that `transaction` holds open around it. Nothing
    of a transaction that raises is kept. Failures of the database are LocalErrors of one line, without values.
    """

    __slots__ = ("_current", "_engine", "where")

    def __init__(self, engine: sa.Engine, where: str) -> None:
        self._engine = engine
        self._current: ContextVar[_Open | None] = ContextVar("transaction", default=None)
        self.where = where
        """What the database is called in messages: a path, or a URL without password."""

    @classmethod
    def open(cls, url: str) -> "Database":
        """The database at `url`: `sqlite:///PATH` or `postgresql+psycopg://...`; a new SQLite file is its owner's only.

        LocalError for a URL that `checked_url` refuses and for a database that does not answer.
        """
        checked = checked_url(url)
        if checked.drivername == "sqlite":
            path = Path(str(checked.database))
            try:
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
            except OSError as error:
                raise LocalError(f"{path}: cannot be opened ({error.strerror})") from None
            engine = sa.create_engine(checked, hide_parameters=True, connect_args={"timeout": _BUSY_MS / 1000})
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
            database = cls(engine, str(path))
        else:
            options = f"-c lock_timeout={_BUSY_MS} -c timezone=UTC"
            try:
                engine = sa.create_engine(
                    checked,
                    hide_parameters=True,
                    pool_pre_ping=True,  # a database that was restarted costs one look, not one failure
                    connect_args={"connect_timeout": 10, "options": options},
                )
            except ModuleNotFoundError:
                raise MissingExtraError("postgresql", "psycopg") from None
            database = cls(engine, checked.render_as_string(hide_password=True))
        try:
            with database.reading() as connection:
                connection.execute(sa.select(1))
        except BaseException:
            database.close()
            raise
        return database

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._engine.dialect.name

    def migrate(self, to: str = "head") -> None:
        """Bring the tables to what this program needs, all or nothing; the same again changes nothing.

        LocalError for a database that a newer program has made.
        """
        with self.transaction() as connection:
            self.serialise("migrations")
            schema.upgrade(connection, self.where, to)

    def revision(self) -> str | None:
        """The revision of the tables; None where there are none yet."""
        with self.reading() as connection:
            return schema.revision(connection)

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """A transaction that writes. A call inside another is a part of it, which is undone alone where it raises.

        Nothing may be awaited inside. LocalError where the database cannot be written; then nothing was changed.
        """
        outer = self._outer()
        if outer is None:
            with self._begun(writes=True) as connection:
                yield connection
        elif not outer.writes:
            raise ValueError("expected no writing inside a transaction that only reads")
        else:
            with _translated(self.where), _part_of(outer, self.where):
                yield outer.connection

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that only reads, and sees one state of the whole database; inside another: what that sees."""
        outer = self._outer()
        if outer is None:
            with self._begun(writes=False) as connection:
                yield connection
        else:
            outer.check(self.where)
            with _translated(self.where):
                yield outer.connection

    def serialise(self, what: str) -> None:
        """Wait until no other transaction is between this call and its end, for the same `what`."""
        outer = self._outer()
        if outer is None or not outer.writes:
            raise ValueError("expected a transaction that writes")
        if self.dialect == "postgresql":
            lock = sa.func.pg_advisory_xact_lock(_LOCKS, zlib.crc32(what.encode()) - (1 << 31))
            outer.connection.execute(sa.select(lock))

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the database as the one server that works on it, for `with`. LocalError where another does.

        SQLite's lies in the state folder, whose lock says the same.
        """
        if self.dialect != "postgresql":
            yield
            return
        # not in a transaction, which would keep old rows from being tidied away
        with _translated(self.where), self._engine.connect() as plain:
            connection = plain.execution_options(isolation_level="AUTOCOMMIT")
            if not connection.scalar(sa.select(sa.func.pg_try_advisory_lock(_SERVER))):
                raise LocalError(f"{self.where}: another server is running on it; stop it first")
            try:
                yield
            finally:
                connection.execute(sa.select(sa.func.pg_advisory_unlock(_SERVER)))

    def close(self) -> None:
        """Close every connection that is not in use."""
        self._engine.dispose()

    def _outer(self) -> _Open | None:
        found = self._current.get()
        # a thread that was given this context is not in the transaction: a connection belongs to one thread
        return found if found is not None and found.thread == threading.get_ident() else None

    @contextmanager
    def _begun(self, *, writes: bool) -> Iterator[sa.Connection]:
        options: dict[str, Any] = {_WRITES: writes}
        if self.dialect == "postgresql" and not writes:
            options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        with _translated(self.where), self._engine.connect() as plain:
            connection = plain.execution_options(**options)
            with connection.begin():
                opened = _Open(connection=connection, writes=writes, thread=threading.get_ident())
                token = self._current.set(opened)
                try:
                    yield connection
                finally:
                    self._current.reset(token)
                opened.check(self.where)


def sqlite_url(path: Path) -> str:
    """The URL of the SQLite database in the file `path`."""
    return sa.URL.create("sqlite", database=str(path.absolute())).render_as_string()


def checked_url(url: str) -> sa.URL:
    """`url` parsed. LocalError unless it names a file of SQLite, or a PostgreSQL that is asked for safely.

    A password belongs in a password file (`?passfile=PATH`), since URLs are shown and stored; a PostgreSQL on another
    machine has to prove who it is (`?sslmode=verify-full&sslrootcert=PATH`).
    """
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError):
        raise LocalError("database: expected sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME") from None
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername == "sqlite":
        if not parsed.database or parsed.database == ":memory:" or parsed.database.startswith("file:"):
            raise LocalError("database: expected the path of a file (sqlite:////var/lib/wardround/server.db)")
        if parsed.query:
            raise LocalError(f"database: expected no options of SQLite, got {', '.join(sorted(parsed.query))}")
        return parsed
    if parsed.drivername != "postgresql+psycopg":
        raise LocalError(f"database: expected sqlite or postgresql+psycopg, got {plain_text(parsed.drivername)!r}")
    if parsed.password is not None:
        raise LocalError("database: expected no password in the URL; put it in a file of mode 0600 (?passfile=PATH)")
    if {"options", "connect_timeout"} & parsed.query.keys():
        raise LocalError("database: expected no `options` and `connect_timeout` in the URL; wardround sets these")
    hosts = [parsed.host or "", *_listed(parsed, "host"), *_listed(parsed, "hostaddr")]
    elsewhere = [host for host in hosts if host not in _ON_THIS_MACHINE and not host.startswith("/")]
    if elsewhere and parsed.query.get("sslmode") != "verify-full":
        raise LocalError(
            f"database: {plain_text(elsewhere[0])} is another machine; add ?sslmode=verify-full&sslrootcert=PATH"
        )
    return parsed


def _listed(url: sa.URL, name: str) -> list[str]:
    """The values of a query's `name`; libpq also takes several in one, with commas."""
    found = url.query.get(name, ())
    return [host for one in ((found,) if isinstance(found, str) else found) for host in one.split(",")]


def _prepare_sqlite(connection: Any, record: object) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves: `_begin_sqlite`
    cursor = connection.cursor()
    try:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "trusted_schema = OFF"):
            cursor.execute(f"PRAGMA {pragma}")
    finally:
        cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _part_of(outer: _Open, where: str) -> Iterator[None]:
    """A part of a transaction that is undone alone where it raises."""
    outer.check(where)
    part = outer.connection.begin_nested()
    try:
        yield
        part.commit()
    except BaseException:
        try:
            part.rollback()
        except SQLAlchemyError:
            outer.gone = True  # there is nothing left to go back to
        raise


@contextmanager
def _translated(where: str) -> Iterator[None]:
    """Turn what the database says into one line; never its parameters, which are people's and secrets' business."""
    try:
        yield
    except IntegrityError:
        raise TakenError(
            f"{where}: expected something new that refers to what is there; nothing was changed, look at what is there"
        ) from None
    except StatementError as error:
        if isinstance(error.orig, WardroundError):  # a column type's
            raise error.orig from None
        raise LocalError(_said(where, error.orig)) from None
    except SQLAlchemyError as error:
        raise LocalError(_said(where, error)) from None


def _said(where: str, error: BaseException | None) -> str:
    text = plain_text(str(error).partition("\n")[0]) if error is not None else "no reason given"
    if "database or disk is full" in text or "No space left" in text or "disk I/O error" in text:
        return f"{where}: the disk is full or fails ({text}); nothing was changed, make room and try again"
    if "database is locked" in text or "lock timeout" in text or "deadlock" in text:
        return f"{where}: another process is writing ({text}); nothing was changed, try again"
    return f"{where}: the database refuses ({text}); nothing was changed"
