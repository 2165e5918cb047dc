"""Strategy matrices with few bands: noise of one round that later rounds partly take back.

Source: Choquette-Choo et al. 2023, "(Amplified) Banded Matrix Factorization: A unified approach to private training",
sections 3 and 4; McKenna 2024, "Scaling up the Banded Matrix Factorization Mechanism for Differentially Private ML".
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from wardround.vector import F64

__all__ = ["OPTIMISED_ROUNDS", "BandedMatrix", "banded_matrix"]

OPTIMISED_ROUNDS = 256
"""Up to so many rounds the matrix is the best one; seconds of work at most."""

_BELOW_ONE = 1 - 1e-12
"""Columns are so long, so that no rounding makes one longer than 1."""
_SLOWEST = 1e-5
"""Optimisation ends with a step that gains less of the error; then it is within 1e-3 of the least."""
_MAX_STEPS, _MEMORY = 500, 10


@dataclass(frozen=True, slots=True, eq=False)
class BandedMatrix:
    """A lower-triangular C, shape (T, T), with b bands (its diagonal is one) and no column longer than 1.

    `columns`, shape (T, b): columns[i, j] = C[i + j, i]; 0 where i + j >= T. Releases x of T rounds are published as
    x + C^-1 z with standard normal z, in units of a noise's standard deviation: that is the Gaussian mechanism on Cx
    and post-processing, also where x depends on earlier releases (Denisov et al. 2022, theorem 2.1).
    """

    columns: F64

    def __post_init__(self) -> None:
        columns = self.columns
        if columns.ndim != 2 or not 1 <= columns.shape[1] <= columns.shape[0]:
            raise ValueError(f"expected columns of shape (T, b) with 1 <= b <= T, got {columns.shape}")
        # compared so that a NaN is refused
        if not (np.linalg.norm(columns, axis=1) <= 1).all() or not (columns[:, 0] > 0).all():
            raise ValueError("expected columns of norm 1 at most with a diagonal above 0")
        if columns[_beyond(*columns.shape)].any():
            raise ValueError("expected zeros below the last row")

    @property
    def rounds(self) -> int:
        return int(self.columns.shape[0])

    @property
    def bands(self) -> int:
        return int(self.columns.shape[1])

    @property
    def sensitivity(self) -> float:
        """How far Cx moves, in L2, with a unit that adds 1 at most to a round, in rounds at least b apart: √⌈T/b⌉.

        Columns that are b or more apart share no row, so that the squares of what they carry add up (theorem 2). With
        rounds closer together it is more.
        """
        return math.sqrt(-(-self.rounds // self.bands))

    def row(self, t: int) -> F64:
        """C[t, t], C[t, t - 1], ... as far as they are in a band, at most b of them."""
        lags = np.arange(min(self.bands, t + 1))
        return self.columns[t - lags, lags]

    def dense(self) -> F64:
        """C, shape (T, T)."""
        matrix = np.zeros((self.rounds, self.rounds))
        for lag in range(self.bands):
            at = np.arange(self.rounds - lag)
            matrix[at + lag, at] = self.columns[at, lag]
        return matrix

    def deviations(self) -> F64:
        """Standard deviation of each round's noise (C^-1 z)_t, in those of z; shape (T,). Not of its sums: less."""
        return np.asarray(np.linalg.norm(np.linalg.inv(self.dense()), axis=1))


@lru_cache(maxsize=4)
def banded_matrix(rounds: int, bands: int) -> BandedMatrix:
    """The matrix for `rounds` = T and `bands` = b (T of them where b is more); the same for the same two.

    Up to OPTIMISED_ROUNDS it has the least ‖A C^-1‖² (Frobenius; A sums up rounds, so that this is the squared error of
    all T models). For more rounds its bands are the first b coefficients of (1 - x)^-1/2, columns normalised
    (Fichtenberger et al. 2023, "Constant Matters", algorithm 1; Kalinin and Lampert 2024, "Banded Square Root Matrix
    Factorization"): 1.2 to 1.3 times the least at 1000 rounds and 4 to 32 bands. One band is plain Gaussian noise.
    """
    if rounds < 1 or bands < 1:
        raise ValueError(f"expected at least 1 round and 1 band, got {rounds} and {bands}")
    bands = min(bands, rounds)
    columns = _normalised(_square_root(rounds, bands))
    if 1 < bands and rounds <= OPTIMISED_ROUNDS:
        columns = _normalised(_optimised(BandedMatrix(columns)))
    return BandedMatrix(columns)


def _beyond(rounds: int, bands: int) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Where `columns` reach below the last row."""
    return np.arange(rounds)[:, None] + np.arange(bands) >= rounds


def _normalised(columns: F64) -> F64:
    return np.asarray(columns * (_BELOW_ONE / np.linalg.norm(columns, axis=1, keepdims=True)), dtype=np.float64)


def _square_root(rounds: int, bands: int) -> F64:
    """The coefficients of (1 - x)^-1/2 in each column."""
    k = np.arange(1, bands)
    columns = np.tile(np.cumprod(np.concatenate([[1.0], (2 * k - 1) / (2 * k)])), (rounds, 1))
    columns[_beyond(rounds, bands)] = 0
    return columns


class _SquaredError:
    """f(x) = tr(A X^-1 A^T) = ‖A C^-1‖² for X = C^T C with ones on its diagonal and x in its bands: convex in x."""

    def __init__(self, rounds: int, bands: int) -> None:
        below = np.subtract.outer(np.arange(rounds), np.arange(rounds))
        self._rounds = rounds
        self._at = np.nonzero((below > 0) & (below < bands))

    def bands_of(self, gram: F64) -> F64:
        return gram[self._at]

    def gram(self, x: F64) -> F64:
        """X, shape (T, T)."""
        gram = np.eye(self._rounds)
        gram[self._at] = x
        gram.T[self._at] = x
        return gram

    def __call__(self, x: F64) -> tuple[float, F64]:
        """f and its gradient; infinite where X is not positive definite, hence of no C."""
        gram = self.gram(x)
        try:
            np.linalg.cholesky(gram)
        except np.linalg.LinAlgError:
            return math.inf, np.zeros_like(x)
        sums = np.cumsum(np.linalg.inv(gram), axis=0)  # A X^-1
        value = float(np.tril(sums).sum())  # the diagonal of A X^-1 A^T
        return value, -2 * (sums.T @ sums)[self._at]


def _optimised(start: BandedMatrix) -> F64:
    """Columns of the C with the least error, from those of `start`."""
    error = _SquaredError(start.rounds, start.bands)
    matrix = start.dense()
    gram = error.gram(_minimise(error, error.bands_of(matrix.T @ matrix)))
    # X = C^T C with lower-triangular C is the Cholesky decomposition from the last row and column on
    factor = np.linalg.cholesky(gram[::-1, ::-1]).T[::-1, ::-1]
    columns = np.zeros_like(start.columns)
    for lag in range(start.bands):
        at = np.arange(start.rounds - lag)
        columns[at, lag] = factor[at + lag, at]
    return columns


def _minimise(error: _SquaredError, x: F64) -> F64:
    """Where `error` is least, by L-BFGS (Nocedal and Wright 2006, algorithm 7.4) with halved steps."""
    value, gradient = error(x)
    pairs: list[tuple[F64, F64]] = []  # steps and what they changed in the gradient, newest last
    for _ in range(_MAX_STEPS):
        direction = _direction(gradient, pairs)
        slope, size = float(gradient @ direction), 1.0
        while True:
            new_value, new_gradient = error(x + size * direction)
            if new_value <= value + 1e-4 * size * slope:
                break
            size /= 2
            if size < 1e-10:
                return x
        step, change = size * direction, new_gradient - gradient
        if step @ change > 0:
            pairs = [*pairs, (step, change)][-_MEMORY:]
        gained = value - new_value
        x, value, gradient = x + step, new_value, new_gradient
        if gained < _SLOWEST * value:
            break
    return x


def _direction(gradient: F64, pairs: list[tuple[F64, F64]]) -> F64:
    """Minus an inverse Hessian times the gradient."""
    if not pairs:
        return -gradient * (0.01 / max(float(np.abs(gradient).max()), 1e-300))
    direction, factors = -gradient, []
    for step, change in reversed(pairs):
        factors.append(float(step @ direction) / float(step @ change))
        direction = direction - factors[-1] * change
    step, change = pairs[-1]
    direction = direction * (float(step @ change) / float(change @ change))
    for (step, change), factor in zip(pairs, reversed(factors), strict=True):
        direction = direction + step * (factor - float(change @ direction) / float(step @ change))
    return direction
