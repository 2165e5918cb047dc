"""Raw rows with named columns, as a file, a data set or Python gave them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from wardround.errors import LocalError
from wardround.registry import nearest

__all__ = ["Column", "Table"]

Column = NDArray[Any]
"""One raw column, shape (n,): numbers, bools or text; NaN, None and empty text are missing values."""

_NUMBERS = "biuf"
_KINDS = "biufUO"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of raw columns, or of one array of inputs. Nothing is checked against a plan yet.

    `array` has shape (n, inputs), or (n, channels, height, width) for images. `target` is None for rows to predict.
    `source` says in messages where the rows come from; `first_row` is how that source counts its first row (a CSV
    file's header is row 1).
    """

    source: str
    columns: Mapping[str, Column] = field(default_factory=dict)
    array: NDArray[Any] | None = None
    target: Column | None = None
    target_name: str = "target"
    first_row: int = 0

    def __post_init__(self) -> None:
        columns = dict(self.columns) | ({} if self.target is None else {self.target_name: self.target})
        for name, column in columns.items():
            if column.ndim != 1 or column.dtype.kind not in _KINDS:
                got = f"{column.dtype} of shape {column.shape}"
                raise LocalError(f"{self.source}: column {name!r}: expected a number or text for each row, got {got}")
        if self.array is not None and (self.array.ndim not in (2, 4) or self.array.dtype.kind not in _NUMBERS):
            raise LocalError(
                f"{self.source}: expected numbers of shape (n, inputs) or (n, channels, height, width), "
                f"got {self.array.dtype} of shape {self.array.shape}"
            )
        lengths = {len(part) for part in (*columns.values(), *([] if self.array is None else [self.array]))}
        if len(lengths) > 1:
            raise LocalError(
                f"{self.source}: expected as many inputs as targets, got {' and '.join(map(str, sorted(lengths)))}"
            )

    def __len__(self) -> int:
        if self.target is not None:
            return len(self.target)
        if self.array is not None:
            return len(self.array)
        return len(next(iter(self.columns.values()), ()))

    def column(self, name: str) -> Column:
        """The column called `name`, or the target. Raises LocalError with the nearest name when there is none."""
        if self.target is not None and name == self.target_name:
            return self.target
        if name not in self.columns:
            raise LocalError(f"{self.source}: expected a column {name!r}{nearest(name, self.columns)}")
        return self.columns[name]

    def row(self, index: int) -> int:
        """The row at `index` as the source counts it."""
        return self.first_row + int(index)
