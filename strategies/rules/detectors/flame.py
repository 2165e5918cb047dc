"""FLAME's filter: whoever is outside the one cluster of the majority."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from wardround.strategies.rules.detectors.cosine import pairwise_cosines
from wardround.strategies.rules.detectors.detector import Detector, Findings
from wardround.strategies.rules.detectors.norm import FEWEST
from wardround.strategies.rules.rule import RoundContext
from wardround.strategies.rules.vectors import Vectors
from wardround.vector import F64

__all__ = ["Flame", "majority_cluster"]


def majority_cluster(distances: F64) -> tuple[float, NDArray[np.bool_]]:
    """HDBSCAN's one cluster of more than half of n points, and who is in it, shape (n,); `distances` is (n, n).

    With min_cluster_size = n//2 + 1 no two clusters fit, with min_samples = 1 reachability is distance, and a single
    cluster (allow_single_cluster) holds the points that are last to leave it. That is: join the points along a minimum
    spanning tree, shortest edge first; the cluster is the first component of more than half of the points, and
    what joins it over an edge of the same length. The number is that length.

    Source: Campello, Moulavi, Sander 2013, "Density-Based Clustering Based on Hierarchical Density Estimates".
    """
    n = len(distances)
    component = np.arange(n)
    for length, first, second in _spanning_tree(distances):
        one, other = component[first], component[second]
        component[component == other] = one
        if np.count_nonzero(component == one) > n // 2:
            # Points that hang on it by edges of just this length leave it at the same moment, so they are in it.
            return length, _reached(distances, component == one, length)
    return 0.0, np.ones(n, dtype=np.bool_)


def _spanning_tree(distances: F64) -> list[tuple[float, int, int]]:
    """The edges of a minimum spanning tree, shortest first (Prim)."""
    n = len(distances)
    outside = np.ones(n, dtype=np.bool_)
    outside[0] = False
    nearest, link = distances[0].copy(), np.zeros(n, dtype=np.intp)
    edges = []
    for _ in range(n - 1):
        new = int(np.argmin(np.where(outside, nearest, np.inf)))
        edges.append((float(nearest[new]), int(link[new]), new))
        outside[new] = False
        closer = outside & (distances[new] < nearest)
        nearest[closer], link[closer] = distances[new][closer], new
    return sorted(edges)


def _reached(distances: F64, inside: NDArray[np.bool_], length: float) -> NDArray[np.bool_]:
    """The points that are connected to those `inside` by steps of at most `length`."""
    while True:
        grown = inside | (distances[inside] <= length).any(axis=0)
        if np.array_equal(grown, inside):
            return grown
        inside = grown


@dataclass(frozen=True, slots=True)
class Flame(Detector):
    """Flags every update outside the cluster of the majority, by the angles between updates.

    The score is the cosine distance to the nearest update in the cluster, divided by the longest step within it;
    flagged above 1. The filter is made to let nearly nothing bad through: the cluster is often little more than half
    of the sites, and the others are flagged, honest or not.

    Measured, honest sites flagged per round without an attack: 37 and 43 % of n = 10 and 20 on i.i.d. Gaussian updates,
    27 to 38 % in training on breast cancer and digits. Quarantine is refused beside it.

    This is the clustering of FLAME only, and on updates where the paper clusters local models; its clipping is not a
    detector's work (pre-aggregator `clipping`), its noise is not added. Updates that are zero and rounds of fewer than
    4 others are passed over.
    """

    summary: ClassVar[str] = "updates outside the one cluster of the majority; flags many honest sites"
    cost: ClassVar[str] = "O(n² d)"
    source: ClassVar[str] = "Nguyen et al. 2022, Algorithm 1, lines 6-7"

    def inspect(self, vectors: Vectors, keys: Sequence[str], context: RoundContext) -> Findings:
        cosines, norms = pairwise_cosines(vectors)
        measured = np.flatnonzero(norms > 0.0)
        scores, flagged, reasons = np.zeros(vectors.n), np.zeros(vectors.n, dtype=np.bool_), [""] * vectors.n
        if len(measured) >= FEWEST:
            distances = 1.0 - cosines[np.ix_(measured, measured)]
            np.fill_diagonal(distances, 0.0)
            # Distances at rounding error (parallel updates) are alike, otherwise their noise would split a cluster.
            distances[distances < _ALIKE] = 0.0
            length, inside = majority_cluster(distances)
            flagged[measured] = ~inside
            nearest = distances[:, inside].min(axis=1)
            scores[measured] = nearest / max(length, _ALIKE)
            for index in np.flatnonzero(flagged):
                reasons[index] = f"outside the cluster of the majority, {scores[index]:.3g} times its longest step away"
        return Findings(scores=scores, flagged=flagged, reasons=tuple(reasons))


_ALIKE = 1e-6
