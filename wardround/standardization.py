"""Standardising number columns by plan constants, or by sums over all sites that name no patient."""

from collections.abc import Sequence

import numpy as np

from wardround.errors import RemoteError
from wardround.orders import Statistics
from wardround.plan_sections import ColumnType, Data, Standardize
from wardround.tally import MeansSpec, Tally
from wardround.vector import F32, F64, I64

__all__ = ["robust_statistics", "standardize", "statistics_fault", "statistics_of", "statistics_tally"]

_BITS = 32
"""Fractional bits of the sums: rounding them moves a variance by less than the floor, with 2^31 rows at most."""

_VARIANCE_FLOOR = 2.0 ** (1 - _BITS)
_MOST_ROWS = 1 << 31
_ROUNDING = 1e-6
"""Of float32 values at the edge of their range."""


def _number_inputs(data: Data) -> I64:
    """Positions of the number columns among the encoded inputs."""
    positions, at = [], 0
    for column in data.columns:
        if column.type is ColumnType.NUMBER:
            positions.append(at)
        at += column.width
    return np.array(positions, dtype=np.int64)


def _ranges(data: Data) -> tuple[F64, F64]:
    ranges = [column.range for column in data.columns if column.type is ColumnType.NUMBER]
    bounds = np.array([limits or (0.0, 1.0) for limits in ranges], dtype=np.float64).reshape(-1, 2)
    return bounds[:, 0], bounds[:, 1]


def _spec(data: Data) -> MeansSpec:
    numbers = [column.name for column in data.columns if column.type is ColumnType.NUMBER]
    return MeansSpec(names=tuple(f"{name}:x" for name in numbers) + tuple(f"{name}:xx" for name in numbers))


def statistics_tally(data: Data, x: F32) -> Tally:
    """Count, and sums of x and x² of each number column scaled from its range to [0, 1]; `x` is (n, inputs)."""
    low, high = _ranges(data)
    scaled = (x[:, _number_inputs(data)].astype(np.float64) - low) / (high - low)
    sums = np.concatenate((scaled.sum(axis=0), (scaled**2).sum(axis=0)))
    cells = np.rint(sums * (1 << _BITS)).astype(np.int64)
    return Tally(_spec(data), np.concatenate(([len(x)], cells)).astype(np.int64))


def statistics_of(data: Data, tally: Tally) -> Statistics:
    """Mean and standard deviation (of the population) in each column's own unit, from the sum of the sites' tallies.

    A column without spread (a deviation below 2.2e-5 of its range) gets the deviation 1. Raises RemoteError for a
    tally of something else.
    """
    if tally.spec != _spec(data) or tally.n < 1:
        raise RemoteError("statistics: expected sums over at least one row of the plan's columns")
    low, high = _ranges(data)
    first, second = np.split(tally.counts[1:] / (1 << _BITS) / tally.n, 2)
    return _statistics(low, high, first, second - first**2)


def _statistics(low: F64, high: F64, first: F64, variance: F64) -> Statistics:
    """In each column's own unit, from means and variances of scaled values."""
    std = np.where(variance > _VARIANCE_FLOOR, np.sqrt(np.maximum(variance, _VARIANCE_FLOOR)) * (high - low), 1.0)
    mean = low + first * (high - low)
    return Statistics(mean=tuple(mean.tolist()), std=tuple(std.tolist()))


def statistics_fault(data: Data, tally: Tally) -> str:
    """Why no honest site has these sums, or an empty string: values scaled to [0, 1] have 0 ≤ Σx² ≤ Σx ≤ n."""
    if tally.spec != _spec(data):
        return "expected sums of the plan's columns"
    if not 1 <= tally.n <= _MOST_ROWS:
        return f"expected 1 to {_MOST_ROWS} rows, got {tally.n}"
    first, second = np.split(tally.counts[1:] / (1 << _BITS) / tally.n, 2)
    if not ((second >= -_ROUNDING) & (second <= first + _ROUNDING) & (first <= 1 + _ROUNDING)).all():
        return "expected sums of values within the columns' ranges"
    return ""


def robust_statistics(data: Data, tallies: Sequence[Tally]) -> Statistics:
    """Means and standard deviations that less than half of the sites cannot carry off, whatever they claim.

    Of each column the median over sites of the site's mean, and of its variance; sites count alike. The spread between
    sites' means is not in it, so that deviations are smaller than those of `statistics_of` where hospitals differ.
    """
    low, high = _ranges(data)
    moments = [np.split(tally.counts[1:] / (1 << _BITS) / tally.n, 2) for tally in tallies]
    first = np.median([mean for mean, _ in moments], axis=0)
    variance = np.median([square - mean**2 for mean, square in moments], axis=0)
    return _statistics(low, high, first, variance)


def standardize(data: Data, x: F32, statistics: Statistics | None) -> F32:
    """`x` with its number columns standardised as the plan says; `x` itself when it says `none`.

    `statistics` are those of the order, needed when the plan says `federated`.
    """
    if data.standardize is Standardize.NONE:
        return x
    if data.standardize is Standardize.PLAN:
        numbers = [column for column in data.columns if column.type is ColumnType.NUMBER]
        mean = np.array([column.mean for column in numbers], dtype=np.float64)
        std = np.array([column.std for column in numbers], dtype=np.float64)
    else:
        if statistics is None:
            raise RemoteError("statistics: expected an order with federated statistics, as the plan asks for")
        mean, std = np.array(statistics.mean), np.array(statistics.std)
    at = _number_inputs(data)
    if mean.shape != at.shape:
        raise RemoteError(f"statistics: expected {len(at)} columns, got {len(mean)}")
    out = x.copy()
    out[:, at] = (x[:, at] - mean) / std
    return out
