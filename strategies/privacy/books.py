"""The books of a ledger: what jobs cost one population, and whether another still fits under its caps.

Every job is charged to all books, and admitted while *any* of them still fits. Each book is a privacy filter: if
jobs are admitted only while its own total fits, then whatever was released is (epsilon, δ_i)-DP, although
everything about a later job (mechanism, noise, whether there is one) may depend on what earlier ones released. The
δ_i sum to the cap's delta.

- RDP at one fixed order each: ε(α) adds up under fully adaptive choice (Feldman & Zrnic 2021; Lécuyer 2021). As
  long as the sum is at most B, the whole is (α, B)-RDP, and B is such that (α, B)-RDP is (epsilon, δ_i)-DP. That
  last step is about two distributions and knows no adaptivity, so that the tightest conversion is allowed (Canonne,
  Kamath & Steinke 2020, Proposition 12). Several orders are several filters: choosing the best afterwards would be
  no filter.
- Gaussian DP while no event is sampled: μ² adds up under fully adaptive choice (Smith & Thakurta 2022; Koskela et
  al. 2023).
- Basic composition of jobs that were fixed before they started: (ε_j, δ_j) add up, and may be chosen adaptively
  (Rogers et al. 2016). Inside a job all is fixed, so that ε_j may come from any accountant, PLD too; across jobs a
  filter of PLDs would be unsound (arXiv 2602.06756). Hence a job is charged whole here, however early it stops.

Jobs may run at the same time, and answer each other's rounds: filters for (ε, δ)-DP, Gaussian DP and RDP of a fixed
order stay valid under concurrent composition (Haney et al. 2023).

Why any book is enough. At every time there is a book in which all that was released, with all that is reserved,
fits: at an admission the one that admits, and until the next one totals only fall, since a job releases at most
what it reserved and closing frees only what was never released. So the outcomes split into parts E_i, one per book:
those at whose end book i is the first whose releases fit. Releases only grow, hence on E_i they always fitted in
book i, and the ledger did there exactly what a filter with book i alone does. For any set S of outcomes and
neighbours D, D': P(S) = Σ_i P(S ∩ E_i) <= Σ_i (exp(epsilon) P'(S ∩ E_i) + δ_i) = exp(epsilon) P'(S) + delta.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from wardround.plan_privacy import Relation, Unit
from wardround.strategies.privacy.accounting import Bound, epsilon_of
from wardround.strategies.privacy.events import Event, FixedSizeGaussian, Gaussian, PoissonGaussian, Skellam
from wardround.strategies.privacy.gaussian_dp import epsilon_of_mu, mu_of
from wardround.strategies.privacy.job_charge import (
    JobCharge,
    charge_of,
    client_charge_on_examples,
    decode_charge,
    encode_charge,
    times,
)
from wardround.strategies.privacy.rdp import epsilon_of_rdp, rdp_of
from wardround.vector import F64

__all__ = [
    "Books",
    "Cost",
    "JobCharge",
    "Standing",
    "Total",
    "charge_of",
    "client_charge_on_examples",
    "decode_charge",
    "encode_charge",
]

_PARTS = (0.65, 0.75, 0.9)
_BASIC, _GAUSSIAN, _RDP = 0.25, 0.25, 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """What was spent, in the unit of each book: ε(α) per order, μ², Σε_j and Σδ_j.

    μ² is ∞ once an event was sampled or was no Gaussian.
    """

    rdp: tuple[float, ...]
    gaussian: float
    epsilon: float = 0.0
    delta: float = 0.0

    def __add__(self, other: "Total") -> "Total":
        return Total(
            rdp=tuple(a + b for a, b in zip(self.rdp, other.rdp, strict=True)),
            gaussian=self.gaussian + other.gaussian,
            epsilon=self.epsilon + other.epsilon,
            delta=self.delta + other.delta,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one job costs in every book; fixed when it is admitted, so that no later accountant changes the past."""

    once: Total
    per_round: Total
    rounds: int
    whole: bool
    accountant: str

    def of(self, begun: int) -> Total:
        """The cost of `begun` rounds; the basic book is in `once`, since it is charged whole."""
        rounds = min(begun, 1) if self.whole else begun
        if rounds == 0:
            return self.once
        each = self.per_round
        return self.once + Total(rdp=tuple(rounds * value for value in each.rdp), gaussian=rounds * each.gaussian)

    @property
    def worst(self) -> Total:
        """The cost when every round is begun."""
        return self.of(self.rounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What one book says of a total: `epsilon` at `delta`, its share of the cap's, and whether that fits.

    As a statement on releases so far it holds at this delta if jobs were not chosen by what others released; if
    they were, what holds is the cap.
    """

    book: str
    epsilon: float
    delta: float
    fits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """The constants of a ledger: its caps, its unit and relation, its orders, and the deltas that its books share."""

    epsilon: float
    delta: float
    unit: Unit
    relation: Relation
    orders: tuple[float, ...]
    rdp_delta: float
    """Of each order."""
    gaussian_delta: float
    basic_delta: float

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < math.inf:
            raise ValueError(f"expected a finite epsilon above 0, got {self.epsilon}")
        if not 0 < self.delta < 1:
            raise ValueError(f"expected a delta between 0 and 1, got {self.delta}")
        if self.unit is Unit.OFF:
            raise ValueError("expected a unit whose presence is hidden, got off")
        if not all(1 < order < math.inf for order in self.orders):
            raise ValueError(f"expected finite orders above 1, got {self.orders}")
        shares = (self.rdp_delta, self.gaussian_delta, self.basic_delta)
        if not all(share > 0 for share in shares) or not self._shared <= self.delta * (1 + 1e-12):
            raise ValueError(f"expected deltas above 0 that sum to {self.delta}, got {shares}")

    @property
    def _shared(self) -> float:
        return len(self.orders) * self.rdp_delta + self.gaussian_delta + self.basic_delta

    @classmethod
    def at(cls, *, epsilon: float, delta: float, unit: Unit, relation: Relation) -> "Books":
        """Books under these caps, with orders for them.

        At order 1 + 2 log(1/δ)/epsilon half of epsilon is left for events; more at higher orders, but sampled
        events cost most there. With these three a plan's rounds fit to 60 to 80 % of what its best single claim
        allows (q from 0.01 to 1, noise from 1 to 10, epsilon from 1 to 8); more orders gain less than their share
        of delta costs.
        """
        if not (0 < epsilon < math.inf and 0 < delta < 1):
            raise ValueError(f"expected a finite epsilon above 0 and a delta between 0 and 1, got {epsilon}, {delta}")
        share = delta * _RDP / len(_PARTS)
        best = 2 * math.log(1 / share) / epsilon
        return cls(
            epsilon=epsilon,
            delta=delta,
            unit=unit,
            relation=relation,
            orders=tuple(_rounded(1 + part * best) for part in _PARTS),
            rdp_delta=share,
            gaussian_delta=delta * _GAUSSIAN,
            basic_delta=delta * _BASIC,
        )

    @property
    def nothing(self) -> Total:
        """The total of no jobs."""
        return Total(rdp=(0.0,) * len(self.orders), gaussian=0.0)

    def total(self, costs: Iterable[Total]) -> Total:
        """The sum over jobs."""
        return reduce(Total.__add__, costs, self.nothing)

    def cost(self, charge: JobCharge, before: Total) -> Cost:
        """What `charge` costs a population that `before` was spent on.

        The basic book takes the job's delta, but at most half of what it has left. Raises ValueError for a charge
        of a unit or relation that does not bound this ledger's.
        """
        self._check_unit(charge.unit)
        once, per_round = self._events(charge.once), self._events(charge.per_round)
        delta = min(charge.delta, (self.basic_delta - before.delta) / 2)
        bound = self._bound(once, per_round if charge.whole else times(per_round, charge.rounds), delta)
        return Cost(
            once=replace(self._total(once), epsilon=bound.epsilon, delta=max(delta, 0.0)),
            per_round=self._total(per_round),
            rounds=charge.rounds,
            whole=charge.whole,
            accountant=bound.accountant,
        )

    def standings(self, total: Total) -> tuple[Standing, ...]:
        """What each book says of `total`."""
        found = [
            self._standing(f"RDP of order {order:g}", epsilon_of_rdp([order], np.array([rdp]), delta), delta)
            for order, rdp, delta in zip(self.orders, total.rdp, [self.rdp_delta] * len(self.orders), strict=True)
        ]
        mu = math.sqrt(total.gaussian)
        found.append(self._standing("Gaussian DP", epsilon_of_mu(mu, self.gaussian_delta), self.gaussian_delta))
        basic = self._standing("basic composition", total.epsilon, self.basic_delta)
        found.append(replace(basic, fits=basic.fits and total.delta <= self.basic_delta))
        return tuple(found)

    def fits(self, total: Total) -> bool:
        """Whether any book still fits."""
        return any(standing.fits for standing in self.standings(total))

    def room(self, total: Total) -> float:
        """Epsilon, at the cap's delta, of the largest job that still fits: one event, Gaussian and without sampling."""
        low, high = 0.0, 1.0  # of μ: `low` fits
        while self._has_room(total, high):
            low, high = high, 2 * high
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if self._has_room(total, middle) else (low, middle)
        return epsilon_of_mu(low, self.delta)

    def _has_room(self, total: Total, mu: float) -> bool:
        event = Gaussian(noise_std=1.0, sensitivity=mu, relation=self.relation)
        charge = JobCharge(
            job="room",
            plan_digest="",
            unit=self.unit,
            once=(event,),
            per_round=(),
            rounds=0,
            whole=False,
            delta=self.delta,
        )
        return self.fits(total + self.cost(charge, total).worst)

    def _standing(self, book: str, epsilon: float, delta: float) -> Standing:
        return Standing(book=book, epsilon=epsilon, delta=delta, fits=epsilon <= self.epsilon)

    def _check_unit(self, unit: Unit) -> None:
        """A row exchanged is a patient exchanged; nothing else here bounds another.

        A row more or less is no patient more or less: the cap may keep others of the patient's rows.
        """
        exchanged = self.relation is Relation.REPLACE_ONE and (unit, self.unit) == (Unit.PATIENT, Unit.ROW)
        if unit is not self.unit and not exchanged:
            raise ValueError(
                f"expected a job that hides a {self.unit.value}, as this ledger does, got one that hides a {unit.value}"
            )

    def _events(self, events: Sequence[Event]) -> tuple[Event, ...]:
        return tuple(self._under_relation(event) for event in events if event.count)

    def _under_relation(self, event: Event) -> Event:
        """The event as it bounds this ledger's relation.

        An exchange is a removal and an addition, or one part set to zero and back: twice the sensitivity. A part set to
        zero is a unit removed from a sum that does not tell the number of units, which add-remove hides.
        """
        if event.relation is self.relation:
            return event
        if self.relation is Relation.REPLACE_ONE and isinstance(event, Skellam):
            return replace(event.times(2), relation=self.relation)
        if self.relation is Relation.REPLACE_ONE and not isinstance(event, FixedSizeGaussian):
            return replace(event, sensitivity=2 * event.sensitivity, relation=self.relation)
        if (event.relation, self.relation) == (Relation.ADD_REMOVE, Relation.ZERO_OUT):
            return replace(event, relation=self.relation)
        raise ValueError(
            f"expected a job whose relation bounds {self.relation.value}, as this ledger's, got "
            f"{event.relation.value}, under which the number of units is public"
        )

    def _total(self, events: tuple[Event, ...]) -> Total:
        unsampled = all(isinstance(event, Gaussian) for event in events)
        rdp = sum((_rdp(event, self.orders) for event in events), np.zeros(len(self.orders)))
        if np.isnan(rdp).any():
            raise ValueError(f"expected RDP of {events} to be numbers, got {rdp}")
        gaussian = mu_of(events) ** 2 if unsampled else math.inf
        return Total(rdp=tuple(float(value) for value in rdp), gaussian=gaussian)

    def _bound(self, once: tuple[Event, ...], rounds: tuple[Event, ...], delta: float) -> Bound:
        """The best epsilon of a whole job at `delta`; ∞ where the basic book has none left."""
        events = once + rounds
        if not delta > 0:
            return Bound(math.inf, "none")
        rdp = epsilon_of_rdp(self.orders, np.array(self._total(events).rdp), delta)
        return min(epsilon_of(events, delta), Bound(rdp, "RDP"), key=lambda bound: bound.epsilon)


def _rounded(order: float) -> float:
    return float(round(order)) if order > 10 else round(order, 2)


def _rdp(event: Event, orders: tuple[float, ...]) -> F64:
    """RDP of `event` at `orders`; of a Poisson sample under replace-one too.

    There the exchange of one unit goes by way of the data without it: D_α(P‖Q) <= (α − ½)/(α − 1) D_2α(P‖R) + D_(2α
    − 1)(R‖Q) (Mironov 2017, Proposition 11, with p = q = 2), both under add-remove, where the sensitivity is half.
    """
    if not (isinstance(event, PoissonGaussian) and event.relation is Relation.REPLACE_ONE):
        return rdp_of([event], orders)
    single = replace(event, sensitivity=event.sensitivity / 2, relation=Relation.ADD_REMOVE)
    alpha = np.array(orders)
    there, back = rdp_of([single], 2 * alpha), rdp_of([single], 2 * alpha - 1)
    unsampled = Gaussian(
        noise_std=event.noise_std, sensitivity=event.sensitivity, relation=event.relation, count=event.count
    )
    by_way: F64 = (alpha - 0.5) / (alpha - 1) * there + back
    return np.minimum(by_way, rdp_of([unsampled], orders))
