"""How likely a value as far out as one that was seen is: chi-square, normal and binomial tails, and where they end."""

import math
from collections.abc import Callable

__all__ = ["binomial_limits", "binomial_tails", "chi_square_limits", "chi_square_tails", "normal_limit"]

_LITTLE = 1e-17
"""A further term of a sum is left out when it is so small a part of it; terms shrink faster than geometrically."""
_TINY = 1e-300
_MOST_TERMS = 1 << 20


def chi_square_tails(value: float, freedom: float) -> tuple[float, float]:
    """P[X ≤ value] and P[X ≥ value] of a chi-square variable; the smaller of the two to about 1e-8 of itself.

    Source: Abramowitz and Stegun 1964, 6.5.29 and 6.5.31; the fraction by Lentz's method. Raises ValueError for NaN
    and for freedom that is not above 0.
    """
    if not (value >= 0 and 0 < freedom < math.inf):
        raise ValueError(f"expected a value of at least 0 and freedom above 0, got {value} and {freedom}")
    a, x = freedom / 2, value / 2
    if x == 0 or math.isinf(x):
        return (0.0, 1.0) if x == 0 else (1.0, 0.0)
    scale = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:
        low = min(1.0, scale * _series(a, x))
        return low, 1.0 - low
    high = min(1.0, scale * _fraction(a, x))
    return 1.0 - high, high


def _series(a: float, x: float) -> float:
    """Σ x^n / (a (a + 1) ... (a + n)) over n ≥ 0."""
    term = total = 1 / a
    for n in range(1, _MOST_TERMS):
        term *= x / (a + n)
        total += term
        if term < _LITTLE * total:
            break
    return total


def _fraction(a: float, x: float) -> float:
    """1 / (x + 1 - a - 1 (1 - a) / (x + 3 - a - 2 (2 - a) / (x + 5 - a - ...)))."""
    b = x + 1 - a
    c, d = 1 / _TINY, 1 / b
    total = d
    for n in range(1, _MOST_TERMS):
        weight = n * (a - n)
        b += 2
        d = 1 / (weight * d + b or _TINY)
        c = weight / c + b or _TINY
        factor = c * d
        total *= factor
        if abs(factor - 1) < 1e-16:
            break
    return total


def chi_square_limits(freedom: float, chance: float) -> tuple[float, float]:
    """Between which values a chi-square variable lies, but for `chance` on either side."""
    spread = 40 * math.sqrt(2 * freedom) + 2000
    low = _border(lambda value: chi_square_tails(value, freedom)[0] > chance, 0.0, freedom)
    high = _border(lambda value: chi_square_tails(value, freedom)[1] < chance, freedom, freedom + spread)
    return low, high


def normal_limit(chance: float) -> float:
    """What a standard normal variable exceeds in size with the probability `chance`, both sides together."""
    return _border(lambda value: math.erfc(value / math.sqrt(2)) < chance, 0.0, 40.0)


def binomial_tails(count: int, n: int, p: float) -> tuple[float, float]:
    """P[X ≤ count] and P[X ≥ count] of a binomial variable. Raises ValueError for p outside 0 to 1."""
    if not 0 <= p <= 1:
        raise ValueError(f"expected a probability, got {p}")
    return _at_least(n - count, n, 1 - p, p), _at_least(count, n, p, 1 - p)


def _at_least(count: int, n: int, p: float, q: float) -> float:
    """P[X ≥ count] for probabilities p of a success and q = 1 - p, both given so that neither loses digits."""
    if count <= 0:
        return 1.0
    if count > n or p == 0:
        return 0.0
    if q == 0:
        return 1.0
    if count <= n * p:
        return 1.0 - _at_least(n - count + 1, n, q, p)
    choices = math.lgamma(n + 1) - math.lgamma(count + 1) - math.lgamma(n - count + 1)
    term = math.exp(choices + count * math.log(p) + (n - count) * math.log(q))
    total = 0.0
    for k in range(count, n + 1):
        total += term
        term *= (n - k) / (k + 1) * (p / q)
        if term < _LITTLE * total:
            break
    return min(1.0, total)


def binomial_limits(n: int, p: float, chance: float) -> tuple[int, int]:
    """The smallest and largest counts that are not less likely than `chance`, counts further out included."""
    low = math.ceil(_border(lambda value: binomial_tails(math.floor(value), n, p)[0] >= chance, -1.0, n * p + 1.0))
    high = math.floor(_border(lambda value: binomial_tails(math.ceil(value), n, p)[1] < chance, n * p - 1.0, n + 1.0))
    return max(low, 0), min(high, n)


def _border(beyond: Callable[[float], bool], low: float, high: float) -> float:
    """Where `beyond`, false at `low` and true at `high`, becomes true; a hair on the false side where that is wider."""
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (low, middle) if beyond(middle) else (middle, high)
    return low
