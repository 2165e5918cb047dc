"""Clipping one unit's vector, so that its norm is under a bound as a real number and not just to rounding."""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from wardround.vector import F32

__all__ = [
    "BLOCK",
    "LARGEST_CLIP",
    "SMALLEST_CLIP",
    "check_clip",
    "clip_update",
    "factor",
    "layer_pieces",
    "wide_square",
]

BLOCK = 1 << 15
"""Values worked on at a time, so that their wider copies stay in cache."""
SMALLEST_CLIP, LARGEST_CLIP = 1e-12, 1e12
"""Between them no step in float32 or float64 loses more than the hair that is left below the bound."""

_ONE_THREAD = 1 << 13
"""Above 10,000 values OpenBLAS starts threads for a dot product, which takes it up to 500 times as long."""

_PASSES = 1.0 - 2.0**-23
_SHORTENED = 1.0 - 2.0**-22
"""What is longer than `_PASSES` of the bound is shortened to this part of it: float32 rounds by 2^-24 at most, and a
sum of d squares in float64 by less than 2^-31 up to d = 2^30. A shortened vector passes when it is clipped again."""


def check_clip(clip_norm: float) -> None:
    """Raise ValueError for a clip norm that is not between SMALLEST_CLIP and LARGEST_CLIP."""
    if not SMALLEST_CLIP <= clip_norm <= LARGEST_CLIP:
        raise ValueError(f"expected a clip norm of {SMALLEST_CLIP:g} to {LARGEST_CLIP:g}, got {clip_norm}")


def clip_update(update: F32, clip_norm: float | None, layers: Sequence[int] | None = None) -> F32:
    """`update` with an L2 norm of at most `clip_norm`; the array itself where it is so already, or without a bound.

    `layers` are the sizes of L tensors one after the other: each is then clipped to clip_norm / √L by itself. Zero
    vectors stay zero. Raises ValueError for a non-finite update (a NaN passes a comparison of norms), and for layers
    that do not add up to the update.
    """
    if not np.isfinite(update).all():
        bad = int(np.count_nonzero(~np.isfinite(update)))
        raise ValueError(f"expected a finite update, got {bad} non-finite values of {update.size}")
    if clip_norm is None:
        return update
    check_clip(clip_norm)
    sizes = (update.size,) if layers is None else tuple(layers)
    squares = [0.0] * len(sizes)
    for layer, _, piece in layer_pieces([update], sizes):
        squares[layer] += wide_square(piece)
    factors = [factor(value, clip_norm / math.sqrt(len(sizes))) for value in squares]
    if all(scale == 1.0 for scale in factors):
        return update
    clipped = np.empty_like(update)
    for layer, start, piece in layer_pieces([update], sizes):
        # in float64: a short bound over a long norm may be no normal number of float32
        np.multiply(piece, np.float64(factors[layer]), out=clipped[start : start + piece.size], casting="same_kind")
    return clipped


def factor(square: float, bound: float) -> float:
    """What to multiply a vector by whose squared norm is `square`, so that its norm is at most `bound`.

    1 for one that is shorter by a hair, zero included; otherwise the result is a hair shorter than `bound`.
    """
    if not math.isfinite(square):
        raise ValueError(f"expected a finite norm, got a square of {square}")
    norm = math.sqrt(square)
    return 1.0 if norm <= _PASSES * bound else _SHORTENED * bound / norm


def wide_square(piece: F32) -> float:
    """‖piece‖² in float64, which neither overflows nor loses small values; not finite exactly where `piece` is not."""
    with np.errstate(invalid="ignore"):  # a signalling NaN
        wide = piece.astype(np.float64)
    parts = (wide[start : start + _ONE_THREAD] for start in range(0, wide.size, _ONE_THREAD))
    return float(sum(np.dot(part, part) for part in parts))


def layer_pieces(chunks: Iterable[F32], sizes: Sequence[int]) -> Iterator[tuple[int, int, F32]]:
    """A vector in pieces of at most BLOCK values, none of two layers: the layer's number, where the piece starts, it.

    Raises ValueError for values that are not float32, and when the layers' `sizes` do not add up to the vector.
    """
    layer, at, left = -1, 0, 0
    for chunk in chunks:
        if chunk.dtype != np.float32 or chunk.ndim != 1:
            raise ValueError(f"expected float32 values in one row, got {chunk.dtype} of shape {chunk.shape}")
        start = 0
        while start < chunk.size:
            while not left:
                layer += 1
                if layer == len(sizes):
                    raise ValueError(f"expected {sum(sizes)} values, got more")
                left = sizes[layer]
            piece = chunk[start : start + min(left, BLOCK)]
            yield layer, at, piece
            start, at, left = start + piece.size, at + piece.size, left - piece.size
    if at != sum(sizes):
        raise ValueError(f"expected {sum(sizes)} values, got {at}")
