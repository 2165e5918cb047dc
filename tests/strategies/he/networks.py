"""Networks and rows for the tests of private inference."""

from itertools import pairwise

import numpy as np

from wardround.strategies.he.inference_plan import Box, Layer, Network
from wardround.vector import F64

__all__ = ["box", "network", "rows_in"]


def network(*widths: int, seed: int = 1, size: float = 1.0) -> Network:
    random = np.random.default_rng(seed)
    return Network(
        layers=tuple(
            Layer(weight=random.normal(0, size / width**0.5, (following, width)), bias=random.normal(0, 1, following))
            for width, following in pairwise(widths)
        )
    )


def box(inputs: int, low: float = -4.0, high: float = 9.0) -> Box:
    return Box(low=np.full(inputs, low), high=np.full(inputs, high))


def rows_in(found: Box, n: int, seed: int = 2) -> F64:
    """Corners of the box, half of them, and points within."""
    shares = np.random.default_rng(seed).random((n, len(found.low)))
    shares[::2] = np.rint(shares[::2])
    rows: F64 = found.low + shares * (found.high - found.low)
    return rows
