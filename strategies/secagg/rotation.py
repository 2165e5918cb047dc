"""A public random rotation: it spreads a vector's length evenly, so that few bits hold each of its values."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wardround.strategies.privacy.secure_random import SecureRandom
from wardround.vector import F32

__all__ = ["SEED_BYTES", "Rotation", "hadamard", "padded_size"]

SEED_BYTES = 32

_ROW = 1 << 14
"""Values that are transformed at a time, so that they stay in cache. OpenBLAS starts threads for a matrix product of
over 2^18 multiplications, here _ROW · _NARROW, and on busy cores these take up to fifty times as long."""
_NARROW = 1 << 4
"""Steps closer than this leave too little for one loop of numpy; a product with a small matrix takes their place."""


def padded_size(size: int) -> int:
    """The least power of two that is at least `size`."""
    if size < 1:
        raise ValueError(f"expected at least one value, got {size}")
    return 1 << (size - 1).bit_length()


def hadamard(values: F32) -> None:
    """Replace `values`, shape (d,) of a power of two, by H values / √d, H the Walsh-Hadamard matrix; its own inverse.

    O(d log d) in place, with d / 16 values or 128 KiB of work space. H is a Kronecker product, so that far steps run
    over all rows of a narrow slab of columns, and near ones over one row: each value is fetched from memory twice.
    Raises ValueError for another type or size.
    """
    if values.dtype != np.float32 or values.ndim != 1 or not values.flags.c_contiguous:
        raise ValueError(f"expected float32 values in one row, got {values.dtype} of shape {values.shape}")
    if values.size != padded_size(values.size):
        raise ValueError(f"expected a power of two of values, got {values.size}")
    row = min(values.size, _ROW)
    table = values.reshape(-1, row)
    slab = max(_NARROW, row // len(table))
    if len(table) > 1:
        for start in range(0, row, slab):
            part = table[:, start : start + slab].copy()  # rows a power of two apart share few places in a cache
            _steps(part)
            table[:, start : start + slab] = part
    near = min(row, _NARROW)
    matrix = _matrix(near) * np.float32(1 / math.sqrt(values.size))
    for part in table:
        block = part.reshape(-1, near)
        _steps(block)
        np.copyto(block, block @ matrix)


def _steps(table: F32) -> None:
    """The transform along the first axis, not normalised."""
    step = 1
    while step < len(table):
        pairs = table.reshape(-1, 2, step, table.shape[1], copy=False)
        upper, lower = pairs[:, 0], pairs[:, 1]
        difference = upper - lower
        upper += lower
        lower[:] = difference
        step *= 2


def _matrix(size: int) -> F32:
    matrix: F32 = np.ones((1, 1), dtype=np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


@dataclass(frozen=True, slots=True)
class Rotation:
    """x -> H D x / √d of `size` values padded with zeros to d, a power of two; D random signs out of a public `seed`.

    It keeps every length, up to the rounding of float32. Whatever the seed, privacy does not depend on it; a seed that
    is fixed before the updates makes each rotated value subgaussian of variance |x|²/d.
    Source: Ailon and Chazelle 2009; Suresh et al. 2017 (arXiv 1611.00429), section 3; Kairouz et al. 2021
    (arXiv 2102.06387), section 4.2.
    """

    size: int
    seed: bytes

    def __post_init__(self) -> None:
        padded_size(self.size)
        if len(self.seed) != SEED_BYTES:
            raise ValueError(f"expected a seed of {SEED_BYTES} bytes, got {len(self.seed)}")

    @property
    def padded(self) -> int:
        """d."""
        return padded_size(self.size)

    def apply(self, vector: F32) -> F32:
        """The rotated vector, a new one of shape (d,). Raises ValueError for another size than `size`."""
        if vector.shape != (self.size,):
            raise ValueError(f"expected {self.size} values in one row, got shape {vector.shape}")
        rotated: F32 = np.zeros(self.padded, dtype=np.float32)
        rotated[: self.size] = vector
        self._flip(rotated)
        hadamard(rotated)
        return rotated

    def invert(self, rotated: F32) -> F32:
        """The vector of shape (size,) that `apply` rotates to this one; `rotated` is used up."""
        if rotated.shape != (self.padded,):
            raise ValueError(f"expected {self.padded} values in one row, got shape {rotated.shape}")
        hadamard(rotated)
        self._flip(rotated)
        return rotated[: self.size]

    def _flip(self, values: F32) -> None:
        """Change the signs that D changes; sign bits, so that nothing is rounded."""
        signs = _Signs(self.seed)
        for start in range(0, values.size, _ROW):
            part = values[start : start + _ROW].view(np.uint32)
            part ^= signs.next(part.size)


class _Signs:
    """Sign bits of float32 from the keystream of a seed, one bit each."""

    def __init__(self, seed: bytes) -> None:
        self._random = SecureRandom(seed)

    def next(self, n: int) -> NDArray[np.uint32]:
        words = self._random.words((n + 63) // 64).astype("<u8", copy=False)
        bits = np.unpackbits(words.view(np.uint8), count=n, bitorder="little").astype(np.uint32)
        bits <<= np.uint32(31)
        return bits
