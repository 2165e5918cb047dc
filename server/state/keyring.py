"""The keyring: every secret of the server that outlives a restart, sealed in one file.

What opens it is a passphrase, or the content of a key file for a server that starts unattended.
"""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from wardround.errors import LocalError
from wardround.signing_key import SigningKey

__all__ = ["Keyring", "make_keyring", "open_keyring", "read_key_file", "seal_keyring", "stretched"]

_MAGIC = b"wardround keyring 1\n"
_SALT_BYTES, _NONCE_BYTES, _TAG_BYTES, _KEY_BYTES = 16, 12, 16, 32
_COST = 17  # scrypt N = 2^17, r = 8: 128 MiB and about half a second for each guess
_MOST_COST = 20
_MOST_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyring:
    """The server's secrets: both authorities' keys, the key that it signs with, and that of its vault.

    `tls_authority` is PKCS #8, DER, of a P-256 key. The key of the server's own TLS certificate is not among them: it
    is made at each start, and its certificate with it.
    """

    tls_authority: bytes = field(repr=False)
    identity_authority: SigningKey
    signing: SigningKey
    data_key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.data_key) != _KEY_BYTES:
            raise ValueError(f"expected a data key of {_KEY_BYTES} bytes, got {len(self.data_key)}")
        try:
            key = load_der_private_key(self.tls_authority, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
            raise ValueError("expected a P-256 key of the TLS authority, PKCS #8, DER")

    def __reduce__(self) -> str:
        raise TypeError("a Keyring is not copied or pickled; seal it")


def make_keyring(random: Callable[[int], bytes] = os.urandom) -> Keyring:
    """New keys; that of the TLS authority is drawn by the library, from the operating system."""
    key = generate_private_key(SECP256R1())
    return Keyring(
        tls_authority=key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        identity_authority=SigningKey.make(random),
        signing=SigningKey.make(random),
        data_key=random(_KEY_BYTES),
    )


def seal_keyring(keyring: Keyring, secret: bytes, random: Callable[[int], bytes]) -> bytes:
    """The keyring as a file that only `secret` opens: AES-256-GCM under scrypt (RFC 7914, N = 2^17, r = 8, p = 1).

    LocalError for an empty secret.
    """
    salt, nonce = random(_SALT_BYTES), random(_NONCE_BYTES)
    head = _MAGIC + bytes([_COST]) + salt
    secrets = keyring.identity_authority._secret + keyring.signing._secret + keyring.data_key + keyring.tls_authority
    return head + nonce + AESGCM(stretched(secret, salt, _COST)).encrypt(nonce, secrets, head)


def open_keyring(data: bytes, secret: bytes) -> Keyring:
    """The keyring that `seal_keyring` was given. Raises LocalError for another secret or a damaged file."""
    start = len(_MAGIC) + 1 + _SALT_BYTES
    head, nonce, rest = data[:start], data[start : start + _NONCE_BYTES], data[start + _NONCE_BYTES :]
    if not data.startswith(_MAGIC) or not 3 * _KEY_BYTES + _TAG_BYTES < len(rest) <= _MOST_BYTES:
        raise LocalError("keyring: is damaged or no keyring; restore it from a backup")
    cost = head[len(_MAGIC)]
    if not _COST <= cost <= _MOST_COST:
        raise LocalError(f"keyring: expected a cost of 2^{_COST} to 2^{_MOST_COST}, got 2^{cost}; restore it")
    try:
        opened = AESGCM(stretched(secret, head[-_SALT_BYTES:], cost)).decrypt(nonce, rest, head)
    except InvalidTag:
        raise LocalError(
            "keyring: does not open; give the passphrase or the key file that it was made with, or restore it from a "
            "backup"
        ) from None
    identity, signing, data_key = (opened[at : at + _KEY_BYTES] for at in range(0, 3 * _KEY_BYTES, _KEY_BYTES))
    return Keyring(
        tls_authority=opened[3 * _KEY_BYTES :],
        identity_authority=SigningKey(identity),
        signing=SigningKey(signing),
        data_key=data_key,
    )


def stretched(secret: bytes, salt: bytes, cost: int) -> bytes:
    """32 bytes of scrypt (RFC 7914; N = 2^`cost`, r = 8, p = 1). LocalError for an empty secret."""
    if not secret:
        raise LocalError("expected a passphrase or a key file, got an empty one")
    return Scrypt(salt=salt, length=_KEY_BYTES, n=1 << cost, r=8, p=1).derive(secret)


def read_key_file(path: Path) -> bytes:
    """The secret in a key file, without the end of a last line.

    LocalError unless it is a file of 16 bytes to 64 KiB that its owner alone may read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            found = os.fstat(descriptor)
            data = os.read(descriptor, _MOST_BYTES + 1) if stat.S_ISREG(found.st_mode) else b""
        finally:
            os.close(descriptor)
    except OSError as error:
        raise LocalError(f"{path}: cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(found.st_mode):
        raise LocalError(f"{path}: expected a file")
    if found.st_mode & 0o077:
        raise LocalError(f"{path}: others may read or write it; chmod 600 it, and think of it as known to them")
    secret = data.rstrip(b"\r\n")
    if not 16 <= len(secret) <= _MOST_BYTES:
        raise LocalError(
            f"{path}: expected 16 bytes to 64 KiB; make one: head -c 32 /dev/urandom | base64 > {path.name}"
        )
    return secret
