"""A little is enough: the honest mean, moved within the honest spread."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

from wardround.simulations.attacks.attack import Attack, Crafted, Knowledge
from wardround.simulations.attacks.collusion import everybody, sample

__all__ = ["Alie", "largest_z"]


def largest_z(n: int, attackers: int) -> float:
    """How many standard deviations off the mean the attackers of n may stand and still have honest ones beyond them.

    z with Φ(z) = (n − m − s) / (n − m) for m attackers, where s = ⌊n/2 + 1⌋ − m honest ones must be won for a
    majority. At least 0; where the attackers need nobody (s < 1), as if they needed one.
    """
    honest = n - attackers
    needed = max(n // 2 + 1 - attackers, 1)
    share = (honest - needed) / honest if honest > 0 else 0.0
    return NormalDist().inv_cdf(share) if share > 0.5 else 0.0


@dataclass(frozen=True, slots=True)
class Alie(Attack):
    """All attackers send mean − z · std of the honest updates, column by column; std divides by their number.

    `z` absent: the paper's, from the numbers of honest ones and attackers (`largest_z`).

    Source: Baruch et al. 2019, "A Little Is Enough: Circumventing Defenses For Distributed Learning", Section 3,
    the attack that prevents convergence.
    """

    z: float | None = None

    summary: ClassVar[str] = "the honest mean, moved as far as honest updates spread in each column"
    source: ClassVar[str] = "Baruch et al. 2019, Section 3"
    knows_others: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.z is not None and not math.isfinite(self.z):
            raise ValueError(f"expected a finite z, got {self.z}")

    def craft(self, knowledge: Knowledge) -> Crafted:
        rows = sample(knowledge)
        f = len(knowledge.own)
        z = largest_z(len(rows) + f, f) if self.z is None else self.z
        return everybody(knowledge, rows.mean(axis=0) - z * rows.std(axis=0))
