"""The weighted mean of the contributions (FedAvg).

Source: McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data",
Algorithm 1. Tolerates no Byzantine contribution: one bad vector moves the mean anywhere.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from wardround.contribution import Contribution, Evidence, Report, Verdict
from wardround.errors import LocalError
from wardround.orders import SiteId
from wardround.strategies.rules.rule import Needs
from wardround.vector import F32, F64, VectorSource

__all__ = ["Mean"]

_BLOCK = 1 << 15
"""Floats worked on at a time, so that their float64 copies stay in cache."""


@dataclass(frozen=True, slots=True)
class Mean:
    """Sum of weight x vector in float64, divided by the sum of weights; O(d) memory for any number."""

    passes: int = 1
    needs: Needs = Needs.SUM

    def apply(self, contributions: Iterable[Contribution]) -> tuple[F32, Report]:
        """The weighted mean, shape (d,). Raises LocalError when the weights add up to nothing."""
        weighted: _WeightedSum | None = None
        seen: list[tuple[tuple[SiteId, ...], int]] = []
        for contribution in contributions:
            if weighted is None:
                weighted = _WeightedSum(contribution.vector.size)
            weighted.add(contribution.vector, contribution.weight)
            seen.append((contribution.members, contribution.weight))
        weights = sum(weight for _, weight in seen)
        if weighted is None or weights <= 0:
            raise LocalError("mean: expected at least one contribution with a weight above 0")
        total, norms = weighted.finish()
        lines = (
            Evidence(members=members, weight=float(weight), norm=norm, verdict=Verdict.ACCEPTED)
            for (members, weight), norm in zip(seen, norms, strict=True)
        )
        return (total / weights).astype(np.float32), Report(tuple(lines))


class _WeightedSum:
    """Σ weight x vector, and each vector's norm. Short vectors are gathered and multiplied many at a time."""

    def __init__(self, size: int) -> None:
        self._total: F64 = np.zeros(size, dtype=np.float64)
        self._rows: F64 = np.empty((max(1, _BLOCK // max(size, 1)), min(size, _BLOCK)), dtype=np.float64)
        self._weights: list[int] = []
        self._norms: list[float] = []

    def add(self, vector: VectorSource, weight: int) -> None:
        """Add one vector of the sum's size."""
        if self._total.size > _BLOCK:
            self._add_long(vector, weight)
            return
        row, start = self._rows[len(self._weights)], 0
        for chunk in vector.chunks(_BLOCK):
            row[start : start + chunk.size] = chunk
            start += chunk.size
        self._weights.append(weight)
        if len(self._weights) == len(self._rows):
            self._add_rows()

    def finish(self) -> tuple[F64, list[float]]:
        """The sum, shape (size,), and the norms in the order of the vectors."""
        self._add_rows()
        return self._total, self._norms

    def _add_rows(self) -> None:
        if not self._weights:
            return
        rows = self._rows[: len(self._weights)]
        self._total += np.array(self._weights, dtype=np.float64) @ rows
        self._norms += np.sqrt(np.einsum("ij,ij->i", rows, rows)).tolist()
        self._weights.clear()

    def _add_long(self, vector: VectorSource, weight: int) -> None:
        square, start = 0.0, 0
        for chunk in vector.chunks(_BLOCK):
            wide = self._rows[0, : chunk.size]
            wide[:] = chunk
            square += float(np.dot(wide, wide))
            wide *= weight
            self._total[start : start + chunk.size] += wide
            start += chunk.size
        self._norms.append(math.sqrt(square))
