"""n long vectors as rules see them: their geometry from one pass, one combination of them from another.

Distances come from the Gram matrix of centred vectors: float32 products within a block of columns, float64 sums across
blocks. Without centring float32 loses them: vectors that differ by 1e-4 of their length have distances at the
rounding error of their squared length, and every second one comes out negative.

What pre-aggregators make of the vectors are mixtures of them, so their geometry follows from the same Gram matrix and
nothing of length d is computed before the rule's own pass.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wardround.vector import F32, F64, MemoryVector, VectorSource

__all__ = ["ORIGIN", "ColumnFunction", "Combined", "Vectors"]

ORIGIN = "origin"
"""The zero vector: the global model, seen from the updates. Always among the references."""

_BLOCK_BYTES, _MOST_COLUMNS = 1 << 22, 1 << 14
"""A block of all vectors' columns stays in cache, and has the columns that make up for what numpy costs a call."""
_LINE = 16
"""Floats in a cache line."""
_SAMPLED = 1 << 12
"""Columns, evenly spread, in which it is looked up whose values a function of columns used."""
_CENTRED_ON = 8
"""Of so many vectors, or up to twice as many, the mean is the centre: it need not be the mean of all."""
_FAR = 1e3
"""A centre is too far off when the squared distance to it exceeds the typical one between vectors this many times."""


class ColumnFunction(ABC):
    """A function of each column of a block that can say whose values it used."""

    @abstractmethod
    def __call__(self, block: F32) -> F32:
        """Of a block of shape (n, b), which stays as it is, shape (b,)."""

    @abstractmethod
    def shares(self, block: F32) -> F64:
        """The share that each row of a block of shape (n, b) has in the result, over all columns, shape (n,)."""


class Vectors:
    """Vectors x_0 … x_{n-1} of `size` float32 values; reference vectors by name; distances between any of them.

    Make one with `of`. `mixing`, shape (n, points), writes each vector as an affine combination (rows add up to 1) of
    the points: the given sources in order, then the references in order.
    """

    def __init__(self, points: "_Points", mixing: F64) -> None:
        self._points, self.mixing = points, mixing

    @classmethod
    def of(cls, sources: Sequence[VectorSource], references: Mapping[str, F32] | None = None) -> "Vectors":
        """The vectors in `sources`, at least one, all finite and of one size; `references` of the same size."""
        points = _Points(sources, dict(references or {}))
        return cls(points, np.eye(len(sources), points.count))

    @property
    def n(self) -> int:
        """How many vectors there are."""
        return len(self.mixing)

    @property
    def size(self) -> int:
        """d, the length of each vector."""
        return self._points.size

    def mix(self, weights: F64) -> "Vectors":
        """Mixtures of these vectors by the rows of `weights`, shape (m, n).

        What a row lacks to a sum of 1 is given to the origin: a row (0.5, 0) halves the first vector.
        """
        mixing = weights @ self.mixing
        mixing[:, self._points.index(ORIGIN)] += 1.0 - weights.sum(axis=1)
        return Vectors(self._points, mixing)

    # -- geometry, shape (n, n) or (n,), float64 --------------------------------------------------

    @cached_property
    def squared_distances(self) -> F64:
        """‖x_i − x_j‖², shape (n, n): symmetric, not negative, 0 on the diagonal."""
        return _distances(self.mixing @ self._points.gram @ self.mixing.T)

    def squared_distances_to(self, reference: str) -> F64:
        """‖x_i − r‖², shape (n,), to a reference."""
        difference = self._relative(self._points.row(reference))
        squares: F64 = np.einsum("ij,jk,ik->i", difference, self._points.gram, difference)
        return np.maximum(squares, 0.0)

    @cached_property
    def squared_norms(self) -> F64:
        """‖x_i‖², shape (n,)."""
        return self.squared_distances_to(ORIGIN)

    def products(self, reference: str = ORIGIN) -> F64:
        """⟨x_i − r, x_j − r⟩, shape (n, n), as seen from a reference."""
        return self._gram_around(self._points.row(reference))

    def products_around_mean(self, weights: F64) -> F64:
        """⟨x_i − c, x_j − c⟩, shape (n, n), around c = Σ w_i x_i with `weights`, shape (n,), that add up to 1."""
        return self._gram_around(weights @ self.mixing)

    def products_with(self, target: str, reference: str = ORIGIN) -> F64:
        """⟨x_i − r, t − r⟩, shape (n,), with the reference named `target`, as seen from `reference`."""
        centre = self._points.row(reference)
        products: F64 = self._relative(centre) @ self._points.gram @ (self._points.row(target) - centre)
        return products

    def reference_squared_norm(self, reference: str) -> float:
        """‖r‖² of a reference."""
        difference = self._points.row(reference) - self._points.row(ORIGIN)
        return max(float(difference @ self._points.gram @ difference), 0.0)

    def _relative(self, centre: F64) -> F64:
        return self.mixing - centre

    def _gram_around(self, centre: F64) -> F64:
        relative = self._relative(centre)
        return relative @ self._points.gram @ relative.T

    # -- passes over the vectors ------------------------------------------------------------------

    def weighted_sum(self, weights: F64, references: Mapping[str, float] | None = None) -> "Combined":
        """a = Σ w_i x_i + Σ v_r r.

        Where the geometry is known, products come from it, and sources whose weight is 0 are not read.
        """
        points = self._points
        combination: F64 = weights @ self.mixing
        for name, weight in (references or {}).items():
            combination = combination + weight * points.row(name)
        if not points.measured:
            vector, products = points.combine_and_multiply(combination)
            return Combined(vector=vector, shares=self._shares(weights), products=products)
        vector = points.combine(combination)
        origin = points.row(ORIGIN)
        around = combination - combination.sum() * origin  # ⟨p − 0, a − 0⟩ for every point p, whatever the sum
        products = (np.eye(len(points.sources), points.count) - origin) @ (points.gram @ around)
        return Combined(vector=vector, shares=self._shares(weights), products=products)

    def by_columns(self, function: Callable[[F32], F32], weights: F64) -> "Combined":
        """a = `function` of every block of columns, (n, b) to (b,).

        `weights`, shape (n,), say how much of each vector is in it; a `ColumnFunction` is asked instead, for a sample
        of the columns. Any other function may overwrite its block.
        """
        points, sampled = self._points, 0
        found, products, shares = np.empty(self.size, dtype=np.float32), np.zeros(len(points.sources)), np.zeros(self.n)
        stride = max(1, self.size // _SAMPLED)
        for at, raw, block in self._blocks():
            if isinstance(function, ColumnFunction):
                made = function(block)
                if (sample := block[:, -at % stride :: stride]).shape[1]:
                    shares += function.shares(sample) * sample.shape[1]
                    sampled += sample.shape[1]
            else:
                made = function(block.copy())
            found[at : at + len(made)] = made
            products += raw[: len(products)] @ made
        if sampled:
            weights = shares / sampled
        return Combined(vector=found, shares=self._shares(weights), products=products)

    def _shares(self, weights: F64) -> F64:
        shares: F64 = weights @ self.mixing[:, : len(self._points.sources)]
        return shares

    def blocks(self) -> Iterator[tuple[int, F32]]:
        """Where a block of columns begins, and these vectors' columns, shape (n, b); valid until the next."""
        for at, _, block in self._blocks():
            yield at, block

    def _blocks(self) -> Iterator[tuple[int, F32, F32]]:
        """Where a block begins, the points' columns, and these vectors' columns."""
        points = self._points
        if np.array_equal(self.mixing, np.eye(len(points.sources), points.count)):
            for at, block in points.blocks():
                yield at, block, block[: self.n]
            return
        narrow = self.mixing[:, :-1].astype(np.float32)  # the origin adds nothing
        mixed = np.empty((self.n, min(_width(narrow.shape[1]), self.size)), dtype=np.float32)
        for at, block in points.blocks():
            yield at, block, np.matmul(narrow, block, out=mixed[:, : block.shape[1]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Combined:
    """One vector a, shape (d,), made of many.

    `shares`, shape (sources,): how much of each source is in it. `products`, shape (sources,): ⟨source, a⟩.
    """

    vector: F32
    shares: F64
    products: F64


class _Points:
    """The vectors that are read: sources and references, the origin last."""

    def __init__(self, sources: Sequence[VectorSource], references: dict[str, F32]) -> None:
        self.sources, self.references = tuple(sources), references
        self.size = sources[0].size
        self._names = [*references, ORIGIN]
        self.count = len(self.sources) + len(self._names)

    def index(self, reference: str) -> int:
        return len(self.sources) + self._names.index(reference)

    def row(self, reference: str) -> F64:
        """The reference as a combination of the points: 1 at its own place."""
        row = np.zeros(self.count)
        row[self.index(reference)] = 1.0
        return row

    def blocks(self) -> Iterator[tuple[int, F32]]:
        """Where a block of columns begins, and the columns of all points but the origin; valid until the next."""
        for at, block in _blocks_of(self.sources, self.count - 1, self.size):
            for row, values in zip(block[len(self.sources) :], self.references.values(), strict=True):
                row[:] = values[at : at + len(row)]
            yield at, block

    @property
    def measured(self) -> bool:
        """Whether the inner products are known already."""
        return "gram" in self.__dict__

    @cached_property
    def gram(self) -> F64:
        """⟨p_i − c, p_j − c⟩, shape (count, count), around a centre c amid the sources.

        The centre is the mean of some; where far outliers drag that away from the others, the source that is nearest
        to most of them.
        """
        centre: int | None = None
        for _ in range(3):
            gram = self._gram_around(centre)
            n = len(self.sources)
            typical = np.median(_distances(gram[:n, :n]), axis=1)
            middle = int(np.argmin(typical))
            if centre == middle or gram[middle, middle] <= _FAR * typical[middle]:
                break
            centre = middle
        return gram

    def _gram_around(self, centre: int | None) -> F64:
        gram, n = np.zeros((self.count, self.count)), len(self.sources)
        for _, block in self.blocks():
            middle = block[: n : max(1, n // _CENTRED_ON)].mean(axis=0) if centre is None else block[centre].copy()
            block -= middle
            gram[:-1, :-1] += block @ block.T
            gram[-1, :-1] -= block @ middle
            gram[-1, -1] += middle @ middle
        gram[:-1, -1] = gram[-1, :-1]
        return gram

    def combine(self, weights: F64) -> F32:
        """Σ w_p p over the points, shape (size,)."""
        used = [index for index in range(self.count - 1) if weights[index] != 0.0]
        points = [*self.sources, *map(MemoryVector, self.references.values())]
        found = np.zeros(self.size, dtype=np.float32)
        if not used:
            return found
        narrow = weights[used].astype(np.float32)
        for at, block in _blocks_of([points[index] for index in used], len(used), self.size):
            np.dot(narrow, block, out=found[at : at + block.shape[1]])
        return found

    def combine_and_multiply(self, weights: F64) -> tuple[F32, F64]:
        """Σ w_p p over the points, shape (size,), and its inner products with the sources, from the same pass."""
        found, products = np.empty(self.size, dtype=np.float32), np.zeros(len(self.sources))
        narrow = weights[:-1].astype(np.float32)
        for at, block in self.blocks():
            part = found[at : at + block.shape[1]]
            np.dot(narrow, block, out=part)
            products += block[: len(products)] @ part
        return found, products


def _width(rows: int) -> int:
    """How many columns a block of so many rows has.

    An odd number of cache lines: else the values of a column, a row apart, would share a few places in the cache.
    """
    lines = min(_MOST_COLUMNS, _BLOCK_BYTES // (4 * rows)) // _LINE
    return _LINE * max(5, lines - 1 + lines % 2)


def _blocks_of(sources: Sequence[VectorSource], rows: int, size: int) -> Iterator[tuple[int, F32]]:
    """Where a block begins, and an array of `rows` rows whose first ones are the sources' columns there."""
    width = _width(rows)
    readers = [_Reader(source, width) for source in sources]
    buffer = np.zeros((rows, min(width, size)), dtype=np.float32)
    for at in range(0, size, width):
        block = buffer[:, : size - at]
        for row, reader in zip(block, readers, strict=False):
            reader.fill(row)
        yield at, block


class _Reader:
    """A vector in pieces of any length, whatever pieces it comes in."""

    def __init__(self, source: VectorSource, width: int) -> None:
        self._chunks = source.chunks(width)
        self._rest: F32 = np.empty(0, dtype=np.float32)

    def fill(self, row: F32) -> None:
        """The next values, as many as fit in `row`."""
        if not self._rest.size:
            self._rest = next(self._chunks)
        if self._rest.size == row.size:  # as a rule: the pieces that were asked for
            row[:] = self._rest
            self._rest = self._rest[:0]
            return
        done = 0
        while done < row.size:
            if not self._rest.size:
                self._rest = next(self._chunks)
            part = self._rest[: row.size - done]
            row[done : done + part.size] = part
            self._rest = self._rest[part.size :]
            done += part.size


def _distances(gram: F64) -> F64:
    """Squared distances from inner products around any centre."""
    squares = np.diag(gram)
    found = squares[:, None] + squares[None, :] - 2.0 * gram
    np.fill_diagonal(found, 0.0)
    return np.maximum((found + found.T) / 2, 0.0)
