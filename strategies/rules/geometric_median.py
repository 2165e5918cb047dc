"""The geometric median: the point with the least sum of distances to the vectors."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from wardround.strategies.rules.rule import Decision, RoundContext, VectorRule, require
from wardround.strategies.rules.vectors import Vectors
from wardround.vector import F64

__all__ = ["GeometricMedian", "coordinates", "median_weights", "pulls"]

_SAME = 1e-6
"""Squared distances below this share of a point's median one are lost in float32 products: the two are one point."""


def coordinates(gram: F64) -> F64:
    """n points in n dimensions with the inner products `gram`, shape (n, n).

    Every entry is met to the rounding error of its own two lengths, so that a few points that are 1e12 times as long
    as the others cost those nothing: what is decomposed are the cosines.
    """
    lengths = np.sqrt(np.maximum(np.diag(gram), 0.0))
    units = np.where(lengths > 0, lengths, 1.0)
    cosines = gram / units[:, None] / units
    values, directions = np.linalg.eigh((cosines + cosines.T) / 2)
    found: F64 = lengths[:, None] * (directions * np.sqrt(np.maximum(values, 0.0)))
    return found


def median_weights(points: F64, tolerance: float, iterations: int) -> tuple[F64, float]:
    """Weights w >= 0, Σ w = 1, whose Σ w_i p_i is the geometric median of `points`, shape (n, k), and the residual.

    The residual is the norm of the least subgradient of Σ ‖y − p_i‖, divided by n: 0 at the median, at most 1.
    """
    distances = _distances(points)
    optimal, residuals = _optimal_points(points, distances, tolerance)
    if optimal.any():  # the minimisers are a convex set: so is their mean, when there are several
        return optimal / optimal.sum(), float(residuals[optimal].max())
    at = _step_off(points, distances, int(np.argmin(distances.sum(axis=1))))
    for left in range(iterations, -1, -1):
        difference = points - at
        lengths = np.maximum(np.linalg.norm(difference, axis=1), 1e-300)
        directions = difference / lengths[:, None]
        pull = directions.sum(axis=0)
        weights = pulls(lengths)
        residual = float(np.linalg.norm(pull)) / len(points)
        if residual <= tolerance or not left:
            break
        at = _lower(points, weights @ points, at + _newton_step(directions, lengths, pull))
    return weights, residual


def pulls(lengths: F64) -> F64:
    """Weiszfeld's weights of points at these distances, which add up to 1: near ones count most."""
    inverse: F64 = 1.0 / lengths
    inverse /= inverse.sum()
    return inverse


def _distances(points: F64) -> F64:
    distances: F64 = np.linalg.norm(points[:, None, :] - points[None, :, :], axis=2)
    return distances


def _neighbours(distances: F64) -> F64:
    """1 where two points are one and the same, shape (n, n)."""
    return (distances**2 <= _SAME * np.median(distances**2, axis=1)[:, None]).astype(np.float64)


def _forces(points: F64, distances: F64) -> F64:
    """For each point the sum of unit vectors to the points that are not at the same place, shape (n, k)."""
    inverse = np.where(_neighbours(distances) > 0, 0.0, 1.0 / np.where(distances > 0, distances, 1.0))
    forces: F64 = inverse @ points - inverse.sum(axis=1)[:, None] * points
    return forces


def _optimal_points(points: F64, distances: F64, tolerance: float) -> tuple[NDArray[np.bool_], F64]:
    """Which points are medians themselves, and their residuals (Vardi & Zhang 2000).

    A point is one when the others pull at it with a force of at most its multiplicity.
    """
    multiplicities = _neighbours(distances).sum(axis=1)
    forces = np.linalg.norm(_forces(points, distances), axis=1)
    residuals = np.maximum(forces - multiplicities, 0.0) / len(points)
    return residuals <= tolerance, residuals


def _step_off(points: F64, distances: F64, index: int) -> F64:
    """From the best of the points to where the sum of distances is lower (Vardi & Zhang 2000).

    Steps that lower it further never come back to a point, where Weiszfeld's would be undefined.
    """
    same = _neighbours(distances)[index] > 0
    inverse = np.where(same, 0.0, 1.0 / np.where(distances[index] > 0, distances[index], 1.0))
    force = float(np.linalg.norm(_forces(points, distances)[index]))
    stay = min(1.0, float(same.sum()) / force)
    stepped: F64 = (1.0 - stay) * (inverse @ points / inverse.sum()) + stay * points[index]
    return stepped


def _newton_step(directions: F64, lengths: F64, pull: F64) -> F64:
    """Where the sum of distances has its minimum if it is quadratic: Weiszfeld's steps crawl beside a point."""
    one = np.eye(directions.shape[1])
    curvature = (1.0 / lengths).sum() * one - directions.T @ (directions / lengths[:, None])
    step: F64 = np.linalg.solve(curvature + 1e-12 * np.trace(curvature) / len(one) * one, pull)
    return step


def _lower(points: F64, first: F64, second: F64) -> F64:
    """Which of two places has the lower sum of distances to the points."""
    sums = [float(np.linalg.norm(points - place, axis=1).sum()) for place in (first, second)]
    return second if sums[1] < sums[0] else first


@dataclass(frozen=True, slots=True)
class GeometricMedian(VectorRule):
    """The vector with the least sum of distances to all, as a weighted mean of them.

    Weiszfeld's iteration, or Newton's step where that is better, until the residual (see `median_weights`) is at most
    `tolerance`; all in n x n space, so an iteration costs O(n³) and no pass over the data. Of many medians (vectors on
    one line) it is the mean of those among the vectors.

    Source: Pillutla et al. 2022, "Robust Aggregation for Federated Learning", Section 3; Vardi and Zhang 2000, "The
    multivariate L1-median and associated data depth".
    """

    num_byzantine: int = 0
    tolerance: float = 1e-6
    iterations: int = 200

    summary: ClassVar[str] = "the vector with the least sum of distances to all"
    tolerates: ClassVar[str] = "num_byzantine < n / 2"
    cost: ClassVar[str] = "O(n² d + iterations n³)"
    source: ClassVar[str] = "Pillutla et al. 2022, Section 3"

    def __post_init__(self) -> None:
        if not self.tolerance > 0:
            raise ValueError(f"expected tolerance > 0, got {self.tolerance}")
        if self.iterations < 1:
            raise ValueError(f"expected iterations >= 1, got {self.iterations}")

    def check(self, n: int) -> None:
        require(2 * self.num_byzantine < n, "num_byzantine < n / 2", self.num_byzantine, n)

    def decide(self, vectors: Vectors, context: RoundContext) -> Decision:
        # around the vector that is nearest to the others, an honest one, so that far ones blur no small distance
        centre = np.zeros(vectors.n)
        centre[int(np.argmin(np.sqrt(vectors.squared_distances).sum(axis=1)))] = 1.0
        points = coordinates(vectors.products_around_mean(centre))
        return Decision(weights=median_weights(points, self.tolerance, self.iterations)[0])
