"""The Skellam mechanism among clients: what a client moves the sum by, and the noise that each of them adds."""

import math
from dataclasses import dataclass

from wardround.plan_privacy import Relation
from wardround.strategies.privacy.accounting import calibrate_noise
from wardround.strategies.privacy.events import Skellam
from wardround.strategies.privacy.unit_clip import check_clip

__all__ = [
    "KAPPA",
    "LEAST_HONEST",
    "SkellamMechanism",
    "any_size",
    "calibrated",
    "honest_share",
    "l1_bound",
    "padded_scale",
    "squared_l2_bound",
]

KAPPA = 6.0
"""Standard deviations that a word holds on either side of 0: a value in 10^9 is then wrapped."""
LEAST_HONEST = 2
"""Honest survivors that a sum must have, so that it is a sum."""

_BETA = math.exp(-0.5)
"""Of a rounding, the most that is redrawn."""
_LARGEST_SQUARE = 2.0**52
_STEPS = 4.0
"""Integer steps in the root mean square of a rotated value at the clip: rounding then takes 1 % more noise, about."""


def padded_scale(clip_norm: float, size: int) -> tuple[int, float]:
    """(d, s): `size` padded to a power of two, and the scale 4 √d / C at which plans round."""
    if size < 1:
        raise ValueError(f"expected at least one value, got {size}")
    padded = 1 << (size - 1).bit_length()
    return padded, _STEPS * math.sqrt(padded) / clip_norm


def squared_l2_bound(clip_norm: float, scale: float, size: int, beta: float = _BETA) -> int:
    """Δ₂², of a vector of L2 norm `clip_norm` times `scale`, each of its `size` values rounded at random to an integer.

    min(C²s² + d/4 + √(2 ln(1/β)) (Cs + √d/2), (Cs + √d)²), down to an integer, as the squared norm of integers is.
    A rounding exceeds it with a probability of at most `beta`, and is then drawn again.
    Source: Kairouz, Liu and Steinke 2021 (arXiv 2102.06387), Proposition 26 and Algorithm 1.
    """
    check_clip(clip_norm)
    if not (0 < scale < math.inf and size >= 1 and 0 < beta < 1):
        raise ValueError(f"expected a scale above 0, at least one value, beta in 0 to 1, got {scale}, {size}, {beta}")
    long, root = clip_norm * scale, math.sqrt(size)
    likely = long * long + size / 4 + math.sqrt(-2 * math.log(beta)) * (long + root / 2)
    bound = min(likely, (long + root) ** 2)
    if not 1 <= bound <= _LARGEST_SQUARE:
        raise ValueError(
            f"expected a squared norm bound of 1 to {_LARGEST_SQUARE:.2g}, got {bound:.3g} for a clip norm times scale "
            f"of {long:.3g}: choose another scale"
        )
    return math.floor(bound)


def l1_bound(l2: float, size: int) -> float:
    """Δ₁ = min(√d Δ₂, Δ₂²) of an integer vector of `size` values and L2 norm `l2` at most."""
    return min(math.sqrt(size) * l2, l2 * l2)


def honest_share(least_survivors: int, colluders: int) -> int:
    """h = u_min − k, the honest clients of a group whose noise is in its sum for certain: at least 2, else ValueError.

    Fewer than `least_survivors` never add up to a sum. The `colluders`, at least 1, know what they added themselves:
    of two survivors each is curious about the other.
    """
    if colluders < 1 or least_survivors - colluders < LEAST_HONEST:
        raise ValueError(
            f"expected at least 1 colluder and {LEAST_HONEST} more survivors than colluders, got {least_survivors} "
            f"survivors and {colluders} colluders: the least that works for {max(colluders, 1)} is "
            f"{max(colluders, 1) + LEAST_HONEST} survivors"
        )
    return least_survivors - colluders


@dataclass(frozen=True, slots=True, kw_only=True)
class SkellamMechanism:
    """A sum of clipped, rotated, scaled and rounded vectors, in which `honest` clients' noise is for certain.

    `size` d is that of the rotated vectors, padded; `scale` s the steps in a unit of `clip_norm` C. `client_variance`
    is what each client adds per value, in squared steps. The server can drop honest clients while its helpers stay, so
    that what is charged is the noise of `honest` = u_min − k clients, however many survive. A client is in one group:
    a round is charged once, at the group where this is worst. Wrapping around is post-processing: it costs accuracy,
    never privacy.

    Source: Agarwal, Kairouz and Liu 2021, "The Skellam Mechanism for Differentially Private Federated Learning"
    (arXiv 2110.04995), Algorithm 1 and Corollary 4.1.
    """

    clip_norm: float
    scale: float
    size: int
    honest: int
    client_variance: float
    relation: Relation

    def __post_init__(self) -> None:
        squared_l2_bound(self.clip_norm, self.scale, self.size)
        if self.size & (self.size - 1):
            raise ValueError(f"expected a power of two of values, got {self.size}")
        if self.honest < LEAST_HONEST:
            raise ValueError(f"expected at least {LEAST_HONEST} honest survivors, got {self.honest}")
        if not 0 < self.client_variance < math.inf:
            raise ValueError(f"expected a finite variance above 0, got {self.client_variance}")
        if self.relation not in _TIMES:
            raise ValueError(f"expected zero-out or replace-one, as the members are public, got {self.relation.value}")

    @property
    def squared_norm_bound(self) -> int:
        """Δ₂² that a client's integers keep, whatever the relation."""
        return squared_l2_bound(self.clip_norm, self.scale, self.size)

    @property
    def certain_variance(self) -> float:
        """µ, of the honest survivors that there are at least."""
        return self.honest * self.client_variance

    def event(self, rounds: int = 1) -> Skellam:
        """What `rounds` rounds release. Under zero-out a client stays, with its noise, and its vector is zero."""
        l2 = _TIMES[self.relation] * math.sqrt(self.squared_norm_bound)
        return Skellam(
            variance=self.certain_variance,
            sensitivity=l2,
            l1_sensitivity=l1_bound(l2, self.size),
            relation=self.relation,
            count=rounds,
        )

    def width_bits(self, members: int) -> float:
        """The least word, in bits, for the sum of `members` who all survive: log2(2κ √(n²C²s²/d + n/4 + µ_total)).

        Source: Kairouz, Liu and Steinke 2021, section 4; there with κ = 3 or 4.
        """
        return math.log2(2 * KAPPA * self._spread(members))

    def expected_wraps(self, members: int, word_bits: int) -> float:
        """How many of the d values of a sum wrap around, expected at most: of subgaussian values of that spread."""
        far = 2.0 ** (word_bits - 1) / self._spread(members)
        return self.size * min(1.0, 2 * math.exp(-far * far / 2))

    def _spread(self, members: int) -> float:
        if members < 1:
            raise ValueError(f"expected at least one member, got {members}")
        signal = (members * self.clip_norm * self.scale) ** 2 / self.size
        return math.sqrt(signal + members / 4 + members * self.client_variance)


_TIMES = {Relation.ZERO_OUT: 1.0, Relation.REPLACE_ONE: 2.0}


def any_size(multiplier: float, relation: Relation) -> Skellam:
    """A round's event that no model exceeds, of whatever size, at `padded_scale` and √µ / Δ₂ = z the `multiplier`.

    There αΔ₂²/2µ = α/2z² is the same for all d, of one client's Δ₂. Since 16.25 d <= Δ₂² and Δ₁ = √d Δ₂, what is added
    to it at an order is at most ((2α − 1) + 6/√16.25) / 4z⁴Δ₂², which falls with d, and at most 3 / 2z²√16.25. Both are
    reached or exceeded by Δ₂ of d = 1 with Δ₁ = Δ₂² / √16.25; under replace-one with twice both. The price is 1/20z² of
    epsilon at most, about.
    """
    square = squared_l2_bound(1.0, _STEPS, 1)
    event = Skellam(
        variance=multiplier * multiplier * square,
        sensitivity=math.sqrt(square),
        l1_sensitivity=square / math.sqrt(_STEPS * _STEPS + 0.25),
        relation=relation,
    )
    return event.times(_TIMES[relation])


def calibrated(
    *,
    epsilon: float,
    delta: float,
    rounds: int,
    clip_norm: float,
    scale: float,
    size: int,
    honest: int,
    relation: Relation,
) -> SkellamMechanism:
    """The mechanism of the least noise that keeps `epsilon` at `delta` over `rounds`, to 0.1 % of either.

    `size` is padded here to a power of two. Raises ValueError for a claim that no noise keeps.
    """
    if rounds < 1:
        raise ValueError(f"expected at least one round, got {rounds}")
    if size < 1:
        raise ValueError(f"expected at least one value, got {size}")
    padded = 1 << (size - 1).bit_length()
    square = squared_l2_bound(clip_norm, scale, padded)

    def mechanism(multiplier: float) -> SkellamMechanism:
        return SkellamMechanism(
            clip_norm=clip_norm,
            scale=scale,
            size=padded,
            honest=honest,
            client_variance=multiplier * multiplier * square / honest,
            relation=relation,
        )

    return mechanism(calibrate_noise(lambda multiplier: [mechanism(multiplier).event(rounds)], epsilon, delta))
