"""Update vectors: named tensors as one contiguous float32 vector, and vectors that are read in chunks."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["F32", "F64", "I64", "FileVector", "Layout", "MemoryVector", "TensorSpec", "VectorSource", "squared_norm"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


def squared_norm(vector: F32) -> float:
    """‖vector‖² of finite values; in float64 where float32 would overflow."""
    with np.errstate(over="ignore"):
        square = float(np.dot(vector, vector))
    if math.isinf(square):
        wide = vector.astype(np.float64)
        square = float(np.dot(wide, wide))
    return square


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """A tensor's place in a vector. `buffer` marks running statistics, which no gradient reaches."""

    name: str
    shape: tuple[int, ...]
    buffer: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Layout:
    """The order of named tensors in a flat vector; parameters come before buffers."""

    tensors: tuple[TensorSpec, ...]
    size: int = field(init=False)

    def __post_init__(self) -> None:
        if len({tensor.name for tensor in self.tensors}) != len(self.tensors):
            raise ValueError("expected every tensor name once")
        kinds = [tensor.buffer for tensor in self.tensors]
        if kinds != sorted(kinds):
            raise ValueError("expected parameters before buffers")
        object.__setattr__(self, "size", sum(tensor.size for tensor in self.tensors))

    @property
    def num_parameters(self) -> int:
        """Length of the vector's first part, the parameters; the rest is buffers."""
        return sum(tensor.size for tensor in self.tensors if not tensor.buffer)

    def flatten(self, tensors: Mapping[str, NDArray[np.generic]]) -> F32:
        """One float32 vector of shape (size,) from named arrays.

        Raises ValueError for a missing, surplus or misshapen array.
        """
        if surplus := sorted(set(tensors) - {tensor.name for tensor in self.tensors}):
            raise ValueError(f"expected no tensor {surplus[0]!r}")
        vector = np.empty(self.size, dtype=np.float32)
        start = 0
        for tensor in self.tensors:
            array = tensors.get(tensor.name)
            if array is None or array.shape != tensor.shape:
                got = "none" if array is None else array.shape
                raise ValueError(f"tensor {tensor.name!r}: expected shape {tensor.shape}, got {got}")
            vector[start : start + tensor.size] = array.reshape(-1)
            start += tensor.size
        return vector

    def split(self, vector: F32) -> dict[str, F32]:
        """Named views into `vector` of shape (size,); no copies. Raises ValueError for a wrong shape."""
        if vector.shape != (self.size,):
            raise ValueError(f"expected a vector of shape ({self.size},), got {vector.shape}")
        views: dict[str, F32] = {}
        start = 0
        for tensor in self.tensors:
            views[tensor.name] = vector[start : start + tensor.size].reshape(tensor.shape)
            start += tensor.size
        return views


class VectorSource(Protocol):
    """A float32 vector that may not be in memory: a memory map, a spool file. Re-iterable."""

    @property
    def size(self) -> int: ...

    def chunks(self, floats: int = 1 << 18) -> Iterator[F32]:
        """The vector in order, in pieces of at most `floats` values, valid until the next is asked for."""
        ...


@dataclass(frozen=True, slots=True)
class MemoryVector:
    """A vector in memory, of shape (size,)."""

    values: F32

    @property
    def size(self) -> int:
        return int(self.values.shape[0])

    def chunks(self, floats: int = 1 << 18) -> Iterator[F32]:
        """Views of at most `floats` values each."""
        for start in range(0, self.size, floats):
            yield self.values[start : start + floats]


@dataclass(frozen=True, slots=True)
class FileVector:
    """A vector of `size` little-endian float32 values in a file, from byte `offset` on.

    Read piece by piece, never mapped or held as a whole. The file stays open while its chunks are iterated over.
    """

    path: Path
    size: int
    offset: int = 0

    def __post_init__(self) -> None:
        if self.size < 0 or self.offset < 0:
            raise ValueError(f"expected size >= 0 and offset >= 0, got {self.size} and {self.offset}")

    def chunks(self, floats: int = 1 << 18) -> Iterator[F32]:
        """Pieces of at most `floats` values, all in one buffer. ValueError where the file ends too early."""
        buffer = bytearray(4 * min(floats, self.size))
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.offset)
            for start in range(0, self.size, floats):
                piece = memoryview(buffer)[: 4 * (self.size - start)]
                self._fill(file, piece)
                yield np.frombuffer(piece, dtype="<f4").astype(np.float32, copy=False)

    def _fill(self, file: FileIO, into: memoryview) -> None:
        """Read until `into` is full: one read of a file may give less."""
        done = 0
        while done < len(into):
            read = file.readinto(into[done:])
            if not read:
                expected, got = self.offset + 4 * self.size, self.path.stat().st_size
                raise ValueError(f"{self.path}: expected at least {expected} bytes, got {got}")
            done += read
