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
from wardround.strategies.rules.rule import Needs
from wardround.vector import F32, F64

__all__ = ["Mean"]

_BLOCK = 1 << 15
"""Floats added at a time, so that the float64 products stay in cache."""


@dataclass(frozen=True, slots=True)
class Mean:
    """Sum of weight x vector in float64, divided by the sum of weights; O(d) memory for any number."""

    passes: int = 1
    needs: Needs = Needs.SUM

    def apply(self, contributions: Iterable[Contribution]) -> tuple[F32, Report]:
        """The weighted mean, shape (d,). Raises LocalError when the weights add up to nothing."""
        total: F64 | None = None
        weights = 0
        lines: list[Evidence] = []
        scratch = np.empty(_BLOCK, dtype=np.float64)
        for contribution in contributions:
            if total is None:
                total = np.zeros(contribution.vector.size, dtype=np.float64)
            square, start = 0.0, 0
            for chunk in contribution.vector.chunks(_BLOCK):
                product = np.multiply(chunk, float(contribution.weight), out=scratch[: chunk.size])
                total[start : start + chunk.size] += product
                square += float(np.dot(product, product))
                start += chunk.size
            weights += contribution.weight
            lines.append(
                Evidence(
                    members=contribution.members,
                    weight=float(contribution.weight),
                    norm=math.sqrt(square) / contribution.weight if contribution.weight else None,
                    verdict=Verdict.ACCEPTED,
                )
            )
        if total is None or weights <= 0:
            raise LocalError("mean: expected at least one contribution with a weight above 0")
        total /= weights
        return total.astype(np.float32), Report(tuple(lines))
