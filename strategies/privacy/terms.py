"""What a plan's [privacy] comes to for one population: noise, events and epsilon over the rounds."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from wardround.decoding import PlanError
from wardround.plan import Plan
from wardround.plan_privacy import Mechanism, Relation, Sampling, Unit
from wardround.strategies.privacy.accounting import Bound, calibrate_noise, epsilon_of, quick_epsilon_of
from wardround.strategies.privacy.events import Event, FixedSizeGaussian, Gaussian, PoissonGaussian, Skellam
from wardround.strategies.privacy.skellam import (
    SkellamMechanism,
    any_size,
    padded_scale,
    squared_l2_bound,
)
from wardround.strategies.privacy.statistics_noise import statistics_noise_std, statistics_sensitivity
from wardround.strategies.secagg.plan_terms import parameters_of

__all__ = ["Terms", "client_terms", "default_delta", "largest_delta", "site_terms"]


def default_delta(population: int) -> float:
    """min(1e-6, n^-1.1) for n units."""
    return float(min(1e-6, population**-1.1))


def largest_delta(population: int) -> float:
    """min(1e-5, 1 / (10 n)): above it a mechanism may publish one unit in ten and still keep its claim."""
    return min(1e-5, 1 / (10 * population))


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The privacy of one population of `population` units under a plan.

    `sensitivity` is how far one unit moves a released sum, in L2, under `relation`; the noise on that sum has the
    standard deviation `noise_std` = `noise_multiplier` x what a unit adds at most. `steps` are noisy sums per round.
    `rounds` is how many rounds the claim is for: the plan's, or as many as its epsilon allows.
    """

    unit: Unit
    relation: Relation
    sampling: Sampling
    population: int
    delta: float
    noise_multiplier: float
    noise_std: float
    sensitivity: float
    steps: int
    drawn: float
    """Units that take part in a step on average; all of them under full participation."""
    rounds: int
    once: tuple[Event, ...] = ()
    """What is released before the first round."""
    spans: int | None = None
    """Banded matrix factorisation: rounds in which a unit takes part at most; one event for all of them."""
    each: Skellam | None = None
    """Skellam noise: what a round releases of the group where that is worst."""
    honest: int = 1
    """Skellam noise: h clients, each of which adds 1/h of `noise_std`² to the sum of its group."""
    skellam: SkellamMechanism | None = None
    """Skellam noise: the mechanism, where the size of the model is known."""

    @property
    def rate(self) -> float:
        """Chance of a unit to take part in a step."""
        return min(1.0, self.drawn / self.population)

    def events(self, rounds: int) -> tuple[Event, ...]:
        """What `rounds` begun rounds have released."""
        if rounds <= 0:
            return self.once
        std, sensitivity, count = self.noise_std, self.sensitivity, rounds * self.steps
        event: Event
        if self.each is not None:
            event = replace(self.each, count=count)
        elif self.spans is not None:
            whole = sensitivity * self.spans**0.5
            event = Gaussian(noise_std=std, sensitivity=whole, relation=self.relation)
        elif self.sampling is Sampling.POISSON and self.rate < 1:
            event = PoissonGaussian(
                noise_std=std, sensitivity=sensitivity, relation=self.relation, rate=self.rate, count=count
            )
        elif self.sampling is Sampling.FIXED_SIZE and self.drawn < self.population:
            event = FixedSizeGaussian(
                noise_std=std, sensitivity=sensitivity, drawn=int(self.drawn), population=self.population, count=count
            )
        else:
            event = Gaussian(noise_std=std, sensitivity=sensitivity, relation=self.relation, count=count)
        return (*self.once, event)

    def noise_in_mean(self, clients: int) -> float:
        """Standard deviation of the noise in each value of the mean update of so many clients."""
        everyone = 1.0 if self.each is None else math.sqrt(clients / self.honest)
        return everyone * self.noise_std / clients

    def spent(self, rounds: int) -> Bound:
        """Epsilon of `rounds` begun rounds at the claim's delta."""
        return epsilon_of(self.events(rounds), self.delta)

    def told(self, rounds: int) -> float:
        """A bound on what `rounds` begun rounds have spent, at once, and never above the claim of all.

        It may be larger than `spent`, but for the last round.
        """
        bound = quick_epsilon_of(self.events(rounds), self.delta).epsilon
        return bound if rounds > self.rounds else min(bound, self.claim.epsilon)

    @property
    def claim(self) -> Bound:
        """Epsilon of all rounds."""
        return self.spent(self.rounds)


def site_terms(plan: Plan, units: int) -> Terms:
    """The terms of a site that trains on `units` rows or patients, for a plan that hides those.

    `units` are those in training; `plan.training.batch_size` of them are drawn for a step on average. Raises PlanError
    for a batch that is larger, and for a claim that cannot be met.
    """
    privacy, training = plan.privacy, plan.training
    full = privacy.claimed_sampling is Sampling.FULL
    if not full and training.batch_size > units:
        most = f"at most the {units} {privacy.unit.value}s of a site"
        raise PlanError("training.batch_size", most, training.batch_size)
    steps = training.steps or (training.epochs or 1) * (1 if full else -(-units // training.batch_size))
    return _settled(plan, units, float(units if full else training.batch_size), steps, privacy.max_rows)


def client_terms(plan: Plan, size: int | None = None) -> Terms:
    """The terms of a federation whose clients are hidden, with a model of `size` parameters.

    Only Skellam noise depends on the size. Without it `noise_multiplier` and epsilon are upper bounds over all sizes,
    and there is no mechanism. Raises PlanError for a claim that cannot be met.
    """
    sites = plan.simulation.sites - len(plan.cohort.without)
    if plan.privacy.mechanism is Mechanism.SKELLAM:
        return _of_sums(plan, sites, size)
    sampled = plan.privacy.claimed_sampling is not Sampling.FULL
    return _settled(plan, sites, float(plan.cohort_size if sampled else sites), 1, 1)


def _of_sums(plan: Plan, sites: int, size: int | None) -> Terms:
    """The terms of group sums with Skellam noise, for the group whose sum has the least that is certain."""
    privacy, honest = plan.privacy, parameters_of(plan).noise_share
    relation, clip = privacy.claimed_relation, privacy.clip_norm
    padded, scale = padded_scale(clip, size or 1)  # of one value the bound is largest beside the clip
    square = squared_l2_bound(clip, scale, padded)
    moved = math.sqrt(square) / scale
    both = 2.0 if relation is Relation.REPLACE_ONE else 1.0

    def terms(multiplier: float) -> Terms:
        mechanism = None
        if size is not None:
            mechanism = SkellamMechanism(
                clip_norm=clip,
                scale=scale,
                size=padded,
                honest=honest,
                client_variance=multiplier * multiplier * square / honest,
                relation=relation,
            )
        return Terms(
            unit=privacy.unit,
            relation=relation,
            sampling=privacy.claimed_sampling,
            population=sites,
            delta=_delta(plan, sites),
            noise_multiplier=multiplier,
            noise_std=multiplier * moved,
            sensitivity=both * moved,
            steps=1,
            drawn=float(sites),
            rounds=plan.rounds,
            each=any_size(multiplier, relation) if mechanism is None else mechanism.event(),
            honest=honest,
            skellam=mechanism,
        )

    return _with_noise(plan, terms)


def _settled(plan: Plan, population: int, drawn: float, steps: int, rows: int) -> Terms:
    privacy = plan.privacy
    delta = _delta(plan, population)
    both = 2.0 if privacy.claimed_relation is Relation.REPLACE_ONE else 1.0
    bound = rows * privacy.clip_norm

    def terms(multiplier: float) -> Terms:
        return Terms(
            unit=privacy.unit,
            relation=privacy.claimed_relation,
            sampling=privacy.claimed_sampling,
            population=population,
            delta=delta,
            noise_multiplier=multiplier,
            noise_std=multiplier * bound,
            sensitivity=both * bound,
            steps=steps,
            drawn=drawn,
            rounds=plan.rounds,
            once=_statistics(plan, rows),
            spans=-(-plan.rounds // privacy.bands) if privacy.bands is not None else None,
        )

    return _with_noise(plan, terms)


def _with_noise(plan: Plan, terms: Callable[[float], Terms]) -> Terms:
    """The terms of the plan's noise multiplier, or of the least that keeps its epsilon."""
    epsilon, multiplier = plan.privacy.epsilon, plan.privacy.noise_multiplier
    if multiplier is None and epsilon is not None:
        try:
            multiplier = calibrate_noise(lambda z: terms(z).events(plan.rounds), epsilon, terms(1.0).delta)
        except ValueError as error:
            raise PlanError("privacy.epsilon", f"a claim that noise can meet ({error})", epsilon) from None
        return terms(multiplier)
    settled = terms(multiplier or 0.0)
    if not math.isfinite(settled.claim.epsilon):
        raise PlanError("privacy.noise_multiplier", "noise with which a claim is finite", multiplier)
    return settled if epsilon is None else replace(settled, rounds=_rounds_within(settled, epsilon, plan))


def _delta(plan: Plan, population: int) -> float:
    privacy = plan.privacy
    if privacy.delta is None:
        return default_delta(population)
    if privacy.delta > (most := largest_delta(population)) and not privacy.research_delta:
        units = f"{population} {privacy.unit.value}s"
        raise PlanError(
            "privacy.delta", f"at most min(1e-5, 1/(10 n)) = {most:.2g} (n = {units})", privacy.delta,
            "; research_delta = true lifts this, and every output says so",
        )  # fmt: skip
    return privacy.delta


def _statistics(plan: Plan, rows: int) -> tuple[Event, ...]:
    """The noisy sums of federated standardisation, where the plan asks for them and there is something to sum."""
    std = statistics_noise_std(plan.data, plan.privacy)
    if not std:
        return ()
    bound = statistics_sensitivity(plan.data, rows)
    return (Gaussian(noise_std=std, sensitivity=bound, relation=plan.privacy.claimed_relation),)


def _rounds_within(terms: Terms, epsilon: float, plan: Plan) -> int:
    """The most rounds whose epsilon stays at or below the plan's."""
    if _within(terms, plan.rounds, epsilon):
        return plan.rounds
    low, high = 0, plan.rounds  # `low` fits, `high` does not
    if not _within(terms, 1, epsilon):
        least = terms.spent(1).epsilon
        raise PlanError(
            "privacy.epsilon", f"at least {least:.4g}, which one round takes at this noise_multiplier", epsilon
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _within(terms, middle, epsilon) else (low, middle)
    return low


def _within(terms: Terms, rounds: int, epsilon: float) -> bool:
    return terms.spent(rounds).epsilon <= epsilon
