"""Standardising number columns by plan constants, or by sums over all sites that name no patient."""

from collections.abc import Sequence

import numpy as np

from wardround.errors import RemoteError
from wardround.orders import Statistics
from wardround.plan_sections import ColumnType, Data, Standardize
from wardround.tally import MomentsSpec, Tally
from wardround.vector import F32, F64, I64

__all__ = [
    "SUM_BITS",
    "robust_statistics",
    "scaled_numbers",
    "standardize",
    "statistics_fault",
    "statistics_of",
    "statistics_spec",
    "statistics_tally",
]

SUM_BITS = 32
"""Fractional bits of the sums: rounding them moves a variance by less than the floor, with 2^31 rows at most."""

_VARIANCE_FLOOR = 2.0 ** (1 - SUM_BITS)
_EVEN_VARIANCE = 1 / 12
_MEDIAN = (np.pi / 2) ** 0.5
"""Noise of a median over that of a mean, of many normal values."""
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


def statistics_spec(data: Data, *, noisy: bool = False) -> MomentsSpec:
    """What is summed: x and x² of each number column, in plan order; the order's plan says which columns these are."""
    return MomentsSpec(columns=sum(column.type is ColumnType.NUMBER for column in data.columns), noisy=noisy)


def scaled_numbers(data: Data, x: F32) -> F64:
    """The number columns of `x`, shape (n, inputs), scaled from their ranges to [0, 1]; shape (n, numbers)."""
    low, high = _ranges(data)
    scaled: F64 = (x[:, _number_inputs(data)].astype(np.float64) - low) / (high - low)
    return scaled


def statistics_tally(data: Data, x: F32) -> Tally:
    """Count, and sums of x and x² of each number column scaled from its range to [0, 1]; `x` is (n, inputs)."""
    scaled = scaled_numbers(data, x)
    sums = np.concatenate((scaled.sum(axis=0), (scaled**2).sum(axis=0)))
    cells = np.rint(sums * (1 << SUM_BITS)).astype(np.int64)
    return Tally(statistics_spec(data), np.concatenate(([len(x)], cells)).astype(np.int64))


def _moments(tally: Tally) -> tuple[F64, F64]:
    """Means of the scaled x and x²."""
    first, second = np.split(tally.counts[1:] / (1 << SUM_BITS) / tally.n, 2)
    return first, second


def statistics_of(data: Data, tally: Tally, noise_std: float = 0.0) -> Statistics:
    """Mean and standard deviation (of the population) in each column's own unit, from the sum of the sites' tallies.

    `noise_std` is the standard deviation of the noise on each sum, in scaled units; of k sites whose sums have noise
    of the same standard deviation each, it is √k times that.

    A variance below what noise alone makes of it is not known: the deviation is then that of the noise, and never more
    than that of values spread evenly over the range, which is what is assumed when noise says nothing at all. Without
    noise, a column without spread (a deviation below 2.2e-5 of its range) gets the deviation 1.

    Raises RemoteError for a tally of something else, and for one without noise where there should be some.
    """
    if tally.spec != statistics_spec(data, noisy=noise_std > 0) or tally.n < 1:
        raise RemoteError("statistics: expected sums over at least one row of the plan's columns")
    first, second = _moments(tally)
    return _statistics(data, first, second - first**2, noise_std / tally.n)


def _statistics(data: Data, first: F64, variance: F64, noise: float) -> Statistics:
    """In each column's own unit, from means and variances of scaled values; `noise` is that of the means."""
    low, high = _ranges(data)
    if noise > 0:
        # the variance's noise: of the mean of x², and of the mean of x times the slope of its square
        least = np.minimum(noise * np.sqrt(1 + 4 * first**2), _EVEN_VARIANCE)
        std = np.sqrt(np.maximum(variance, np.maximum(least, _VARIANCE_FLOOR))) * (high - low)
    else:
        std = np.where(variance > _VARIANCE_FLOOR, np.sqrt(np.maximum(variance, _VARIANCE_FLOOR)) * (high - low), 1.0)
    mean = low + first * (high - low)
    return Statistics(mean=tuple(mean.tolist()), std=tuple(std.tolist()))


def statistics_fault(data: Data, tally: Tally, *, noisy: bool = False) -> str:
    """Why no honest site has these sums, or an empty string: values scaled to [0, 1] have 0 ≤ Σx² ≤ Σx ≤ n.

    Sums with noise are made to fit before they are sent; `noisy` is whether the plan asks for them.
    """
    if tally.spec != statistics_spec(data, noisy=noisy):
        return "expected sums of the plan's columns"
    if not 1 <= tally.n <= _MOST_ROWS:
        return f"expected 1 to {_MOST_ROWS} rows, got {tally.n}"
    first, second = _moments(tally)
    if not ((second >= -_ROUNDING) & (second <= first + _ROUNDING) & (first <= 1 + _ROUNDING)).all():
        return "expected sums of values within the columns' ranges"
    return ""


def robust_statistics(data: Data, tallies: Sequence[Tally], noise_std: float = 0.0) -> Statistics:
    """Means and standard deviations that less than half of the sites cannot carry off, whatever they claim.

    Of each column the median over sites of the site's mean, and of its variance; sites count alike. The spread between
    sites' means is not in it, so that deviations are smaller than those of `statistics_of` where hospitals differ.
    `noise_std` is the standard deviation of the noise on each sum of each site; it counts as in `statistics_of`.

    Raises RemoteError for tallies of something else, and for those without noise where there should be some.
    """
    spec = statistics_spec(data, noisy=noise_std > 0)
    if not tallies or any(tally.spec != spec or tally.n < 1 for tally in tallies):
        raise RemoteError("statistics: expected sums over at least one row of the plan's columns")
    moments = [_moments(tally) for tally in tallies]
    first = np.median([mean for mean, _ in moments], axis=0)
    variance = np.median([square - mean**2 for mean, square in moments], axis=0)
    of_one = float(np.median([noise_std / tally.n for tally in tallies]))
    return _statistics(data, first, variance, of_one * _MEDIAN / len(tallies) ** 0.5)


def standardize(data: Data, x: F32, statistics: Statistics | None) -> F32:
    """`x` with its number columns standardised as the plan says; `x` itself when it says `none`.

    `statistics` are those of the order, needed when the plan says `federated`.
    """
    if data.standardize is Standardize.NONE:
        return x
    if data.standardize is Standardize.RANGE:
        low, high = _ranges(data)
        mean, std = (low + high) / 2, (high - low) / 2
    elif data.standardize is Standardize.PLAN:
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
