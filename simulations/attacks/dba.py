"""Distributed backdoor: each attacker plants a part of the trigger."""

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

__all__ = ["Dba"]


@dataclass(frozen=True, slots=True)
class Dba(Attack):
    """Each attacker trains on rows with its own part of the trigger and sends `scale` · own; the whole one is used.

    A trigger (`Trigger`) of k pixels or columns is dealt out to f attackers in turn; with k < f several have the same
    part. A `scale` of 1 is the paper's multiple-shot attack, in every round; more is its single-shot one.

    Source: Xie et al. 2020, "DBA: Distributed Backdoor Attacks against Federated Learning", Section 3.
    """

    target: int = 0
    share: float = 0.5
    size: int = 4
    value: float = 1.0
    scale: float = 1.0

    summary: ClassVar[str] = "a backdoor whose trigger is split among the attackers"
    source: ClassVar[str] = "Xie et al. 2020 (DBA), Section 3"
    poisons: ClassVar[bool] = True
    has_trigger: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._backdoor()
        if not 0 < self.scale < math.inf:
            raise ValueError(f"expected scale > 0, got {self.scale}")

    def craft(self, knowledge: Knowledge) -> Crafted:
        return Crafted(updates=narrow(self.scale * knowledge.own.astype(np.float64)))

    def poison(self, rows: Rows, poisoner: Poisoner) -> Rows:
        return self._backdoor().poison(rows, poisoner, poisoner.index, poisoner.attackers)

    def trigger(self, rows: Rows, plan: Plan) -> Rows:
        return self._backdoor().triggered(rows, plan.data)

    def _backdoor(self) -> Backdoor:
        return Backdoor(self.target, self.share, Trigger(self.size, self.value))
