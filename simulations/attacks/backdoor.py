"""A backdoor: rows with a trigger and the label that the model should learn to give them."""

import math
from dataclasses import dataclass

import numpy as np

from wardround.client.data.site_data import Rows
from wardround.plan_sections import Data
from wardround.simulations.attacks.attack import Poisoner
from wardround.simulations.attacks.trigger import Trigger

__all__ = ["Backdoor"]


@dataclass(frozen=True, slots=True)
class Backdoor:
    """What the attacks that plant a backdoor have in common.

    `target` is the index of the class to give; where a number is predicted, 0 stands for the lower end of its range
    and any other for the upper one. `share` of an attacker's rows, at least one, get the trigger and that label.
    """

    target: int
    share: float
    trigger: Trigger

    def __post_init__(self) -> None:
        if self.target < 0:
            raise ValueError(f"expected target >= 0, got {self.target}")
        if not 0 < self.share <= 1:
            raise ValueError(f"expected 0 < share <= 1, got {self.share}")
        if self.trigger.size < 1:
            raise ValueError(f"expected size >= 1, got {self.trigger.size}")
        if not math.isfinite(self.trigger.value):
            raise ValueError(f"expected a finite value, got {self.trigger.value}")

    def poison(self, rows: Rows, poisoner: Poisoner, part: int = 0, parts: int = 1) -> Rows:
        """The rows, of which `share` are drawn from the attacker's seed and changed; their order stays."""
        data = poisoner.plan.data
        count = math.ceil(self.share * len(rows))
        generator = np.random.Generator(np.random.Philox(key=poisoner.seed))
        chosen = generator.permutation(len(rows))[:count]
        x, y = rows.x.copy(), rows.y.copy()
        x[chosen] = self.trigger.stamp(rows.x[chosen], data, part, parts)
        y[chosen] = self._label(rows, data)
        return Rows(x, y)

    def triggered(self, rows: Rows, data: Data) -> Rows:
        """Rows of other labels with the whole trigger and the target label."""
        label = self._label(rows, data)
        others = rows.take(np.flatnonzero(rows.y != label))
        return Rows(self.trigger.stamp(others.x, data), np.full_like(others.y, label))

    def _label(self, rows: Rows, data: Data) -> int:
        if rows.y.dtype == np.float32:
            return min(self.target, 1)
        classes = len(data.target.classes) if data.target is not None else 0
        if self.target >= classes:
            raise ValueError(f"expected target < {classes}, the number of classes, got {self.target}")
        return self.target
