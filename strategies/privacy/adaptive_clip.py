"""A clip norm that follows a quantile of the clients' norms, found with noise that is paid for."""

import math
from dataclasses import dataclass
from fractions import Fraction

from wardround.strategies.privacy.secure_random import GRID_PER_UNIT
from wardround.strategies.privacy.unit_clip import LARGEST_CLIP, SMALLEST_CLIP

__all__ = ["AdaptiveClip", "plan_count_noise"]

_NOISE_LIMIT = 0.1
"""Most noise on the fraction of clients that are not clipped; with more, the clip norm goes astray."""
_AT_THE_CLIP = 1.0 - 1e-5
"""A vector that is so near to the clip norm was clipped by its sender."""


def plan_count_noise(noise_multiplier: float) -> float:
    """Noise on the count where a plan gives none: 2.5 z, for which the noise on updates grows by 2.1 %."""
    return 2.5 * noise_multiplier


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveClip:
    """C ← C exp(−lr (b̃ − target)), b̃ the noisy share of clients that are not clipped.

    Each client of a round adds +½ to a count when it was not clipped and −½ when it was; who is missing adds nothing.
    One client moves that count by ½ at most, and `count_noise` is the standard deviation of the noise on it. Updates
    and count together are one Gaussian release of noise multiplier z when the updates' own is `update_multiplier(z)`.

    Source: Andrew et al. 2021, "Differentially Private Learning with Adaptive Clipping", Algorithm 1, Theorem 1.
    """

    target_quantile: float
    lr: float
    count_noise: float

    def __post_init__(self) -> None:
        if not 0 < self.target_quantile < 1:
            raise ValueError(f"expected a target quantile between 0 and 1, got {self.target_quantile}")
        for name, value in (("learning rate", self.lr), ("count noise", self.count_noise)):
            if not 0 < value < math.inf:
                raise ValueError(f"expected a {name} above 0, got {value}")

    def check(self, noise_multiplier: float, clients: int) -> None:
        """Raise ValueError unless the clip norm can be followed with so many clients expected in a round."""
        self.update_multiplier(noise_multiplier)
        if self.count_noise > _NOISE_LIMIT * clients:
            least = math.ceil(self.count_noise / _NOISE_LIMIT)
            raise ValueError(
                f"expected at least {least} clients in a round, since noise of {self.count_noise:.3g} on the count "
                f"of those that are not clipped must be at most {_NOISE_LIMIT:g} of them, got {clients}"
            )

    def update_multiplier(self, noise_multiplier: float) -> float:
        """(z⁻² − (2 count_noise)⁻²)^−½: the updates' noise over the clip norm, for z of updates and count together.

        Raises ValueError when the count alone spends more than z allows.
        """
        share = (noise_multiplier / (2.0 * self.count_noise)) ** 2
        if not share < 1:
            raise ValueError(
                f"expected count noise above {noise_multiplier / 2:.3g}, half the noise multiplier, "
                f"got {self.count_noise:.3g}"
            )
        return noise_multiplier / math.sqrt(1.0 - share)

    def vote(self, norm: float, clip_norm: float) -> int:
        """±½ in steps of noise on the count, rounded toward zero, so that none weighs more than ½."""
        half = int(Fraction(GRID_PER_UNIT, 2) / Fraction(self.count_noise))
        return half if norm < _AT_THE_CLIP * clip_norm else -half

    def next_clip(self, clip_norm: float, steps: int, clients: float) -> float:
        """The next clip norm, from the noisy sum of votes of a round in which so many `clients` are expected."""
        unclipped = 0.5 + steps * (self.count_noise / GRID_PER_UNIT) / clients
        power = -self.lr * (unclipped - self.target_quantile)
        logarithm = math.log(clip_norm) + power
        return math.exp(min(max(logarithm, math.log(SMALLEST_CLIP)), math.log(LARGEST_CLIP)))
