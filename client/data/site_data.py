"""The rows of one site."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wardround.orders import SiteId, Split
from wardround.vector import F32, I64

__all__ = ["Rows", "SiteData"]


@dataclass(frozen=True, slots=True)
class Rows:
    """Encoded rows: `x` of shape (n, inputs) or (n, channels, height, width), `y` of shape (n,).

    `x` is not yet standardised. `y` is int64 class indices, or float32 targets scaled from the plan's range to [0, 1].
    """

    x: F32
    y: I64 | F32

    def __post_init__(self) -> None:
        if self.x.dtype != np.float32 or self.y.dtype not in (np.int64, np.float32):
            raise ValueError(f"expected float32 x and int64 or float32 y, got {self.x.dtype} and {self.y.dtype}")
        if self.y.shape != (len(self.x),):
            raise ValueError(f"expected one y for each of {len(self.x)} rows, got shape {self.y.shape}")

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: NDArray[np.int64]) -> "Rows":
        """The rows at `index`, copied."""
        return Rows(self.x.take(index, axis=0), self.y.take(index))


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteData:
    """One site's rows, split; validation and test may be empty.

    `patients`, shape (training rows,), is the number of each training row's patient, 0 to m − 1 with every number used;
    None where the plan names no column that says whose a row is. The numbers mean nothing outside this object.

    `gone_rows` and `gone_patients` train no more, since a patient has withdrawn. They count nevertheless where privacy
    is charged by the number of rows or patients: others are drawn as often as was charged, not more often.
    """

    site: SiteId
    train: Rows
    validation: Rows
    test: Rows
    patients: I64 | None = None
    gone_rows: int = 0
    gone_patients: int = 0

    def __post_init__(self) -> None:
        patients = self.patients
        if patients is None:
            return
        if patients.shape != (len(self.train),) or patients.dtype != np.int64:
            got = f"{patients.dtype} of shape {patients.shape}"
            raise ValueError(f"expected an int64 patient for each of {len(self.train)} training rows, got {got}")
        if patients.min(initial=0) != 0 or len(np.unique(patients)) != patients.max(initial=-1) + 1:
            raise ValueError("expected patients 0 to m - 1, each with a training row")

    def split(self, split: Split) -> Rows:
        return {Split.TRAIN: self.train, Split.VALIDATION: self.validation, Split.TEST: self.test}[split]
