"""Gaussian noise instead of an update."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wardround.simulations.attacks.attack import Attack, Crafted, Knowledge
from wardround.simulations.attacks.collusion import narrow

__all__ = ["Gaussian"]


@dataclass(frozen=True, slots=True)
class Gaussian(Attack):
    """Each attacker sends noise of its own, about `scale` times as long as its honest update.

    Independent values of mean 0 and standard deviation `scale` · ‖own‖/√d. The paper's is a fixed 200, which says
    nothing without the size of a gradient.

    Source: Blanchard et al. 2017, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", Section 5.
    """

    scale: float = 10.0

    summary: ClassVar[str] = "noise, `scale` times as long as an honest update"
    source: ClassVar[str] = "Blanchard et al. 2017, Section 5"

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise ValueError(f"expected scale > 0, got {self.scale}")

    def craft(self, knowledge: Knowledge) -> Crafted:
        own = knowledge.own.astype(np.float64)
        std = self.scale * np.sqrt(np.square(own).mean(axis=1, keepdims=True))
        return Crafted(updates=narrow(std * knowledge.generator.standard_normal(own.shape)))
