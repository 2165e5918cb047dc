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

Guarantee: under a seed that nobody else knows, n blocks are told from uniform ones with an advantage of at most
n²/2^129 over what breaks AES-256 (the switch from a permutation to a function). A seed is for one mask of one round:
two vectors under one mask are a two-time pad. Seeds are bytes of Python, which cannot be overwritten: who holds them
drops them as soon as they are used.

Source: Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning", section 4 (masks
from a pseudorandom generator); NIST SP 800-38D, sections 6.5 and 7.1 (the counters of GCM).
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from cryptography.hazmat.primitives.ciphers import AEADEncryptionContext, Cipher, algorithms, modes
from numpy.typing import NDArray

from wardround.strategies.privacy.secure_random import U64

__all__ = ["GROUP_SEED_BYTES", "SEGMENT_BYTES", "U32", "U64", "add_masks", "mask", "scalar_mask"]

U32 = NDArray[np.uint32]

GROUP_SEED_BYTES = 32
"""Of a seed: the key of AES-256."""
SEGMENT_BYTES = 1 << 20

_VECTOR_LANE, _SCALAR_LANE = 0, 1
_SEGMENT_VALUES = SEGMENT_BYTES // 4
_BLOCK_BYTES = 1 << 17
"""Of keystream made at a time: it, the zeros it is made from and the sums it is added to stay in cache, and two threads
seldom wait for the interpreter's lock between two calls."""
_ZEROS = bytes(_BLOCK_BYTES)
_ROOM = 16  # beyond the block, for versions of `cryptography` that ask for it
_SEEDS_AT_ONCE = 64
"""Ciphers held at a time, so that they too stay in cache; a server has thousands of seeds to take off."""
_WORTH_A_THREAD = 16
"""Segments times seeds, a millisecond of work: below it, starting threads takes longer than they save."""


def add_masks(total: U32, seeds: Sequence[tuple[bytes, int]], *, threads: int = 2) -> None:
    """Add sign · G(seed) mod 2^32 to `total`, shape (d,), in place, for each (seed, sign) with a sign of +1 or -1.

    Segments of 2^18 values are shared out to up to `threads` threads. They run at the same time where `cryptography`
    gives up the interpreter's lock in a cipher's update (50.0.2 does, older versions may not), as numpy does in sums.
    What is small, or within one segment, is done by the caller's thread.
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
    segments = range(-(-total.size // _SEGMENT_VALUES))
    workers = min(threads, len(segments)) if len(segments) * len(seeds) >= _WORTH_A_THREAD else 1
    if workers < 2:
        for segment in segments:
            _add_to_segment(total, seeds, segment)
        return
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(partial(_add_to_segment, total, seeds), segments):
            pass  # asked for, so that an error of a thread is raised here


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


def _add_to_segment(total: U32, seeds: Sequence[tuple[bytes, int]], segment: int) -> None:
    part = total[segment * _SEGMENT_VALUES : (segment + 1) * _SEGMENT_VALUES]
    scratch = np.empty((_BLOCK_BYTES + _ROOM) // 4, dtype="<u4")
    room, zeros = scratch.data.cast("B"), memoryview(_ZEROS)
    for first in range(0, len(seeds), _SEEDS_AT_ONCE):
        ciphers = [
            (_cipher(seed, _VECTOR_LANE, segment), np.add if sign == 1 else np.subtract)
            for seed, sign in seeds[first : first + _SEEDS_AT_ONCE]
        ]
        for start in range(0, part.size, _BLOCK_BYTES // 4):
            sums = part[start : start + _BLOCK_BYTES // 4]
            plaintext, words = zeros[: sums.nbytes], scratch[: sums.size]
            for cipher, combine in ciphers:
                cipher.update_into(plaintext, room)
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
