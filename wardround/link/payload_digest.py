"""The digest at the end of a transfer: GMAC (NIST SP 800-38D) under a key that is used for one payload only.

It finds damage: both ends know the key, and a changed payload of n bytes has the same digest with probability below
n / 2^124. That nobody else changes it is for TLS, that no end lies is for the signature over the SHA-256 of what the
payload is (`signing_inputs`), which whoever uses it checks; so nothing is hashed twice on the way, and GMAC is faster
than the chunks' checksums.
"""

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

__all__ = ["KEY_BYTES", "PayloadDigest"]

KEY_BYTES = 16
_NONCE = bytes(12)


class PayloadDigest:
    """Of the bytes given to `update`, in their order."""

    __slots__ = ("_digest", "_state")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"expected a key of {KEY_BYTES} bytes, got {len(key)}")
        self._state = Cipher(algorithms.AES(key), modes.GCM(_NONCE)).encryptor()
        self._digest: bytes | None = None

    def update(self, data: memoryview) -> None:
        self._state.authenticate_additional_data(data)

    def digest(self) -> bytes:
        """16 bytes; nothing can be added any more."""
        if self._digest is None:
            self._state.finalize()
            self._digest = self._state.tag
        return self._digest
