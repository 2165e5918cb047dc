"""Feature shift: sites see different parts of a measurement's range, as hospitals for children and for the old do.

Rows are sorted by a value and cut into equal parts. The value is the column that the plan names, or else the
projection on the first principal direction of all inputs; noise of half a standard deviation makes neighbours
overlap. In the taxonomy of Kairouz et al. 2021 (arXiv 1912.04977, section 3.1): covariate shift.
"""

import numpy as np
from numpy.typing import NDArray

from wardround.errors import LocalError
from wardround.plan_simulation import Partition
from wardround.simulations.partitions.partition import Pool, deal_equally
from wardround.vector import F32, F64, I64

__all__ = ["assign"]

_NOISE = 0.5
_ROWS = 4096
_STEPS = 100


def assign(pool: Pool, partition: Partition, sites: int, seed: int) -> list[I64]:
    """Equal parts (to one row) of the rows sorted by `partition.column`, or by the first principal direction."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    score = _first_direction(pool.rows.x) if pool.values is None else _column(partition, pool.values)
    noise = _NOISE * score.std()
    return deal_equally(pool, sites, lambda: np.argsort(score + noise * rng.standard_normal(len(pool))), "")


def _column(partition: Partition, values: NDArray[np.generic]) -> F64:
    if values.dtype.kind not in "biuf" or not np.isfinite(values.astype(np.float64)).all():
        raise LocalError(
            f"simulation.partition.column: expected a column of finite numbers to sort by, got {partition.column!r}; "
            'name another, or use kind = "column" for text'
        )
    return values.astype(np.float64)


def _first_direction(x: F32) -> F64:
    """The projection of each row on the first principal direction of the standardised inputs, shape (n,).

    Found by power iteration on at most 4096 evenly spaced rows.
    """
    flat = x.reshape(len(x), -1)
    sample = flat[:: -(-len(flat) // _ROWS)].astype(np.float64)
    spread = sample.std(axis=0)
    spread[spread == 0] = 1.0
    sample = (sample - sample.mean(axis=0)) / spread
    direction = np.linspace(1.0, 2.0, flat.shape[1])
    for _ in range(_STEPS):
        direction = sample.T @ (sample @ direction)
        direction /= np.linalg.norm(direction) or 1.0
    projection: F64 = (flat @ (direction / spread).astype(np.float32)).astype(np.float64)
    return projection
