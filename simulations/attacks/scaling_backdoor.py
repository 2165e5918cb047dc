"""Scaling backdoor: a model with a backdoor, enlarged so that it replaces the global one."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wardround.client.data.site_data import Rows
from wardround.plan import Plan
from wardround.simulations.attacks.attack import Attack, Crafted, Knowledge, Poisoner
from wardround.simulations.attacks.backdoor import Backdoor
from wardround.simulations.attacks.collusion import narrow
from wardround.simulations.attacks.trigger import Trigger

__all__ = ["ScalingBackdoor"]


@dataclass(frozen=True, slots=True)
class ScalingBackdoor(Attack):
    """Each attacker trains on rows with a trigger (`Backdoor`, `Trigger`) and sends γ · own.

    γ is `scale`; absent, it is n/f for f attackers in a cohort of n: with the plain mean, equal weights and a server
    learning rate of 1, honest updates that cancel out leave the attackers' model as the global one. The paper's
    γ = n/η is that of one attacker.

    Source: Bagdasaryan et al. 2020, "How To Backdoor Federated Learning", model replacement.
    """

    target: int = 0
    share: float = 0.5
    size: int = 3
    value: float = 1.0
    scale: float | None = None

    summary: ClassVar[str] = "a backdoor, scaled up so that it outweighs everybody else"
    source: ClassVar[str] = "Bagdasaryan et al. 2020, model replacement"
    knows_others: ClassVar[bool] = True  # only how many there are
    poisons: ClassVar[bool] = True
    has_trigger: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._backdoor()
        if self.scale is not None and not 0 < self.scale < math.inf:
            raise ValueError(f"expected scale > 0, got {self.scale}")

    def craft(self, knowledge: Knowledge) -> Crafted:
        f = len(knowledge.own)
        scale = (len(knowledge.honest) + f) / max(f, 1) if self.scale is None else self.scale
        return Crafted(updates=narrow(scale * knowledge.own.astype(np.float64)))

    def poison(self, rows: Rows, poisoner: Poisoner) -> Rows:
        return self._backdoor().poison(rows, poisoner)

    def trigger(self, rows: Rows, plan: Plan) -> Rows:
        return self._backdoor().triggered(rows, plan.data)

    def _backdoor(self) -> Backdoor:
        return Backdoor(self.target, self.share, Trigger(self.size, self.value))
