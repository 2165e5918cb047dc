"""Invitations of sites: a one-use token each, of which the hash alone is kept."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from wardround.orders import SiteId
from wardround.server.state import tables
from wardround.server.state.database import Database
from wardround.server.state.ids import new_id

__all__ = ["InvitationRow", "Invitations"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InvitationRow:
    """An invitation; `used_by_fingerprint` is that of the signing key which used it."""

    id: str
    token_hash: bytes
    site: SiteId
    created: datetime
    created_by: str
    expires: datetime
    used_at: datetime | None
    used_by_fingerprint: str | None
    withdrawn: datetime | None


class Invitations:
    """The table of invitations."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, *, site: SiteId, token_hash: bytes, expires: datetime, created_by: str, now: datetime
    ) -> InvitationRow:
        """A new invitation of `site`. Raises TakenError for a token that was given before."""
        row = InvitationRow(
            id=new_id(),
            token_hash=token_hash,
            site=site,
            created=now,
            created_by=created_by,
            expires=expires,
            used_at=None,
            used_by_fingerprint=None,
            withdrawn=None,
        )
        values = {name: getattr(row, name) for name in row.__slots__}
        with self._database.transaction() as connection:
            connection.execute(sa.insert(tables.invitations).values(**values))
        return row

    def find_by_hash(self, token_hash: bytes) -> InvitationRow | None:
        """The invitation with this token, whatever became of it."""
        return self._one(tables.invitations.c.token_hash == token_hash)

    def get(self, invitation_id: str) -> InvitationRow | None:
        """The invitation of this id."""
        return self._one(tables.invitations.c.id == invitation_id)

    def list(self) -> list[InvitationRow]:
        """Every invitation, the oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(tables.invitations).order_by(tables.invitations.c.created))
            return [_row(row) for row in rows]

    def use(self, invitation_id: str, *, fingerprint: str, now: datetime) -> bool:
        """Use it up for the key with this fingerprint; True once, and never where it has expired or is withdrawn."""
        one = tables.invitations
        return self._change(invitation_id, one.c.expires > now, used_at=now, used_by_fingerprint=fingerprint)

    def withdraw(self, invitation_id: str, now: datetime) -> bool:
        """Let it not be used any more; False where it was used or withdrawn before."""
        return self._change(invitation_id, sa.true(), withdrawn=now)

    def _change(self, invitation_id: str, condition: sa.ColumnElement[bool], **values: Any) -> bool:
        one = tables.invitations
        with self._database.transaction() as connection:
            done = connection.execute(
                sa.update(one)
                .where(one.c.id == invitation_id, one.c.used_at.is_(None), one.c.withdrawn.is_(None), condition)
                .values(**values)
            )
        return done.rowcount == 1

    def _one(self, condition: sa.ColumnElement[bool]) -> InvitationRow | None:
        with self._database.reading() as connection:
            row = connection.execute(sa.select(tables.invitations).where(condition)).one_or_none()
        return None if row is None else _row(row)


def _row(row: sa.Row[Any]) -> InvitationRow:
    return InvitationRow(**row._mapping)
