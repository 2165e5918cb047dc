"""By a column: its values name the sites, as a register of several hospitals does."""

import numpy as np

from wardround.client.data.encoding import texts
from wardround.errors import LocalError
from wardround.plan_simulation import Partition
from wardround.simulations.partitions.partition import Pool, pieces
from wardround.vector import I64

__all__ = ["assign", "site_names"]


def assign(pool: Pool, partition: Partition, sites: int, seed: int) -> list[I64]:
    """The rows of each value of `partition.column`, values in alphabetical order. Raises LocalError unless
    `simulation.sites` is the number of values.
    """
    names, site = _values(pool, partition)
    if len(names) != sites:
        raise LocalError(
            f"simulation.sites: expected {len(names)}, the number of values in column {partition.column!r}, got {sites}"
        )
    return pieces(np.argsort(site, kind="stable"), np.bincount(site, minlength=sites))


def site_names(pool: Pool, partition: Partition) -> list[str]:
    """The column's values, in the order of `assign`."""
    return _values(pool, partition)[0]


def _values(pool: Pool, partition: Partition) -> tuple[list[str], I64]:
    values, missing = texts(np.array([None] * len(pool)) if pool.values is None else pool.values)
    if (missing | (values == "")).any():
        raise LocalError(f"simulation.partition.column: expected a value in every row of {partition.column!r}")
    names, site = np.unique(values, return_inverse=True)
    return names.tolist(), site.astype(np.int64)
