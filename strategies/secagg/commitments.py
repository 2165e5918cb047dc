"""Commitments of a round: to each seed, and by a hash tree to the shares that one dealer deals to one receiver.

All are SHA-256 in full length, of

    what          tag, 8 ASCII bytes  then
    own seed      wr-own-1            h ‖ dealer ‖ b_i
    pair seed     wr-pair1            h ‖ lo ‖ hi ‖ r_ij
    leaf          wr-leaf1            secret ‖ share
    node          wr-node1            left ‖ right
    root          wr-root1            h ‖ dealer ‖ receiver ‖ number of secrets ‖ hash of the whole tree

with h the round's hash, seeds, shares and hashes of 32 bytes and all other fields of 2 bytes, big-endian: fixed widths
and distinct tags, so no two of these are of the same bytes. A tree's shape follows from its number of leaves: the left
side is the largest power of two below it (RFC 6962, section 2.1). Leaf and root together bind a share to the round, to
its dealer and receiver, and to which of the dealer's secrets it is of.

Guarantee: binding, as far as SHA-256 resists collisions; hiding, since seeds and shares have 256 uniform bits of their
own (SHA-256 as a random oracle), so nothing is added to blind them. Commit to nothing that can be guessed.

Source: Merkle 1987, "A Digital Signature Based on a Conventional Encryption Function".
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256

from wardround.strategies.secagg.key_agreement import encode_digest, encode_index
from wardround.strategies.secagg.keystream import GROUP_SEED_BYTES

__all__ = [
    "MAX_SECRETS",
    "ShareTree",
    "commit_own_seed",
    "commit_pair_seed",
    "proved_root",
    "share_root",
]

MAX_SECRETS = 256
"""Of one dealer: its own seed and one for each other member of a group."""

_LEAVES = tuple(b"wr-leaf1" + encode_index(secret) for secret in range(MAX_SECRETS))
"""What comes before the share in a leaf, by secret."""


def commit_own_seed(h: bytes, dealer: int, seed: bytes) -> bytes:
    """The commitment of `dealer` to its own seed b_i in the round of hash `h`, 32 bytes."""
    return sha256(b"wr-own-1" + encode_digest(h) + encode_index(dealer) + _of_a_seed(seed)).digest()


def commit_pair_seed(h: bytes, lo: int, hi: int, seed: bytes) -> bytes:
    """The commitment to the seed r_ij of members lo < hi, 32 bytes: the same from both of them."""
    if lo >= hi:
        raise ValueError(f"expected the lower index first, got {lo} and {hi}")
    return sha256(b"wr-pair1" + encode_digest(h) + encode_index(lo) + encode_index(hi) + _of_a_seed(seed)).digest()


class ShareTree:
    """The hash tree over the `shares` of all secrets that one dealer deals to one receiver, made once.

    Raises ValueError for more than 256 shares or none, and for a share that is not 32 bytes.
    """

    __slots__ = ("_levels", "shares")

    def __init__(self, shares: Sequence[bytes]) -> None:
        self.shares, self._levels = shares, _levels(shares)

    def root(self, h: bytes, dealer: int, receiver: int) -> bytes:
        """The root, 32 bytes; dealer and receiver may be one member."""
        return _root(h, dealer, receiver, len(self.shares), self._levels[-1][0])

    def proofs(self, opened: Iterable[int]) -> list[tuple[bytes, ...]]:
        """For each of the secrets `opened` what proves its share: the hashes beside its path to the root, at most 8."""
        proofs = []
        for secret in opened:
            at, proof = _checked(secret, len(self.shares)), []
            for level in self._levels[:-1]:
                if at ^ 1 < len(level):  # else it is the odd one, which has no neighbour
                    proof.append(level[at ^ 1])
                at >>= 1
            proofs.append(tuple(proof))
        return proofs


def share_root(h: bytes, dealer: int, receiver: int, shares: Sequence[bytes]) -> bytes:
    """The root of the tree over `shares`."""
    return ShareTree(shares).root(h, dealer, receiver)


def proved_root(
    h: bytes, dealer: int, receiver: int, number: int, secret: int, share: bytes, proof: Sequence[bytes]
) -> bytes:
    """The root that `proof` and the share of `secret` lead to, in a tree over the shares of `number` secrets.

    It is the root that the dealer signed if and only if this share was dealt. Raises ValueError for a secret that is
    not 0 to number - 1, a share or hash that is not 32 bytes, and a proof with a hash too few or too many.
    """
    at, width = _checked(secret, _checked_number(number)), number
    hashed, given = sha256(_LEAVES[secret] + _of_a_seed(share)).digest(), iter(proof)
    while width > 1:
        if at ^ 1 < width:
            beside = encode_digest(next(given, b""))
            pair = beside + hashed if at & 1 else hashed + beside
            hashed = sha256(b"wr-node1" + pair).digest()
        at, width = at >> 1, (width + 1) // 2
    if next(given, None) is not None:
        raise ValueError(f"expected fewer than {len(proof)} hashes in the proof of secret {secret} of {number}")
    return _root(h, dealer, receiver, number, hashed)


def _levels(shares: Sequence[bytes]) -> list[list[bytes]]:
    """The hashes from the leaves up to the top; pairing neighbours, the odd one kept, is the shape said above."""
    _checked_number(len(shares))
    if set(map(len, shares)) != {GROUP_SEED_BYTES}:
        for share in shares:
            _of_a_seed(share)
    level = [sha256(tag + share).digest() for tag, share in zip(_LEAVES, shares, strict=False)]
    levels = [level]
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        level = [sha256(b"wr-node1" + left + right).digest() for left, right in pairs] + level[len(level) & ~1 :]
        levels.append(level)
    return levels


def _root(h: bytes, dealer: int, receiver: int, number: int, top: bytes) -> bytes:
    bound = encode_digest(h) + encode_index(dealer) + encode_index(receiver) + encode_index(number)
    return sha256(b"wr-root1" + bound + top).digest()


def _of_a_seed(value: bytes) -> bytes:
    if len(value) != GROUP_SEED_BYTES:
        raise ValueError(f"expected a seed or a share of one, {GROUP_SEED_BYTES} bytes, got {len(value)}")
    return value


def _checked_number(number: int) -> int:
    if not 1 <= number <= MAX_SECRETS:
        raise ValueError(f"expected shares of 1 to {MAX_SECRETS} secrets, got {number}")
    return number


def _checked(secret: int, number: int) -> int:
    if not 0 <= secret < number:
        raise ValueError(f"expected a secret of 0 to {number - 1}, got {secret}")
    return secret
