"""The people who may use the server."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from wardround.server.state import tables
from wardround.server.state.database import Database
from wardround.server.state.ids import new_id

__all__ = ["Account", "Accounts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A person's account; `disabled` says since when it cannot be used. `password_hash` is not shown."""

    id: str
    name: str
    password_hash: str
    role: str
    created: datetime
    disabled: datetime | None

    def __repr__(self) -> str:
        return f"<Account {self.name!r} {self.role}>"


class Accounts:
    """The table of accounts. Names are compared letter by letter; the caller settles case and form."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, *, name: str, password_hash: str, role: str, now: datetime) -> Account:
        """A new account. Raises TakenError where the name is taken."""
        account = Account(id=new_id(), name=name, password_hash=password_hash, role=role, created=now, disabled=None)
        with self._database.transaction() as connection:
            connection.execute(
                sa.insert(tables.accounts).values(
                    id=account.id, name=name, password_hash=password_hash, role=role, created=now
                )
            )
        return account

    def get(self, account_id: str) -> Account | None:
        """The account of this id."""
        return self._one(tables.accounts.c.id == account_id)

    def named(self, name: str) -> Account | None:
        """The account of this name."""
        return self._one(tables.accounts.c.name == name)

    def list(self) -> list[Account]:
        """Every account, by name."""
        with self._database.reading() as connection:
            return sorted(map(_account, connection.execute(sa.select(tables.accounts))), key=lambda one: one.name)

    def set_password(self, account_id: str, password_hash: str) -> None:
        """Give it another password, and end every session of it."""
        self._change(account_id, password_hash=password_hash)

    def disable(self, account_id: str, now: datetime) -> None:
        """Let it not be used any more, and end every session of it."""
        self._change(account_id, disabled=now)

    def _change(self, account_id: str, **values: Any) -> None:
        with self._database.transaction() as connection:
            connection.execute(sa.update(tables.accounts).where(tables.accounts.c.id == account_id).values(**values))
            connection.execute(sa.delete(tables.sessions).where(tables.sessions.c.account_id == account_id))

    def _one(self, condition: sa.ColumnElement[bool]) -> Account | None:
        with self._database.reading() as connection:
            row = connection.execute(sa.select(tables.accounts).where(condition)).one_or_none()
        return None if row is None else _account(row)


def _account(row: sa.Row[Any]) -> Account:
    return Account(**row._mapping)
