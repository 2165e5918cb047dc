"""The encoded rows of a site as memory, from the process that read them to the one that runs a plan's code."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wardround.client.data.site_data import Rows, SiteData
from wardround.errors import RemoteError
from wardround.local_channel import Shared
from wardround.orders import SiteId
from wardround.vector import I64

__all__ = ["PIECES", "RowsSpec", "packed", "unpacked"]

PIECES = 7
"""x and y of training, validation and test, and the numbers of the training rows' patients (empty without)."""
_MOST_ROWS = 1 << 32
_MOST_AXES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsSpec:
    """What the pieces of memory hold.

    `rows` are the numbers of rows in training, validation and test, `inputs` is the shape of one, `classes` says that
    y is int64 and not float32. The rest is as in `SiteData`.
    """

    rows: tuple[int, int, int]
    inputs: tuple[int, ...]
    classes: bool
    patients: bool
    gone_rows: int
    gone_patients: int

    def __post_init__(self) -> None:
        for number in (*self.rows, *self.inputs, self.gone_rows, self.gone_patients):
            if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= _MOST_ROWS:
                raise ValueError("expected whole numbers in their bounds")
        if len(self.rows) != 3 or len(self.inputs) > _MOST_AXES:
            raise ValueError("expected three numbers of rows, and a shape")
        if not isinstance(self.classes, bool) or not isinstance(self.patients, bool):
            raise TypeError("expected true or false")

    def encode(self) -> dict[str, Any]:
        numbers = {"gone_rows": self.gone_rows, "gone_patients": self.gone_patients}
        return {
            "rows": list(self.rows),
            "inputs": list(self.inputs),
            "classes": self.classes,
            "patients": self.patients,
            **numbers,
        }

    @classmethod
    def decode(cls, header: Mapping[str, Any]) -> Self:
        """The inverse of `encode`. Raises KeyError, TypeError or ValueError for anything else."""
        train, validation, test = header["rows"]
        return cls(
            rows=(train, validation, test),
            inputs=tuple(header["inputs"]),
            classes=header["classes"],
            patients=header["patients"],
            gone_rows=header["gone_rows"],
            gone_patients=header["gone_patients"],
        )

    def _arrays(self) -> list[tuple[str, tuple[int, ...]]]:
        """Type and shape of what each piece holds."""
        y = "<i8" if self.classes else "<f4"
        parts = [one for count in self.rows for one in (("<f4", (count, *self.inputs)), (y, (count,)))]
        return [*parts, ("<i8", (self.rows[0] if self.patients else 0,))]


def packed(data: SiteData) -> tuple[RowsSpec, list[Shared]]:
    """Copies of the arrays in sealed memory: nothing else that this process knows is in it.

    Patients are numbered as they come. Their order in `data` is that of hashes of their ids, which tells of these.
    """
    parts = (data.train, data.validation, data.test)
    spec = RowsSpec(
        rows=(len(data.train), len(data.validation), len(data.test)),
        inputs=data.train.x.shape[1:],
        classes=data.train.y.dtype == np.int64,
        patients=data.patients is not None,
        gone_rows=data.gone_rows,
        gone_patients=data.gone_patients,
    )
    arrays: list[NDArray[Any]] = [array for part in parts for array in (part.x, part.y)]
    arrays.append(np.empty(0, dtype=np.int64) if data.patients is None else _as_they_come(data.patients))
    made: list[Shared] = []
    try:
        for array, (kind, _) in zip(arrays, spec._arrays(), strict=True):
            made.append(Shared.of(np.ascontiguousarray(array, dtype=kind).data.cast("B") if array.size else b""))
    except BaseException:
        for one in made:
            one.close()
        raise
    return spec, made


def _as_they_come(patients: I64) -> I64:
    _, first, inverse = np.unique(patients, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first)).astype(np.int64)[inverse]


def unpacked(site: SiteId, spec: RowsSpec, shared: Sequence[Shared]) -> SiteData:
    """What was packed, copied out of the memory. Raises RemoteError for memory of another size."""
    arrays: list[NDArray[Any]] = []
    for one, (kind, shape) in zip(shared, spec._arrays(), strict=True):
        if one.size != np.dtype(kind).itemsize * prod(shape):
            raise RemoteError("expected memory of the size of the rows")
        arrays.append(np.frombuffer(one.view(), dtype=kind).reshape(shape).astype(np.dtype(kind).newbyteorder("=")))
    *parts, patients = arrays
    train, validation, test = (Rows(x, y) for x, y in zip(parts[::2], parts[1::2], strict=True))
    return SiteData(
        site=site,
        train=train,
        validation=validation,
        test=test,
        patients=patients if spec.patients else None,
        gone_rows=spec.gone_rows,
        gone_patients=spec.gone_patients,
    )
