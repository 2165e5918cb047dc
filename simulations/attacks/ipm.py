"""Inner product manipulation: the honest mean, turned round."""

import math
from dataclasses import dataclass
from typing import ClassVar

from wardround.simulations.attacks.attack import Attack, Crafted, Knowledge
from wardround.simulations.attacks.collusion import everybody, sample

__all__ = ["Ipm"]


@dataclass(frozen=True, slots=True)
class Ipm(Attack):
    """All attackers send −`epsilon` · mean(honest).

    A small epsilon stays near the honest updates and gets past distance-based rules; the mean is turned round when
    f · epsilon > n − f.

    Source: Xie et al. 2020, "Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product Manipulation".
    """

    epsilon: float = 0.5

    summary: ClassVar[str] = "the honest mean times −`epsilon`: small enough to look honest"
    source: ClassVar[str] = "Xie et al. 2020 (Fall of Empires)"
    knows_others: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < math.inf:
            raise ValueError(f"expected epsilon > 0, got {self.epsilon}")

    def craft(self, knowledge: Knowledge) -> Crafted:
        return everybody(knowledge, -self.epsilon * sample(knowledge).mean(axis=0))
