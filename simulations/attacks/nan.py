"""NaN in place of every value."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wardround.simulations.attacks.attack import Attack, Crafted, Knowledge

__all__ = ["Nan"]


@dataclass(frozen=True, slots=True)
class Nan(Attack):
    """Each attacker sends NaN: what training that diverged gives, and what poisons every sum it gets into.

    Source: Blanchard et al. 2017, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
    Section 2: Byzantine vectors may be anything.
    """

    summary: ClassVar[str] = "NaN in place of every value"
    source: ClassVar[str] = "Blanchard et al. 2017, Section 2 (a vector that may be anything)"

    def craft(self, knowledge: Knowledge) -> Crafted:
        return Crafted(updates=np.full_like(knowledge.own, np.nan))
