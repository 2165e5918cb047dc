"""Free rider: no training, only what looks like it."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wardround.simulations.attacks.attack import Attack, Crafted, Knowledge
from wardround.simulations.attacks.collusion import narrow

__all__ = ["FreeRider"]


@dataclass(frozen=True, slots=True)
class FreeRider(Attack):
    """Each attacker sends the last change of the global model and a little noise, and uses no data.

    The noise has mean 0 and standard deviation `noise` · ‖change‖/√d, so attackers are not alike. In the first round
    there is no change yet: then it is noise alone, in proportion to the model's values.

    Source: Fraboni et al. 2021, "Free-rider Attacks on Model Aggregation in Federated Learning",
    disguised free-riders; the change of the model in place of none is the "delta weights" attack of Lin et al. 2019,
    "Free-riders in Federated Learning: Attacks and Defenses".
    """

    noise: float = 0.01

    summary: ClassVar[str] = "the last change of the global model instead of training"
    source: ClassVar[str] = "Fraboni et al. 2021; Lin et al. 2019 (delta weights)"

    def __post_init__(self) -> None:
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"expected noise >= 0, got {self.noise}")

    def craft(self, knowledge: Knowledge) -> Crafted:
        model = knowledge.model.astype(np.float64)
        previous = knowledge.memory.get("model")
        change = np.zeros_like(model) if previous is None else model - previous
        std = self.noise * float(np.sqrt(np.square(model if previous is None else change).mean()))
        draws = knowledge.generator.standard_normal(knowledge.own.shape)
        return Crafted(updates=narrow(change + std * draws), memory={"model": knowledge.model.copy()})
