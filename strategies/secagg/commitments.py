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

from collections.abc import Collection, Iterator, Mapping, Sequence
from hashlib import sha256

from wardround.strategies.secagg.key_agreement import DIGEST_BYTES, encode_digest, encode_index
from wardround.strategies.secagg.keystream import GROUP_SEED_BYTES

__all__ = ["MAX_SECRETS", "commit_own_seed", "commit_pair_seed", "proved_root", "share_proof", "share_root"]

MAX_SECRETS = 256
"""Of one dealer: its own seed and one for each other member of a group."""


def commit_own_seed(h: bytes, dealer: int, seed: bytes) -> bytes:
    """The commitment of `dealer` to its own seed b_i in the round of hash `h`, 32 bytes."""
    return sha256(b"wr-own-1" + encode_digest(h) + encode_index(dealer) + _of_a_seed(seed)).digest()


def commit_pair_seed(h: bytes, lo: int, hi: int, seed: bytes) -> bytes:
    """The commitment to the seed r_ij of members lo < hi, 32 bytes: the same from both of them."""
    if lo >= hi:
        raise ValueError(f"expected the lower index first, got {lo} and {hi}")
    return sha256(b"wr-pair1" + encode_digest(h) + encode_index(lo) + encode_index(hi) + _of_a_seed(seed)).digest()


def share_root(h: bytes, dealer: int, receiver: int, shares: Sequence[bytes]) -> bytes:
    """The root over the shares of all secrets that `dealer` deals to `receiver`, 32 bytes; both may be one member.

    Raises ValueError for more than 256 shares or none, and for a share that is not 32 bytes.
    """
    _check_count(len(shares))
    top = _hash(_leaves(dict(enumerate(shares))))
    return _root(h, dealer, receiver, len(shares), top)


def share_proof(shares: Sequence[bytes], opened: Collection[int]) -> list[bytes]:
    """What proves the shares of the secrets `opened` without the others: hashes, at most one for each other secret.

    They are those of the largest subtrees without an opened leaf, from left to right.
    """
    _check_count(len(shares))
    _check_opened(opened, len(shares))
    leaves = _leaves(dict(enumerate(shares)))

    def hashes(first: int, last: int) -> Iterator[bytes]:
        if not any(first <= secret < last for secret in opened):
            yield _hash(leaves[first:last])
        elif last - first > 1:
            middle = first + _left(last - first)
            yield from hashes(first, middle)
            yield from hashes(middle, last)

    return list(hashes(0, len(shares)))


def proved_root(
    h: bytes, dealer: int, receiver: int, number: int, opened: Mapping[int, bytes], proof: Sequence[bytes]
) -> bytes:
    """The root that `proof` and the shares `opened`, secret → share, lead to, of a tree over `number` shares.

    The shares are those dealt if and only if it is the root that the dealer signed. Raises ValueError for a secret
    that is not 0 to number - 1, a share or hash that is not 32 bytes, and a proof with a hash too few or too many.
    """
    _check_count(number)
    _check_opened(opened, number)
    if len(proof) > number - len(opened) or any(len(entry) != DIGEST_BYTES for entry in proof):
        raise ValueError(f"expected at most {number - len(opened)} hashes of {DIGEST_BYTES} bytes, got {len(proof)}")
    leaves = dict(zip(sorted(opened), _leaves(opened), strict=True))
    given = iter(proof)

    def hashed(first: int, last: int) -> bytes:
        if not any(first <= secret < last for secret in opened):
            entry = next(given, None)
            if entry is None:
                raise ValueError(f"expected a hash for secrets {first} to {last - 1}, got none; the proof is too short")
            return entry
        if last - first == 1:
            return leaves[first]
        middle = first + _left(last - first)
        return _node(hashed(first, middle), hashed(middle, last))

    top = hashed(0, number)
    if next(given, None) is not None:
        raise ValueError(f"expected fewer than {len(proof)} hashes; the proof is too long")
    return _root(h, dealer, receiver, number, top)


def _leaves(shares: Mapping[int, bytes]) -> list[bytes]:
    return [
        sha256(b"wr-leaf1" + encode_index(secret) + _of_a_seed(share)).digest()
        for secret, share in sorted(shares.items())
    ]


def _hash(hashes: list[bytes]) -> bytes:
    """The hash of a tree over these leaves; pairing neighbours and keeping the odd one is the shape said above."""
    while len(hashes) > 1:
        pairs = zip(hashes[::2], hashes[1::2], strict=False)
        hashes = [_node(left, right) for left, right in pairs] + hashes[len(hashes) & ~1 :]
    return hashes[0]


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"wr-node1" + left + right).digest()


def _root(h: bytes, dealer: int, receiver: int, number: int, top: bytes) -> bytes:
    bound = encode_digest(h) + encode_index(dealer) + encode_index(receiver) + encode_index(number)
    return sha256(b"wr-root1" + bound + top).digest()


def _left(number: int) -> int:
    """Leaves on the left side of a tree with `number`, at least 2."""
    return 1 << (number - 1).bit_length() - 1


def _of_a_seed(value: bytes) -> bytes:
    if len(value) != GROUP_SEED_BYTES:
        raise ValueError(f"expected a seed or a share of one, {GROUP_SEED_BYTES} bytes, got {len(value)}")
    return value


def _check_count(number: int) -> None:
    if not 1 <= number <= MAX_SECRETS:
        raise ValueError(f"expected shares of 1 to {MAX_SECRETS} secrets, got {number}")


def _check_opened(opened: Collection[int], number: int) -> None:
    wrong = [secret for secret in opened if not 0 <= secret < number]
    if wrong or not opened:
        raise ValueError(f"expected secrets of 0 to {number - 1} to open, got {wrong[0] if wrong else 'none'}")
