"""The direction in which Min-Max and Min-Sum leave the honest mean."""

from enum import IntEnum

import numpy as np

from wardround.vector import F64

__all__ = ["Perturbation", "check_perturbation", "perturbation"]


class Perturbation(IntEnum):
    """The inverse unit vector, standard deviation and sign of Shejwalkar & Houmansadr 2021; numbers, as options are."""

    UNIT = 0
    STD = 1
    SIGN = 2


def check_perturbation(value: int) -> None:
    """Raise ValueError unless `value` is one of `Perturbation`."""
    if value not in list(Perturbation):
        raise ValueError(f"expected perturbation 0 (unit), 1 (std) or 2 (sign), got {value}")


def perturbation(kind: int, rows: F64) -> F64:
    """The direction, shape (d,), for honest rows of shape (h, d): −mean/‖mean‖, −std or −sign(mean).

    Zero where the mean or the spread is.
    """
    mean = rows.mean(axis=0)
    found: F64
    if kind == Perturbation.STD:
        found = -rows.std(axis=0)
    elif kind == Perturbation.SIGN:
        found = -np.sign(mean)
    else:
        found = -mean / (float(np.linalg.norm(mean)) or 1.0)
    return found
