"""Fang: a directed deviation, against the way in which honest updates would move the model."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wardround.simulations.attacks.attack import Attack, Crafted, Knowledge
from wardround.simulations.attacks.collusion import everybody, narrow, sample
from wardround.simulations.attacks.min_max import squared_distances
from wardround.strategies.rules.krum import krum_scores
from wardround.vector import F64

__all__ = ["Fang"]

_SMALLEST = 1e-5
"""The smallest λ against Krum, as a share of the first; the paper's 1e-5 is absolute."""


@dataclass(frozen=True, slots=True)
class Fang(Attack):
    """Attackers with full knowledge of the honest updates push every column against the sign s of their mean.

    Against trimmed mean and median, each attacker draws for each column a value beyond all honest ones: above their
    maximum M where s is not positive, from [M, b M] if M > 0 and [M, M/b] if not; below their minimum m where s is
    positive, from [m/b, m] if m > 0 and [b m, m] if not. The paper says this of models; here, as in the authors'
    later code, of updates, so that how far it goes does not depend on the model's own values.

    With `krum`, all send −λ s, with λ halved from the paper's upper bound until Krum would choose it.

    Source: Fang et al. 2020, "Local Model Poisoning Attacks to Byzantine-Robust Federated Learning", Section 3,
    on Krum and on trimmed mean, with full knowledge.
    """

    b: float = 2.0
    krum: bool = False

    summary: ClassVar[str] = "every column pushed against the honest direction, beyond all honest values"
    source: ClassVar[str] = "Fang et al. 2020, Section 3"
    knows_others: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 1 < self.b < math.inf:
            raise ValueError(f"expected b > 1, got {self.b}")

    def craft(self, knowledge: Knowledge) -> Crafted:
        rows = sample(knowledge)
        if self.krum:
            return everybody(knowledge, _against_krum(rows, len(knowledge.own)))
        rising = rows.mean(axis=0) > 0
        edge = np.where(rising, rows.min(axis=0), rows.max(axis=0))
        outer = edge * np.where((edge > 0) == rising, 1 / self.b, self.b)
        draws = knowledge.generator.random((len(knowledge.own), rows.shape[1]))
        return Crafted(updates=narrow(edge + draws * (outer - edge)))


def _against_krum(honest: F64, attackers: int) -> F64:
    """−λ s, shape (d,), with the largest tried λ for which Krum chooses it among `attackers` copies and the honest."""
    h, d = honest.shape
    n = h + attackers
    signs = np.where(honest.mean(axis=0) > 0, 1.0, -1.0)
    between = np.sort(np.sqrt(squared_distances(honest)), axis=1)[:, 1:]
    near = between[:, : max(n - attackers - 2, 0)].sum(axis=1).min()
    furthest = np.linalg.norm(honest, axis=1).max()
    first = float(near / max(n - 2 * attackers - 1, 1) + furthest) / math.sqrt(d)
    rate = first
    while rate > _SMALLEST * first and not _chosen(honest, -rate * signs, attackers):
        rate /= 2
    return -rate * signs


def _chosen(honest: F64, vector: F64, attackers: int) -> bool:
    n = len(honest) + attackers
    rows = np.concatenate((honest, np.tile(vector, (attackers, 1))))
    tolerated = max(min(attackers, n - 3), 0)  # with fewer than 3 vectors Krum has nothing to score by
    return bool(np.argmin(krum_scores(squared_distances(rows), tolerated)) >= len(honest))
