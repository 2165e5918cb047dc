"""Label skew: each class is spread over the sites in Dirichlet shares.

Source: Q. Li, Y. Diao, Q. Chen, B. He, "Federated learning on non-IID data silos: an experimental study"
(NIID-Bench), ICDE 2022, arXiv 2102.02079, after Yurochkin et al. 2019. The other
common reading, Hsu et al. 2019 (arXiv 1909.06335), draws each site's class shares at a fixed size; here sizes vary as
well, as they do between hospitals.
"""

import numpy as np

from wardround.plan_simulation import Partition
from wardround.simulations.partitions.partition import Mask, Pool, draw_sizes, pieces, refuse_deal
from wardround.vector import I64

__all__ = ["assign"]

_QUANTILES = 10


def assign(pool: Pool, partition: Partition, sites: int, seed: int) -> list[I64]:
    """Each class in Dirichlet(alpha) shares; a number to predict is cut into ten quantiles that act as classes."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    labels = _labels(pool)
    totals = np.bincount(labels)

    def short(counts: I64) -> Mask:
        few: Mask = counts.sum(axis=0) < pool.min_examples
        single: Mask = (counts > 0).sum(axis=0) < 2
        return few | single if pool.two_classes else few

    counts = draw_sizes(rng, partition.alpha, totals, sites, short)
    if counts is None:
        raise refuse_deal(pool, sites, ", or raise simulation.partition.alpha")
    shuffled = rng.permutation(len(pool))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    site = np.repeat(np.tile(np.arange(sites), len(totals)), counts.reshape(-1))
    return pieces(by_class[np.argsort(site, kind="stable")], counts.sum(axis=0))


def _labels(pool: Pool) -> I64:
    """The class of each row, or the quantile of its number, shape (n,)."""
    y = pool.rows.y
    if y.dtype == np.int64:
        return y.astype(np.int64, copy=False)
    edges = np.quantile(y, np.linspace(0, 1, _QUANTILES + 1)[1:-1])
    return np.searchsorted(edges, y, side="right").astype(np.int64)
