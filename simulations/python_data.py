"""Data given from Python, as a table: a pair of arrays or a torch Dataset."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.client.data.table import Column, Table
from wardround.errors import LocalError
from wardround.plan_sections import Data, Target

__all__ = ["table_of"]


def table_of(data: Data, given: Any, where: str) -> Table:
    """The rows of a pair (X, y) of arrays, tensors or data frames, or of a map-style Dataset of (x, y), read whole.

    X has shape (n, inputs), its columns in the order of the plan's, or (n, channels, height, width). y has shape (n,).
    Whole numbers in y are class indices, unless every class of the plan is a whole number itself; text is a label.
    Rows count from 0. Raises LocalError, led by `where`, for anything else.
    """
    x, y = _arrays(given, where)
    target = data.target
    if target is None:
        raise LocalError(f"{where}: expected a plan with data.target")
    if y.ndim != 1 or x.ndim not in (2, 4) or (data.columns and x.shape[1:] != (len(data.columns),)):
        inputs = f"{len(data.columns)}) (data.columns" if data.columns else "inputs) or (n, channels, height, width"
        raise LocalError(f"{where}: expected X of shape (n, {inputs}) and y of shape (n,), got {x.shape} and {y.shape}")
    return Table(
        source=where,
        columns={column.name: x[:, index] for index, column in enumerate(data.columns)},
        array=None if data.columns else x,
        target=_labels(target, y, where),
        target_name=target.name,
    )


def _arrays(given: Any, where: str) -> tuple[NDArray[Any], NDArray[Any]]:
    pair = getattr(given, "tensors", given)  # of a TensorDataset
    if isinstance(pair, tuple | list) and len(pair) == 2:
        return _array(pair[0]), _array(pair[1])
    mapped = hasattr(given, "__getitem__") and hasattr(given, "__len__")
    if mapped and not isinstance(given, np.ndarray | str | tuple | list | Mapping):
        items = [given[index] for index in range(len(given))]
        if all(isinstance(item, tuple | list) and len(item) == 2 for item in items):
            inputs = [_array(x) for x, _ in items]
            shapes = sorted({x.shape for x in inputs})
            if len(shapes) > 1:
                raise LocalError(f"{where}: expected inputs of one shape, got {shapes[0]} and {shapes[1]}")
            return np.array(inputs), np.array([_array(y)[()] for _, y in items])
    raise LocalError(f"{where}: expected a pair (X, y) or a map-style Dataset of (x, y), got {type(given).__name__}")


def _array(value: Any) -> NDArray[Any]:
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def _labels(target: Target, y: NDArray[Any], where: str) -> Column:
    """y with class indices replaced by the plan's labels."""
    named = all(label.removeprefix("-").isdecimal() for label in target.classes)
    if named or y.dtype.kind not in "iu":
        return y
    if len(y) and not (y.min() >= 0 and y.max() < len(target.classes)):
        raise LocalError(
            f"{where}: expected y from 0 to {len(target.classes) - 1}, an index into data.target.classes, "
            f"got {y.min()} to {y.max()}"
        )
    labels: Column = np.array(target.classes, dtype=object)[y]
    return labels
