"""The weighted mean of the contributions (FedAvg).

Source: McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data",
Algorithm 1. Tolerates no Byzantine contribution: one bad vector moves the mean anywhere.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from wardround.contribution import Contribution, Evidence, Report, Verdict
from wardround.strategies.rules.ingest import check_vector
from wardround.strategies.rules.rule import Aggregate, Needs, RoundContext
from wardround.vector import F64, VectorSource

__all__ = ["Mean"]

_BLOCK = 1 << 15
"""Floats worked on at a time, so that their float64 copies stay in cache."""


@dataclass(frozen=True, slots=True)
class Mean:
    """Sum of weight x vector in float64, divided by the sum of weights; O(d) memory for any number."""

    passes: int = 2
    """Once to see that a vector is finite, then to add it up."""
    needs: Needs = Needs.SUM

    def apply(self, contributions: Iterable[Contribution], context: RoundContext) -> Aggregate:
        """The weighted mean, shape (d,); none when the weights add up to nothing."""
        weighted = _WeightedSum(context.size)
        lines: list[Evidence] = []
        for contribution in contributions:
            norm, reason = check_vector(contribution.vector, context.size, context.longest)
            weight, verdict = (0, Verdict.REFUSED) if reason else (contribution.weight, Verdict.ACCEPTED)
            if not reason:
                weighted.add(contribution.vector, weight)
            members = contribution.members
            lines.append(Evidence(members=members, weight=float(weight), norm=norm, verdict=verdict, reason=reason))
        weights = sum(line.weight for line in lines)
        report = Report(tuple(lines))
        if weights <= 0:
            return Aggregate(vector=None, report=report, reason="no contribution has a weight above 0")
        return Aggregate(vector=(weighted.finish() / weights).astype(np.float32), report=report)


class _WeightedSum:
    """Σ weight x vector. Short vectors are gathered and multiplied many at a time."""

    def __init__(self, size: int) -> None:
        self._total: F64 = np.zeros(size, dtype=np.float64)
        self._rows: F64 = np.empty((max(1, _BLOCK // max(size, 1)), min(size, _BLOCK)), dtype=np.float64)
        self._weights: list[int] = []

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

    def finish(self) -> F64:
        """The sum, shape (size,)."""
        self._add_rows()
        return self._total

    def _add_rows(self) -> None:
        if not self._weights:
            return
        rows = self._rows[: len(self._weights)]
        self._total += np.array(self._weights, dtype=np.float64) @ rows
        self._weights.clear()

    def _add_long(self, vector: VectorSource, weight: int) -> None:
        start = 0
        for chunk in vector.chunks(_BLOCK):
            wide = self._rows[0, : chunk.size]
            wide[:] = chunk
            wide *= weight
            self._total[start : start + chunk.size] += wide
            start += chunk.size
