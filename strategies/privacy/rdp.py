"""Rényi differential privacy of Gaussian events, sampled or not, and of Skellam events, at any orders above 1."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from wardround.plan_privacy import Relation
from wardround.strategies.privacy.events import Event, FixedSizeGaussian, Gaussian, PoissonGaussian, Skellam
from wardround.vector import F64

__all__ = ["ORDERS", "epsilon_of_rdp", "rdp_of"]


def _orders() -> tuple[float, ...]:
    near = [1 + 0.02 * 1.09**step for step in range(74)]  # to 11.8
    whole = [*range(2, 12), *(round(12 * 1.06**step) for step in range(101))]  # to 4069
    return tuple(sorted({*near, *map(float, whole)}))


ORDERS = _orders()
"""Orders so close that the best of them is within 0.2 % of the best of all, for epsilons of about 0.01 to 1000."""

_STEPS = 12  # of the quadrature, per standard deviation
_REACH = 12.0  # standard deviations beyond the integrand's outermost peaks
_NARROW = 0.2  # ratios below it: the quadrature would need more steps, and what it adds is little
_HOPELESS = 1e3  # sensitivity over noise: sampling does not help at all
_PLENTY = 1e12  # ratios above it cost as much: more would underflow
_TIGHT = 128  # fixed size: terms up to here are the tight ones, later ones the simple ones
_OFF = 1e-9  # more than the sums are off, in relation to themselves


def rdp_of(events: Sequence[Event], orders: Sequence[float] | F64) -> F64:
    """RDP epsilons of the events' composition, one per order, of shape (len(orders),); a valid bound at each of them.

    Gaussian: α sensitivity² / (2 noise_std²) (Mironov 2017, Corollary 3). Poisson: Mironov, Talwar & Zhang 2019, for
    add-remove and zero-out. Fixed size: Wang, Balle & Kasiviswanathan 2019, or no amplification where that is less.
    Skellam: Agarwal, Kairouz & Liu 2021, Corollary 3.6.
    Raises ValueError for Poisson sampling under replace-one, which its bound does not cover, and for orders up to 1;
    TypeError for an unknown event.
    """
    wanted = tuple(float(order) for order in orders)
    if not all(1 < order < math.inf for order in wanted):
        raise ValueError(f"expected finite orders above 1, got {wanted}")
    total = np.zeros(len(wanted))
    for event in events:
        if event.count:  # 0 times ∞ is NaN
            total += event.count * _rdp_of_one(event, wanted)
    return total


def epsilon_of_rdp(orders: Sequence[float] | F64, rdp: F64, delta: float) -> float:
    """Epsilon at `delta` of a mechanism with these RDP epsilons; at least 0, and ∞ where no order helps.

    ε(α) + log(1 − 1/α) − log(α δ) / (α − 1) (Canonne, Kamath & Steinke 2020, Proposition 12; Balle et al. 2020), or 0
    where the KL divergence, at most ε(α), alone keeps the total variation below delta. Raises ValueError for NaN, for a
    negative RDP and for delta outside 0 to 1.
    """
    alpha = np.asarray(orders, dtype=np.float64)
    if alpha.shape != rdp.shape or not (alpha > 1).all() or not (rdp >= 0).all():
        raise ValueError(f"expected orders above 1 and as many RDP epsilons of at least 0, got {alpha} and {rdp}")
    if not 0 < delta < 1:
        raise ValueError(f"expected delta between 0 and 1, got {delta}")
    if alpha.size == 0:
        return math.inf
    if (np.expm1(-rdp) > -delta * delta).any():
        return 0.0
    return max(0.0, float((rdp + np.log1p(-1 / alpha) - np.log(alpha * delta) / (alpha - 1)).min()))


def _rdp_of_one(event: Event, orders: tuple[float, ...]) -> F64:
    if isinstance(event, Skellam):
        return np.array([_skellam(event, order) for order in orders])
    if not isinstance(event, Gaussian | PoissonGaussian | FixedSizeGaussian):
        raise TypeError(f"expected an event of wardround.strategies.privacy.events, got {event!r}")
    part = event.sensitivity / event.noise_std
    gaussian = np.asarray(orders) * (part * part) / 2
    if isinstance(event, Gaussian):
        return gaussian
    rate = event.rate if isinstance(event, PoissonGaussian) else event.drawn / event.population
    if rate == 1:
        return gaussian
    if isinstance(event, PoissonGaussian) and event.relation is Relation.REPLACE_ONE:
        raise ValueError("expected add-remove or zero-out of a Poisson sample, got replace-one")
    if part > _HOPELESS:
        return gaussian
    amplified = _poisson if isinstance(event, PoissonGaussian) else _fixed_size
    return np.minimum(amplified(min(event.ratio, _PLENTY), rate, orders), gaussian)


def _skellam(event: Skellam, order: float) -> float:
    """αΔ₂²/2µ + min(((2α − 1)Δ₂² + 6Δ₁)/4µ², 3Δ₁/2µ); proven at whole orders, between which the cumulant is convex."""
    mu, square, l1 = event.variance, event.sensitivity**2, event.l1_sensitivity

    def cumulant(alpha: float) -> float:
        excess = min(((2 * alpha - 1) * square + 6 * l1) / mu / (4 * mu), 3 * l1 / (2 * mu))
        return (alpha - 1) * (alpha * square / (2 * mu) + excess)

    return (cumulant(order) if order.is_integer() else _chord(cumulant, order)) / (order - 1)


@lru_cache(maxsize=256)
def _poisson(ratio: float, rate: float, orders: tuple[float, ...]) -> F64:
    """log E[(1 + q (L − 1))^α] / (α − 1), L the likelihood ratio of N(1, ratio²) to N(0, ratio²), under the latter.

    Of the two directions of add-remove this is the larger one (Mironov, Talwar & Zhang 2019): it suffices.
    Whole orders by the binomial sum, others by quadrature. Both add E[...] − 1 from parts above 0: nothing cancels.
    """

    def cumulant(order: float) -> float:
        if order.is_integer():
            return _log1p_exp(_whole(ratio, rate, int(order)))
        if ratio < _NARROW:
            return _chord(cumulant, order)
        return _log1p_exp(_fractional(ratio, rate, order))

    return np.array([cumulant(order) / (order - 1) for order in orders]) * (1 + _OFF)


@lru_cache(maxsize=256)
def _fixed_size(ratio: float, rate: float, orders: tuple[float, ...]) -> F64:
    """log(1 + Σ_j q^j C(α, j) min(4 √(B(2⌊j/2⌋) B(2⌈j/2⌉)), 2 exp((j − 1) ε(j)))) / (α − 1), j from 2 to α.

    B(l) = E[(L − 1)^l], ε(j) without sampling (Wang, Balle & Kasiviswanathan 2019, Theorem 27 of arXiv 1808.00087).
    """

    def cumulant(order: float) -> float:
        if not order.is_integer():
            return _chord(cumulant, order)
        j = np.arange(2, int(order) + 1)
        term = math.log(2) + j * (j - 1) / (2 * ratio * ratio)
        if ratio >= _NARROW:
            first, even = j[: _TIGHT - 1], _central_moments(ratio)
            tight = math.log(4) + (even[first // 2] + even[(first + 1) // 2]) / 2
            term[: first.size] = np.minimum(term[: first.size], tight)
        return _log1p_exp(_log_sum(_log_choose(int(order), j) + j * math.log(rate) + term))

    return np.array([cumulant(order) / (order - 1) for order in orders]) * (1 + _OFF)


def _chord(cumulant: Callable[[float], float], order: float) -> float:
    """Above the convex cumulant (α − 1) ε(α) between two whole orders; at order 1 it is 0."""
    low, part = math.floor(order), order - math.floor(order)
    return (1 - part) * (cumulant(float(low)) if low > 1 else 0.0) + part * cumulant(float(low + 1))


def _whole(ratio: float, rate: float, order: int) -> float:
    """log(E[...] − 1) = log Σ_k C(α, k) q^k (1 − q)^(α − k) (exp((k² − k) / 2ratio²) − 1), k from 2 to α."""
    k = np.arange(2, order + 1)
    moment = _log_expm1(k * (k - 1) / (2 * ratio * ratio))
    return _log_sum(_log_choose(order, k) + k * math.log(rate) + (order - k) * math.log1p(-rate) + moment)


def _fractional(ratio: float, rate: float, order: float) -> float:
    """log(E[...] − 1) = log E[(1 + u)^α − 1 − αu], u = q (L − 1) of mean 0: at least 0 everywhere (Bernoulli)."""
    log_likelihood, log_weight = _grid(ratio, order)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        u = np.minimum(rate * np.expm1(log_likelihood), 1e300)
        log_power = order * np.log1p(u)
        series = np.ones_like(u)
        for k in range(8, 2, -1):
            series = 1 + (order - k + 1) / k * u * series
        near = np.log(np.expm1(log_power) - order * u)
        far = log_power + np.log1p(-np.exp(np.log1p(order * u) - log_power))
        tiny = np.log(order * (order - 1) / 2 * u * u * series)
    part = np.where(np.abs(order * u) < 1e-2, tiny, np.where(log_power < 1, near, far))
    return _log_sum(log_weight + part)


@lru_cache(maxsize=64)
def _central_moments(ratio: float) -> F64:
    """log E[(L − 1)^l] of l = 0, 2, 4, ...; at place l / 2."""
    log_likelihood, log_weight = _grid(ratio, float(_TIGHT))
    with np.errstate(divide="ignore"):
        distance = np.maximum(log_likelihood, 0) + np.log(-np.expm1(-np.abs(log_likelihood)))
    return np.array([_log_sum(log_weight + 2 * half * distance) if half else 0.0 for half in range(_TIGHT // 2 + 1)])


def _grid(ratio: float, order: float) -> tuple[F64, F64]:
    """log L and the log of its weight at the steps of a trapezoid sum over N(0, ratio²), exact for smooth functions."""
    t = np.arange(-_REACH, order / ratio + _REACH, 1 / _STEPS)
    return (t - 0.5 / ratio) / ratio, -0.5 * (t * t + math.log(2 * math.pi)) - math.log(_STEPS)


def _log_choose(n: int, k: NDArray[np.int64]) -> F64:
    log_factorial = _log_factorials(1 << n.bit_length())
    result: F64 = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
    return result


@lru_cache(maxsize=32)
def _log_factorials(size: int) -> F64:
    logs: F64 = np.cumsum(np.log(np.arange(1, size)))
    return np.concatenate((np.zeros(1), logs))


def _log_expm1(x: F64) -> F64:
    result: F64 = x + np.log(-np.expm1(-x))
    return result


def _log1p_exp(x: float) -> float:
    return float(np.logaddexp(0.0, x))


def _log_sum(x: F64) -> float:
    top = float(x.max())
    return top + math.log(float(np.exp(x - top).sum())) if math.isfinite(top) else top
