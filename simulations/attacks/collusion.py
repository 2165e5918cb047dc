"""What attackers together know of honest updates, and how they all send one vector."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.simulations.attacks.attack import Crafted, Knowledge
from wardround.vector import F32, F64

__all__ = ["everybody", "narrow", "sample"]

_LARGEST = float(np.finfo(np.float32).max)


def sample(knowledge: Knowledge) -> F64:
    """Honest updates, shape (h, d), h >= 1: those of the others, or else what the attackers' own training gave."""
    rows = knowledge.honest if len(knowledge.honest) else knowledge.own
    return rows.astype(np.float64)


def narrow(updates: F64) -> F32:
    """The same as finite float32: what is too large for it becomes its largest number."""
    found: F32 = np.clip(updates, -_LARGEST, _LARGEST).astype(np.float32)
    return found


def everybody(knowledge: Knowledge, vector: F64, memory: Mapping[str, NDArray[Any]] | None = None) -> Crafted:
    """Every attacker sends `vector`, shape (d,)."""
    return Crafted(updates=np.tile(narrow(vector), (len(knowledge.own), 1)), memory=memory or {})
