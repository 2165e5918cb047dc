"""Who is logged in: sessions by the hash of their token, which nobody but its holder has."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from wardround.server.state import tables
from wardround.server.state.accounts import Account
from wardround.server.state.database import Database

__all__ = ["Session", "Sessions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session that may be used, and whose it is."""

    token_hash: bytes
    account: Account
    created: datetime
    expires: datetime
    last_seen: datetime


class Sessions:
    """The table of sessions."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, token_hash: bytes, *, account_id: str, now: datetime, expires: datetime) -> None:
        """A new session. Raises TakenError for an account that is not there."""
        with self._database.transaction() as connection:
            connection.execute(
                sa.insert(tables.sessions).values(
                    token_hash=token_hash, account_id=account_id, created=now, expires=expires, last_seen=now
                )
            )

    def find(self, token_hash: bytes, *, now: datetime, idle: timedelta) -> Session | None:
        """The session of this token; None where it has expired, was not used for `idle`, or its account is disabled."""
        one, whose = tables.sessions, tables.accounts
        with self._database.reading() as connection:
            row = connection.execute(
                sa.select(one, *(column.label(f"whose_{column.name}") for column in whose.c))
                .join(whose, one.c.account_id == whose.c.id)
                .where(
                    one.c.token_hash == token_hash,
                    one.c.expires > now,
                    one.c.last_seen > now - idle,
                    whose.c.disabled.is_(None),
                )
            ).one_or_none()
        if row is None:
            return None
        found = row._mapping
        account = Account(**{column.name: found[f"whose_{column.name}"] for column in whose.c})
        own = {name: found[name] for name in ("token_hash", "created", "expires", "last_seen")}
        return Session(account=account, **own)

    def seen(self, token_hash: bytes, now: datetime) -> None:
        """Note that it was used; never moves the time back."""
        one = tables.sessions
        with self._database.transaction() as connection:
            connection.execute(
                sa.update(one).where(one.c.token_hash == token_hash, one.c.last_seen < now).values(last_seen=now)
            )

    def end(self, token_hash: bytes) -> bool:
        """End it; whether it was there."""
        with self._database.transaction() as connection:
            done = connection.execute(sa.delete(tables.sessions).where(tables.sessions.c.token_hash == token_hash))
        return done.rowcount == 1

    def end_all(self, account_id: str | None = None) -> int:
        """End every session, of one account or of all; how many there were."""
        one = tables.sessions
        condition = sa.true() if account_id is None else one.c.account_id == account_id
        with self._database.transaction() as connection:
            return connection.execute(sa.delete(one).where(condition)).rowcount

    def tidy(self, now: datetime) -> int:
        """Delete those that have expired; how many there were."""
        with self._database.transaction() as connection:
            return connection.execute(sa.delete(tables.sessions).where(tables.sessions.c.expires <= now)).rowcount
