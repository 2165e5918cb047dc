"""Passwords: what is one, how it is kept (argon2id, RFC 9106), and how it is compared."""

import threading
import unicodedata

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from wardround.errors import LocalError
from wardround.plain_text import plain_text

__all__ = ["MOST_LETTERS", "Passwords", "account_name"]

MOST_LETTERS = 1024
_LEAST_LETTERS = 12
_AT_ONCE = 2  # each takes 64 MiB


class Passwords:
    """Hashes and verifies, at most two at once. Threads may share it."""

    __slots__ = ("_hasher", "_nobody", "_places")

    def __init__(self) -> None:
        self._hasher = PasswordHasher()  # argon2id, 3 passes over 64 MiB, 4 lanes
        self._nobody = self._hasher.hash("nobody has this password")
        self._places = threading.BoundedSemaphore(_AT_ONCE)

    def hash(self, password: str) -> str:
        """What is kept of a password, with a salt of its own. LocalError for one that is too short."""
        return self._hasher.hash(_settled(password))

    def matches(self, kept: str | None, password: str) -> bool:
        """Whether this is the password of which `kept` was made; None, for nobody's, costs the same and never is."""
        with self._places:
            try:
                self._hasher.verify(self._nobody if kept is None else kept, unicodedata.normalize("NFC", password))
            except (VerificationError, InvalidHashError):
                return False
        return kept is not None


def account_name(text: str) -> str:
    """`text` as the name of an account: in one form, in small letters. ValueError where it is none."""
    name = unicodedata.normalize("NFKC", text).strip().casefold()
    if not name or len(name) > 64 or plain_text(name) != name:
        raise ValueError(f"expected a name of 1 to 64 printable letters, got {plain_text(text, 64)!r}")
    return name


def _settled(password: str) -> str:
    found = unicodedata.normalize("NFC", password)
    if not _LEAST_LETTERS <= len(found) <= MOST_LETTERS:
        raise LocalError(f"password: expected {_LEAST_LETTERS} letters or more, got {len(found)}")
    return found
