"""Sign flip: the opposite of what training gave."""

from dataclasses import dataclass
from typing import ClassVar

from wardround.simulations.attacks.attack import Attack, Crafted, Knowledge

__all__ = ["SignFlip"]


@dataclass(frozen=True, slots=True)
class SignFlip(Attack):
    """Each attacker trains honestly and sends −own.

    Source: Li et al. 2019, "RSA: Byzantine-Robust Stochastic Aggregation Methods for Distributed Learning from
    Heterogeneous Datasets", the sign-flipping attack (there with a factor, see `ScaledSignFlip`).
    """

    summary: ClassVar[str] = "the opposite of an honest update"
    source: ClassVar[str] = "Li et al. 2019 (RSA), sign-flipping attack"

    def craft(self, knowledge: Knowledge) -> Crafted:
        return Crafted(updates=-knowledge.own)
