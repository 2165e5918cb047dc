"""Masks: a seed of 32 bytes becomes the words of an AES-256 keystream, which are added to a vector or taken from it.

The keystream G(seed) is cut into segments of 1 MiB (65,536 AES blocks). The block `n` of a segment is AES-256 of

    offset  size  field    of the counter block, all big-endian
         0     4  lane     0 for the vector (words of 32 bits), 1 for the scalars (words of 64 bits)
         4     8  segment  from 0 on
        12     4  counter  2 + n, so from 2 to 65,537

under the seed as key; words are little-endian. That is counter mode from (nonce ‖ 00000002) with a nonce of 12 bytes,
which is what AES-256-GCM adds to its plaintext. It is taken from there, and the tag is dropped, since OpenSSL uses the
processor's wide AES instructions in GCM and not in counter mode. Each segment is begun by itself, so that any slice is
made on any thread. No two lanes and no two segments share a counter block, so their words are independent.

Guarantee: under a seed that nobody else knows and that is used once, the words are indistinguishable from uniform
(AES-256 as a pseudorandom permutation; up to 2^-128 times half the square of the blocks made under one seed). A seed
is for one mask of one round: two vectors under one mask are a two-time pad. Seeds are bytes of Python, which cannot
be overwritten: who holds them drops them as soon as they are used.

Source: Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning", section 4 (masks
from a pseudorandom generator); NIST SP 800-38D, sections 6.5 and 7.1 (the counters of GCM).
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers import AEADEncryptionContext, Cipher, algorithms, modes
from numpy.typing import NDArray

__all__ = ["GROUP_SEED_BYTES", "SEGMENT_BYTES", "U32", "U64", "add_masks", "mask", "scalar_mask"]

U32: TypeAlias = NDArray[np.uint32]
U64: TypeAlias = NDArray[np.uint64]

GROUP_SEED_BYTES = 32
"""Of a seed: the key of AES-256."""
SEGMENT_BYTES = 1 << 20

_VECTOR_LANE, _SCALAR_LANE = 0, 1
_BLOCK_BYTES = 1 << 16
"""Of keystream made at a time: it, the zeros it is made from and the sums it is added to stay in cache."""
_ZEROS = bytes(_BLOCK_BYTES)
_ROOM = 16  # beyond the block, for versions of `cryptography` that ask for it
_SEEDS_AT_ONCE = 64
"""Ciphers held at a time, so that they too stay in cache; a server has thousands of seeds to take off."""


def add_masks(total: U32, seeds: Sequence[tuple[bytes, int]], *, threads: int = 2) -> None:
    """Add sign · G(seed) mod 2^32 to `total`, shape (d,), in place, for each (seed, sign) with a sign of +1 or -1.

    Segments of 2^18 values are shared out to up to `threads` threads, which run at the same time since cipher and
    sums hold no lock of the interpreter; a vector within one segment is done by the caller's thread alone.
    Raises ValueError, and changes nothing, for a seed, a sign or an array that is not as described.
    """
    if total.ndim != 1 or total.dtype != np.dtype("<u4") or not total.flags.c_contiguous or not total.flags.writeable:
        raise ValueError(
            f"expected a contiguous, writeable vector of uint32, got {total.dtype} of shape {total.shape}; copy it"
        )
    if threads < 1:
        raise ValueError(f"expected at least 1 thread, got {threads}")
    for seed, sign in seeds:
        _check_seed(seed)
        if sign not in (1, -1):
            raise ValueError(f"expected a sign of 1 or -1, got {sign}")
    segments = -(-total.nbytes // SEGMENT_BYTES)
    workers = min(threads, segments)
    pending = count()  # each number is handed out once, whatever thread asks
    if workers < 2:
        _work(total, seeds, pending)
        return
    with ThreadPoolExecutor(workers - 1) as pool:
        others = [pool.submit(_work, total, seeds, pending) for _ in range(workers - 1)]
        _work(total, seeds, pending)
    for other in others:
        other.result()


def mask(seed: bytes, size: int) -> U32:
    """The first `size` words of G(seed) in the vector lane, shape (size,): what `add_masks` adds with sign +1."""
    words = np.zeros(_at_least_0(size), dtype="<u4")
    add_masks(words, [(seed, 1)])
    return words


def scalar_mask(seed: bytes, size: int) -> U64:
    """The first `size` words of G(seed) in the scalar lane, shape (size,); independent of the vector lane's words.

    Sums of these are taken mod 2^64, as numpy adds arrays of uint64.
    """
    _check_seed(seed)
    per_segment = SEGMENT_BYTES // 8
    words = np.empty(_at_least_0(size) + _ROOM // 8, dtype="<u8")
    for segment, start in enumerate(range(0, size, per_segment)):
        length = 8 * min(per_segment, size - start)
        cipher = _cipher(seed, _SCALAR_LANE, segment)
        cipher.update_into(bytes(length), words[start:].data.cast("B")[: length + _ROOM])
    return words[:size]


def _work(total: U32, seeds: Sequence[tuple[bytes, int]], pending: Iterator[int]) -> None:
    """Do segments of `total` until there are no more."""
    scratch = np.empty((_BLOCK_BYTES + _ROOM) // 4, dtype="<u4")
    per_segment = SEGMENT_BYTES // 4
    for segment in pending:
        part = total[segment * per_segment : (segment + 1) * per_segment]
        if not part.size:
            return
        for first in range(0, len(seeds), _SEEDS_AT_ONCE):
            _add_to_segment(part, segment, seeds[first : first + _SEEDS_AT_ONCE], scratch)


def _add_to_segment(part: U32, segment: int, seeds: Sequence[tuple[bytes, int]], scratch: U32) -> None:
    ciphers = [(_cipher(seed, _VECTOR_LANE, segment), np.add if sign == 1 else np.subtract) for seed, sign in seeds]
    room, zeros = scratch.data.cast("B"), memoryview(_ZEROS)
    for start in range(0, part.size, _BLOCK_BYTES // 4):
        sums = part[start : start + _BLOCK_BYTES // 4]
        zeros, words = zeros[: sums.nbytes], scratch[: sums.size]
        for cipher, combine in ciphers:
            cipher.update_into(zeros, room)
            combine(sums, words, out=sums)


def _cipher(seed: bytes, lane: int, segment: int) -> AEADEncryptionContext:
    nonce = lane.to_bytes(4, "big") + segment.to_bytes(8, "big")
    return Cipher(algorithms.AES(seed), modes.GCM(nonce)).encryptor()


def _check_seed(seed: bytes) -> None:
    if len(seed) != GROUP_SEED_BYTES:  # AES would take 16 or 24 as well, and be another function
        raise ValueError(f"expected a seed of {GROUP_SEED_BYTES} bytes, got {len(seed)}")


def _at_least_0(size: int) -> int:
    if size < 0:
        raise ValueError(f"expected a size of at least 0, got {size}")
    return size
