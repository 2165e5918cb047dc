"""The revisions of the tables, and the way from one to the next (alembic, `migrations/`)."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from wardround.errors import LocalError

__all__ = ["newest", "revision", "upgrade"]

_SCRIPTS = Path(__file__).parent / "migrations"


def newest() -> str:
    """The revision that this program works with."""
    return ScriptDirectory.from_config(_config()).as_revision_number("head")  # type: ignore[return-value]


def known() -> set[str]:
    """Every revision that this program knows."""
    return {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def revision(connection: sa.Connection) -> str | None:
    """The revision of the tables in a database; None where there are none."""
    return MigrationContext.configure(connection).get_current_revision()


def upgrade(connection: sa.Connection, where: str, to: str = "head") -> None:
    """Bring the tables to revision `to`, within the transaction that is open.

    LocalError for tables of a newer program, and for a database with tables of something else.
    """
    now = revision(connection)
    if now is None and (others := sa.inspect(connection).get_table_names()):
        raise LocalError(f"{where}: expected an empty database, got one with {len(others)} tables; name another")
    if now is not None and now not in known():
        raise LocalError(
            f"{where}: expected tables that this program knows (up to {newest()}), got revision {now}; a newer "
            "wardround has used it, so install that one"
        )
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, to)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    return config
