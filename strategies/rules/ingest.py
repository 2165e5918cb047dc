"""What is checked of a contribution before any rule sees it: what no honest site sends is refused."""

import math
from collections.abc import Sequence

import numpy as np

from wardround.vector import VectorSource

__all__ = ["LONGEST", "check_vector", "outsize"]

LONGEST = 1e15
"""The longest L2 norm that is believed: squares and sums of float32 values stay finite below it."""


def check_vector(vector: VectorSource, size: int, longest: float = LONGEST) -> tuple[float | None, str]:
    """The vector's L2 norm and an empty string, or why it is refused: another size or type, non-finite, too long.

    Reads the vector once.
    """
    if vector.size != size:
        return None, f"expected {size} values, got {vector.size}"
    square, read = 0.0, 0
    for chunk in vector.chunks():
        if chunk.dtype != np.float32 or chunk.ndim != 1:
            return None, f"expected float32 values in one row, got {chunk.dtype} of shape {chunk.shape}"
        read += chunk.size
        with np.errstate(over="ignore", invalid="ignore"):
            part = float(np.dot(chunk, chunk))
        if not math.isfinite(part):
            bad = chunk.size - int(np.count_nonzero(np.isfinite(chunk)))
            if bad:
                return None, f"expected finite values, got {bad} that are not"
            return None, f"expected a norm of at most {LONGEST:g}, got one that float32 cannot square"
        square += part
    if read != size:
        return None, f"expected {size} values, got {read}"
    norm = math.sqrt(square)
    if norm > longest:
        return None, f"expected a norm of at most {longest:g}, got {norm:.3g}"
    return norm, ""


def outsize(norms: Sequence[float], factor: float) -> list[str]:
    """For each norm why it is absurd beside the others, or an empty string: above `factor` times their median.

    The median of n norms is that of honest ones when more than half are.
    """
    middle = float(np.median(norms)) if len(norms) else 0.0
    limit = factor * middle
    return [
        f"norm {norm:.3g} is more than {factor:g} times the median {middle:.3g}" if middle and norm > limit else ""
        for norm in norms
    ]
