"""Shamir's secret sharing over GF(2^8), byte by byte: any `threshold` shares give the secrets, fewer give nothing.

The field is that of AES (x^8 + x^4 + x^3 + x + 1). Holder l has the point x = l + 1; each byte of the secrets is the
value at 0 of a polynomial P of degree below `threshold`, and a share is the bytes' values at the holder's point.

Splitting writes P in the basis X_0, X_1, ... of Lin, Chung and Han instead of 1, x, x², ...: the degree of X_j is j,
and X_j(0) is 1 for j = 0 and else 0. So a secret as first coefficient and uniform bytes as others is a uniform choice
among all polynomials of degree below the threshold with that value at 0, as in Shamir's scheme; and one fast Fourier
transform gives the values at all points, with n log n multiplications and not n times the threshold.

Multiplications are made of shifts and products with constants that everyone knows (points, never secrets): nothing is
looked up in a table at a place that depends on a secret, so caches betray nothing to other programs on the machine.

Guarantee: any threshold - 1 shares are uniform bytes, independent of the secrets, if `random` is uniform. Shares are
not authentic: a wrong one gives wrong secrets without a sign of it, which commitments have to show.

Source: Shamir 1979, "How to Share a Secret"; Lin, Chung and Han 2014, "Novel Polynomial Basis and Its Application to
Reed-Solomon Erasure Codes" (arXiv 1404.3458): the basis and its transform.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from wardround.strategies.privacy.secure_random import U64

__all__ = ["MAX_HOLDERS", "combine", "split"]

U8 = NDArray[np.uint8]

MAX_HOLDERS = 255
"""Points of the field beside 0."""

_STRIP = 128
"""Words of each row worked on at a time, so that all rows stay in cache: 256 of them are 256 KiB."""
_LOW_BITS = np.uint64(0x0101_0101_0101_0101)


def split(secrets: bytes, threshold: int, holders: int, random: Callable[[int], bytes]) -> list[bytes]:
    """Shares of `secrets` for holders 0, 1, ...: each as long as the secrets, any `threshold` of them enough.

    `random` is asked once for (threshold - 1) · len(secrets) bytes, coefficient after coefficient. Many secrets of one
    round belong in one call, end to end. Raises ValueError unless 1 <= threshold <= holders <= 255, for no secrets,
    and when `random` gives another number of bytes.
    """
    if not 1 <= threshold <= holders <= MAX_HOLDERS:
        raise ValueError(f"expected 1 <= threshold <= holders <= {MAX_HOLDERS}, got {threshold} and {holders}")
    size, length = len(secrets), (threshold - 1) * len(secrets)
    if not size:
        raise ValueError("expected secrets of at least one byte")
    drawn = random(length)
    if len(drawn) != length:
        raise ValueError(f"expected {length} random bytes, got {len(drawn)}")
    layers = holders.bit_length()  # points 0 to 2^layers - 1, of which the holders' begin at 1
    rows = np.zeros((1 << layers, -(-size // 8)), dtype="<u8")
    rows.view(np.uint8)[:threshold, :size] = np.frombuffer(secrets + drawn, dtype=np.uint8).reshape(threshold, size)
    for start in range(0, rows.shape[1], _STRIP):
        strip = np.ascontiguousarray(rows[:, start : start + _STRIP])
        _evaluate(strip, holders + 1)
        rows[:, start : start + _STRIP] = strip
    return [row[:size].tobytes() for row in rows.view(np.uint8)[1 : holders + 1]]


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secrets that `shares`, holder → share, are of, from the `threshold` holders of lowest index.

    Raises ValueError for fewer shares than that, for shares of unequal length or none, and for an index that is not
    0 to 254. Whether a share is right, and whether `threshold` is the one of the split, cannot be seen here.
    """
    if not 1 <= threshold <= MAX_HOLDERS:
        raise ValueError(f"expected a threshold of 1 to {MAX_HOLDERS}, got {threshold}")
    if len(shares) < threshold:
        raise ValueError(f"expected the shares of at least {threshold} holders, got {len(shares)}")
    wrong = [holder for holder in shares if not 0 <= holder < MAX_HOLDERS]
    if wrong:
        raise ValueError(f"expected holders of 0 to {MAX_HOLDERS - 1}, got {wrong[0]}")
    lengths = {len(share) for share in shares.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"expected shares of one length above 0, got lengths {sorted(lengths)}")
    chosen, size = sorted(shares)[:threshold], lengths.pop()
    rows = np.zeros((threshold, -(-size // 8)), dtype="<u8")
    for row, holder in zip(rows.view(np.uint8), chosen, strict=True):
        row[:size] = np.frombuffer(shares[holder], dtype=np.uint8)
    weights = _weights_at_0(np.array(chosen) + 1)
    secrets: U64 = np.bitwise_xor.reduce(_times(rows, weights), axis=0)
    return secrets.tobytes()[:size]


def _evaluate(rows: U64, points: int) -> None:
    """Turn coefficients in the basis X_0, X_1, ..., one a row, into values at 0, 1, ..., of which `points` are asked.

    A layer joins halves of polynomials: with P = A + s·B, where s is the layer's normalised subspace polynomial, the
    values at ω and at ω + 2^layer are A(ω) + s(ω)·B(ω) and that + B(ω), since s is linear and s(2^layer) = 1.
    """
    for layer in reversed(range(len(rows).bit_length() - 1)):
        half = 1 << layer
        used = -(-points // (2 * half))  # blocks that hold points asked for
        pairs = rows.reshape(-1, 2, half, rows.shape[1])[:used]
        at = _SUBSPACE[layer, : 2 * half * used : 2 * half]
        pairs[1:, 0] ^= _times(pairs[1:, 1], at[1:])  # the first block's factor is s(0) = 0
        pairs[:, 1] ^= pairs[:, 0]


def _times(words: U64, constants: U8) -> U64:
    """Eight field elements a word times a constant of their own for each entry of the first axis.

    Bit k of an element adds constant · x^k, by a product with 0 or 1 in each byte, which carries nothing over.
    """
    product, bits = np.zeros_like(words), np.empty_like(words)
    factors = _TIMES_POWERS[:, constants].reshape(8, -1, *(1,) * (words.ndim - 1))
    for shift, factor in zip(_SHIFTS, factors, strict=True):
        np.right_shift(words, shift, out=bits)
        bits &= _LOW_BITS
        bits *= factor
        product ^= bits
    return product


def _weights_at_0(points: NDArray[np.int64]) -> U8:
    """Lagrange's weights: with these, the values at `points` add up to the value at 0. Points only, so in tables."""
    below = points[:, None] ^ points[None, :]
    np.fill_diagonal(below, 1)
    logs = _LOG[points].sum() - _LOG[points] - _LOG[below].sum(axis=1)
    weights: U8 = _EXP[logs % 255]
    return weights


def _tables() -> tuple[U8, NDArray[np.int64], U8]:
    """Powers of the generator 3, their logarithms (of 0 too, which means nothing), and all products."""
    exp, log = np.zeros(255, dtype=np.uint8), np.zeros(256, dtype=np.int64)
    power = 1
    for k in range(255):
        exp[k], log[power] = power, k
        doubled = power << 1 ^ (0x11B if power & 0x80 else 0)
        power ^= doubled
    products = exp[(log[:, None] + log[None, :]) % 255]
    products[0] = products[:, 0] = 0
    return exp, log, products


def _subspace_polynomials() -> U8:
    """Row i: the values at 0 to 255 of the polynomial with the roots 0 to 2^i - 1, over its value at 2^i."""
    rows = np.empty((8, 256), dtype=np.uint8)
    values = np.arange(256, dtype=np.uint8)
    for i in range(8):
        at = values[1 << i]
        rows[i] = _PRODUCTS[values, _EXP[-_LOG[at] % 255]]
        values = _PRODUCTS[values, values ^ at]
    return rows


_EXP, _LOG, _PRODUCTS = _tables()
_SUBSPACE = _subspace_polynomials()
_SHIFTS = np.arange(8, dtype=np.uint64)
_TIMES_POWERS = _PRODUCTS[1 << np.arange(8)].astype(np.uint64)
"""Row k: the products of 0 to 255 and x^k."""
