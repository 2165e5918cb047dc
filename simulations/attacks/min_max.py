"""Min-Max: as far from the honest mean as one honest update is from another."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wardround.simulations.attacks.attack import Attack, Crafted, Knowledge
from wardround.simulations.attacks.collusion import everybody, sample
from wardround.simulations.attacks.perturbation import check_perturbation, perturbation
from wardround.vector import F64

__all__ = ["MinMax", "squared_distances"]


def squared_distances(rows: F64) -> F64:
    """‖x_i − x_j‖², shape (h, h), for rows of shape (h, d)."""
    centred = rows - rows.mean(axis=0)
    gram = centred @ centred.T
    squares = np.diag(gram)
    found: F64 = np.maximum(squares[:, None] + squares[None, :] - 2 * gram, 0.0)
    np.fill_diagonal(found, 0.0)
    return found


@dataclass(frozen=True, slots=True)
class MinMax(Attack):
    """All attackers send mean + γ p with the largest γ such that no honest update is further off than two honest ones.

    `perturbation` p: 0 −mean/‖mean‖, 1 −std, 2 −sign(mean). Where the paper halves a step to find γ,
    here it is the smallest of the roots of ‖mean + γ p − x_i‖² = max ‖x_j − x_k‖², one for each honest x_i.

    Source: Shejwalkar & Houmansadr 2021, "Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses
    for Federated Learning", the Min-Max attack.
    """

    perturbation: int = 1

    summary: ClassVar[str] = "as far from the honest mean as one honest update is from another"
    source: ClassVar[str] = "Shejwalkar & Houmansadr 2021, Min-Max attack"
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
        off = mean - rows
        along = off @ p
        # never below 0: the mean is within the largest distance of every honest update
        room = np.maximum(squared_distances(rows).max() - np.einsum("ij,ij->i", off, off), 0.0)
        gamma = float(((np.sqrt(along**2 + square * room) - along) / square).min())
        return everybody(knowledge, mean + gamma * p)
