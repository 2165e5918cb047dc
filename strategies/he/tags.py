"""Tags: what proves to a member that a decrypted sum is that of the listed members' own updates, each once.

A server that adds ciphertexts up can also leave one out, add one twice, take parts of several, or add a plaintext of
its own: BFV lets everybody compute. So each ciphertext carries, in slots of its own, linear tags under keys that
members share and the server does not have. Member i's tag of its slots x in a chunk is, modulo t,

    τ_i = Σ_l r_l x_il + p_i

with weights r of the round and chunk, and a pad p_i of the round, chunk and member. Tags add up as slots do, so a sum
over the members of a list must have the tag Σ_l r_l X_l + Σ_{i in list} p_i. Whatever else the server makes of the
ciphertexts is, to a member, some other X' and τ'; both r and the pads are unknown to it, so that τ' is right with a
chance of at most 1/t + 2^-64 for each tag, and of less than 2^-64 for all tags of one chunk together. A chunk that
fails ends the epoch and its keys (see `client_round`): an answer that depends on what a server did to a ciphertext
would tell it of the secret key, bit by bit.

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

from wardround.errors import RemoteError
from wardround.strategies.he.he_plan import HEPlan
from wardround.strategies.he.packing import Slots
from wardround.strategies.secagg.key_agreement import encode_digest, encode_index
from wardround.strategies.secagg.keystream import U64

__all__ = ["TAG_KEY_BYTES", "Tagging"]

TAG_KEY_BYTES = 32
_PART_BITS = 15
"""Weights are multiplied in parts, so that a product of a slot and a part stays below 2^64."""


class Tagging:
    """The tags of one round: `key` of the epoch, 32 bytes, and `h`, the digest of the round's descriptor."""

    __slots__ = ("_key", "_plan", "_t")

    def __init__(self, plan: HEPlan, key: bytes, h: bytes) -> None:
        if len(key) != TAG_KEY_BYTES:
            raise ValueError(f"expected a key of {TAG_KEY_BYTES} bytes, got {len(key)}")
        self._plan, self._t = plan, plan.plain_modulus
        self._key = HKDFExpand(SHA256(), TAG_KEY_BYTES, b"wardround he tags 1" + encode_digest(h)).derive(key)

    def tag(self, slots: Slots, chunk: int, member: int) -> U64:
        """The tags of one chunk of `member`'s own slots, shape (plan.tags,)."""
        return np.array(self._expected(slots, chunk, (member,)), dtype=np.uint64)

    def check(self, slots: Slots, tags: U64, chunk: int, members: Iterable[int]) -> None:
        """Raises RemoteError unless `tags` are those of a sum `slots` of all `members`, each once."""
        if [int(tag) for tag in tags] != self._expected(slots, chunk, tuple(members)):
            raise RemoteError(
                f"chunk {chunk}: expected the sum of the listed members' updates, each once, got another; nothing of "
                "it is told, and the key of this epoch is not used again"
            )

    def _expected(self, slots: Slots, chunk: int, members: tuple[int, ...]) -> list[int]:
        if slots.shape != (self._plan.slots,):
            raise ValueError(f"expected {self._plan.slots} slots, got {slots.shape}")
        weights = self._drawn(b"weights", chunk, 0, self._plan.tags * self._plan.slots).reshape(self._plan.tags, -1)
        tags = [self._product(slots, row) for row in weights]
        for member in members:
            pads = self._drawn(b"pad", chunk, member, self._plan.tags)
            tags = [(tag + int(pad)) % self._t for tag, pad in zip(tags, pads, strict=True)]
        return tags

    def _product(self, slots: Slots, weights: U64) -> int:
        """Σ weights · slots modulo t, exactly: the remainders of 2^12 products fit a word together."""
        total, t = 0, np.uint64(self._t)
        for part in range(0, self._t.bit_length(), _PART_BITS):
            low = (weights >> np.uint64(part)) & np.uint64((1 << _PART_BITS) - 1)
            total += int((slots * low % t).sum()) << part
        return total % self._t

    def _drawn(self, purpose: bytes, chunk: int, member: int, count: int) -> U64:
        """`count` numbers below t, each with a chance of at most 1/t + 2^-64, by AES-256 in counter mode."""
        info = b"wardround he " + purpose + b"\0" + chunk.to_bytes(4, "big") + encode_index(member)
        key = HKDFExpand(SHA256(), 32, info).derive(self._key)
        stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(8 * count))
        return np.frombuffer(stream, dtype="<u8") % np.uint64(self._t)
