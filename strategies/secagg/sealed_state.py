"""Secrets of a member on disk: lists of byte strings, each under a key of the store, encrypted and bound to that key.

AES-256-GCM under a key that the site keeps elsewhere, with a random nonce of 12 bytes before the ciphertext and the
store's key as associated data, so that no record passes for another. What cannot be seen is an older copy of the whole
store: that is what the store's own folder has to be safe from.
"""

from collections.abc import Callable, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from wardround.errors import LocalError
from wardround.state_store import StateStore

__all__ = ["SealedState"]

_KEY_BYTES, _NONCE_BYTES, _LENGTH_BYTES = 32, 12, 8


class SealedState:
    """Records in `store`, sealed under `key` (32 bytes); `random(n)` gives n bytes for nonces."""

    __slots__ = ("_cipher", "_random", "store")

    def __init__(self, store: StateStore, key: bytes, random: Callable[[int], bytes]) -> None:
        if len(key) != _KEY_BYTES:
            raise ValueError(f"expected a key of {_KEY_BYTES} bytes, got {len(key)}")
        self.store = store
        self._cipher, self._random = AESGCM(key), random

    def put(self, key: str, parts: Sequence[bytes]) -> None:
        """Store `parts` in the place of what was there; durable on return."""
        plain = b"".join(len(part).to_bytes(_LENGTH_BYTES, "big") + part for part in parts)
        nonce = self._random(_NONCE_BYTES)
        self.store.put(key, nonce + self._cipher.encrypt(nonce, plain, key.encode()))

    def get(self, key: str) -> list[bytes]:
        """The parts last put; none where nothing was, or where they were erased. LocalError where they do not open."""
        stored = self.store.get(key)
        if not stored:
            return []
        try:
            plain = self._cipher.decrypt(stored[:_NONCE_BYTES], stored[_NONCE_BYTES:], key.encode())
        except (InvalidTag, ValueError):
            raise LocalError(f"{key}: does not open with this site's key; give the right one, or end the run") from None
        parts, at = [], 0
        while at < len(plain):
            start = at + _LENGTH_BYTES
            at = start + int.from_bytes(plain[at:start], "big")
            parts.append(plain[start:at])
        return parts

    def erase(self, key: str) -> None:
        """Nothing is there any more; durable on return."""
        self.store.put(key, b"")
