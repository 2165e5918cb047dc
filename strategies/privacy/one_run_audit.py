"""Privacy measured in one run: canaries are put in or left out by coin flips, and guessed from what was released."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wardround.strategies.privacy.secure_random import SecureRandom
from wardround.vector import F64

__all__ = ["CHANCE", "LARGEST_DELTA", "OneRun", "coin_flips", "least_epsilon", "measure", "p_value"]

CHANCE = 1e-4
"""How likely at most an honest mechanism is to be found worse than its claim."""
LARGEST_DELTA = 1e-8
"""A larger delta explains so many right guesses that of 1e-5 no epsilon above 1.8 can be shown at CHANCE, whatever the
number of canaries. A claim is therefore compared at this delta, at which its epsilon is somewhat larger."""

_HALVINGS = 4
_LARGEST = 64.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OneRun:
    """What was measured: the mechanism is not (`epsilon`, `delta`)-differentially private, but for CHANCE.

    Of `canaries`, `guesses` were made, `correct` of them right. `most` is the epsilon that would have been shown had
    every guess been right: what is above it this audit cannot see.
    """

    canaries: int
    included: int
    guesses: int
    correct: int
    epsilon: float
    delta: float
    most: float


def coin_flips(random: SecureRandom, canaries: int) -> NDArray[np.bool_]:
    """Which canaries are put in: each with probability ½, independently."""
    return (random.words(canaries) >> np.uint64(63)).astype(np.bool_)


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """How likely at most `correct` right guesses or more are, for an (epsilon, delta)-private mechanism.

    Each of `canaries` was put in with probability ½, independently; whether it was is guessed for `guesses` of them,
    which may be chosen by what was released. Raises ValueError for numbers that do not fit.

    Source: Steinke, Nasr and Jagielski 2023, "Privacy Auditing with One (1) Training Run", Theorem 5.2: guesses are
    right as often as those of randomised response, X ~ Binomial(guesses, 1 / (1 + e^-epsilon)), but for
    2 canaries delta x the largest P[correct - i ≤ X < correct] / i.
    """
    if not 0 <= correct <= guesses <= canaries or not canaries:
        raise ValueError(f"expected correct <= guesses <= canaries, got {correct}, {guesses} and {canaries}")
    if not (0 <= epsilon < math.inf and 0 <= delta <= 1):
        raise ValueError(f"expected a finite epsilon of at least 0 and delta of 0 to 1, got {epsilon} and {delta}")
    chances = _binomial(guesses, epsilon)
    below = np.cumsum(chances[:correct][::-1])  # P[correct - i <= X < correct]
    steepest = float((below / np.arange(1, correct + 1)).max(initial=0.0))
    return min(1.0, float(chances[correct:].sum()) + 2 * canaries * delta * steepest)


def _binomial(n: int, epsilon: float) -> F64:
    """P[X = k] for k = 0 to n, X ~ Binomial(n, 1 / (1 + e^-epsilon))."""
    factorials = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1)))))
    wrong = np.arange(n, -1, -1)
    choices = factorials[n] - factorials - factorials[::-1]
    return np.asarray(np.exp(choices - wrong * epsilon - n * math.log1p(math.exp(-epsilon))))


def least_epsilon(canaries: int, guesses: int, correct: int, delta: float, chance: float) -> float:
    """The largest epsilon that is refuted: so good guesses are less likely than `chance` under it; 0 when none is."""
    if not 0 < chance < 1:
        raise ValueError(f"expected a chance between 0 and 1, got {chance}")
    low, high = 0.0, _LARGEST
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(canaries, guesses, correct, middle, delta) < chance else (low, middle)
    return low


def measure(included: NDArray[np.bool_], scores: F64, delta: float, chance: float = CHANCE) -> OneRun:
    """What `scores`, shape (m,), tell of `included`, shape (m,): a higher one speaks for a canary that was put in.

    Guessed are, in several ways, all canaries or those with the highest and the lowest scores; the best way's epsilon
    is told, for which `chance` is divided by their number. Raises ValueError for scores that are not finite.
    """
    m = len(included)
    if scores.shape != (m,) or included.shape != (m,) or m < 2:
        raise ValueError(f"expected a score for each of at least 2 canaries, got {scores.shape} of {included.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("expected finite scores, got NaN or infinity")
    order = np.argsort(-scores, kind="stable")
    ordered, split = included[order], _split(scores[order])
    ways = list(dict.fromkeys(((split, m - split), *_ways(m))))
    found = []
    for tops, bottoms in ways:
        correct = int(ordered[:tops].sum()) + int((~ordered[m - bottoms :]).sum())
        share = chance / len(ways)
        epsilon = least_epsilon(m, tops + bottoms, correct, delta, share)
        found.append((epsilon, tops + bottoms, correct, least_epsilon(m, tops + bottoms, tops + bottoms, delta, share)))
    epsilon, guesses, correct, _ = max(found)
    return OneRun(
        canaries=m,
        included=int(included.sum()),
        guesses=guesses,
        correct=correct,
        epsilon=epsilon,
        delta=delta,
        most=max(most for *_, most in found),
    )


def _ways(m: int) -> Iterator[tuple[int, int]]:
    """How many of the highest scores are guessed in, and of the lowest out.

    Where a canary that was put in may never take part, only the highest tell something.
    """
    for halving in range(_HALVINGS):
        quarter = max(1, m >> (halving + 2))
        yield quarter, quarter
        yield quarter, 0


def _split(ordered: F64) -> int:
    """How many of scores in descending order are the higher of two groups: those that differ most (2-means)."""
    sizes = np.arange(1, len(ordered))
    excess = np.cumsum(ordered - ordered.mean())[:-1]
    return int(np.argmax(excess**2 / (sizes * sizes[::-1]))) + 1
