"""Rows as lines, from one database into another, also of an older program."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.postgresql import Cluster
from tests.server.state.rows import NOW, add_account, add_run, later
from wardround.orders import SiteId
from wardround.server.state import schema
from wardround.server.state.database import Database, sqlite_url
from wardround.server.state.dump import dump, load
from wardround.server.state.events import Events
from wardround.server.state.invitations import Invitations
from wardround.server.state.settings import Settings

Opened = Callable[[str], Database]

NEXT = """
import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "BEFORE"


def upgrade() -> None:
    op.add_column("settings", sa.Column("note", sa.Text(), nullable=False, server_default="new"))
    op.create_table("extra", sa.Column("id", sa.Text(), primary_key=True))
"""


def filled(database: Database) -> list[bytes]:
    """A dump of rows with every kind of value, absent ones among them."""
    add_account(database)
    add_run(database, "Hospital A", "Klinik Ö")
    Invitations(database).add(site=SiteId("C"), token_hash=bytes(range(32)), expires=later(), created_by="ada", now=NOW)
    Settings(database).put("key", "a \\ line\nand another")
    for number in range(1200):
        Events(database).add("x", now=later(number), detail={"number": number})
    lines: list[bytes] = []
    dump(database, lines.append)
    return lines


@pytest.mark.parametrize("target_kind", ["sqlite", "postgresql"])
def test_rows_go_from_any_database_to_any_other(
    database: Database, target_kind: str, postgresql: Cluster, opened: Opened, tmp_path: Path
) -> None:
    lines = filled(database)
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)
    with postgresql.database() as url:
        target = opened(url if target_kind == "postgresql" else sqlite_url(tmp_path / "target.db"))
        counts = load(target, lines)
        assert (counts["events"], counts["invitations"], counts["models"]) == (1200, 1, 0)
        again: list[bytes] = []
        dump(target, again.append)
        assert again == lines
        assert Events(target).add("next", now=NOW).id == 1201


def test_rows_of_an_older_program_are_brought_to_the_newest_tables(
    database: Database, opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = filled(database)
    scripts = tmp_path / "migrations"
    shutil.copytree(schema._SCRIPTS, scripts, ignore=shutil.ignore_patterns("__pycache__"))
    (scripts / "versions" / "m9999_next.py").write_text(NEXT.replace("BEFORE", schema.newest()))
    monkeypatch.setattr(schema, "_SCRIPTS", scripts)
    target = opened(sqlite_url(tmp_path / "target.db"))
    load(target, lines)
    assert target.revision() == "9999"
    with target.reading() as connection:
        assert connection.execute(sa.text("SELECT key, note FROM settings")).all() == [("key", "new")]
        assert connection.scalar(sa.text("SELECT count(*) FROM extra")) == 0
    database.migrate()
    assert database.revision() == "9999", "and so is the database itself at the next start"
    assert Settings(database).get("key") == "a \\ line\nand another"
