"""State folders for tests."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key

from wardround.identity import make_authority
from wardround.server.state.database import Database
from wardround.server.state.folder import StateFolder, StateSettings
from wardround.server.state.keyring import Keyring, make_keyring, seal_keyring

__all__ = ["SECRET", "authorities", "keyring", "make_folder", "sealed_keyring", "tables_made"]

SECRET = b"a passphrase of tests"


@cache
def keyring() -> Keyring:
    return make_keyring()


@cache
def sealed_keyring() -> bytes:
    return seal_keyring(keyring(), SECRET, os.urandom)


@cache
def authorities() -> tuple[bytes, bytes]:
    """Certificates, DER, of the TLS authority and of the identity authority of `keyring`."""
    first, last = datetime(2026, 1, 1, tzinfo=UTC), datetime(2036, 1, 1, tzinfo=UTC)
    key = load_der_private_key(keyring().tls_authority, None)
    assert isinstance(key, EllipticCurvePrivateKey)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "cardio")])
    builder = x509.CertificateBuilder().issuer_name(name).subject_name(name).public_key(key.public_key())
    tls = builder.serial_number(1).not_valid_before(first).not_valid_after(last).sign(key, SHA256())
    identity = make_authority(
        keyring().identity_authority, "cardio", not_before=first, not_after=last, random=os.urandom
    )
    return tls.public_bytes(Encoding.DER), identity


def tables_made(folder: StateFolder) -> None:
    """Make the tables, as `server init` does."""
    database = Database.open(folder.database_url)
    try:
        database.migrate()
    finally:
        database.close()


def make_folder(
    path: Path, *, database: str | None = None, prepare: Callable[[StateFolder], None] = tables_made
) -> StateFolder:
    return StateFolder.make(
        path,
        StateSettings(name="cardio", host="fl.example.org", database=database),
        keyring=sealed_keyring(),
        tls_authority=authorities()[0],
        identity_authority=authorities()[1],
        prepare=prepare,
    )
