"""Making a server, and what else is done in its folder without it."""

import hashlib
import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from wardround.clock import utc_now
from wardround.errors import LocalError
from wardround.identity import make_authority, site_name
from wardround.plain_text import plain_text
from wardround.server.api.passwords import Passwords, account_name
from wardround.server.pki.enrolment import ServerAddress
from wardround.server.pki.tls_authority import AUTHORITY_LIFETIME, make_tls_authority
from wardround.server.state.accounts import Accounts
from wardround.server.state.database import Database
from wardround.server.state.events import Events
from wardround.server.state.folder import StateFolder, StateSettings
from wardround.server.state.keyring import make_keyring, seal_keyring
from wardround.signing_key import fingerprint_of

__all__ = ["MadeServer", "make_server", "set_password"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeServer:
    """A new server: `fingerprint` is the SHA-256 of its authority's certificate, hex; `url` where people log in; `key`
    the fingerprint of the key that it signs with."""

    folder: StateFolder
    fingerprint: str
    url: str
    key: str


def make_server(path: Path, settings: StateSettings, *, secret: bytes, owner: str, password: str) -> MadeServer:
    """A server in the new folder `path`. LocalError for what it cannot be made of; then there is none."""
    address = ServerAddress.of(settings)
    kept, now, keyring = Passwords().hash(password), utc_now(), make_keyring()
    try:
        name, authority = account_name(owner), str(site_name(settings.name))
    except ValueError as error:
        raise LocalError(str(error)) from None
    tls = make_tls_authority(keyring.tls_authority, authority, now=now, random=os.urandom)
    identity = make_authority(
        keyring.identity_authority,
        authority,
        not_before=now - timedelta(minutes=5),
        not_after=now + AUTHORITY_LIFETIME,
        random=os.urandom,
    )

    def fill(folder: StateFolder) -> None:
        database = Database.open(folder.database_url)
        try:
            database.migrate()
            Accounts(database).add(name=name, password_hash=kept, role="owner", now=now)
            Events(database).add("server.made", now=now, subject=settings.name, who=name)
        finally:
            database.close()

    folder = StateFolder.make(
        path,
        settings,
        keyring=seal_keyring(keyring, secret, os.urandom),
        tls_authority=tls,
        identity_authority=identity,
        prepare=fill,
    )
    key = fingerprint_of(keyring.signing.public)
    return MadeServer(folder=folder, fingerprint=hashlib.sha256(tls).hexdigest(), url=address.url, key=key)


def set_password(folder: StateFolder, name: str, password: str) -> None:
    """Give an account another password, which ends its sessions. LocalError where there is no such account."""
    try:
        name = account_name(name)
    except ValueError as error:
        raise LocalError(str(error)) from None
    database = Database.open(folder.database_url)
    try:
        account = Accounts(database).named(name)
        if account is None:
            raise LocalError(f"there is no account {plain_text(name)!r}")
        Accounts(database).set_password(account.id, Passwords().hash(password))
        Events(database).add("account.password_set", now=utc_now(), subject=name)
    finally:
        database.close()
