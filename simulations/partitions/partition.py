"""The interface of a partition, and what partitions share: the pool they deal out, and when a deal is good."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wardround.client.data.site_data import Rows
from wardround.client.data.table import Column
from wardround.errors import LocalError
from wardround.plan_simulation import Partition
from wardround.vector import F64, I64

__all__ = ["GROUP", "Assign", "Mask", "Pool", "deal_equally", "draw_sizes", "pieces", "refuse_deal", "short_pieces"]

GROUP = "wardround.partitions"

Mask = NDArray[np.bool_]

_FRESH_DRAWS = 100
_MENDING_DRAWS = 1000
_TINY = 1e-300


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The rows to deal out, and what every site must get: `min_examples` rows, and of `two_classes` if so.

    `values`, shape (n,), is the raw column that `partition.column` names, if it names one. `what` is dealt out, for
    messages: rows, or patients of whom each is here with one row.
    """

    rows: Rows
    min_examples: int
    two_classes: bool
    values: Column | None = None
    what: str = "rows"

    def __len__(self) -> int:
        return len(self.rows)


class Assign(Protocol):
    """What is registered under `wardround.partitions`: indices of the pool's rows for each of `sites` sites.

    Every row goes to exactly one site. Deterministic for `seed`. Raises LocalError when it finds no deal that gives
    every site what the pool demands.
    """

    def __call__(self, pool: Pool, partition: Partition, sites: int, seed: int) -> list[I64]: ...


def refuse_deal(pool: Pool, sites: int, change: str) -> LocalError:
    """The error for a pool that cannot be dealt out so that every site gets its due; `change`: what else to try."""
    classes = " of two classes" if pool.two_classes else ""
    return LocalError(
        f"simulation.partition: expected {sites} sites of at least {pool.min_examples} {pool.what}{classes}, found no "
        f"such deal of {len(pool)} {pool.what}; lower simulation.sites or data.min_examples{change}"
    )


def pieces(order: I64, sizes: I64) -> list[I64]:
    """`order`, shape (n,), cut into consecutive pieces of `sizes`, each sorted."""
    return [np.sort(piece) for piece in np.split(order, np.cumsum(sizes)[:-1])]


def short_pieces(pool: Pool, order: I64) -> Callable[[I64], Mask]:
    """A test for sizes: which of the consecutive pieces of `order` would be too small or of one class only."""
    labels = pool.rows.y[order]
    changes = np.concatenate(([0], np.cumsum(labels[1:] != labels[:-1])))

    def short(sizes: I64) -> Mask:
        few: Mask = sizes < pool.min_examples
        if not pool.two_classes:
            return few
        ends = np.cumsum(sizes)
        last = len(order) - 1
        single: Mask = changes[np.clip(ends - 1, 0, last)] == changes[np.minimum(ends - sizes, last)]
        return few | single

    return short


def deal_equally(pool: Pool, sites: int, draw_order: Callable[[], I64], change: str) -> list[I64]:
    """The first drawn order of rows whose equal pieces (to one row) are all good. Raises LocalError if none is."""
    sizes = np.diff(np.arange(sites + 1) * len(pool) // sites)
    for _ in range(_FRESH_DRAWS):
        order = draw_order()
        if not short_pieces(pool, order)(sizes).any():
            return pieces(order, sizes)
    raise refuse_deal(pool, sites, change)


def draw_sizes(
    rng: np.random.Generator, alpha: float, totals: I64, sites: int, short: Callable[[I64], Mask]
) -> I64 | None:
    """Each total in Dirichlet(alpha) shares: counts of shape (len(totals), sites), each row adding up to its total.

    `short(counts)` marks the sites that got too little. All shares are drawn anew until no site is short, as Li et al.
    2022 do; where that keeps failing (hundreds of sites), good sites keep theirs and only the short ones draw anew.
    None when neither succeeds in a bounded number of draws.
    """
    everyone = np.ones(sites, dtype=np.bool_)
    gammas = np.empty((len(totals), sites))
    again = everyone
    for draw in range(_FRESH_DRAWS + _MENDING_DRAWS):
        drawn = again if draw > _FRESH_DRAWS else everyone
        gammas[:, drawn] = rng.gamma(alpha, size=(len(totals), int(drawn.sum()))) + _TINY
        sums: F64 = np.cumsum(gammas, axis=1)
        cuts = np.rint(totals[:, None] * (sums / sums[:, -1:])).astype(np.int64)
        counts: I64 = np.diff(cuts, axis=1, prepend=0)
        again = short(counts)
        if not again.any():
            return counts
    return None
