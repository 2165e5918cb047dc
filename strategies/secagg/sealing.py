"""Sealed bundles: what one member tells another through the server, in AES-256-GCM.

A key seals one message: it is derived for one round, one sender and one receiver (`key_agreement.share_key`), and the
sealed bytes are stored and sent again as they are. The nonce is therefore zero, and nothing is drawn. Sealing a second
message under a key would show the difference of both to the server and let it forge others.

Guarantee: to who does not know the key, nothing but the length is learnt, and no other bytes open (NIST SP 800-38D).
That the sender meant this message for this receiver and round is in the key and again in the associated data.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from wardround.strategies.secagg.key_agreement import KEY_BYTES, encode_digest, encode_index

__all__ = ["TAG_BYTES", "bundle_aad", "open_sealed", "seal"]

TAG_BYTES = 16
"""What sealing adds to a message's length."""

_NONCE = bytes(12)


def bundle_aad(h: bytes, sender: int, receiver: int) -> bytes:
    """The associated data of a bundle: h ‖ sender ‖ receiver, 36 bytes."""
    return encode_digest(h) + encode_index(sender) + encode_index(receiver)


def seal(key: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """`plaintext` encrypted, then the tag of 16 bytes; once for each key."""
    return _cipher(key).encrypt(_NONCE, plaintext, aad)


def open_sealed(key: bytes, sealed: bytes, aad: bytes) -> bytes:
    """The inverse of `seal`. Raises ValueError when key, bytes or associated data are not those of the sealing."""
    try:
        return _cipher(key).decrypt(_NONCE, sealed, aad)
    except InvalidTag:  # or fewer bytes than a tag
        raise ValueError("expected bytes sealed under this key for this round, sender and receiver") from None


def _cipher(key: bytes) -> AESGCM:
    if len(key) != KEY_BYTES:  # AES would take 16 or 24 as well
        raise ValueError(f"expected a key of {KEY_BYTES} bytes, got {len(key)}")
    return AESGCM(key)
