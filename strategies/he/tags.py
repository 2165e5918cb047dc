"""Tags: what proves to a member that a decrypted sum is that of the listed members' own updates, each once.

A server that adds ciphertexts up can also leave one out, add one twice, take parts of several, or add a plaintext of
its own: BFV lets everybody compute. So each ciphertext carries, in slots of its own, linear tags under keys that
members share and the server does not have. Member i's tag of its slots x in a chunk is, modulo t,

    τ_i = Σ_l r_l x_il + p_i

with weights r of the round, of 45 bits, and a pad p_i of the round, chunk and member. Tags add up as slots do, so a
sum over the members of a list must have the tag Σ_l r_l X_l + Σ_{i in list} p_i. Whatever else the server makes of the
ciphertexts is, to a member, some other X' and τ'; both r and the pads are unknown to it, so that τ' is right with a
chance of at most 1/t + 2^-45 for each tag, and of less than 2^-64 for all tags of a chunk together. All chunks are
looked at before anything is told, and a sum that fails ends the epoch and its keys (see `client_round`): an answer that
depends on what a server did to a ciphertext would tell it of the secret key, bit by bit.

Guarantee: against a server that has no member's keys, with HKDF-SHA-256 and AES as pseudorandom functions. A member has
the keys, and could forge.

Sources: Agrawal and Boneh 2009, "Homomorphic MACs: MAC-Based Integrity for Network Coding", section 3 (linear tags over
a field, with a pad for each message); Catalano and Fiore 2013, "Practical Homomorphic MACs for Arithmetic Circuits"
(eprint 2013/146), section 3. Reactions to altered ciphertexts: Chenal and Tang 2014, "On Key Recovery Attacks against
Existing Somewhat Homomorphic Encryption Schemes" (eprint 2014/535).
"""

from collections.abc import Iterable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from numpy.typing import NDArray

from wardround.strategies.he.he_plan import HEPlan
from wardround.strategies.he.packing import Slots
from wardround.strategies.secagg.key_agreement import encode_digest, encode_index
from wardround.strategies.secagg.keystream import U64

__all__ = ["TAG_KEY_BYTES", "Tagging"]

TAG_KEY_BYTES = 32
_PART_BITS, _PARTS = 15, 3
"""Slots and weights are multiplied in parts of 15 bits: 4096 products of them add up exactly in floating point."""
_PART = np.uint64((1 << _PART_BITS) - 1)
_AES_BLOCK, _ROWS = 16, 8
"""So few rows at once that the matrix library starts no threads, which would cost more than the product."""
_WEIGHT = np.uint64((1 << (_PART_BITS * _PARTS)) - 1)

F64 = NDArray[np.float64]


class Tagging:
    """The tags of one round: `key` of the epoch, 32 bytes, and `h`, the digest of the round's descriptor."""

    __slots__ = ("_key", "_plan", "_t", "_weights")

    def __init__(self, plan: HEPlan, key: bytes, h: bytes) -> None:
        if len(key) != TAG_KEY_BYTES:
            raise ValueError(f"expected a key of {TAG_KEY_BYTES} bytes, got {len(key)}")
        self._plan, self._t = plan, plan.plain_modulus
        self._key = HKDFExpand(SHA256(), TAG_KEY_BYTES, b"wardround he tags 1" + encode_digest(h)).derive(key)
        weights = self._drawn(b"weights", 0, 0, plan.tags * plan.slots) & _WEIGHT
        self._weights = _parts(weights.reshape(plan.tags, plan.slots)).reshape(_PARTS * plan.tags, plan.slots).T

    def tags(self, slots: Slots, first: int, members: Iterable[int]) -> U64:
        """The tags of the slots of chunks from number `first` on, shape (chunks, plan.tags).

        Of one member's own slots, or of a sum of `members`.
        """
        chunks = len(slots)
        if slots.shape != (chunks, self._plan.slots):
            raise ValueError(f"expected {self._plan.slots} slots of each chunk, got {slots.shape}")
        found = [
            sum(int(part) << (_PART_BITS * (i + j)) for (i, j), part in np.ndenumerate(parts)) % self._t
            for parts in self._products(slots).reshape(-1, _PARTS, _PARTS)
        ]
        total = np.array(found, dtype=np.uint64).reshape(chunks, self._plan.tags)
        for member in members:
            pads = self._drawn(b"pads", member, first * self._plan.tags, chunks * self._plan.tags)
            total = (total + pads.reshape(chunks, -1) % np.uint64(self._t)) % np.uint64(self._t)
        return total

    def hold(self, slots: Slots, tags: U64, first: int, members: Iterable[int]) -> bool:
        """Whether `tags`, shape (chunks, plan.tags), are those of a sum of all `members`, each once."""
        return bool(np.array_equal(tags, self.tags(slots, first, members)))

    def _products(self, slots: Slots) -> F64:
        """Sums of products of parts, shape (chunks, tags, parts of a weight, parts of a slot): exact, below 2^53."""
        chunks, tags = len(slots), self._plan.tags
        found = np.empty((_PARTS, chunks, _PARTS * tags))
        for at in range(0, chunks, _ROWS):
            for part in range(_PARTS):
                np.matmul(_part(slots[at : at + _ROWS], part), self._weights, out=found[part, at : at + _ROWS])
        return found.reshape(_PARTS, chunks, tags, _PARTS).transpose(1, 2, 3, 0)

    def _drawn(self, purpose: bytes, member: int, first: int, count: int) -> U64:
        """Words `first` to `first + count` of a stream for this purpose and member, of AES-256 in counter mode."""
        info = b"wardround he " + purpose + b"\0" + encode_index(member)
        key = HKDFExpand(SHA256(), 32, info).derive(self._key)
        block, skipped = divmod(8 * first, _AES_BLOCK)
        stream = Cipher(algorithms.AES(key), modes.CTR(block.to_bytes(_AES_BLOCK, "big"))).encryptor()
        return np.frombuffer(stream.update(bytes(skipped + 8 * count)), dtype="<u8", offset=skipped)


def _part(numbers: U64, part: int) -> F64:
    return ((numbers >> np.uint64(_PART_BITS * part)) & _PART).astype(np.float64)


def _parts(numbers: U64) -> F64:
    """The lowest 45 bits of numbers, shape (m, n), in three parts of 15, shape (m, 3, n)."""
    return np.stack([_part(numbers, part) for part in range(_PARTS)], axis=1)
