"""Single values of the server that are neither a row of anything nor a secret."""

import sqlalchemy as sa

from wardround.errors import LocalError
from wardround.server.state import tables
from wardround.server.state.database import Database

__all__ = ["CRL_LIST", "CRL_NUMBER", "GENERATION", "LOGIN_NETWORKS", "SCRAPE_TOKEN", "Settings"]

CRL_NUMBER = "identity-revocations.number"
"""The number of the newest revocation list of the identity authority, a counter."""
CRL_LIST = "identity-revocations"
"""That list itself. A restored server has none and makes one."""
SCRAPE_TOKEN = "metrics.scrape-token"  # noqa: S105 (the name of a setting)
"""What opens the metrics, hashed. A restored server has none: the one of the backup may have been withdrawn since."""
GENERATION = "generation"
"""Goes up, and not by one alone, whenever the server is restored from a backup; 0 for one that never was."""

LOGIN_NETWORKS = "login-networks"
"""The beginning of a key that ends in an account's id: from where it has logged in, JSON."""


class Settings:
    """The table of settings."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, key: str) -> str | None:
        """The value of `key`."""
        one = tables.settings
        with self._database.reading() as connection:
            return connection.scalar(sa.select(one.c.value).where(one.c.key == key))

    def having(self, beginning: str, part: str) -> dict[str, str]:
        """The values that contain `part`, of the keys that begin so."""
        one = tables.settings
        wanted = one.c.key.startswith(beginning, autoescape=True) & one.c.value.contains(part, autoescape=True)
        with self._database.reading() as connection:
            return {key: value for key, value in connection.execute(sa.select(one.c.key, one.c.value).where(wanted))}

    def put(self, key: str, value: str) -> None:
        """Set `key` to `value`."""
        with self._database.transaction() as connection:
            self._database.serialise("settings")
            self._write(connection, key, value)

    def remove(self, key: str) -> None:
        """Have no value for `key`."""
        with self._database.transaction() as connection:
            self._database.serialise("settings")
            connection.execute(sa.delete(tables.settings).where(tables.settings.c.key == key))

    def counter(self, key: str) -> int:
        """Where a counter stands; 0 at first."""
        return _number(key, self.get(key))

    def advance(self, key: str, to: int | None = None) -> int:
        """Move a counter up by one, or to `to`, and give where it stands; no two calls give the same.

        Raises LocalError unless `to` is above what is stored.
        """
        one = tables.settings
        with self._database.transaction() as connection:
            self._database.serialise("settings")
            stored = _number(key, connection.scalar(sa.select(one.c.value).where(one.c.key == key)))
            if to is not None and to <= stored:
                raise LocalError(f"{key}: expected a number above {stored}, got {to}")
            number = stored + 1 if to is None else to
            self._write(connection, key, str(number))
        return number

    def _write(self, connection: sa.Connection, key: str, value: str) -> None:
        one = tables.settings
        if connection.execute(sa.update(one).where(one.c.key == key).values(value=value)).rowcount == 0:
            connection.execute(sa.insert(one).values(key=key, value=value))


def _number(key: str, text: str | None) -> int:
    if text is None:
        return 0
    if not text.isascii() or not text.isdigit():
        raise LocalError(f"{key}: expected a counter, got a setting that is none; use another key")
    return int(text)
