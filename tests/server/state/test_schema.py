"""Migrations: what they make is what the tables say, all or nothing, and never backwards."""

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from tests.postgresql import Cluster
from tests.server.state.at_once import at_once
from tests.server.state.rows import add_account
from wardround.errors import LocalError
from wardround.server.state import schema
from wardround.server.state.accounts import Accounts
from wardround.server.state.database import Database, sqlite_url
from wardround.server.state.tables import METADATA

Opened = Callable[[str], Database]


def described(connection: sa.Connection) -> dict[str, Any]:
    """Everything that the database itself says about its tables."""
    seen = sa.inspect(connection)
    return {
        table: {
            "columns": [{**one, "type": repr(one["type"])} for one in seen.get_columns(table)],
            "key": seen.get_pk_constraint(table),
            "foreign": sorted(seen.get_foreign_keys(table), key=str),
            "unique": sorted(seen.get_unique_constraints(table), key=str),
            "checks": sorted(seen.get_check_constraints(table), key=str),
            "indexes": sorted(seen.get_indexes(table), key=str),
        }
        for table in seen.get_table_names()
        if table != "alembic_version"
    }


def check_the_same(migrated: Database, direct: Database) -> None:
    migrated.migrate()
    with direct.transaction() as connection:
        METADATA.create_all(connection)
        expected = described(connection)
    with migrated.reading() as connection:
        assert described(connection) == expected
        options = {"compare_type": True, "compare_server_default": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), METADATA) == []
    assert set(expected) == set(METADATA.tables)


def test_migrations_make_what_the_tables_say_on_sqlite(tmp_path: Any, opened: Opened) -> None:
    migrated, direct = (opened(sqlite_url(tmp_path / name)) for name in ("one.db", "two.db"))
    check_the_same(migrated, direct)
    for database in (migrated, direct):
        with database.reading() as connection:
            sql = "SELECT sql FROM sqlite_master WHERE name = 'events'"
            assert "AUTOINCREMENT" in str(connection.exec_driver_sql(sql).scalar())


def test_migrations_make_what_the_tables_say_on_postgresql(postgresql: Cluster, opened: Opened) -> None:
    with postgresql.database() as one, postgresql.database() as two:
        check_the_same(opened(one), opened(two))


def test_migrating_again_changes_nothing(database: Database) -> None:
    add_account(database)
    database.migrate()
    assert database.revision() == schema.newest()
    assert [one.name for one in Accounts(database).list()] == ["ada"]


def test_two_programs_may_start_at_once(url: str) -> None:
    at_once(url, 4, lambda database, _: database.migrate())


def test_a_database_of_a_newer_program_is_refused_and_left_alone(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(LocalError, match="a newer wardround has used it"):
        database.migrate()
    assert database.revision() == "9999"


def test_a_database_of_something_else_is_refused_and_left_alone(url: str, opened: Opened) -> None:
    database = opened(url)
    with database.transaction() as connection:
        connection.execute(sa.text("CREATE TABLE patients (name TEXT)"))
    with pytest.raises(LocalError, match="expected an empty database, got one with 1 tables"):
        database.migrate()
    with database.reading() as connection:
        assert sa.inspect(connection).get_table_names() == ["patients"]


def test_a_migration_that_fails_leaves_nothing(url: str, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the program is killed, or the disk is full, half way."""
    from alembic.operations import Operations

    database = opened(url)
    create = Operations.create_table

    def fails_late(self: Operations, name: str, *rest: Any, **options: Any) -> Any:
        if name == "runs":
            raise LocalError("the disk is full")
        return create(self, name, *rest, **options)

    monkeypatch.setattr(Operations, "create_table", fails_late)
    with pytest.raises(LocalError, match="the disk is full"):
        database.migrate()
    with database.reading() as connection:
        assert sa.inspect(connection).get_table_names() == []
    monkeypatch.undo()
    database.migrate()
    assert database.revision() == schema.newest()
