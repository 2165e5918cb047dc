"""Signing keys: Ed25519 (RFC 8032), kept in a file of their owner, and the check of a signature."""

import hashlib
import os
import stat
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from wardround.durable_file import TEMPORARY, replace_file
from wardround.errors import LocalError, RemoteError
from wardround.plain_text import plain_text

__all__ = ["SigningKey", "check_public_key", "check_signature", "fingerprint_of"]

_KEY_BYTES = 32
_KEY_FILE = b"wardround signing key 1\n"
_PLAIN, _SEALED = b"\0", b"\1"
_SALT_BYTES, _NONCE_BYTES, _TAG_BYTES = 16, 12, 16


class SigningKey:
    """An Ed25519 key (RFC 8032) from 32 secret bytes. It is neither shown nor pickled."""

    __slots__ = ("_key", "_secret", "public")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != _KEY_BYTES:
            raise ValueError(f"expected a secret of {_KEY_BYTES} bytes, got {len(secret)}")
        self._secret = secret
        self._key = Ed25519PrivateKey.from_private_bytes(secret)
        self.public = self._key.public_key().public_bytes_raw()

    @classmethod
    def make(cls, random: Callable[[int], bytes]) -> "SigningKey":
        """A new key; `random(n)` gives n bytes of the operating system."""
        return cls(random(_KEY_BYTES))

    def sign(self, data: bytes) -> bytes:
        """The signature of `data`, 64 bytes; the same each time."""
        return self._key.sign(data)

    def store(self, path: Path, password: bytes | None, random: Callable[[int], bytes]) -> None:
        """Write the key to a new file that only its owner may read; durable on return.

        With a password the secret is sealed by AES-256-GCM under scrypt (RFC 7914, N = 2^15, r = 8, p = 1). Raises
        LocalError where there is a file already: a signing key that is lost costs a site its place.
        """
        if os.path.lexists(path):
            raise LocalError(f"{path}: expected no file, got one; a signing key is never overwritten, move it away")
        if password is None:
            data = _KEY_FILE + _PLAIN + self.public + self._secret
        else:
            salt, nonce = random(_SALT_BYTES), random(_NONCE_BYTES)
            head = _KEY_FILE + _SEALED + self.public
            data = head + salt + nonce + AESGCM(_stretched(password, salt)).encrypt(nonce, self._secret, head)
        try:
            path.with_name(TEMPORARY + path.name).unlink(missing_ok=True)  # its permissions may be another's choice
            replace_file(path, data, mode=0o600)
        except OSError as error:
            raise LocalError(f"{path}: cannot be written ({error.strerror})") from None

    @classmethod
    def load(cls, path: Path, password: bytes | None) -> "SigningKey":
        """The key in `path`. Raises LocalError for a file that others may read, is damaged, or needs another password.

        A plain file is refused where a password is given, so that nobody is left to believe that it is sealed.
        """
        data = _read_private(path)
        start = len(_KEY_FILE) + 1 + _KEY_BYTES
        head, public, rest = data[:start], data[start - _KEY_BYTES : start], data[start:]
        sealed = head.startswith(_KEY_FILE + _SEALED)
        if not (sealed or head.startswith(_KEY_FILE + _PLAIN)) or len(rest) != (
            _SALT_BYTES + _NONCE_BYTES + _KEY_BYTES + _TAG_BYTES if sealed else _KEY_BYTES
        ):
            raise LocalError(f"{path}: is damaged or no signing key; restore it from a copy")
        if sealed != (password is not None):
            is_so, do = ("sealed", "give its password") if sealed else ("not sealed", "load it without a password")
            raise LocalError(f"{path}: is {is_so}; {do}")
        if password is not None:
            salt, nonce = rest[:_SALT_BYTES], rest[_SALT_BYTES : _SALT_BYTES + _NONCE_BYTES]
            try:
                rest = AESGCM(_stretched(password, salt)).decrypt(nonce, rest[_SALT_BYTES + _NONCE_BYTES :], head)
            except InvalidTag:
                raise LocalError(f"{path}: does not open; give the right password, or restore it from a copy") from None
        key = cls(rest)
        if key.public != public:
            raise LocalError(f"{path}: is damaged; restore it from a copy")
        return key

    def __repr__(self) -> str:
        return f"<SigningKey {fingerprint_of(self.public)[:16]}>"

    def __reduce__(self) -> str:
        raise TypeError("a SigningKey is not copied or pickled; store it")


_P = 2**255 - 19
# y of the points whose order divides 8, sign bit aside: under such a key one signature fits any message
_SMALL_ORDER_Y = {
    0,
    1,
    _P - 1,
    int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"),
    int.from_bytes(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"),
}


def check_signature(public: bytes, signature: bytes, data: bytes, who: str) -> None:
    """Raises RemoteError unless `signature` is that of `data` under `public`; `who` is named in the refusal."""
    if not _is_signature(public, signature, data):
        raise RemoteError(f"{plain_text(who)}: expected a valid signature under the key of this name")


@lru_cache(maxsize=4096)
def _is_signature(public: bytes, signature: bytes, data: bytes) -> bool:
    """Kept for the very same bytes: in a simulation every member checks what every other member signed."""
    try:
        check_public_key(public)
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (ValueError, InvalidSignature):
        return False
    return True


def check_public_key(public: bytes) -> None:
    y = int.from_bytes(public, "little") & ~(1 << 255)
    if len(public) != _KEY_BYTES or y >= _P or y in _SMALL_ORDER_Y:
        raise ValueError("expected an Ed25519 public key: 32 bytes, canonical, of large order")


def _stretched(password: bytes, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=_KEY_BYTES, n=1 << 15, r=8, p=1).derive(password)


def _read_private(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise LocalError(f"{path}: expected a file")
            if found.st_mode & 0o077:
                raise LocalError(f"{path}: others may read or write it; chmod 600 it, and think of it as known to them")
            return os.read(descriptor, 1 << 10)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise LocalError(f"{path}: cannot be read ({error.strerror})") from None


def fingerprint_of(public: bytes) -> str:
    """SHA-256 of a public signing key, hex: what administrators compare and accept."""
    return hashlib.sha256(public).hexdigest()
