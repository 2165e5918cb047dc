"""Gaussian differential privacy: what unsampled Gaussian events compose to, and its exact (epsilon, delta)."""

import math
from collections.abc import Sequence

from wardround.strategies.privacy.events import Event, Gaussian, PoissonGaussian

__all__ = ["delta_of_mu", "epsilon_of_mu", "mu_of"]

_FAR = 8.0  # beyond it the continued fraction of the Mills ratio is exact within 40 terms
_TERMS = 40
_HALVINGS = 60
_ROOT = math.sqrt(2)
_OFF = 1e-14  # more than these functions are off, in relation to themselves


def mu_of(events: Sequence[Event]) -> float:
    """μ = √(Σ count · (sensitivity / noise_std)²) of Gaussian events in which every unit takes part.

    Their composition, adaptive or not, is exactly μ-GDP (Dong, Roth & Su 2022). Raises ValueError for a
    sampled event: its amplification is no Gaussian's, and leaving it out is the caller's decision.
    """
    square = 0.0
    for event in events:
        if not (isinstance(event, Gaussian) or (isinstance(event, PoissonGaussian) and event.rate == 1)):
            raise ValueError(f"expected Gaussian events without sampling, got {event}")
        if event.count:  # 0 times ∞ is NaN
            part = event.sensitivity / event.noise_std
            square += event.count * part * part
    return math.sqrt(square)


def delta_of_mu(mu: float, epsilon: float) -> float:
    """The smallest delta of a μ-GDP mechanism at `epsilon`, rounded up by about 1e-12 of itself.

    Φ(−ε/μ + μ/2) − exp(ε) Φ(−ε/μ − μ/2) (Balle & Wang 2018, Theorem 8). Raises ValueError unless both are at least 0.
    """
    if not (mu >= 0 and epsilon >= 0):
        raise ValueError(f"expected mu and epsilon of at least 0, got {mu} and {epsilon}")
    if mu == 0 or math.isinf(epsilon):
        return 0.0
    if math.isinf(mu):
        return 1.0
    return min(1.0, math.exp(_log_delta(epsilon / mu - mu / 2, mu)))


def epsilon_of_mu(mu: float, delta: float) -> float:
    """The smallest epsilon of a μ-GDP mechanism at `delta`, at least 0, rounded up by about 1e-12 of itself.

    Raises ValueError unless mu is at least 0 and delta between 0 and 1.
    """
    if not (mu >= 0 and 0 < delta < 1):
        raise ValueError(f"expected mu of at least 0 and delta between 0 and 1, got {mu} and {delta}")
    if mu == 0:
        return 0.0
    if math.isinf(mu * mu):
        return math.inf
    target = math.log(delta)
    low, high = -mu / 2, math.sqrt(-2 * target)  # of ε/μ − μ/2: ε = 0, and δ <= Φ(−a) <= exp(−a²/2)
    if _log_delta(low, mu) <= target:
        return 0.0
    high = max(low, high)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _log_delta(middle, mu) > target:
            low = middle
        else:
            high = middle
    return mu * (high + mu / 2) * (1 + 1e-12)


def _log_delta(a: float, mu: float) -> float:
    """log δ at ε = μ (a + μ/2): of Φ(−a) − exp(ε) Φ(−b), b = a + μ, rounded up by more than floats are off.

    exp(ε) φ(b) = φ(a), so that this is φ(a) (R(a) − R(b)) of the Mills ratio R, in which nothing over- or underflows.
    """
    log_density = -0.5 * (a * a + math.log(2 * math.pi))
    if a < 0:  # R(a) may be huge, while Φ(−a) is at least ½
        log_value = math.log(0.5 * math.erfc(a / _ROOT) - math.exp(log_density) * _mills(a + mu) + _OFF)
    else:
        log_value = log_density + math.log(_mills(a) * (1 + _OFF) - _mills(a + mu))
    return log_value + _OFF * (1 + a * a)


def _mills(x: float) -> float:
    """Φ(−x) / φ(x) of x >= 0 or so, beyond 8 by its continued fraction 1/(x + 1/(x + 2/(x + ...)))."""
    if x < _FAR:
        return math.sqrt(math.pi / 2) * math.exp(x * x / 2) * math.erfc(x / _ROOT)
    value = x
    for term in range(_TERMS, 0, -1):
        value = x + term / value
    return 1 / value
