"""Epsilon of what mechanisms released, and the noise that a claim needs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from wardround.plan_privacy import Relation
from wardround.strategies.privacy.events import Event, FixedSizeGaussian, Gaussian, PoissonGaussian, Skellam
from wardround.strategies.privacy.gaussian_dp import epsilon_of_mu, mu_of
from wardround.strategies.privacy.pld import epsilon_of_pld
from wardround.strategies.privacy.rdp import ORDERS, epsilon_of_rdp, rdp_of

__all__ = ["Bound", "calibrate_noise", "epsilon_of", "quick_epsilon_of"]

_MOST_NOISE = 1e9
_LEAST_NOISE = 1e-9
_PRECISION = 1e-3
_GUESSES = 4


@dataclass(frozen=True, slots=True)
class Bound:
    """An epsilon that is not exceeded, and the accountant that says so: "Gaussian DP" (closed form), "RDP" or "PLD"."""

    epsilon: float
    accountant: str

    def __post_init__(self) -> None:
        if not self.epsilon >= 0:  # nor NaN, which a comparison would let through
            raise ValueError(f"expected an epsilon of at least 0 from {self.accountant}, got {self.epsilon}")


def epsilon_of(events: Sequence[Event], delta: float) -> Bound:
    """The smallest epsilon known to hold at `delta` for all `events` together, adaptively composed, in their relation.

    Events without sampling: the closed form, exactly. With sampling: the smallest of PLD (with the extra `pld`), RDP
    (but for Poisson under replace-one) and the closed form without amplification. With Skellam events: RDP, the only
    one that knows them, with Poisson under replace-one as if unsampled. No events: 0. Raises ValueError for a delta
    outside 0 to 1, events of different relations and NaN; TypeError for an unknown event.
    """
    return _bound(_merged(events), _checked(delta))


def quick_epsilon_of(events: Sequence[Event], delta: float) -> Bound:
    """As `epsilon_of` within milliseconds: without PLD, so that it may be larger."""
    return _without_pld(_merged(events), _checked(delta))


def calibrate_noise(events_of: Callable[[float], Sequence[Event]], epsilon: float, delta: float) -> float:
    """The smallest noise multiplier whose events keep `epsilon` at `delta`: within 0.1 % of epsilon or of the noise.

    `events_of` gives the events of a noise multiplier; more noise must not cost more. `epsilon_of` verifies the result:
    it never exceeds `epsilon`. Raises ValueError for an epsilon that is not finite and above 0, where no noise is
    enough because other events alone take more, and where no noise is needed.
    """
    if not 0 < epsilon < math.inf:
        raise ValueError(f"expected a finite epsilon above 0, got {epsilon}")
    _checked(delta)

    def quick(multiplier: float) -> float:
        return _without_pld(_merged(events_of(multiplier)), delta).epsilon

    def exact(multiplier: float) -> float:
        return epsilon_of(events_of(multiplier), delta).epsilon

    multiplier = _smallest(quick, epsilon, 1.0, 1e-6)
    for _ in range(_GUESSES):
        if multiplier is None:
            break
        spent, bound = exact(multiplier), quick(multiplier)
        if epsilon * (1 - _PRECISION) <= spent <= epsilon:
            return multiplier
        if spent > 0:  # PLD takes a part of RDP's epsilon that changes slowly: few of the slow queries are needed
            multiplier = _smallest(quick, epsilon * (1 - _PRECISION / 2) * bound / spent, multiplier, 1e-6)
    multiplier = _smallest(exact, epsilon, multiplier or 1.0, _PRECISION)
    if multiplier is None:
        raise ValueError(f"no noise is enough: the other events take epsilon {exact(_MOST_NOISE):.4g} already")
    return multiplier


def _smallest(cost: Callable[[float], float], target: float, start: float, tolerance: float) -> float | None:
    """The smallest argument of a falling `cost` that is at most `target`, within `tolerance` of either; None: no one.

    A bracket around it is found from `start` on in growing steps, and narrowed along the line through its ends, on
    logarithmic scales: epsilon is close to a power of the noise. Raises ValueError where every argument will do.
    """
    at, value, step = start, cost(start), 1.05
    low = high = (at, value)
    while low[1] <= target:
        at, step = at / step, min(step * step, 4.0)
        if at < _LEAST_NOISE:
            raise ValueError("no noise is needed: these events release nothing")
        low, high = (at, cost(at)), low
    while high[1] > target:
        at, step = at * step, min(step * step, 4.0)
        if at > _MOST_NOISE:
            return None
        low, high = high, (at, cost(at))
    turn = 0
    while high[1] < target * (1 - tolerance) and high[0] > low[0] * (1 + tolerance):
        turn += 1  # every third point halves the bracket: an accountant that gives up makes a step, where lines fail
        part = _part(low[1], high[1], target * (1 - tolerance / 2)) if turn % 3 else 0.5
        at = low[0] * math.exp(math.log(high[0] / low[0]) * part)
        value = cost(at)
        low, high = (low, (at, value)) if value <= target else ((at, value), high)
    return high[0]


def _part(low: float, high: float, aim: float) -> float:
    """Where a line from log `low` down to log `high` meets log `aim`, in parts of its length; kept off its ends."""
    if high <= 0 or math.isinf(low):
        return 0.5
    return min(max(math.log(low / aim) / math.log(low / high), 0.05), 0.95)


def _checked(delta: float) -> float:
    if not 0 < delta < 1:
        raise ValueError(f"expected delta between 0 and 1, got {delta}")
    return delta


def _merged(events: Sequence[Event]) -> tuple[Event, ...]:
    """The same events with equal ones as one, and those that sample every unit as Gaussian."""
    counts: dict[Event, int] = {}
    for event in events:
        if not isinstance(event, Gaussian | PoissonGaussian | FixedSizeGaussian | Skellam):
            raise TypeError(f"expected an event of wardround.strategies.privacy.events, got {event!r}")
        kept = isinstance(event, Skellam) or _sampled(event)
        one = replace(event if kept else _unsampled(event), count=1)
        counts[one] = counts.get(one, 0) + event.count
    relations = {event.relation for event in counts}
    if len(relations) > 1:
        raise ValueError(f"expected events of one relation, got {', '.join(sorted(each.value for each in relations))}")
    return tuple(replace(event, count=count) for event, count in counts.items() if count)


@lru_cache(maxsize=8192)
def _bound(events: tuple[Event, ...], delta: float) -> Bound:
    quick = _without_pld(events, delta)
    if not any(_sampled(event) for event in events) or any(isinstance(event, Skellam) for event in events):
        return quick
    pld = epsilon_of_pld(events, delta)
    return quick if pld is None else _smaller(Bound(pld, "PLD"), quick)


@lru_cache(maxsize=8192)
def _without_pld(events: tuple[Event, ...], delta: float) -> Bound:
    if any(isinstance(event, Skellam) for event in events):
        known = [_unsampled(event) if _poisson_replaced(event) else event for event in events]
        return Bound(epsilon_of_rdp(ORDERS, rdp_of(known, ORDERS), delta), "RDP")
    closed = Bound(epsilon_of_mu(mu_of([_unsampled(event) for event in events]), delta), "Gaussian DP")
    if not any(_sampled(event) for event in events):
        return closed
    if any(_poisson_replaced(event) for event in events):
        return closed  # RDP knows no bound for it
    return _smaller(Bound(epsilon_of_rdp(ORDERS, rdp_of(events, ORDERS), delta), "RDP"), closed)


def _smaller(one: Bound, other: Bound) -> Bound:
    """Of two bounds for the same events, so for one relation, and the same delta."""
    return one if one.epsilon < other.epsilon else other


def _sampled(event: Event) -> bool:
    match event:
        case PoissonGaussian(rate=rate):
            return rate < 1
        case FixedSizeGaussian(drawn=drawn, population=population):
            return drawn < population
    return False


def _poisson_replaced(event: Event) -> bool:
    return isinstance(event, PoissonGaussian) and event.relation is Relation.REPLACE_ONE


def _unsampled(event: Event) -> Gaussian:
    """The event as if every unit took part, which no sampling exceeds: amplification is left out."""
    if isinstance(event, Skellam):
        raise TypeError(f"expected a Gaussian event, got {event!r}")
    return Gaussian(
        noise_std=event.noise_std, sensitivity=event.sensitivity, relation=event.relation, count=event.count
    )
