"""Noisy sums for federated standardisation: released once by each site, and charged as one Gaussian event."""

import math

import numpy as np

from wardround.decoding import PlanError
from wardround.plan_privacy import Privacy, PrivateStatistics, Relation, Unit
from wardround.plan_sections import ColumnType, Data
from wardround.standardization import SUM_BITS, scaled_numbers, statistics_spec
from wardround.strategies.privacy.secure_random import SecureRandom
from wardround.tally import Tally
from wardround.vector import F32, I64

__all__ = ["noisy_statistics", "statistics_noise_std", "statistics_sensitivity"]

_NOISE_BITS = 20
"""The grid is at most 2^-20 of the noise's standard deviation."""
_LARGEST_NOISE = 2.0**61
"""In steps of the grid; reached only where a step is the whole range, of which no site has so many."""
_BLOCK = 1 << 14
"""Rows at a time, to bound memory."""


def statistics_sensitivity(data: Data, max_rows: int) -> float:
    """How far a unit of at most `max_rows` rows moves the sums of x and x² of p number columns, in L2: max_rows √(2p).

    Values are scaled to [0, 1], so that a row adds a number from 0 to 1 to each of 2p sums. This holds for a unit that
    is added, removed or exchanged. It is 0 where there are no number columns: then nothing is released.
    """
    numbers = sum(column.type is ColumnType.NUMBER for column in data.columns)
    return max_rows * math.sqrt(2 * numbers)


def statistics_noise_std(data: Data, privacy: Privacy) -> float:
    """Standard deviation of the noise on each sum of a site, in scaled units; 0 where the plan asks for none."""
    if privacy.statistics is not PrivateStatistics.DP or privacy.statistics_noise_multiplier is None:
        return 0.0
    return privacy.statistics_noise_multiplier * statistics_sensitivity(data, privacy.max_rows)


def noisy_statistics(data: Data, x: F32, privacy: Privacy, random: SecureRandom) -> Tally:
    """What a site sends instead of `statistics_tally` of its training rows `x`, shape (n, inputs): sums with noise.

    Each call is a release of its own. The number of rows is sent as it is, so it must be no secret. `x` has at most
    `privacy.max_rows` rows of a patient, where patients are hidden.

    Values outside a column's range count as its nearer end. They are rounded to a grid of a power of two, 2^-20 of the
    noise's standard deviation or finer, so that every row adds a whole number of steps to each sum, at most as many
    as the range has; the sensitivity is met exactly, whatever the order of the rows. Noise is rounded to the same grid.
    Since the sum lies on it, this is the rounding of the sum with noise that was not rounded: post-processing of the
    Gaussian mechanism. So is the rest: sums are moved to where those of n values in [0, 1] can lie,
    0 ≤ Σx ≤ n and (Σx)²/n ≤ Σx² ≤ Σx.

    Raises PlanError for a plan that does not ask for this, or hides how many rows there are; ValueError for no rows,
    or values that are not finite.
    """
    if privacy.statistics is not PrivateStatistics.DP or not privacy.per_example:
        raise PlanError("privacy.statistics", '"dp" with unit = "row" or "patient"', privacy.statistics.value)
    same_count = privacy.unit is Unit.ROW and privacy.claimed_relation is Relation.REPLACE_ONE
    if not (privacy.public_sizes or same_count):
        raise PlanError("privacy.public_sizes", "true, since statistics are sent with the number of rows", False)
    n, std = len(x), statistics_noise_std(data, privacy)
    steps = 1 << min(max(_NOISE_BITS + 1 - math.frexp(std)[1], 0), SUM_BITS)
    sums = _whole_sums(data, x, steps)
    noise = np.rint(random.normal(sums.size) * (std * steps))
    first, second = np.split((sums + np.clip(noise, -_LARGEST_NOISE, _LARGEST_NOISE).astype(np.int64)) / steps, 2)
    first = np.clip(first, 0.0, n)
    second = np.clip(second, first**2 / n, first)
    cells = np.rint(np.concatenate((first, second)) * (1 << SUM_BITS)).astype(np.int64)
    return Tally(statistics_spec(data, noisy=True), np.concatenate(([n], cells)).astype(np.int64))


def _whole_sums(data: Data, x: F32, steps: int) -> I64:
    """Sums of the clipped x, then of x², in `steps` per range, each row's value rounded; shape (2p,)."""
    if len(x) == 0:
        raise ValueError("expected at least one training row, got none")
    sums = np.zeros((), dtype=np.int64)
    for start in range(0, len(x), _BLOCK):
        scaled = scaled_numbers(data, x[start : start + _BLOCK])
        if not np.isfinite(scaled).all():
            raise ValueError("expected finite values, got NaN or infinity")
        scaled = np.clip(scaled, 0.0, 1.0)
        sums = sums + np.rint(np.concatenate((scaled, scaled**2), axis=1) * steps).astype(np.int64).sum(axis=0)
    return sums
