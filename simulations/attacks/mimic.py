"""Mimic: attackers repeat one honest site, so that it counts many times."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wardround.simulations.attacks.attack import Attack, Crafted, Knowledge
from wardround.simulations.attacks.collusion import everybody, sample
from wardround.vector import F64

__all__ = ["Mimic"]


@dataclass(frozen=True, slots=True)
class Mimic(Attack):
    """All attackers send the honest update that reaches furthest along the direction in which honest sites differ most.

    The direction z is learned by a power iteration over the first `warmup` rounds, beginning at a random one. In
    round t, of honest updates x_i: μ ← (t μ + mean) / (t + 1), z ← t z + v/‖v‖ to length 1 with
    v = Σ ⟨x_i − μ, z⟩ (x_i − μ). The paper then follows one site; cohorts change and an attacker here does not know
    who is who, so the furthest along z is taken in every round. What is sent is an honest update: no check of a single
    vector finds anything wrong with it.

    Source: Karimireddy et al. 2022, "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing", the mimic
    attack, with the steps of the authors' code.
    """

    warmup: int = 100

    summary: ClassVar[str] = "one honest update again, so that one unusual site counts many times"
    source: ClassVar[str] = "Karimireddy et al. 2022, mimic attack"
    knows_others: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.warmup < 1:
            raise ValueError(f"expected warmup >= 1, got {self.warmup}")

    def craft(self, knowledge: Knowledge) -> Crafted:
        rows, kept = sample(knowledge), knowledge.memory
        t = int(kept["rounds"][0]) if "rounds" in kept else 0
        if t == 0:
            mean = rows.mean(axis=0)
            direction = _unit(_stretched(rows - mean, knowledge.generator.standard_normal(rows.shape[1:])))
        else:
            mean, direction = kept["mean"].astype(np.float64), kept["direction"].astype(np.float64)
        if 0 < t < self.warmup:
            mean = (t * mean + rows.mean(axis=0)) / (t + 1)
            direction = _unit(t * direction + _unit(_stretched(rows - mean, direction)))
        memory = {"mean": mean, "direction": direction, "rounds": np.array([t + 1])}
        return everybody(knowledge, rows[int(np.argmax(rows @ direction))], memory)


def _stretched(centred: F64, direction: F64) -> F64:
    """One step of the power iteration; zero when no row differs from the centre along `direction`."""
    found: F64 = (centred @ direction) @ centred
    return found


def _unit(vector: F64) -> F64:
    found: F64 = vector / (float(np.linalg.norm(vector)) or 1.0)
    return found
