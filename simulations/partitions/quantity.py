"""Quantity skew: sites of very different size, rows at random.

Source: Q. Li, Y. Diao, Q. Chen, B. He, "Federated learning on non-IID data silos: an experimental study"
(NIID-Bench), ICDE 2022, arXiv 2102.02079.
"""

import numpy as np

from wardround.plan_simulation import Partition
from wardround.simulations.partitions.partition import Pool, draw_sizes, pieces, refuse_deal, short_pieces
from wardround.vector import I64

__all__ = ["assign"]


def assign(pool: Pool, partition: Partition, sites: int, seed: int) -> list[I64]:
    """Sizes in Dirichlet(alpha) shares, rows drawn without replacement."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    order = rng.permutation(len(pool))
    short = short_pieces(pool, order)
    sizes = draw_sizes(rng, partition.alpha, np.array([len(pool)]), sites, lambda counts: short(counts[0]))
    if sizes is None:
        raise refuse_deal(pool, sites, ", or raise simulation.partition.alpha")
    return pieces(order, sizes[0])
