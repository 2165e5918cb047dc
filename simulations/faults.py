"""Simulated drop-outs and stragglers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wardround.orders import SiteId, derive_seed
from wardround.plan import Plan

__all__ = ["Fate", "Faults"]


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of one site in one round: it is gone, or answers after a simulated delay.

    `leaves`: it sends its update, and then it is gone; under secure aggregation others have to do without it.
    """

    gone: bool = False
    delay_s: float = 0.0
    leaves: bool = False


class Faults:
    """Draws each site's fate in a round; the same for the same plan."""

    __slots__ = ("_dropout", "_late_dropout", "_plan_seed", "_stragglers")

    def __init__(self, plan: Plan) -> None:
        self._plan_seed = plan.seed
        self._dropout = plan.simulation.dropout
        self._late_dropout = plan.simulation.late_dropout
        self._stragglers = plan.simulation.stragglers

    @property
    def possible(self) -> bool:
        """Whether the plan has any."""
        return bool(self._dropout or self._late_dropout or self._stragglers.fraction)

    def fate(self, site: SiteId, round_number: int) -> Fate:
        """The fate of `site` in training round `round_number`."""
        if not self.possible:
            return Fate()
        vanish, slow, length = self._draws("faults", site, round_number)
        if vanish < self._dropout:
            return Fate(gone=True)
        leaves = bool(self._late_dropout and self._draws("late faults", site, round_number)[0] < self._late_dropout)
        if slow < self._stragglers.fraction:
            return Fate(delay_s=-self._stragglers.delay_s * float(np.log1p(-length)), leaves=leaves)
        return Fate(leaves=leaves)

    def _draws(self, purpose: str, site: SiteId, round_number: int) -> NDArray[np.float64]:
        seed = derive_seed(self._plan_seed, purpose, site, round_number)
        return np.random.Generator(np.random.Philox(key=seed)).random(3)
