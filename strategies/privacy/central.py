"""Client-level privacy at the server: who is drawn, what is charged before it is released, and when the budget ends."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from wardround.errors import LocalError
from wardround.orders import SiteId
from wardround.plan import Plan
from wardround.plan_privacy import Sampling
from wardround.state_store import StateStore
from wardround.strategies.privacy.banded_noise import BandedNoise
from wardround.strategies.privacy.participation import spaced_cohort
from wardround.strategies.privacy.private_mean import PrivateMean
from wardround.strategies.privacy.secure_random import SecureRandom
from wardround.strategies.privacy.terms import Terms
from wardround.strategies.records import PrivacyRecord
from wardround.strategies.rules.rule import Memory
from wardround.vector import F32, squared_norm

__all__ = ["CentralPrivacy"]

_BEGUN = "privacy/begun"


@dataclass(frozen=True, slots=True)
class CentralPrivacy:
    """The account of a federation whose clients are hidden. Every begun round is charged, whatever becomes of it.

    `store` is the server's: how many rounds were begun is durable before a round's noise is drawn, so that a round
    that is repeated after a crash is a charge of its own. `rule` is None where the clients' own noise is in the sums:
    then the plan's own rule aggregates, which is post-processing.
    """

    plan: Plan
    terms: Terms
    rule: PrivateMean | None
    store: StateStore
    random: SecureRandom
    banded: BandedNoise | None = None

    @property
    def begun(self) -> int:
        """Rounds that were begun, those included that a crash ended."""
        stored = self.store.get(_BEGUN)
        return 0 if stored is None else int(stored)

    @property
    def mean(self) -> PrivateMean:
        """The server's own mechanism. Raises LocalError where clients add the noise."""
        if self.rule is None:
            raise LocalError('privacy.mechanism: expected noise that the server adds, got "skellam", which clients add')
        return self.rule

    @property
    def epsilon(self) -> float:
        """What the begun rounds have spent, at most."""
        return self.terms.told(self.begun)

    def obstacle(self) -> str:
        """Why no further round may begin; empty when one may."""
        if self.begun < self.terms.rounds:
            return ""
        return (
            f"the privacy budget is spent: {self.begun} rounds were begun, epsilon = {self.epsilon:.4g} at delta = "
            f"{self.terms.delta:.3g}"
        )

    def check(self, rounds: int) -> None:
        """Raise LocalError where fewer rounds are on record than a run of so many `rounds` has begun."""
        if self.begun < rounds:
            raise LocalError(
                f"expected the server's record of at least {rounds} begun rounds, got {self.begun}: it was lost or set "
                "back, and what was spent is not known; restore it"
            )

    def begin(self) -> int:
        """Charge one more round, durably; its index among all that were begun, from 0.

        Raises LocalError when the budget is spent.
        """
        if obstacle := self.obstacle():
            raise LocalError(obstacle)
        index = self.begun
        self.store.put(_BEGUN, str(index + 1).encode())
        if self.banded is not None:
            self.banded.begin(index)
        return index

    def cohort(self, roster: Mapping[SiteId, int], index: int) -> dict[SiteId, int] | None:
        """Who takes part in the round of this index, in secret where sampling is claimed; None: as the plan draws."""
        sites, size = tuple(sorted(roster)), self.plan.cohort_size
        if self.plan.privacy.bands is not None:
            chosen = spaced_cohort(sites, size, self.plan.seed, index, self.plan.privacy.bands)
            return {site: roster[site] for site in chosen}
        if self.terms.sampling is Sampling.POISSON:
            picked = self.random.chosen(len(sites), self.terms.rate)
        elif self.terms.sampling is Sampling.FIXED_SIZE:
            picked = self.random.draw(len(sites), size)
        else:
            return None
        return {sites[at]: roster[sites[at]] for at in sorted(picked.tolist())}

    def clip_norm(self, memory: Memory) -> float | None:
        """The norm that clients are asked to clip to, where it is not the plan's."""
        if self.rule is None or self.rule.adaptive is None:
            return None
        return self.rule.clip_in_force(memory)

    def record(self, update: F32 | None, memory: Memory) -> PrivacyRecord:
        """What has been spent after a round that gave `update`, shape (d,), and after which the rule keeps `memory`.

        Noise over signal is that of a mean over all clients, whichever rule combined the sums, and whoever was lost.
        """
        clip = self.plan.privacy.clip_norm if self.rule is None else self.rule.clip_in_force(memory)
        noise_to_signal = None
        if update is not None and (norm := math.sqrt(squared_norm(update))) > 0:
            if self.rule is None:
                std = self.terms.noise_in_mean(self.plan.cohort_size)
            else:
                std = self.terms.noise_multiplier * clip / self.rule.denominator
            if self.banded is not None:
                std *= self.banded.deviation(self.begun - 1)
            noise_to_signal = std * math.sqrt(update.size) / norm
        return PrivacyRecord(
            epsilon=self.epsilon, delta=self.terms.delta, clip_norm=clip, noise_to_signal=noise_to_signal
        )
