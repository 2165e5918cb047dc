"""Packing: an encoded update and its scalar lane as slots of plaintexts, and sums of them back again.

Both are one row of numbers below 2^bits, `fields` of them in a slot, the lowest bits first; the last slots of each
plaintext are for tags. Words of the update are integers of `bits` bits, moved up by 2^(bits − 1) so that none is
negative; with distributed noise they are reduced modulo 2^bits instead, and so is their sum, which loses nothing as
long as the true sum fits the ring (`encoding`). A scalar of 64 bits is split into digits of `bits` bits; their sums are
put together modulo 2^64.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wardround.errors import RemoteError
from wardround.strategies.he.he_plan import HEPlan
from wardround.strategies.secagg.keystream import U32, U64

__all__ = ["Packing", "Slots"]

Slots = NDArray[np.uint64]
"""Rows of plaintexts, shape (chunks, plan.slots), values below t; the slots of tags are not among them."""

_SCALAR_BITS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """Of an update of `size` words and `scalars` numbers of 64 bits. `ring`: words are reduced modulo 2^bits."""

    plan: HEPlan
    bits: int
    size: int
    scalars: int
    ring: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 32:
            raise ValueError(f"expected words of 2 to 32 bits, got {self.bits}")
        self.plan.fields(self.bits)

    @property
    def fields(self) -> int:
        """Numbers in a slot."""
        return self.plan.fields(self.bits)

    @property
    def digits(self) -> int:
        """Numbers that a scalar is split into."""
        return -(-_SCALAR_BITS // self.bits)

    @property
    def numbers(self) -> int:
        """All numbers that are packed."""
        return self.size + self.digits * self.scalars

    @property
    def chunks(self) -> int:
        """Plaintexts, one at least: a message without any would say nothing of who is in a sum."""
        return max(1, -(-self.numbers // (self.fields * self.plan.slots)))

    def pack(self, words: U32, scalars: U64) -> Slots:
        """The slots of an update, shape (size,), and its scalars, shape (scalars,).

        Raises ValueError for other shapes, and, without a ring, for a word that is no integer of `bits` bits.
        """
        if words.shape != (self.size,) or scalars.shape != (self.scalars,):
            raise ValueError(
                f"expected {self.size} words and {self.scalars} scalars, got {words.shape} and {scalars.shape}"
            )
        numbers = np.zeros(self.chunks * self.plan.slots * self.fields, dtype=np.uint64)
        numbers[: self.size] = self._lifted(words)
        mask = np.uint64((1 << self.bits) - 1)
        at = self.size
        for digit in range(self.digits):
            numbers[at : at + self.scalars] = (scalars >> np.uint64(digit * self.bits)) & mask
            at += self.scalars
        width = np.uint64(self.plan.field_bits(self.bits))
        of_slot = numbers.reshape(-1, self.fields)
        slots = of_slot[:, -1].copy()
        for field in range(self.fields - 2, -1, -1):
            slots <<= width
            slots |= of_slot[:, field]
        return slots.reshape(self.chunks, self.plan.slots)

    def unpack(self, slots: Slots, members: int) -> tuple[U32, U64]:
        """The sums of words, as signed integers of 32 bits, and of scalars, modulo 2^64, of so many members.

        Raises RemoteError for a sum that so many members cannot have.
        """
        if not 1 <= members <= self.plan.members:
            raise ValueError(f"expected 1 to {self.plan.members} members, got {members}")
        if slots.shape != (self.chunks, self.plan.slots):
            raise ValueError(f"expected slots of shape {(self.chunks, self.plan.slots)}, got {slots.shape}")
        width = self.plan.field_bits(self.bits)
        rest, mask = slots.reshape(-1).copy(), np.uint64((1 << width) - 1)
        numbers = np.empty((rest.size, self.fields), dtype=np.uint64)
        for field in range(self.fields):
            np.bitwise_and(rest, mask, out=numbers[:, field])
            rest >>= np.uint64(width)
        sums = numbers.reshape(-1)
        if rest.any() or int(sums.max()) > members * ((1 << self.bits) - 1) or sums[self.numbers :].any():
            raise RemoteError(f"expected a sum of {members} packed updates, got another plaintext")
        scalars = np.zeros(self.scalars, dtype=np.uint64)
        at = self.size
        for digit in range(self.digits):
            scalars += sums[at : at + self.scalars] << np.uint64(digit * self.bits)
            at += self.scalars
        return self._lowered(sums[: self.size], members), scalars

    def _lifted(self, words: U32) -> U64:
        if self.ring:
            return words.astype(np.uint64) & np.uint64((1 << self.bits) - 1)
        half = 1 << (self.bits - 1)
        moved = words.view(np.int32).astype(np.int64) + half
        if moved.size and not (0 <= int(moved.min()) and int(moved.max()) < 2 * half):
            worst = int(words.view(np.int32)[np.argmax(np.abs(moved - half))])
            raise ValueError(f"expected integers of {self.bits} bits, got {worst}: a value above the clip")
        return moved.view(np.uint64)

    def _lowered(self, sums: U64, members: int) -> U32:
        if not self.ring:
            return (sums.view(np.int64) - members * (1 << (self.bits - 1))).astype(np.int32).view(np.uint32)
        up = np.uint64(64 - self.bits)  # the sign is the highest bit of the ring
        return ((sums << up).view(np.int64) >> np.int64(up)).astype(np.int32).view(np.uint32)
