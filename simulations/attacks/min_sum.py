"""Min-Sum: as far from all honest updates together as one of them is from the others."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wardround.simulations.attacks.attack import Attack, Crafted, Knowledge
from wardround.simulations.attacks.collusion import everybody, sample
from wardround.simulations.attacks.min_max import squared_distances
from wardround.simulations.attacks.perturbation import check_perturbation, perturbation

__all__ = ["MinSum"]


@dataclass(frozen=True, slots=True)
class MinSum(Attack):
    """All attackers send mean + γ p with the largest γ whose squared distances add up to no more than an honest one's.

    `perturbation` p: 0 −mean/‖mean‖, 1 −std, 2 −sign(mean). The sum from mean + γ p is V + h γ² ‖p‖², V the sum from
    the mean, so γ needs no search; the bound is the largest sum from one of the h honest updates.

    Source: Shejwalkar & Houmansadr 2021, "Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses
    for Federated Learning", the Min-Sum attack.
    """

    perturbation: int = 1

    summary: ClassVar[str] = "as far from all honest updates together as the outermost of them"
    source: ClassVar[str] = "Shejwalkar & Houmansadr 2021, Min-Sum attack"
    knows_others: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_perturbation(self.perturbation)

    def craft(self, knowledge: Knowledge) -> Crafted:
        rows = sample(knowledge)
        mean = rows.mean(axis=0)
        p = perturbation(self.perturbation, rows)
        square = float(p @ p)
        if square == 0.0:
            return everybody(knowledge, mean)
        spread = float(np.square(rows - mean).sum())
        room = max(float(squared_distances(rows).sum(axis=1).max()) - spread, 0.0)
        return everybody(knowledge, mean + math.sqrt(room / (len(rows) * square)) * p)
