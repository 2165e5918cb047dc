"""Rows at random, in equal parts."""

import numpy as np

from wardround.plan_simulation import Partition
from wardround.simulations.partitions.partition import Pool, deal_equally
from wardround.vector import I64

__all__ = ["assign"]


def assign(pool: Pool, partition: Partition, sites: int, seed: int) -> list[I64]:
    """Sites of equal size (to one row), rows drawn without replacement."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    return deal_equally(pool, sites, lambda: rng.permutation(len(pool)), "")
