"""Data given from Python, as a table: arrays or a torch Dataset."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.client.data.table import Column, Table
from wardround.errors import LocalError
from wardround.plan_sections import Data, Target

__all__ = ["table_of"]

_FORMS = {
    2: "a pair (X, y) or a map-style Dataset of (x, y), without patients unless the plan names them (data.patient)",
    3: "(X, y, patients) or a map-style Dataset of (x, y, patient), since the plan names patients (data.patient)",
}


def table_of(data: Data, given: Any, where: str) -> Table:
    """The rows of a pair (X, y) of arrays, tensors or data frames, or of a map-style Dataset of (x, y), read whole.

    X has shape (n, inputs), its columns in the order of the plan's, or (n, channels, height, width). y has shape (n,).
    Whole numbers in y are class indices, unless every class of the plan is a whole number itself; text is a label.
    A plan with `data.patient` takes (X, y, patients), or a Dataset of (x, y, patient): `patients`, shape (n,), says
    whose each row is, as numbers or text. Rows count from 0. Raises LocalError, led by `where`, for anything else.
    """
    x, y, *named = _arrays(given, where, 2 if data.patient is None else 3)
    target = data.target
    if target is None:
        raise LocalError(f"{where}: expected a plan with data.target")
    if y.ndim != 1 or x.ndim not in (2, 4) or (data.columns and x.shape[1:] != (len(data.columns),)):
        inputs = f"{len(data.columns)}) (data.columns" if data.columns else "inputs) or (n, channels, height, width"
        raise LocalError(f"{where}: expected X of shape (n, {inputs}) and y of shape (n,), got {x.shape} and {y.shape}")
    columns = {column.name: x[:, index] for index, column in enumerate(data.columns)}
    if data.patient is not None:
        (patients,) = named
        if patients.shape != y.shape:
            raise LocalError(f"{where}: expected patients of shape {y.shape}, as y has, got {patients.shape}")
        columns[data.patient] = patients
    return Table(
        source=where,
        columns=columns,
        array=None if data.columns else x,
        target=_labels(target, y, where),
        target_name=target.name,
    )


def _arrays(given: Any, where: str, count: int) -> list[NDArray[Any]]:
    """X, y and, where `count` is 3, patients."""
    parts = getattr(given, "tensors", given)  # of a TensorDataset
    if isinstance(parts, tuple | list) and len(parts) == count:
        return [_array(part) for part in parts]
    mapped = hasattr(given, "__getitem__") and hasattr(given, "__len__")
    if mapped and not isinstance(given, np.ndarray | str | tuple | list | Mapping):
        items = [given[index] for index in range(len(given))]
        if all(isinstance(item, tuple | list) and len(item) == count for item in items):
            inputs = [_array(item[0]) for item in items]
            shapes = sorted({x.shape for x in inputs})
            if len(shapes) > 1:
                raise LocalError(f"{where}: expected inputs of one shape, got {shapes[0]} and {shapes[1]}")
            return [np.array(inputs), *(np.array([_array(item[at])[()] for item in items]) for at in range(1, count))]
    raise LocalError(f"{where}: expected {_FORMS[count]}, got {_what(given)}")


def _what(given: Any) -> str:
    name = type(given).__name__
    return f"{name} of {len(given)}" if isinstance(given, tuple | list) else name


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
