"""Functions of every column's values in order: their middle, and what is nearest to their median.

A few rows are put in order by a network of comparators, each of which takes two rows and gives their minima and
maxima: two calls for thousands of columns, at the speed of the cache. Of the network only what the wanted rows depend
on is run. It costs O(log² n) a value, so many rows are sorted column by column instead, a column's values side by side.

Source: Batcher 1968, "Sorting networks and their applications" (odd-even merge sort); as an algorithm for any n: Knuth,
"The Art of Computer Programming", Volume 3, Section 5.2.2, Algorithm M.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from wardround.strategies.rules.vectors import ColumnFunction
from wardround.vector import F32, F64

__all__ = ["MiddleMean", "NearestToMedian", "Network", "network"]

_FEW, _NARROW = 48, 512
"""A network is run for at most so many rows, and at least so many columns: calling numpy costs as much as sorting."""
_SORTED_AT_ONCE = 1 << 10
"""Columns, so that they are sorted in cache."""
_DROPPED = -1
"""The label of a place in the order that nobody asks for."""

_Step = tuple[Callable[..., F32], int, int, int]


# -- networks ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Network:
    """A program that puts `n` rows in order, column by column, as far as is asked for.

    A step is a function of two registers and the one its result goes to. The first n registers are the rows given,
    which no step overwrites. `outputs` are the registers of the wanted rows, in ascending order of their places.
    """

    n: int
    steps: tuple[_Step, ...]
    registers: int
    outputs: tuple[int, ...]

    def run(self, rows: Sequence[F32]) -> list[F32]:
        """The wanted rows, from `n` rows of shape (b,), which stay as they are."""
        scratch = np.empty((self.registers - self.n, len(rows[0])), dtype=np.float32)
        files = [*rows, *scratch]
        for function, left, right, out in self.steps:
            function(files[left], files[right], out=files[out])
        return [files[output] for output in self.outputs]


@lru_cache(maxsize=64)
def network(labels: tuple[int, ...]) -> Network:
    """The network for rows of which place i in ascending order is wanted with label `labels[i]`.

    Places with one label may come in any order among themselves; label -1: the place is not wanted. A comparator of
    two rows with one label changes nothing that matters and is left out, and so is the half of one that makes a row
    nobody wants.
    """
    now, kept = list(labels), []
    for fresh, (low, high) in enumerate(reversed(_comparators(len(labels))), start=max(labels, default=0) + 1):
        if now[low] != now[high]:
            kept.append((low, high, now[low] != _DROPPED, now[high] != _DROPPED))
            now[low] = now[high] = fresh  # either way round, what follows is the same
    return _allocated(kept[::-1], labels)


def _comparators(n: int) -> list[tuple[int, int]]:
    """Pairs of rows, the first to become the smaller one, that in this order sort n rows."""
    found, span = [], 1
    while span < n:
        step = span
        while step:
            for first in range(step % span, n - step, 2 * step):
                for low in range(first, first + min(step, n - first - step)):
                    if low // (2 * span) == (low + step) // (2 * span):
                        found.append((low, low + step))
            step //= 2
        span *= 2
    return found


def _allocated(comparators: Sequence[tuple[int, int, bool, bool]], labels: tuple[int, ...]) -> Network:
    """The steps of comparators (low, high, whether each is wanted), with registers used again once they are free."""
    n = registers = len(labels)
    place, free, steps = list(range(n)), list[int](), list[_Step]()

    def take() -> int:
        nonlocal registers
        if free:
            return free.pop()
        registers += 1
        return registers - 1

    for low, high, minimum, maximum in comparators:
        left, right = place[low], place[high]
        owned = [register for register in (left, right) if register >= n]
        if minimum and maximum:
            place[low] = take()
            steps.append((np.minimum, left, right, place[low]))
        elif minimum:
            place[low] = owned.pop() if owned else take()
            steps.append((np.minimum, left, right, place[low]))
        if maximum:
            place[high] = owned.pop() if owned else take()
            steps.append((np.maximum, left, right, place[high]))
        free += owned
    outputs = tuple(place[index] for index, label in enumerate(labels) if label != _DROPPED)
    return Network(n, tuple(steps), registers, outputs)


# -- functions of columns ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MiddleMean(ColumnFunction):
    """The mean of the values at places `first` to `last` − 1 of each column of n in ascending order."""

    n: int
    first: int
    last: int

    def __call__(self, block: F32) -> F32:
        if self.n <= _FEW and block.shape[1] >= _NARROW:
            labels = (_DROPPED,) * self.first + (0,) * (self.last - self.first) + (_DROPPED,) * (self.n - self.last)
            return _mean(network(labels).run(list(block)))
        chosen, found = np.zeros(self.n, dtype=np.float32), np.empty(block.shape[1], dtype=np.float32)
        chosen[self.first : self.last] = 1.0
        for at in range(0, len(found), _SORTED_AT_ONCE):
            columns = np.ascontiguousarray(block[:, at : at + _SORTED_AT_ONCE].T)
            columns.sort(axis=1)
            np.dot(columns, chosen, out=found[at : at + _SORTED_AT_ONCE])
        found /= np.float32(self.last - self.first)
        return found

    def shares(self, block: F32) -> F64:
        """The share of the places in the middle that each row has; of equal values the first rows come first."""
        order = np.argsort(block, axis=0, kind="stable")[self.first : self.last]
        return _frequencies(order, self.n)


@dataclass(frozen=True, slots=True)
class NearestToMedian(ColumnFunction):
    """The mean of the `count` values of each column that are nearest to their median, of the `rows` of n.

    Of two values equally far from it the smaller one.
    """

    n: int
    rows: tuple[int, ...]
    count: int

    def __call__(self, block: F32) -> F32:
        given, rest = len(self.rows), len(self.rows) - self.count
        if given > _FEW or block.shape[1] < _NARROW:
            ordered = list(np.sort(block[list(self.rows)], axis=0))
        else:
            middle = {(given - 1) // 2, given // 2}
            inner = set(range(rest, self.count)) - middle
            labels = tuple(given if index in inner else index for index in range(given))
            ordered = network(labels).run([block[row] for row in self.rows])
        median = (ordered[(given - 1) // 2] + ordered[given // 2]) / np.float32(2)
        # The nearest values are neighbours in order. Value `at` makes way for value `at + count` where it is farther.
        nearest = ordered[: self.count]
        for at in range(rest):
            slot, next_one = at % self.count, ordered[at + self.count]
            nearest[slot] = np.where(median - ordered[at] > next_one - median, next_one, nearest[slot])
        return _mean(nearest)

    def shares(self, block: F32) -> F64:
        """The share of the values taken that are of each row."""
        rows = np.array(self.rows)
        chosen = block[rows]
        order = np.argsort(chosen, axis=0, kind="stable")
        ordered = np.take_along_axis(chosen, order, axis=0)
        far = np.abs(ordered - np.median(ordered, axis=0))
        nearest = np.argsort(far, axis=0, kind="stable")[: self.count]
        return _frequencies(rows[np.take_along_axis(order, nearest, axis=0)], self.n)


def _mean(rows: Sequence[F32]) -> F32:
    """The mean of rows, summed in pairs of pairs, which rounds less than one after the other."""
    count = len(rows)
    while len(rows) > 1:
        pairs = [left + right for left, right in zip(rows[::2], rows[1::2], strict=False)]
        rows = [*pairs, *rows[2 * len(pairs) :]]
    return rows[0] / np.float32(count)


def _frequencies(rows: NDArray[np.intp], n: int) -> F64:
    """How often each of n rows occurs, as a share."""
    return np.bincount(rows.ravel(), minlength=n) / max(rows.size, 1)
