"""Gradients of single rows with respect to one tensor: their lengths, and their weighted sum.

A length is taken in float64 of the very numbers that are summed. Lengths that are computed another way (inner products
of positions, a second backward pass) may miss a gradient that is long where large terms cancel. Products and sums are
of float64: in float32 the rounding of a sum over many rows moves it by more than one row may (Casacuberta et al. 2022,
"Widespread Underestimation of Sensitivity in Differentially Private Libraries and How to Fix It").
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Outer", "Piece", "Values", "total_of"]

_BLOCK = 1 << 20
"""Values of float32 that are widened at a time."""
_LARGEST = 1e30
"""Length beyond which an input is absurd."""


@dataclass(frozen=True, slots=True)
class Values:
    """The gradients themselves, shape (n, ...)."""

    values: Tensor

    def norms(self) -> Tensor:
        """L2 norm of each row's gradient, shape (n,), float64."""
        return _lengths(self.values.reshape(len(self.values), -1))

    def without(self, rows: Tensor) -> "Values":
        """With 0 for the rows that the mask `rows`, shape (n,), names."""
        return Values(self.values.masked_fill(rows.view(-1, *(1,) * (self.values.dim() - 1)), 0))

    def add_to(self, total: Tensor, factors: Tensor) -> None:
        """Add Σ factor x gradient to `total`, a contiguous tensor of float64; `factors` have shape (n,)."""
        rows = self.values.reshape(len(self.values), -1)
        many = max(1, _BLOCK // rows.shape[1])
        for part, factor in zip(torch.split(rows, many), torch.split(factors, many), strict=True):
            total.view(-1).addmv_(part.mT.double(), factor)


@dataclass(frozen=True, slots=True)
class Outer:
    """Gradients `left` x `right`ᵀ of a matrix, from (n, o) and (n, i); they are never made (Goodfellow 2015).

    Those of an endless or absurdly long `right` count as not finite.
    """

    left: Tensor
    right: Tensor

    def norms(self) -> Tensor:
        """L2 norm of each row's gradient, shape (n,), float64."""
        right = _lengths(self.right)
        return _lengths(self.left) * right.masked_fill(right > _LARGEST, torch.inf)

    def without(self, rows: Tensor) -> "Outer":
        """With 0 for the rows that the mask `rows`, shape (n,), names."""
        mask = rows.view(-1, 1)
        return Outer(self.left.masked_fill(mask, 0), self.right.masked_fill(mask, 0))

    def add_to(self, total: Tensor, factors: Tensor) -> None:
        """Add Σ factor x gradient to `total`, shape (o, i), float64; `factors` have shape (n,)."""
        total.addmm_((self.left * factors.view(-1, 1)).mT, self.right.double())


Piece = Values | Outer


def total_of(one: Piece, other: Piece) -> Values:
    """The gradients of a tensor that was used twice."""
    return Values(_values(one) + _values(other))


def _values(piece: Piece) -> Tensor:
    return piece.values if isinstance(piece, Values) else piece.left.unsqueeze(2) * piece.right.unsqueeze(1)


def _lengths(rows: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return lengths
