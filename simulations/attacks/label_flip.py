"""Label flip: training on wrong labels."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wardround.client.data.site_data import Rows
from wardround.simulations.attacks.attack import Attack, Poisoner
from wardround.vector import F32

__all__ = ["LabelFlip"]


@dataclass(frozen=True, slots=True)
class LabelFlip(Attack):
    """Each attacker trains on class C − 1 − c instead of c, of C classes; on 1 − y where a number is predicted.

    Source: Fang et al. 2020, "Local Model Poisoning Attacks to Byzantine-Robust Federated Learning", the label
    flipping attack that it compares with.
    """

    summary: ClassVar[str] = "honest training on the opposite labels"
    source: ClassVar[str] = "Fang et al. 2020, label flipping attack"
    poisons: ClassVar[bool] = True

    def poison(self, rows: Rows, poisoner: Poisoner) -> Rows:
        if rows.y.dtype == np.float32:
            flipped: F32 = np.float32(1) - rows.y.astype(np.float32)
            return Rows(rows.x, flipped)
        target = poisoner.plan.data.target
        if target is None or not target.classes:
            raise ValueError("expected a plan with data.target.classes, got none")
        return Rows(rows.x, np.int64(len(target.classes) - 1) - rows.y.astype(np.int64))
