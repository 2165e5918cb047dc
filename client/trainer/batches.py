"""Which rows make up each batch: a keyed shuffle that is the same for one client and for a block of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wardround.plan_sections import Training
from wardround.vector import I64

__all__ = ["U64", "Batches", "seed_array", "shuffled"]

U64 = NDArray[np.uint64]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def _mix(z: U64) -> U64:
    """SplitMix64's finaliser, a bijection of 64-bit words."""
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    return z ^ (z >> np.uint64(31))


def seed_array(*seeds: int) -> U64:
    """Seeds of any size as 64-bit words."""
    return np.array([seed & (2**64 - 1) for seed in seeds], dtype=np.uint64)


def shuffled(seeds: U64, epoch: int, rows: int) -> I64:
    """A permutation of `rows` rows for each seed, shape (len(seeds), rows): the same whatever the other seeds are.

    Rows are sorted by SplitMix64 keys (Steele et al. 2014), which never tie, as the generator is a bijection of its
    counter. A Philox generator for each client costs more than the whole shuffle. Not for secrets.
    """
    start = _mix(_mix(seeds) + np.array([epoch + 1], dtype=np.uint64) * _GAMMA)
    counter = np.arange(1, rows + 1, dtype=np.uint64) * _GAMMA
    return np.argsort(_mix(start[:, None] + counter), axis=1)


@dataclass(frozen=True, slots=True)
class Batches:
    """How `rows` rows are dealt out: whole epochs, or so many steps; an epoch's last batch may be smaller."""

    rows: int
    batch_size: int
    steps: int

    @classmethod
    def of(cls, training: Training, rows: int) -> "Batches":
        size = min(training.batch_size, rows)
        return cls(rows, size, training.steps or (training.epochs or 1) * -(-rows // size))

    @property
    def per_epoch(self) -> int:
        """Steps in a full epoch."""
        return -(-self.rows // self.batch_size)

    def sizes(self, start: int, stop: int) -> I64:
        """How many rows each of the steps [start, stop) takes, shape (stop − start,)."""
        last = np.arange(start, stop) % self.per_epoch == self.per_epoch - 1
        return np.where(last, self.rows - (self.per_epoch - 1) * self.batch_size, self.batch_size)

    def index(self, seeds: U64, start: int, stop: int) -> I64:
        """The rows of the steps [start, stop) for each seed, shape (len(seeds), stop − start, batch_size).

        Beyond a smaller batch's size stands row 0.
        """
        first, end = start // self.per_epoch, -(-stop // self.per_epoch)
        table = np.zeros((len(seeds), end - first, self.per_epoch * self.batch_size), dtype=np.int64)
        for epoch in range(first, end):
            table[:, epoch - first, : self.rows] = shuffled(seeds, epoch, self.rows)
        steps = table.reshape(len(seeds), -1, self.batch_size)
        return steps[:, start - first * self.per_epoch : stop - first * self.per_epoch]

    @property
    def num_examples(self) -> int:
        """How many rows all steps take together."""
        full, rest = divmod(self.steps, self.per_epoch)
        return full * self.rows + rest * self.batch_size  # only a whole epoch has a smaller batch
