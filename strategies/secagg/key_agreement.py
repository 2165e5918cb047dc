"""Keys that two members of a roster agree on: X25519 once an epoch, and from it a seed and two keys for each round.

    key                   derived as                                                   of
    PRK_ij                HKDF-Extract(salt = roster hash, X25519(i, j))               the epoch
    seed r_ij             HKDF-Expand(PRK_ij, "pair" ‖ h ‖ lo ‖ hi, 32 bytes)          the round, lo < hi
    key of i's bundle     HKDF-Expand(PRK_il, "share" ‖ h ‖ i ‖ l, 32 bytes)           the round, from i to l

with SHA-256, "pair" and "share" as 4 and 5 ASCII bytes, h the 32 bytes of the round's hash and indices of the roster
as 2 bytes, big-endian. The infos are 40 and 41 bytes long, so no pair's is a share's.

Both parties are named in every info, since X25519 does not tell keys apart: for a public key u, others such as 1/u
agree with everybody on the same secret (u's point plus one of small order). A colluder that registers one would else
have the victim's masks, fall silent, and have the committee open them. Encodings that are not canonical are refused,
so that "no key twice" can be seen from the bytes.

Guarantee: to who knows neither private key, the derived keys are independent and uniform (gap Diffie-Hellman on
Curve25519 and HMAC-SHA-256 as a random oracle), whatever else is derived from the same agreement.

Source: RFC 7748, sections 5 and 6.1 (X25519 and its check for zero); RFC 5869 (HKDF); Bonawitz et al. 2017, "Practical
Secure Aggregation for Privacy-Preserving Machine Learning", section 4 (a seed for each pair).
"""

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

__all__ = [
    "DIGEST_BYTES",
    "KEY_BYTES",
    "MAX_ROSTER",
    "KeyPair",
    "check_public_key",
    "encode_digest",
    "encode_index",
    "generate",
    "pair_key",
    "pair_seed",
    "share_key",
]

KEY_BYTES = 32
DIGEST_BYTES = 32
MAX_ROSTER = 1 << 16
"""Members that an index of 2 bytes can name."""

_PRIME = (1 << 255) - 19


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """X25519 keys of one member and one epoch, 32 bytes each."""

    private: bytes = field(repr=False)
    public: bytes


def generate(random: Callable[[int], bytes]) -> KeyPair:
    """A fresh pair; `random` is asked once, for 32 bytes. Raises ValueError when it gives another number."""
    private = random(KEY_BYTES)
    return KeyPair(private=private, public=_private(private).public_key().public_bytes_raw())


def check_public_key(public: bytes) -> None:
    """Raise ValueError unless `public` is the canonical encoding of a coordinate: 32 bytes, below 2^255 - 19.

    X25519 itself would ignore the highest bit and reduce what is too large. Points of small order pass here, and are
    refused by `pair_key`.
    """
    if len(public) != KEY_BYTES:
        raise ValueError(f"expected a public key of {KEY_BYTES} bytes, got {len(public)}")
    if int.from_bytes(public, "little") >= _PRIME:
        raise ValueError("expected a public key in canonical form, below 2^255 - 19, got a larger number")


def pair_key(private: bytes, public: bytes, roster_hash: bytes) -> bytes:
    """PRK of the owner of `private` and the owner of `public`, 32 bytes: the same from both sides.

    Raises ValueError for a public key that is not canonical, or of small order (the shared secret is zero then, and
    known to everybody).
    """
    check_public_key(public)
    salt, own = encode_digest(roster_hash), _private(private)
    try:
        shared = own.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:  # how OpenSSL says that all bytes are zero
        raise ValueError("expected a public key of large order, got one that agrees on zero with everybody") from None
    return hmac.digest(salt, shared, "sha256")  # HKDF-Extract


def pair_seed(prk: bytes, h: bytes, lo: int, hi: int) -> bytes:
    """The seed r_ij of the members with roster indices lo < hi in the round of hash `h`, 32 bytes."""
    if lo >= hi:
        raise ValueError(f"expected the lower index first, got {lo} and {hi}")
    return _expand(prk, b"pair" + encode_digest(h) + encode_index(lo) + encode_index(hi))


def share_key(prk: bytes, h: bytes, sender: int, receiver: int) -> bytes:
    """The key that seals the one bundle from `sender` to `receiver` in the round of hash `h`, 32 bytes.

    The direction is part of it: else both would seal under one key and one nonce.
    """
    if sender == receiver:
        raise ValueError(f"expected two members, got {sender} twice; a member's own share stays with it")
    return _expand(prk, b"share" + encode_digest(h) + encode_index(sender) + encode_index(receiver))


def encode_index(index: int) -> bytes:
    """A roster index as 2 bytes, big-endian. Raises ValueError for what does not fit."""
    if not 0 <= index < MAX_ROSTER:
        raise ValueError(f"expected a roster index of 0 to {MAX_ROSTER - 1}, got {index}")
    return index.to_bytes(2, "big")


def encode_digest(digest: bytes) -> bytes:
    """`digest` itself. Raises ValueError unless it is 32 bytes: fixed widths leave no doubt of what is hashed."""
    if len(digest) != DIGEST_BYTES:
        raise ValueError(f"expected a SHA-256 digest of {DIGEST_BYTES} bytes, got {len(digest)}")
    return digest


def _private(private: bytes) -> X25519PrivateKey:
    if len(private) != KEY_BYTES:
        raise ValueError(f"expected a private key of {KEY_BYTES} bytes, got {len(private)}")
    return X25519PrivateKey.from_private_bytes(private)


def _expand(prk: bytes, info: bytes) -> bytes:
    if len(prk) != KEY_BYTES:
        raise ValueError(f"expected a pseudorandom key of {KEY_BYTES} bytes, got {len(prk)}")
    return HKDFExpand(SHA256(), KEY_BYTES, info).derive(prk)
