"""Scaled sign flip: the opposite of what training gave, several times as long."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wardround.simulations.attacks.attack import Attack, Crafted, Knowledge
from wardround.simulations.attacks.collusion import narrow

__all__ = ["ScaledSignFlip"]


@dataclass(frozen=True, slots=True)
class ScaledSignFlip(Attack):
    """Each attacker trains honestly and sends −`scale` · own.

    Source: Li et al. 2019, "RSA: Byzantine-Robust Stochastic Aggregation Methods for Distributed Learning from
    Heterogeneous Datasets", the sign-flipping attack.
    """

    scale: float = 5.0

    summary: ClassVar[str] = "the opposite of an honest update, `scale` times as long"
    source: ClassVar[str] = "Li et al. 2019 (RSA), sign-flipping attack"

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise ValueError(f"expected scale > 0, got {self.scale}")

    def craft(self, knowledge: Knowledge) -> Crafted:
        return Crafted(updates=narrow(-self.scale * knowledge.own.astype(np.float64)))
