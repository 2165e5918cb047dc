"""A backdoor's trigger: what is changed in a row, and how attackers share it out."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wardround.plan_sections import Column, ColumnType, Data
from wardround.vector import F32

__all__ = ["Trigger"]

_Cell = tuple[NDArray[np.int64], F32]
"""Places in a flattened row and the values put there."""


@dataclass(frozen=True, slots=True)
class Trigger:
    """The same for everybody: it follows from the plan alone and not from a site's rows.

    Images, shape (n, channels, height, width): a white square of `size` pixels a side in the lower right corner.
    Columns: the first `size` number columns at the upper end of their range, so that no check of a range refuses them;
    a number without range at mean + 3 std of the plan, or else at `value`. Without number columns, the first `size`
    categories at their last value. Inputs without columns: the first `size` at `value`.
    """

    size: int
    value: float

    def stamp(self, x: F32, data: Data, part: int = 0, parts: int = 1) -> F32:
        """A copy of the rows with the trigger in them; of `parts` parts only one, none of which is empty."""
        cells = self._cells(x.shape[1:], data)
        parts = min(parts, len(cells))
        stamped = x.copy()
        flat = stamped.reshape(len(x), math.prod(x.shape[1:]))
        for places, values in cells[part % parts :: parts]:
            flat[:, places] = values
        return stamped

    def _cells(self, shape: tuple[int, ...], data: Data) -> list[_Cell]:
        if len(shape) == 3:
            return self._square(shape)
        if data.columns:
            return self._columns(data.columns)
        return [(np.array([at]), np.array([self.value], dtype=np.float32)) for at in range(min(self.size, shape[0]))]

    def _square(self, shape: tuple[int, ...]) -> list[_Cell]:
        channels, height, width = shape
        places = np.arange(channels * height * width).reshape(channels, -1)
        inside = np.arange(height * width).reshape(height, width)[-self.size :, -self.size :]
        return [(places[:, pixel], np.ones(channels, dtype=np.float32)) for pixel in inside.reshape(-1)]

    def _columns(self, columns: tuple[Column, ...]) -> list[_Cell]:
        starts = np.cumsum([0, *(column.width for column in columns)])
        numbers = [at for at, column in enumerate(columns) if column.type is ColumnType.NUMBER]
        chosen = numbers or list(range(len(columns)))
        cells = []
        for at in chosen[: self.size]:
            values = np.zeros(columns[at].width, dtype=np.float32)
            values[-1] = 1.0 if columns[at].type is ColumnType.CATEGORY else self._number(columns[at])
            cells.append((np.arange(starts[at], starts[at + 1]), values))
        return cells

    def _number(self, column: Column) -> float:
        if column.range is not None:
            return _below(column.range[1])
        if column.mean is not None and column.std is not None:
            return column.mean + 3 * column.std
        return self.value


def _below(limit: float) -> float:
    """The largest float32 that is not above `limit`."""
    nearest = np.float32(limit)
    return float(nearest if float(nearest) <= limit else np.nextafter(nearest, np.float32(-np.inf)))
