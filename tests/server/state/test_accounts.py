"""Accounts and sessions."""

from datetime import timedelta

import pytest

from tests.server.state.at_once import at_once
from tests.server.state.rows import NOW, add_account, later
from wardround.errors import LocalError
from wardround.server.state.accounts import Accounts
from wardround.server.state.database import Database, TakenError
from wardround.server.state.sessions import Sessions

IDLE = timedelta(hours=2)


def test_an_account_is_what_was_added(database: Database) -> None:
    accounts = Accounts(database)
    ada, bob = add_account(database), add_account(database, "bob")
    assert accounts.named("ada") == accounts.get(ada.id) == ada
    assert accounts.named("Ada") is None
    assert accounts.get("nobody") is None
    assert accounts.list() == [ada, bob]
    assert "argon2" not in repr(ada)


def test_a_name_is_given_once_however_many_ask(database: Database, url: str) -> None:
    def add(one: Database, number: int) -> bool:
        try:
            add_account(one, word=str(number))
        except TakenError:
            return False
        return True

    assert sum(at_once(url, 8, add)) == 1
    assert len(Accounts(database).list()) == 1


def test_a_session_is_found_while_it_may_be_used(database: Database) -> None:
    ada, sessions = add_account(database), Sessions(database)
    sessions.add(b"t" * 32, account_id=ada.id, now=NOW, expires=later(12))
    found = sessions.find(b"t" * 32, now=later(1), idle=IDLE)
    assert found is not None
    assert (found.account, found.created, found.expires, found.last_seen) == (ada, NOW, later(12), NOW)
    assert sessions.find(b"u" * 32, now=later(1), idle=IDLE) is None
    assert sessions.find(b"t" * 32, now=later(2), idle=IDLE) is None, "idle for too long"
    for hour in range(1, 12):
        sessions.seen(b"t" * 32, later(hour))
        assert sessions.find(b"t" * 32, now=later(hour + 0.5), idle=IDLE) is not None
    sessions.seen(b"t" * 32, later(3))
    assert sessions.find(b"t" * 32, now=later(11.9), idle=IDLE) is not None, "the time of last use moved back"
    assert sessions.find(b"t" * 32, now=later(12), idle=IDLE) is None, "expired, however busy"


def test_another_password_or_a_disabled_account_ends_its_sessions(database: Database) -> None:
    accounts, sessions = Accounts(database), Sessions(database)
    ada, bob = add_account(database), add_account(database, "bob")
    for token, account in ((b"1", ada), (b"2", ada), (b"3", bob)):
        sessions.add(token, account_id=account.id, now=NOW, expires=later(12))
    accounts.set_password(ada.id, "$argon2id$y")
    found = [sessions.find(token, now=NOW, idle=IDLE) for token in (b"1", b"2", b"3")]
    assert [one and one.account for one in found] == [None, None, bob]
    accounts.disable(bob.id, later(1))
    assert sessions.find(b"3", now=NOW, idle=IDLE) is None
    sessions.add(b"4", account_id=bob.id, now=later(2), expires=later(12))
    assert sessions.find(b"4", now=later(2), idle=IDLE) is None
    assert "$argon2id$y" in {one.password_hash for one in accounts.list()}


def test_sessions_end_and_are_tidied(database: Database) -> None:
    ada, sessions = add_account(database), Sessions(database)
    for hour in range(4):
        sessions.add(bytes([hour]), account_id=ada.id, now=NOW, expires=later(hour))
    assert sessions.tidy(later(1)) == 2
    assert sessions.end(b"\2")
    assert not sessions.end(b"\2")
    assert sessions.end_all() == 1
    with pytest.raises(LocalError):
        sessions.add(b"x", account_id="nobody", now=NOW, expires=later())
