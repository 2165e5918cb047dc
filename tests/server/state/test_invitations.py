"""Invitations: a token is used once."""

import pytest

from tests.server.state.at_once import at_once
from tests.server.state.rows import NOW, later
from wardround.orders import SiteId
from wardround.server.state.database import Database, TakenError
from wardround.server.state.invitations import InvitationRow, Invitations

A = SiteId("Hospital A")


def invite(database: Database, token: bytes = b"h" * 32) -> InvitationRow:
    return Invitations(database).add(site=A, token_hash=token, expires=later(72), created_by="ada", now=NOW)


def test_an_invitation_is_found_by_its_tokens_hash(database: Database) -> None:
    invitations, row = Invitations(database), invite(database)
    assert invitations.find_by_hash(b"h" * 32) == invitations.get(row.id) == row
    assert invitations.find_by_hash(b"i" * 32) is None
    other = invite(database, b"i" * 32)
    assert invitations.list() in ([row, other], [other, row])
    with pytest.raises(TakenError):
        invite(database)


def test_it_is_used_once_however_many_ask(database: Database, url: str) -> None:
    row = invite(database)
    used = at_once(url, 8, lambda one, i: Invitations(one).use(row.id, fingerprint=f"key {i}", now=later(1)))
    assert sum(used) == 1
    found = Invitations(database).get(row.id)
    assert found is not None
    assert (found.used_at, found.used_by_fingerprint) == (later(1), f"key {used.index(True)}")


def test_it_is_used_or_withdrawn_never_both(database: Database, url: str) -> None:
    rows = [invite(database, bytes([i])) for i in range(10)]
    for row in rows:

        def use_or_withdraw(one: Database, i: int, invitation_id: str = row.id) -> bool:
            if i % 2:
                return Invitations(one).withdraw(invitation_id, later())
            return Invitations(one).use(invitation_id, fingerprint="key", now=later())

        assert sum(at_once(url, 4, use_or_withdraw)) == 1
    for found in Invitations(database).list():
        assert (found.used_at is None) != (found.withdrawn is None)


@pytest.mark.parametrize(("hours", "works"), [(71.9, True), (72, False), (80, False)])
def test_it_is_not_used_after_it_has_expired(database: Database, hours: float, works: bool) -> None:
    row = invite(database)
    assert Invitations(database).use(row.id, fingerprint="key", now=later(hours)) is works


def test_what_is_not_there_is_neither_used_nor_withdrawn(database: Database) -> None:
    assert not Invitations(database).use("no", fingerprint="key", now=NOW)
    assert not Invitations(database).withdraw("no", NOW)
