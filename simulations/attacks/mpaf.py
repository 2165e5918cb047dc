"""MPAF: fake clients drag the global model towards a model of their own."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wardround.simulations.attacks.attack import Attack, Crafted, Knowledge
from wardround.simulations.attacks.collusion import everybody

__all__ = ["Mpaf"]


@dataclass(frozen=True, slots=True)
class Mpaf(Attack):
    """All attackers send `scale` · (base − model) in every round.

    The base model is random and the same in every round: drawn from the first round's seed, its values about as large
    as the model's then (or 1, if all are 0), and kept. It needs no training and no data. The paper's scale is 1e6,
    which any limit on an update's length refuses.

    Source: Cao & Gong 2022, "MPAF: Model Poisoning Attacks to Federated Learning based on Fake Clients".
    """

    scale: float = 10.0

    summary: ClassVar[str] = "`scale` times the way from the global model to a random one"
    source: ClassVar[str] = "Cao & Gong 2022 (MPAF)"

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise ValueError(f"expected scale > 0, got {self.scale}")

    def craft(self, knowledge: Knowledge) -> Crafted:
        model = knowledge.model.astype(np.float64)
        if "base" in knowledge.memory:
            base = knowledge.memory["base"].astype(np.float64)
        else:
            size = float(np.sqrt(np.square(model).mean())) or 1.0
            base = size * knowledge.generator.standard_normal(len(model))
        return everybody(knowledge, self.scale * (base - model), {"base": base})
