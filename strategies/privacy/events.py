"""What a mechanism released, as data: noise and sensitivity under the claimed relation. Accountants read only this."""

import math
from dataclasses import dataclass, replace

from wardround.plan_privacy import Relation

__all__ = ["Event", "FixedSizeGaussian", "Gaussian", "PoissonGaussian", "Skellam"]


def _check(noise_std: float, sensitivity: float, count: int) -> None:
    if not (math.isfinite(noise_std) and noise_std > 0 and math.isfinite(sensitivity) and sensitivity > 0):
        raise ValueError(f"expected noise and sensitivity above 0, got {noise_std} and {sensitivity}")
    if count < 0:
        raise ValueError(f"expected a count of at least 0, got {count}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaussian:
    """`count` releases, each with Gaussian noise of `noise_std` on a value that a unit moves by `sensitivity` at most.

    `sensitivity` is in L2, under `relation`: C of a clipped sum for add-remove and zero-out, 2C for replace-one.
    """

    noise_std: float
    sensitivity: float
    relation: Relation
    count: int = 1

    def __post_init__(self) -> None:
        _check(self.noise_std, self.sensitivity, self.count)

    @property
    def ratio(self) -> float:
        """Noise over sensitivity."""
        return self.noise_std / self.sensitivity


@dataclass(frozen=True, slots=True, kw_only=True)
class PoissonGaussian:
    """As `Gaussian`, of a sum in which each unit takes part with probability `rate`, secretly and independently.

    Under replace-one each unit adds at most half of `sensitivity`, as it does to a sum of clipped parts.
    """

    noise_std: float
    sensitivity: float
    relation: Relation
    rate: float
    count: int = 1

    def __post_init__(self) -> None:
        _check(self.noise_std, self.sensitivity, self.count)
        if not 0 < self.rate <= 1:
            raise ValueError(f"expected a sampling rate above 0 and at most 1, got {self.rate}")

    @property
    def ratio(self) -> float:
        """Noise over sensitivity."""
        return self.noise_std / self.sensitivity


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedSizeGaussian:
    """As `Gaussian`, of a sum over `drawn` of `population` units, drawn secretly without replacement; replace-one."""

    noise_std: float
    sensitivity: float
    drawn: int
    population: int
    count: int = 1
    relation: Relation = Relation.REPLACE_ONE

    def __post_init__(self) -> None:
        _check(self.noise_std, self.sensitivity, self.count)
        if not 0 < self.drawn <= self.population:
            raise ValueError(f"expected 1 to {self.population} drawn units, got {self.drawn}")
        if self.relation is not Relation.REPLACE_ONE:
            raise ValueError(f"expected replace-one, since as many are always drawn, got {self.relation.value}")

    @property
    def ratio(self) -> float:
        """Noise over sensitivity."""
        return self.noise_std / self.sensitivity


@dataclass(frozen=True, slots=True, kw_only=True)
class Skellam:
    """`count` releases of integers, each with Skellam noise of `variance` on what a unit moves by integers.

    `variance` is what is in the sum for certain. `sensitivity` is in L2, `l1_sensitivity` in L1, both under `relation`.
    """

    variance: float
    sensitivity: float
    l1_sensitivity: float
    relation: Relation
    count: int = 1

    def __post_init__(self) -> None:
        _check(self.variance, self.sensitivity, self.count)
        _check(self.variance, self.l1_sensitivity, self.count)
        if self.l1_sensitivity < self.sensitivity * (1 - 1e-9):
            raise ValueError(
                f"expected an L1 sensitivity of at least that in L2, {self.sensitivity}, got {self.l1_sensitivity}"
            )

    def times(self, factor: float) -> "Skellam":
        """The same noise on what a unit moves `factor` times as far."""
        return replace(self, sensitivity=factor * self.sensitivity, l1_sensitivity=factor * self.l1_sensitivity)


Event = Gaussian | PoissonGaussian | FixedSizeGaussian | Skellam
"""An accountant raises for an event that it does not know; there is no other."""
