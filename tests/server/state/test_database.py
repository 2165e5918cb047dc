"""Opening, transactions and failures of the database, on SQLite and on a real PostgreSQL."""

import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.postgresql import Cluster
from tests.server.state.at_once import at_once
from tests.server.state.rows import NOW, add_account
from wardround.errors import LocalError
from wardround.orders import SiteId
from wardround.server.state import tables
from wardround.server.state.accounts import Accounts
from wardround.server.state.database import Database, TakenError, checked_url, sqlite_url
from wardround.server.state.events import Events
from wardround.server.state.invitations import Invitations
from wardround.server.state.settings import Settings

# -- which URLs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////var/lib/wardround/server.db",
        "postgresql://wardround@localhost/wardround",
        "postgresql+psycopg://wardround@127.0.0.1:5433/wardround?passfile=/etc/pgpass",
        "postgresql+psycopg:///wardround?host=/run/postgresql",
        "postgresql://w@db.example.org/w?sslmode=verify-full&sslrootcert=/etc/ca.pem",
    ],
)
def test_a_url_that_is_safe_is_taken(url: str) -> None:
    assert checked_url(url).drivername in {"sqlite", "postgresql+psycopg"}


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("server.db", "expected sqlite:///PATH or postgresql"),
        ("sqlite://", "path of a file"),
        ("sqlite:///:memory:", "path of a file"),
        ("sqlite:///file:x?mode=memory&uri=true", "path of a file"),
        ("sqlite:////x.db?timeout=0", "no options of SQLite"),
        ("mysql://x/y", "sqlite or postgresql"),
        ("postgresql+psycopg2://w@localhost/w", "sqlite or postgresql"),
        ("postgresql://w:hunter2@localhost/w", "no password in the URL"),
        ("postgresql://w@localhost/w?options=-csearch_path%3Dx", "no `options`"),
        ("postgresql://w@db.example.org/w", "another machine"),
        ("postgresql://w@db.example.org/w?sslmode=require", "another machine"),
        ("postgresql://w@/w?host=localhost,db.example.org", "another machine"),
        ("postgresql://w@localhost/w?hostaddr=10.0.0.7", "another machine"),
    ],
)
def test_a_url_that_is_not_safe_is_refused_without_its_password(url: str, reason: str) -> None:
    with pytest.raises(LocalError, match=reason) as refused:
        checked_url(url)
    assert "hunter2" not in str(refused.value)


# -- opening -------------------------------------------------------------------------------------------


def test_a_new_sqlite_file_is_its_owners_alone_and_survives_a_power_cut(tmp_path: Path) -> None:
    path = tmp_path / "a folder with % and spaces" / "server.db"
    path.parent.mkdir()
    database = Database.open(sqlite_url(path))
    database.migrate()
    with database.reading() as connection:
        told = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    for one in path.parent.iterdir():
        assert stat.S_IMODE(one.stat().st_mode) == 0o600, one
    database.close()
    assert told == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 60_000}


def test_a_file_that_is_no_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "server.db").write_text("patients,of,interest\n" * 100)
    with pytest.raises(LocalError, match="file is not a database") as refused:
        Database.open(sqlite_url(tmp_path / "server.db"))
    assert "\n" not in str(refused.value)


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="No such file"):
        Database.open(sqlite_url(tmp_path / "no" / "server.db"))


def test_a_link_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.db").touch()
    (tmp_path / "server.db").symlink_to(tmp_path / "other.db")
    with pytest.raises(LocalError, match="symbolic links"):
        Database.open(sqlite_url(tmp_path / "server.db"))


def test_a_postgresql_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="nothing was changed") as refused:
        Database.open(f"postgresql://w@/w?host={tmp_path}&port=5999")
    assert "\n" not in str(refused.value)


# -- transactions --------------------------------------------------------------------------------------


def test_nothing_of_a_transaction_that_raises_is_kept(database: Database) -> None:
    settings = Settings(database)
    with pytest.raises(ZeroDivisionError), database.transaction():
        settings.put("one", "1")
        assert settings.get("one") == "1"
        raise ZeroDivisionError
    assert settings.get("one") is None


def test_a_call_inside_a_transaction_is_undone_alone(database: Database) -> None:
    accounts, settings = Accounts(database), Settings(database)
    add_account(database)
    with database.transaction():
        settings.put("before", "1")
        with pytest.raises(TakenError):
            add_account(database)
        settings.put("after", "1")
    assert (settings.get("before"), settings.get("after")) == ("1", "1")
    assert len(accounts.list()) == 1


def test_a_reading_transaction_sees_one_state_and_writes_nothing(
    database: Database, url: str, opened: Callable[[str], Database]
) -> None:
    settings, other = Settings(database), Settings(opened(url))
    settings.put("key", "old")
    with database.reading():
        assert settings.get("key") == "old"
        other.put("key", "new")
        assert settings.get("key") == "old"
        with pytest.raises(ValueError, match="only reads"):
            settings.put("key", "mine")
    assert settings.get("key") == "new"


def test_a_transaction_belongs_to_its_thread(database: Database) -> None:
    """A thread that inherits the context of one that is in a transaction does not write over its connection."""
    import contextvars

    settings = Settings(database)
    seen: list[str | None] = []
    with database.transaction():
        settings.put("key", "not yet")
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(lambda: seen.append(settings.get("key")),))
        thread.start()
        thread.join(timeout=60)
    assert seen == [None]


def test_a_failure_names_no_value(database: Database) -> None:
    add_account(database, word="$argon2id$secret")
    with pytest.raises(TakenError) as refused:
        add_account(database, word="$argon2id$secret")
    assert "argon2" not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.__cause__ is None
    with pytest.raises(LocalError) as failed, database.reading() as connection:
        connection.execute(sa.text("SELECT nothing FROM nowhere WHERE x = :x"), {"x": "$argon2id$secret"})
    assert "argon2" not in str(failed.value)


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_text_that_a_database_cannot_hold_is_refused_by_both(database: Database, text: str) -> None:
    accounts = Accounts(database)
    with pytest.raises(LocalError, match="without zero bytes"):
        add_account(database, text)
    with pytest.raises(LocalError, match="without zero bytes"):
        accounts.named(text)
    assert accounts.list() == []


def test_times_come_back_in_utc_to_the_microsecond(database: Database) -> None:
    events = Events(database)
    there = NOW.astimezone(timezone(timedelta(hours=-7)))
    events.add("x", now=there)
    (found,) = events.list()
    assert found.at == NOW
    assert found.at.tzinfo is UTC
    with pytest.raises(LocalError, match="with its zone"):
        events.add("x", now=datetime(2026, 1, 1))


def test_another_writer_is_waited_for_and_then_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wardround.server.state.database._BUSY_MS", 1)
    database = Database.open(sqlite_url(tmp_path / "server.db"))
    database.migrate()
    other = sqlite3.connect(tmp_path / "server.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LocalError, match="another process is writing"):
        Settings(database).put("a", "b")
    other.execute("ROLLBACK")
    other.close()
    Settings(database).put("a", "b")
    database.close()


def test_writers_at_once_wait_for_each_other(database: Database, url: str) -> None:
    numbers = at_once(url, 8, lambda one, _: [Settings(one).advance("counter") for _ in range(10)])
    assert sorted(number for ten in numbers for number in ten) == list(range(1, 81))


def test_one_server_works_on_a_postgresql_at_a_time(postgresql: Cluster, opened: Callable[[str], Database]) -> None:
    with postgresql.database() as url, postgresql.database() as elsewhere:
        first, second = opened(url), opened(url)
        with first.hold(), pytest.raises(LocalError, match="another server is running"), second.hold():
            pytest.fail("held twice")
        with second.hold(), opened(elsewhere).hold():
            second.migrate()
            assert first.revision() is not None, "reading needs no hold"


def test_a_postgresql_that_was_restarted_costs_no_failure(
    postgresql: Cluster, opened: Callable[[str], Database]
) -> None:
    with postgresql.database() as url:
        database = opened(url)
        database.migrate()
        with opened(url).transaction() as connection:
            ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()"
            connection.execute(sa.text(f"{ended} AND pid <> pg_backend_pid()"))
        Settings(database).put("key", "value")
        assert Settings(database).get("key") == "value"


KILLED_AT_COMMIT = """
import sys
from wardround.server.state.database import Database
from wardround.server.state.settings import Settings
database = Database.open(sys.argv[1])
settings = Settings(database)
number = settings.counter("n")
while True:
    with database.transaction():
        number = settings.advance("n")
        settings.put("same", str(number))
    print(number, flush=True)
"""


def test_what_was_committed_survives_a_kill_and_nothing_else_does(database: Database, url: str) -> None:
    settings = Settings(database)
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED_AT_COMMIT, url], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            for _ in range(20):
                told = int(child.stdout.readline())
            child.kill()
            told = max([told, *map(int, child.stdout.read().split())])
        with database.reading():
            kept, same = settings.counter("n"), settings.get("same")
        assert kept in {told, told + 1}, "the last may have been committed and not told"
        assert same == str(kept)


# -- a full disk ---------------------------------------------------------------------------------------


def test_a_full_disk_is_one_line_and_changes_nothing(tmp_path: Path) -> None:
    """`max_page_count` fails a write as a full disk does: SQLITE_FULL."""
    database = Database.open(sqlite_url(tmp_path / "server.db"))
    database.migrate()
    events, invitations = Events(database), Invitations(database)
    events.add("before", now=NOW)
    pages = _pragma(database, "page_count")
    sa.event.listen(
        database._engine, "begin", lambda connection: connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    )
    with pytest.raises(LocalError, match="disk is full") as refused, database.transaction():
        for number in range(10_000):
            events.add("after", now=NOW, detail={"text": "x" * 1000})
            invitations.add(
                site=SiteId("A"), token_hash=number.to_bytes(4, "big"), expires=NOW, created_by="ada", now=NOW
            )
    assert "make room" in str(refused.value)
    with pytest.raises(LocalError, match="begin it again"), database.transaction():
        with pytest.raises(LocalError, match="disk is full"):
            for _ in range(10_000):
                events.add("after", now=NOW, detail={"text": "x" * 1000})
        events.add("a statement that would stand alone", now=NOW)
    assert [one.kind for one in events.list()] == ["before"]
    assert invitations.list() == []
    database.close()


FILLS_THE_DISK = """
import resource, signal, sys
from datetime import UTC, datetime
from wardround.errors import LocalError
from wardround.server.state.database import Database
from wardround.server.state.events import Events
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
now = datetime(2026, 1, 1, tzinfo=UTC)
database = Database.open(sys.argv[1])
database.migrate()
events = Events(database)
events.add("before", now=now)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
try:
    with database.transaction():
        for _ in range(5000):
            events.add("within", now=now, detail={"text": "x" * 1000})
    raise SystemExit("nothing failed")
except LocalError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print([one.kind for one in events.list()])
events.add("after", now=now)
print([one.kind for one in events.list()])
"""


def test_a_disk_that_takes_no_more_is_one_line_and_the_server_goes_on_after(tmp_path: Path) -> None:
    """The operating system refuses the write; once there is room, the same process goes on."""
    url = sqlite_url(tmp_path / "server.db")
    done = subprocess.run([sys.executable, "-c", FILLS_THE_DISK, url], capture_output=True, text=True, check=True)
    said, unchanged, goes_on = done.stdout.splitlines()
    assert "the disk is full or fails" in said
    assert "nothing was changed" in said
    assert (unchanged, goes_on) == ("['before']", "['before', 'after']")


def _pragma(database: Database, name: str) -> int:
    with database.reading() as connection:
        return int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())


# -- the tables ----------------------------------------------------------------------------------------


def test_foreign_keys_hold(database: Database) -> None:
    with pytest.raises(TakenError), database.transaction() as connection:
        connection.execute(
            sa.insert(tables.sessions).values(
                token_hash=b"x", account_id="nobody", created=NOW, expires=NOW, last_seen=NOW
            )
        )
