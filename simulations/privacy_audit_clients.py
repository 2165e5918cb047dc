"""The mechanism that hides clients, as the server builds it from a plan, under test: its rule, its noise, its draws."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from wardround.contribution import Contribution
from wardround.orders import SiteId
from wardround.plan import Plan
from wardround.plan_privacy import Relation, Sampling, UnitClipping
from wardround.plan_sections import Cohort, Evaluation
from wardround.plan_simulation import Simulation
from wardround.state_store import MemoryStore, StateStore
from wardround.strategies.privacy.banded_matrix import banded_matrix
from wardround.strategies.privacy.build import build_central
from wardround.strategies.privacy.central import CentralPrivacy
from wardround.strategies.privacy.private_mean import PrivateMean
from wardround.strategies.privacy.self_test import Draws, Probe
from wardround.strategies.privacy.terms import Terms, client_terms
from wardround.strategies.rules.rule import Memory, RoundContext
from wardround.tally import MeansSpec, Tally
from wardround.vector import F32, F64, I64, MemoryVector

__all__ = ["ClientsUnderTest", "canary_federation"]

Build = Callable[[Plan, Sequence[int], StateStore], CentralPrivacy]

_TENSORS = (4096, 2048, 1024, 1024)
"""Of the vectors that the self-test sends: the mechanism does the same to a vector of any length."""
_MOST_STEPS, _DRAWN = 2000, 20_000
_OTHERS = 2
_CANARY = 10.0
"""A canary is so many times as long as the clip norm in force."""


class _Silent:
    """No noise: a sum as it is."""

    def draw(self, size: int) -> I64:
        return np.zeros(size, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class ClientsUnderTest:
    """What `build` makes of `plan`, which hides clients; `random` makes test vectors and need not be secret."""

    plan: Plan
    random: np.random.Generator
    build: Build = build_central

    def probe(self) -> Probe:
        """The mechanism with the plan's own clip, noise and draws."""
        fixed = _with_fixed_noise(self.plan, client_terms(self.plan))
        central = self.build(fixed, _TENSORS, MemoryStore())
        adaptive = self.plan.privacy.clipping is UnitClipping.ADAPTIVE
        return Probe(
            size=sum(_TENSORS) + adaptive,
            groups=(*_TENSORS, 1) if adaptive else _TENSORS,
            releases=lambda n: self._releases(fixed, n),
            moved=lambda length: self._moved(central, length),
            draws=_draws(central),
        )

    def _releases(self, plan: Plan, n: int) -> F64:
        """Releases of several servers in turn, so that noise that follows from the plan would show."""
        found: list[F64] = []
        while len(found) < n:
            central = self.build(plan, _TENSORS, MemoryStore())
            rounds = min(central.terms.rounds, -(-n // 2))
            found.extend(_whitened(plan, np.array([_noise_of(central) for _ in range(rounds)])))
        return np.array(found[:n])

    def _moved(self, central: CentralPrivacy, length: float) -> float:
        """One client beside others that are long in the opposite direction, should all be clipped together."""
        rule = replace(central.mean, noise=_Silent())
        clip = rule.clip_in_force({})
        opposite = self._vector(-1.0)
        others = [opposite * np.float32(_CANARY * clip), *(self._vector(clip) for _ in range(_OTHERS))]
        with np.errstate(over="ignore", invalid="ignore"):
            unit = -opposite * np.float32(length * clip)
        sums = [_sum_of(rule, updates) for updates in (others, [*others, unit])]
        return float(np.linalg.norm(sums[1] - sums[0])) / clip

    def _vector(self, length: float) -> F32:
        """In a direction of its own."""
        vector = self.random.standard_normal(sum(_TENSORS))
        return (vector * (length / np.linalg.norm(vector))).astype(np.float32)


def _draws(central: CentralPrivacy) -> Draws | None:
    """How the server draws a cohort; None where everybody takes part."""
    plan, terms = central.plan, central.terms
    if plan.privacy.bands is None and terms.rate >= 1:
        return None
    roster = {SiteId(f"client-{number}"): number for number in range(terms.population)}

    def take(steps: int) -> F64:
        given = np.zeros((steps, terms.population))
        for index, row in enumerate(given):
            row[_present(central, roster, index)] += 1
        return given

    if plan.privacy.bands is not None:
        return Draws(units=terms.population, rate=1.0, take=take, steps=plan.rounds, apart=plan.privacy.bands)
    size = int(terms.drawn) if terms.sampling is Sampling.FIXED_SIZE else None
    steps = min(_MOST_STEPS, max(64, round(_DRAWN / terms.drawn)))
    return Draws(units=terms.population, rate=terms.rate, take=take, steps=steps, size=size)


def _present(central: CentralPrivacy, roster: Mapping[SiteId, int], index: int) -> list[int]:
    """The numbers of the clients that the round of this index asks."""
    cohort = central.cohort(roster, index)
    return list((roster if cohort is None else cohort).values())


def _with_fixed_noise(plan: Plan, terms: Terms) -> Plan:
    """The plan with the noise that it comes to, so that it is not calibrated anew."""
    privacy = replace(
        plan.privacy, epsilon=None, noise_multiplier=terms.noise_multiplier, delta=terms.delta, research_delta=True
    )
    return replace(plan, rounds=terms.rounds, privacy=privacy)


def _contributions(updates: Iterable[F32]) -> Iterator[Contribution]:
    for number, update in enumerate(updates):
        members, vector = (SiteId(f"client-{number}"),), MemoryVector(update)
        yield Contribution(members=members, weight=1, vector=vector, tally=Tally.empty(MeansSpec()))


def _sum_of(rule: PrivateMean, updates: Iterable[F32]) -> F64:
    found = rule.apply(_contributions(updates), RoundContext(size=sum(_TENSORS))).vector
    return np.full(sum(_TENSORS), np.nan) if found is None else found.astype(np.float64) * rule.denominator


def _noise_of(central: CentralPrivacy) -> F64:
    """A round in which nobody takes part, over the noise's claimed standard deviation; under an adaptive clip also
    the noise on its count of clients."""
    central.begin()
    rule, multiplier = central.mean, central.terms.noise_multiplier
    found = rule.apply((), RoundContext(size=sum(_TENSORS)))
    if rule.adaptive is not None:
        multiplier = rule.adaptive.update_multiplier(multiplier)
    vector = np.full(sum(_TENSORS), np.nan) if found.vector is None else found.vector.astype(np.float64)
    noise: F64 = vector * (rule.denominator / (multiplier * rule.clip_norm))
    if rule.adaptive is None:
        return noise
    # of a count of nobody with noise x, the next clip is clip_norm exp(-lr (1/2 + x / denominator - target))
    power = np.log(rule.clip_in_force(found.memory) / rule.clip_norm) / -rule.adaptive.lr
    count = (power + rule.adaptive.target_quantile - 0.5) * rule.denominator / rule.adaptive.count_noise
    return np.append(noise, count)


def _whitened(plan: Plan, releases: F64) -> F64:
    """C y of releases y = C^-1 z, shape (rounds, d); y itself without banded noise."""
    if plan.privacy.bands is None:
        return releases
    rounds = len(releases)
    return np.asarray(_matrix(plan.rounds, plan.privacy.bands)[:rounds, :rounds] @ releases)


@lru_cache(maxsize=1)
def _matrix(rounds: int, bands: int) -> F64:
    return banded_matrix(rounds, bands).dense()


# -- canaries -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CanaryFederation:
    """A run of `plan`, whose first clients are canaries, on the server that `build` makes; see `canary_federation`."""

    plan: Plan
    canaries: int
    build: Build = build_central

    @property
    def terms(self) -> Terms:
        return client_terms(self.plan)

    def scores(self, included: NDArray[np.bool_]) -> F64:
        """A score for each canary, shape (m,), from all rounds of a run in which those `included` took part.

        Canary k is a multiple of a unit vector of its own, with an entry in every layer of a clip by layers, and ten
        times as long as the clip norm. One that is left out adds nothing, or under replace-one the opposite.
        """
        layers = len(_TENSORS) if self.plan.privacy.clipping is UnitClipping.PER_LAYER else 1
        central = self.build(self.plan, (self.canaries,) * layers, MemoryStore())
        signs = np.where(included, 1.0, -1.0 if central.terms.relation is Relation.REPLACE_ONE else 0.0)
        roster = {SiteId(f"client-{number:09}"): number for number in range(self.plan.simulation.sites)}
        sums, there = np.zeros((2, central.terms.rounds, self.canaries))
        memory: Memory = {}
        for at in range(central.terms.rounds):
            index = central.begin()
            present = np.array(_present(central, roster, index), dtype=np.int64)
            there[at][present[present < self.canaries]] = 1
            clip = central.mean.clip_in_force(memory)
            updates = _canaries(there[at] * signs, _CANARY * clip, layers)
            context = RoundContext(size=layers * self.canaries, memory=memory)
            found = central.mean.apply(updates, context)
            memory = found.memory
            if found.vector is not None:
                values = found.vector.reshape(layers, self.canaries).sum(axis=0, dtype=np.float64)
                sums[at] = values * (central.mean.denominator / (clip * layers**0.5))
        if self.plan.privacy.bands is None:  # who took part in which round is no secret only here
            return np.asarray(sums.sum(axis=0))
        return np.asarray((_whitened(self.plan, sums) * _whitened(self.plan, there)).sum(axis=0))


def _canaries(signs: F64, length: float, layers: int) -> Iterator[Contribution]:
    """A contribution of each canary whose sign is not 0, all in one buffer."""
    m = len(signs)
    update = np.zeros(layers * m, dtype=np.float32)
    for canary in np.flatnonzero(signs).tolist():
        update[canary::m] = signs[canary] * length / layers**0.5
        members, vector = (SiteId(f"client-{canary:09}"),), MemoryVector(update)
        yield Contribution(members=members, weight=1, vector=vector, tally=Tally.empty(MeansSpec()))
        update[canary::m] = 0


def canary_federation(plan: Plan, canaries: int, build: Build = build_central) -> CanaryFederation:
    """The federation of `plan`, which hides clients, with so many canaries among its clients.

    Noise, clip, sampling rate and rounds are the plan's. Where it has fewer sites than canaries, it gets more of them,
    and a cohort that is larger in proportion.
    """
    terms = client_terms(plan)
    sites, size = terms.population, plan.cohort.size
    if sites < canaries:
        if plan.privacy.bands is not None:
            size = max(1, canaries // plan.privacy.bands)
        else:
            size = None if terms.sampling is Sampling.FULL else max(1, round(terms.rate * canaries))
        sites = canaries
    larger = replace(
        _with_fixed_noise(plan, terms),
        cohort=Cohort(size=size, weighting=plan.cohort.weighting, weight_cap=plan.cohort.weight_cap),
        simulation=Simulation(sites=sites),
        evaluation=Evaluation(every=0),
    )
    return CanaryFederation(larger, canaries, build)
