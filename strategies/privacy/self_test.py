"""Whether a mechanism does what its claim says: size and independence of its noise, its clip, its samples."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from wardround.strategies.privacy.tail_probability import (
    binomial_limits,
    binomial_tails,
    chi_square_limits,
    normal_limit,
)
from wardround.vector import F64

__all__ = ["FALSE_ALARM", "Check", "Draws", "Probe", "self_test"]

FALSE_ALARM = 1e-6
"""How likely at most an honest mechanism fails any check."""

_PARTS = 16
"""Equal parts of FALSE_ALARM; each statistic below takes one."""
_SHARE = FALSE_ALARM / _PARTS
_VALUES, _LEAST_RELEASES, _MOST_RELEASES = 20_000, 8, 2000
"""Of noise that is looked at; with 2e4 values a standard deviation that is 2.7 % off shows."""
_STEPS = 64
_TINY = 1e-100
_HAIR = 1e-4
"""By which a clipped sum may be longer than allowed: float32 updates are read no better."""
_LENGTHS = (10.0, 1e3, 1e6)
_ODD = {"zero": 0.0, "infinite": math.inf, "not a number": math.nan}


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """How units are said to take part: of `units` each with probability `rate`, independently.

    `size`: instead, always so many of them. `apart`: instead, each in steps that are at least so far apart.
    `take(n)`, shape (n, units): what each unit gave to the sums of n steps in a row, over what it may give.
    """

    units: int
    rate: float
    take: Callable[[int], F64]
    steps: int = _STEPS
    size: int | None = None
    apart: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a test may do with a mechanism, all in the units of its claim.

    `releases(n)`, shape (n, d): what n releases without any unit are, over the claimed standard deviation, so that
    they should be independent standard normals. `groups` are the sizes of tensors that d values belong to, in order.
    `moved(length)`: how far a sum moves, over what the claim says a unit may move it, with a unit whose vectors are
    `length` times as long as the clip norm (NaN: are not numbers); NaN where the sum is no longer finite.
    """

    size: int
    groups: tuple[int, ...]
    releases: Callable[[int], F64]
    moved: Callable[[float], float]
    draws: Draws | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One statistic, which is to lie from `low` to `high` (None: without that limit), and what it means for people."""

    name: str
    measured: float
    low: float | None
    high: float | None
    sees: str
    blind: str

    @property
    def passed(self) -> bool:
        """Whether it lies within its limits; NaN lies in none."""
        above = self.low is None or self.measured >= self.low
        below = self.high is None or self.measured <= self.high
        return math.isfinite(self.measured) and above and below


def self_test(probe: Probe) -> tuple[Check, ...]:
    """All checks of a mechanism; together they fail an honest one with a probability of FALSE_ALARM at most."""
    found = probe.releases(min(_MOST_RELEASES, max(_LEAST_RELEASES, -(-_VALUES // probe.size))))
    if found.ndim != 2 or found.shape[1] != probe.size or sum(probe.groups) != probe.size:
        raise ValueError(f"expected releases of {probe.size} values in groups, got {found.shape} and {probe.groups}")
    checks = [*_noise_checks(found, probe.groups), *_clip_checks(probe)]
    if probe.draws is not None:
        checks += _draw_checks(probe.draws)
    return tuple(checks)


# -- noise: nine statistics -----------------------------------------------------------------------


def _noise_checks(z: F64, groups: Sequence[int]) -> Iterator[Check]:
    releases, d = z.shape
    squares = z**2
    low, high = _std_limits(z.size, 1)
    yield Check(
        name="noise: size",
        measured=math.sqrt(squares.mean()),
        low=low,
        high=high,
        sees=f"the standard deviation over the claimed one, of {z.size} values (chi-square), whatever epsilon is",
        blind=f"an error of less than {100 * max(high - 1, 1 - low):.1f} %",
    )
    yield _worst(
        "noise: in every release",
        [(math.sqrt(value), d, releases) for value in squares.mean(axis=1)],
        "a release with less noise than the others",
        "a release that is not among those tested",
    )
    starts = np.concatenate(([0], np.cumsum(groups)[:-1])).astype(np.int64)
    sums = np.add.reduceat(squares.sum(axis=0), starts)
    yield _worst(
        "noise: in every tensor",
        [
            (math.sqrt(value / (releases * size)), releases * size, len(groups))
            for value, size in zip(sums, groups, strict=True)
        ],
        "a layer of the model with another noise than the rest",
        "errors in a tensor of few values that are smaller than its limits",
    )
    columns = squares.mean(axis=0)
    yield _worst(
        "noise: in every value",
        [(math.sqrt(value), releases, d) for value in (columns.min(), columns.max())],
        "a value of the update that gets no noise, or all of it",
        f"noise in single values that is wrong by a factor that {releases} releases do not show",
    )
    yield from _shape_checks(z)
    yield from _independence_checks(z)


def _std_limits(freedom: int, among: int) -> tuple[float, float]:
    """Limits of √(Σ z² / freedom), the first or last of `among` such."""
    low, high = chi_square_limits(freedom, _SHARE / (2 * among))
    return math.sqrt(low / freedom), math.sqrt(high / freedom)


def _worst(name: str, cells: Iterable[tuple[float, int, int]], sees: str, blind: str) -> Check:
    """Of (deviation, values that it is of, number of such deviations) the one that is nearest to a limit, or beyond."""
    limits: dict[int, tuple[float, float]] = {}
    ranked = []
    for at, (value, freedom, among) in enumerate(cells):
        if freedom not in limits:
            limits[freedom] = _std_limits(freedom, among)
        low, high = limits[freedom]
        nearness = max((value - 1) / (high - 1), (1 - value) / (1 - low))
        ranked.append((nearness if math.isfinite(value) else math.inf, at, value, low, high))
    _, _, value, low, high = max(ranked)
    return Check(name=name, measured=value, low=low, high=high, sees=sees, blind=blind)


def _shape_checks(z: F64) -> Iterator[Check]:
    for name, inside, chance in (
        ("noise: middle half", np.abs(z) < 0.6744897501960817, 0.5),
        ("noise: beyond three deviations", np.abs(z) > 3.0, math.erfc(3 / math.sqrt(2))),
    ):
        low, high = binomial_limits(z.size, chance, _SHARE / 2)
        yield Check(
            name=name,
            measured=float(np.count_nonzero(inside)) / z.size,
            low=low / z.size,
            high=high / z.size,
            sees="noise of the right size that is not Gaussian: cut off, uniform, or mostly zero",
            blind="a tail that is wrong beyond what so few values reach",
        )
    limit = normal_limit(_SHARE) / math.sqrt(z.size)
    yield Check(
        name="noise: mean",
        measured=float(z.mean()),
        low=-limit,
        high=limit,
        sees="noise that is not centred at zero",
        blind="a shift of single values, which is no matter of privacy",
    )


def _independence_checks(z: F64) -> Iterator[Check]:
    """Two statistics. Of independent normals x and y, ⟨x, y⟩ / ‖x‖ is a standard normal, exactly.

    Within a release Σ_j z_j z_(j+k) falls into two sums of that kind, over blocks of k values in turn; since
    ‖x1‖ + ‖x2‖ ≤ √2 ‖z‖, it is at most √2 ‖z‖ times the limit of both.
    """
    releases, d = z.shape
    length = 1 << (2 * d - 1).bit_length()
    spectra = np.fft.rfft(z, length, axis=1)
    within = np.fft.irfft(np.sum(np.abs(spectra) ** 2, axis=0), length)[1:d]
    norms = np.maximum(np.linalg.norm(z, axis=1), _TINY)
    own = np.abs(within).max(initial=0.0) / (math.sqrt(2) * np.linalg.norm(norms))
    yield Check(
        name="noise: independent within a release",
        measured=float(own),
        low=None,
        high=normal_limit(_SHARE / (2 * max(1, d - 1))),
        sees="noise that repeats or follows itself at any distance inside an update",
        blind="dependence that leaves every correlation at zero",
    )
    pairs = np.abs(np.triu(z @ z.T, 1)) / norms[:, None]
    shifted = np.fft.irfft(np.conj(spectra[:-1]) * spectra[1:], length, axis=1)
    following = np.abs(shifted).max(axis=1) / norms[:-1]
    among = releases * (releases - 1) // 2 + (releases - 1) * (2 * d - 1)
    yield Check(
        name="noise: independent across releases",
        measured=_largest([float(pairs.max()), float(following.max())]),
        low=None,
        high=normal_limit(_SHARE / among),
        sees="noise that a later release repeats, also moved by some values, or that follows from a plan's seed",
        blind="repetition after more releases than were tested",
    )


# -- clip: no false alarms ------------------------------------------------------------------------


def _clip_checks(probe: Probe) -> Iterator[Check]:
    yield Check(
        name="clip",
        measured=_largest(probe.moved(length) for length in _LENGTHS),
        low=None,
        high=1 + _HAIR,
        sees="units of 10, 1000 and a million times the clip norm, each beside others: how far one moves the sum, over "
        "what the claim allows",
        blind="a direction in which only a model that was not tried is not clipped",
    )
    for name, length in _ODD.items():
        yield Check(
            name=f"clip: {name}",
            measured=_largest([probe.moved(length)]),
            low=None,
            high=_HAIR,
            sees={
                "zero": "a unit that gives nothing, and whether it moves the sum",
                "infinite": "a unit whose numbers are infinite: it must count as nothing",
                "not a number": "a unit whose numbers are none: it must count as nothing, where a comparison passes it",
            }[name],
            blind="numbers that are wrong but finite, which the clip is for",
        )


def _largest(values: Iterable[float]) -> float:
    """The largest value, and NaN where there is one (which `max` may pass over)."""
    return float(np.max(np.fromiter(values, dtype=np.float64)))


# -- samples: up to four statistics ---------------------------------------------------------------


def _draw_checks(draws: Draws) -> Iterator[Check]:
    given = draws.take(draws.steps)
    if given.shape != (draws.steps, draws.units):
        raise ValueError(f"expected what {draws.units} units gave in {draws.steps} steps, got {given.shape}")
    taken = given > 0.5
    yield Check(
        name="sampling: whole or not at all",
        measured=_largest([float(np.abs(given - taken).max())]),
        low=None,
        high=10 * _HAIR,
        sees="a unit that counts twice, or in part, in one step",
        blind="what a sum does not show",
    )
    if draws.apart is not None:
        yield _spacing(taken, draws.apart)
        return
    if draws.size is not None:
        sizes = taken.sum(axis=1)
        yield Check(
            name="sampling: size",
            measured=float(sizes[np.argmax(np.abs(sizes - draws.size))]),
            low=float(draws.size),
            high=float(draws.size),
            sees="more or fewer units in a step than the claim says",
            blind="who they are",
        )
    else:
        yield from _poisson_checks(taken, draws.rate)
    steps, units = taken.shape
    counts = taken.sum(axis=0)
    low, high = binomial_limits(steps, draws.rate, _SHARE / (2 * units))
    chances = [min(binomial_tails(int(count), steps, draws.rate)) for count in (counts.min(), counts.max())]
    extreme = counts.min() if chances[0] < chances[1] else counts.max()
    yield Check(
        name="sampling: every unit",
        measured=float(extreme),
        low=float(low),
        high=float(high),
        sees=f"a unit that takes part too often or never, in {steps} steps",
        blind="a preference for some units that so few steps do not show",
    )


def _poisson_checks(taken: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], rate: float) -> Iterator[Check]:
    steps, units = taken.shape
    low, high = binomial_limits(steps * units, rate, _SHARE / 2)
    yield Check(
        name="sampling: rate",
        measured=float(taken.mean()),
        low=low / (steps * units),
        high=high / (steps * units),
        sees=f"another sampling rate than the claimed {rate:.4g}, exactly (binomial)",
        blind=f"an error of less than {100 * max(high / (steps * units * rate) - 1, 0.0):.1f} %",
    )
    paired = taken[: steps // 2 * 2].reshape(-1, 2, units)
    both = int((paired[:, 0] & paired[:, 1]).sum())
    low, high = binomial_limits(len(paired) * units, rate**2, _SHARE / 2)
    yield Check(
        name="sampling: independent across steps",
        measured=float(both),
        low=float(low),
        high=float(high),
        sees="rows that are shuffled and dealt out, so that one step excludes them from the next, or drawn again",
        blind="dependence over more than two steps, beyond how often each unit comes",
    )
    near = [
        count for count in range(units + 1) if abs(count - units * rate) <= math.sqrt(units * rate * (1 - rate)) / 2
    ]
    chance = sum(_point(count, units, rate) for count in near)
    sizes = taken.sum(axis=1)
    low, high = binomial_limits(steps, min(1.0, chance), _SHARE / 2)
    yield Check(
        name="sampling: sizes vary",
        measured=float(np.isin(sizes, near).sum()),
        low=float(low),
        high=float(high),
        sees=f"of {steps} steps, how many have about the mean number of units: batches of a fixed size, which are no "
        "Poisson sample",
        blind="a spread that is only a little wrong",
    )


def _point(count: int, n: int, p: float) -> float:
    """P[X = count] of a binomial variable."""
    logarithm = math.lgamma(n + 1) - math.lgamma(count + 1) - math.lgamma(n - count + 1)
    return (
        math.exp(logarithm + count * math.log(p) + (n - count) * math.log1p(-p)) if 0 < p < 1 else float(count == n * p)
    )


def _spacing(taken: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], apart: int) -> Check:
    gaps = [int(np.diff(np.flatnonzero(unit)).min(initial=len(taken))) for unit in taken.T]
    return Check(
        name="sampling: rounds apart",
        measured=float(min(gaps)),
        low=float(apart),
        high=None,
        sees="a unit that takes part again sooner than its noise allows",
        blind="rounds that a crash repeats",
    )
