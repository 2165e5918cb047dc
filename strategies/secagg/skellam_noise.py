"""Skellam noise, sampled exactly: integers that add up to Skellam noise, whoever adds them."""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from wardround.strategies.privacy.secure_random import U64, SecureRandom
from wardround.vector import I64

__all__ = ["I32", "LARGEST_VARIANCE", "SMALLEST_VARIANCE", "SkellamNoise", "cumulative"]

I32 = NDArray[np.int32]

SMALLEST_VARIANCE, LARGEST_VARIANCE = 2.0**-20, 2.0**32
"""Of what one client adds. The upper end is a table of a million steps: it takes seconds and 300 MiB to make."""

_WORD = 64
_BITS = 128
"""Of the sums that the table is made from, and that the first decision beyond it looks at."""
_GUARD = 64
_LEAST_CELLS, _MOST_CELLS = 10, 20
_CELLS_PER_STEP = 16  # so that about one word of 16 and fewer is looked up twice
_BLOCK = 1 << 14
_OPEN = np.int32(-(2**31))


@dataclass(frozen=True, slots=True, eq=False)
class SkellamNoise:
    """The symmetric Skellam distribution of `variance` µ: Poisson(µ/2) − Poisson(µ/2); P(x) = exp(−µ) I_x(µ).

    Sums are Skellam again, of the sum of the variances. A uniform number U in [0, 1) is turned into the least x with
    U < P(X <= x). Of U, 32 bits are drawn, and more where they leave more than one x: first to 64, which a table
    answers, then 64 at a time, against sums that are computed to as many digits as it takes. So the distribution is
    exact, for words that are uniform: no part of delta is lost to it.

    Source: Agarwal, Kairouz and Liu 2021 (arXiv 2110.04995), section 3; Devroye 1986, "Non-Uniform Random Variate
    Generation", chapters II.2 and III.2.4 (inversion with a guide table).
    """

    variance: float
    _first: int
    _steps: U64
    """The integer parts of 2^64 P(X <= x), for x from `_first` on; the first is 0 and the last 2^64 − 1."""
    _guide: I32
    """For each value of a word's first bits the x that all such words mean, or _OPEN where they mean different ones."""
    _shift: np.uint32

    @classmethod
    def of(cls, variance: float) -> "SkellamNoise":
        """The sampler of this variance, from a few kept ones. Raises ValueError for a variance out of bounds."""
        if not SMALLEST_VARIANCE <= variance <= LARGEST_VARIANCE:
            raise ValueError(
                f"expected a client's noise of variance {SMALLEST_VARIANCE:.1g} to {LARGEST_VARIANCE:.1g}, got "
                f"{variance:.4g}: choose a smaller scale for more, a larger one for less"
            )
        return _made(float(variance))

    def draw(self, n: int, random: SecureRandom) -> I32:
        """`n` independent samples, shape (n,)."""
        if n < 0:
            raise ValueError(f"expected at least 0 samples, got {n}")
        samples = np.empty(n, dtype=np.int32)
        for start in range(0, n, _BLOCK):
            part = samples[start : start + _BLOCK]
            heads = random.words((part.size + 1) // 2).astype("<u8", copy=False).view("<u4")[: part.size]
            np.take(self._guide, heads >> self._shift, out=part, mode="clip")  # none is out of bounds
            left = np.flatnonzero(part == _OPEN)
            if left.size:
                part[left] = self._looked_up(heads[left], random)
        return samples

    def _looked_up(self, heads: NDArray[np.uint32], random: SecureRandom) -> I64:
        words = (heads.astype(np.uint64) << np.uint64(32)) | (random.words(heads.size) >> np.uint64(32))
        found = np.searchsorted(self._steps, words)
        samples: I64 = found + np.int64(self._first)
        for place in np.flatnonzero(self._steps[found] == words):  # 2^-64 of a step, about never
            samples[place] = self._refined(int(words[place]), random)
        return samples

    def _refined(self, word: int, random: SecureRandom) -> int:
        """The sample of a uniform number that begins with `word`, by as many more words as it takes."""
        bits = _WORD
        while True:
            word, bits = word << _WORD | int(random.words(1)[0]), bits + _WORD
            first, sums = cumulative(self.variance, max(bits, _BITS))
            extra = max(bits, _BITS) - bits
            low, high = word << extra, (word + 1) << extra  # U is in [low, high); a sum is off by less than 1
            at = _place(sums, low)
            if 0 < at < len(sums) and sums[at - 1] + 1 <= low and high <= sums[at] - 1:
                return first + at


def _place(sums: list[int], low: int) -> int:
    """The least index whose sum is above `low`."""
    begin, end = 0, len(sums)
    while begin < end:
        middle = (begin + end) // 2
        begin, end = (begin, middle) if sums[middle] > low else (middle + 1, end)
    return begin


@lru_cache(maxsize=2)
def _made(variance: float) -> SkellamNoise:
    bits = _BITS
    first, sums = cumulative(variance, bits)
    while [_part(value - 1, bits) for value in sums] != (parts := [_part(value + 1, bits) for value in sums]):
        bits += _WORD  # a sum is so close to a multiple of 2^-64 that its integer part is not known
        first, sums = cumulative(variance, bits)
    full = (1 << _WORD) - 1
    begin = next(x for x, part in enumerate(parts) if part > 0) - 1
    end = next(x for x, part in enumerate(parts) if part == full) + 1
    steps: U64 = np.array(parts[begin:end], dtype=np.uint64)
    cells = min(max((_CELLS_PER_STEP * steps.size).bit_length(), _LEAST_CELLS), _MOST_CELLS)
    starts = np.arange(1 << cells, dtype=np.uint64) << np.uint64(_WORD - cells)
    low = np.searchsorted(steps, starts)
    high = np.searchsorted(steps, starts | np.uint64((1 << (_WORD - cells)) - 1), side="right")
    guide = np.where(low == high, low + (first + begin), _OPEN).astype(np.int32)
    return SkellamNoise(variance, first + begin, steps, guide, np.uint32(32 - cells))


def _part(value: int, bits: int) -> int:
    """The integer part of 2^64 value / 2^bits, of a probability; 1 counts as just below it."""
    return min(max(value, 0), (1 << bits) - 1) >> (bits - _WORD)


@lru_cache(maxsize=2)
def cumulative(variance: float, bits: int) -> tuple[int, list[int]]:
    """2^bits P(X <= x), each off by less than 1, of x from the first number returned on; the mass beyond is less too.

    Miller's backward recurrence I_(k−1) = I_(k+1) + (2k/µ) I_k, in integers and of positive terms, so that nothing
    cancels, and normalised by Σ P(x) = 1. Started K steps out, where Chernoff's bound on P(X >= K) is below
    2^-(bits + 64), its values are off by K² P(X >= K) together, and by K roundings of 2^-(bits + 64) of themselves.
    Source: Gautschi 1967, "Computational Aspects of Three-Term Recurrence Relations", section 3.
    """
    last = _reach(variance, (bits + _GUARD) * math.log(2))
    exact = Fraction(variance)
    twice, over = 2 * exact.denominator, exact.numerator
    masses = [0] * (last + 2)
    masses[last] = 1 << (bits + _GUARD)
    for k in range(last, 0, -1):
        masses[k - 1] = masses[k + 1] + twice * k * masses[k] // over
    total = masses[0] + 2 * sum(masses[1:])
    below, tail = [], 0
    for k in range(last, 0, -1):  # P(X <= −k) = P(X >= k)
        tail += masses[k]
        below.append((tail << bits) // total)
    return -last, below + [(1 << bits) - value for value in reversed(below)][0:] + [1 << bits]


def _reach(variance: float, nats: float) -> int:
    """The first k of which Chernoff's bound on P(X >= k) is below exp(−nats)."""

    def exponent(k: int) -> float:
        return k * math.asinh(k / variance) - k * k / (math.hypot(variance, k) + variance)

    low, high = 0, 1
    while exponent(high) < nats:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if exponent(middle) < nats else (low, middle)
    return high
