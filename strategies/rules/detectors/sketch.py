"""Linear sketches: long vectors as short ones, and what a detector keeps of each contributor over the rounds."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wardround.strategies.rules.rule import Memory
from wardround.strategies.rules.vectors import Vectors
from wardround.vector import F32, F64

__all__ = ["KEPT", "WIDTH", "CountSketch", "Histories", "cosines"]

WIDTH = 4096
"""Values of a sketch unless a detector is told otherwise: 32 KiB in a checkpoint."""
KEPT = 256
"""Of so many contributors a history is kept; beyond that those who were away longest are forgotten."""

_PART = 1 << 16


@dataclass(frozen=True)
class CountSketch:
    """A fixed linear map from R^size to R^width: every column gets a sign and a bucket, buckets are added up.

    Inner products survive: ⟨Sx, Sy⟩ is ⟨x, y⟩ on average over the maps, with variance at most
    (‖x‖²‖y‖² + ⟨x, y⟩²) / width; a cosine is off by at most √(2/width) in standard deviation, 2.2 % at 4096, and a
    distance by about as much of itself. Up to `width` values the map is the identity and nothing is lost.

    The map follows from `size` and `width` and is no secret: whoever knows them can choose an update whose sketch is
    zero or anything else (its kernel has size − width dimensions). A sketch is for evidence, never for aggregation.

    Source: Charikar, Chen, Farach-Colton 2002, "Finding Frequent Items in Data Streams", Section 3, with one row; the
    variance as in Alon, Matias, Szegedy 1999 and Thorup, Zhang 2012. Raises ValueError unless `width` is a power of 2.
    """

    size: int
    width: int = WIDTH

    def __post_init__(self) -> None:
        check_width(self.width)

    @property
    def length(self) -> int:
        """Values of a sketch: `width`, or `size` where that is no more."""
        return min(self.size, self.width)

    @cached_property
    def _draws(self) -> np.random.Philox:
        text = f"wardround count-sketch of {self.size} values into {self.width}"
        return np.random.Philox(key=int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little"))

    def of(self, vectors: Vectors) -> F64:
        """The sketches of n vectors, shape (n, length), from one pass."""
        found = np.zeros((vectors.n, self.length))
        draws = self._fresh()
        for at, block in vectors.blocks():
            self._add(block, at, draws, found)
        return found

    def of_one(self, vector: F32) -> F64:
        """The sketch of one vector of shape (size,), shape (length,)."""
        found = np.zeros((1, self.length))
        draws = self._fresh()
        for at in range(0, self.size, _PART):
            self._add(vector[None, at : at + _PART], at, draws, found)
        sketch: F64 = found[0]
        return sketch

    def _fresh(self) -> np.random.Philox:
        """The draws from their beginning: one of 64 bits for each column, however columns come in blocks."""
        draws = np.random.Philox()
        draws.state = self._draws.state
        return draws

    def _add(self, block: F32, at: int, draws: np.random.Philox, found: F64) -> None:
        columns = block.shape[1]
        if self.size <= self.width:
            found[:, at : at + columns] = block
            return
        raw = draws.random_raw(columns)
        bucket = (raw >> np.uint64(64 - (self.width.bit_length() - 1))).astype(np.intp)
        sign = np.where(raw & np.uint64(1), np.float32(1), np.float32(-1))
        for row, values in zip(found, block, strict=True):
            row += np.bincount(bucket, values * sign, self.width)


def check_width(width: int) -> None:
    """Raise ValueError unless `width` is a power of 2 from 2 to 2^20."""
    if not 2 <= width <= 1 << 20 or width & (width - 1):
        raise ValueError(f"expected a width that is a power of 2 from 2 to {1 << 20}, got {width}")


def cosines(sketches: F64) -> F64:
    """Of n rows the cosines of the angles between each two, shape (n, n); 0 with a row that is zero."""
    norms = np.linalg.norm(sketches, axis=1)
    unit = sketches / np.where(norms > 0.0, norms, 1.0)[:, None]
    return np.clip(unit @ unit.T, -1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Histories:
    """One row of values for each contributor, also those who are not in this round, with the round of its last one."""

    rows: Mapping[str, tuple[int, F64]]

    @classmethod
    def read(cls, memory: Memory, kind: str, length: int | None = None) -> "Histories":
        """Those in a memory under `kind`; a row of another length than `length` is as good as none."""
        prefix = f"{kind}/"
        return cls(
            {
                name.removeprefix(prefix): (int(array[0]), array[1:])
                for name, array in memory.items()
                if name.startswith(prefix) and (length is None or len(array) == length + 1)
            }
        )

    def get(self, key: str) -> tuple[int, F64] | None:
        """The contributor's last round and its row."""
        return self.rows.get(key)

    def updated(self, round: int, rows: Mapping[str, F64]) -> "Histories":
        """With new rows of `round`; of more than `KEPT` contributors those who came latest, or are first by name."""
        merged = {**self.rows, **{key: (round, row) for key, row in rows.items()}}
        kept = sorted(merged, key=lambda key: (-merged[key][0], key))[:KEPT]
        return Histories({key: merged[key] for key in sorted(kept)})

    def memory(self, kind: str) -> Memory:
        """What `read` takes."""
        return {f"{kind}/{key}": np.concatenate(([float(seen)], row)) for key, (seen, row) in self.rows.items()}
