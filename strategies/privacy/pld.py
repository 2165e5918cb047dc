"""Privacy loss distributions of events, by dp-accounting (the extra `pld`)."""

import importlib
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from wardround.plan_privacy import Relation
from wardround.strategies.privacy.events import Event, Gaussian, PoissonGaussian
from wardround.strategies.privacy.gaussian_dp import mu_of
from wardround.strategies.privacy.rdp import rdp_of

__all__ = ["LEAST_DELTA", "epsilon_of_pld", "installed"]

LEAST_DELTA = 1e-10
"""Below it the rounding errors of the Fourier transforms would decide the answer."""

_INTERVAL = 1e-4
_REACH = 9.9  # standard deviations outside of which dp-accounting counts the loss as infinite
_ROUNDING = 4e-16  # of delta, per composed event: five times the most seen against transforms of more digits
_MOST_POINTS = 2_600_000  # of distributions, weighed by time: up to half a microsecond each
_LEAST_STD = 0.01


def installed() -> bool:
    """Whether dp-accounting can be imported; without it RDP answers, with a larger epsilon."""
    return _library() is not None


def epsilon_of_pld(events: Sequence[Event], delta: float) -> float | None:
    """Epsilon at `delta` of the composition of events of one relation, rounded up; None where PLD does not answer.

    That is: dp-accounting is not installed or fails, delta is below 1e-10 or as small as rounding errors, an event is
    of fixed size, or the distributions are so wide that it would take over a second. Each direction of add-remove is
    composed by itself, and the worse one counts (Zhu, Dong & Wang 2022). Poisson sampling under replace-one
    takes it that a unit adds at most half of the event's sensitivity, as it does to a sum of clipped parts.
    """
    parts = _parts(events)
    if parts is None or delta < LEAST_DELTA or not installed():
        return None
    if not parts:
        return 0.0
    replaced = events[0].relation is Relation.REPLACE_ONE
    rounding = _ROUNDING * (1000 + sum(count for *_, count in parts))
    if 2 * rounding > delta or sum(_points(*part, replaced) for part in parts) > _MOST_POINTS:
        return None
    try:
        with np.errstate(all="ignore"):
            composed: Any = None
            for ratio, rate, count in parts:
                one = _one(ratio, rate, replaced)
                some = one if count == 1 else one.self_compose(count)
                composed = some if composed is None else composed.compose(some)
            epsilon = float(composed.get_epsilon_for_delta(delta - rounding))
    except (ArithmeticError, ValueError, MemoryError):
        return None
    return epsilon if epsilon >= 0 else None


def _parts(events: Sequence[Event]) -> list[tuple[float, float, int]] | None:
    """(noise over sensitivity, rate, count) of different events, all that are not sampled as one; None: fixed size."""
    sampled: dict[tuple[float, float], int] = {}
    whole: list[Event] = []
    for event in events:
        if isinstance(event, Gaussian) or (isinstance(event, PoissonGaussian) and event.rate == 1):
            whole.append(event)
        elif isinstance(event, PoissonGaussian):
            sampled[event.ratio, event.rate] = sampled.get((event.ratio, event.rate), 0) + event.count
        else:
            return None
    parts = [(ratio, rate, count) for (ratio, rate), count in sampled.items() if count]
    mu = mu_of(whole)
    return [*parts, (1 / mu, 1.0, 1)] if mu else parts


@lru_cache(maxsize=1)
def _library() -> Any:
    try:
        return importlib.import_module("dp_accounting.pld.privacy_loss_distribution")
    except ImportError:
        return None


@lru_cache(maxsize=8)
def _one(ratio: float, rate: float, replaced: bool) -> Any:
    """The distribution of one event.

    Under replace-one dp-accounting takes a sensitivity for what one unit adds and doubles it itself: N(−s) against
    N(s), each mixed with N(0). An event's is that of the exchange already, so that its half is passed on.
    Opposite parts of full norm are the worst exchange: of parts u and v, δ at any ε is E[(e^X − e^ε e^Y − c)⁺] q for
    Gaussian X and Y with variances |u|², |v|² and covariance u·v. By Plackett's identity it falls with the covariance,
    and it grows with the norms, since it is convex in e^X and in e^Y.
    """
    relations = importlib.import_module("dp_accounting.privacy_accountant").NeighboringRelation
    return _library().from_gaussian_mechanism(
        standard_deviation=ratio,
        sensitivity=0.5 if replaced else 1.0,
        sampling_prob=rate,
        value_discretization_interval=_INTERVAL,
        neighboring_relation=relations.REPLACE_ONE if replaced else relations.ADD_OR_REMOVE_ONE,
    )


def _points(ratio: float, rate: float, count: int, replaced: bool) -> float:
    """About the points of an event's distribution, ten times as slow to make as to compose, and of its composition."""
    apart = 0.5 if replaced and rate < 1 else 1.0  # of N(0) and the normal distribution that is mixed with it
    if (std := ratio / apart) < _LEAST_STD:
        return math.inf
    made = (_REACH + 0.5 / std) / std
    if rate < 1:
        made = float(np.logaddexp(math.log1p(-rate), math.log(rate) + made))
    event = PoissonGaussian(noise_std=std, sensitivity=1, relation=Relation.ADD_REMOVE, rate=rate, count=count)
    mean = float(rdp_of([event], (1.02,))[0]) / apart**2
    composed = 2.2 * made + 17 * math.sqrt(2 * mean) if count > 1 else made
    return (10 * made + composed) / _INTERVAL
