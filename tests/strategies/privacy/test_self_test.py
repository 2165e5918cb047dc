"""The self-test: honest mechanisms pass, and each fault is found by the check that is meant for it."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from wardround.strategies.privacy.self_test import FALSE_ALARM, Check, Draws, Probe, self_test
from wardround.vector import F64

SIZE, GROUPS = 10_000, (9_000, 700, 290, 10)
UNITS, RATE, STEPS = 400, 0.2, 250


def draws(number: int = 0) -> Draws:
    def take(steps: int) -> F64:
        return (np.random.default_rng(number).random((steps, UNITS)) < RATE).astype(np.float64)

    return Draws(units=UNITS, rate=RATE, take=take, steps=STEPS)


def honest(number: int = 0, size: int = SIZE, groups: tuple[int, ...] = GROUPS) -> Probe:
    """A mechanism without fault."""
    return Probe(
        size=size,
        groups=groups,
        releases=lambda n: np.random.default_rng(number).standard_normal((n, size)),
        moved=lambda length: min(1.0, length) if math.isfinite(length) else 0.0,
        draws=draws(number),
    )


def failed(probe: Probe) -> set[str]:
    return {check.name for check in self_test(probe) if not check.passed}


@pytest.mark.parametrize("number", range(20))
def test_an_honest_mechanism_passes(number: int) -> None:
    assert not failed(honest(number))


@pytest.mark.parametrize("size", [1, 2, 3, 62, 1000, 40_000])
def test_models_of_any_size_are_tested(size: int) -> None:
    probe = honest(7, size, (size,))
    assert not failed(probe)
    assert "noise: size" in failed(replace(probe, releases=lambda n: probe.releases(n) / 1.2))


def noisy(change: Callable[[F64], F64]) -> Probe:
    probe = honest()
    return replace(probe, releases=lambda n: change(probe.releases(n)))


def with_part(change: float, where: slice) -> Callable[[F64], F64]:
    def changed(z: F64) -> F64:
        z[:, where] *= change
        return z

    return changed


def silent_release(z: F64) -> F64:
    z[-1] *= 0.9
    return z


def mostly_zero(z: F64) -> F64:
    """A tenth of the values carries all the noise."""
    return np.asarray(z * math.sqrt(10) * (np.arange(z.shape[1]) % 10 == 0))


def following(z: F64) -> F64:
    """Each release is the one before, moved by 17 values."""
    for at in range(1, len(z)):
        z[at] = np.roll(z[at - 1], 17)
    return z


def partly_repeated(z: F64) -> F64:
    """Correlation of 0.2 between the first and the last release."""
    z[-1] = 0.2 * z[0] + math.sqrt(1 - 0.04) * z[-1]
    return z


def one_value_less(z: F64) -> F64:
    z[:, 4321] = 0
    return z


def not_a_number(z: F64) -> F64:
    z[3, 3] = math.nan
    return z


NOISE = {
    "a sixth less": (lambda z: z / 1.2, "noise: size"),
    "3.5 per cent less": (lambda z: z * 0.965, "noise: size"),
    "3.5 per cent more": (lambda z: z * 1.035, "noise: size"),
    "a tenth": (lambda z: z / 10, "noise: size"),
    "none": (lambda z: z * 0, "noise: size"),
    "no number": (not_a_number, "noise: size"),
    "a tenth less in one release": (silent_release, "noise: in every release"),
    "half in one layer": (with_part(0.5, slice(9_000, 9_700)), "noise: in every tensor"),
    "none in a small layer": (with_part(0.0, slice(9_990, 10_000)), "noise: in every value"),
    "none in one value": (one_value_less, "noise: in every value"),
    "uniform": (lambda z: math.sqrt(12) * (stats.norm.cdf(z) - 0.5), "noise: beyond three deviations"),
    "mostly zero": (mostly_zero, "noise: middle half"),
    "shifted": (lambda z: z + 0.05, "noise: mean"),
    "repeating": (lambda z: np.tile(z[:, :1000], (1, 10)), "noise: independent within a release"),
    "every other value twice": (lambda z: np.repeat(z[:, ::2], 2, axis=1), "noise: independent within a release"),
    "the same each time": (lambda z: np.tile(z[:1], (len(z), 1)), "noise: independent across releases"),
    "moved on": (following, "noise: independent across releases"),
    "a little of the first": (partly_repeated, "noise: independent across releases"),
    "by two in turn": (lambda z: z[np.arange(len(z)) // 2 * 2], "noise: independent across releases"),
}


@pytest.mark.parametrize("fault", NOISE)
def test_faulty_noise_is_found(fault: str) -> None:
    change, name = NOISE[fault]
    assert name in failed(noisy(change))


def test_an_error_of_three_and_a_half_per_cent_shows_in_ten_thousand_values() -> None:
    (size,) = (check for check in self_test(honest()) if check.name == "noise: size")
    assert size.low is not None and size.high is not None
    assert size.low > 0.965 and size.high < 1.035


def test_limits_are_those_of_chi_square_at_a_share_of_the_false_alarm_rate() -> None:
    checks = {check.name: check for check in self_test(honest())}
    size = checks["noise: size"]
    assert size.low is not None and size.high is not None
    values = 8 * SIZE
    chance = stats.chi2.cdf(size.low**2 * values, values) + stats.chi2.sf(size.high**2 * values, values)
    assert chance == pytest.approx(FALSE_ALARM / 16, rel=1e-6)
    statistical = [name for name in checks if name.startswith("noise") or name.startswith("sampling: ")]
    assert len(statistical) - 1 <= 16, "the shares of all checks add up to at most the whole"


@pytest.mark.parametrize(
    ("moved", "names"),
    [
        (lambda length: 1.001 if 1 < length < math.inf else 0.0, {"clip"}),
        (lambda length: length, {"clip", "clip: infinite", "clip: not a number"}),
        (lambda length: math.nan if math.isnan(length) else min(length, 1.0), {"clip: not a number", "clip: infinite"}),
        (lambda length: 0.3, {"clip: zero", "clip: infinite", "clip: not a number"}),
        (lambda length: math.nan if length == 10 else honest().moved(length), {"clip"}),
    ],
)
def test_a_faulty_clip_is_found(moved: Callable[[float], float], names: set[str]) -> None:
    assert failed(replace(honest(), moved=moved)) == names


def drawn(change: Callable[[F64], F64], **kind: int) -> Probe:
    found = draws()
    return replace(honest(), draws=replace(found, take=lambda n: change(found.take(n)), **kind))


def fixed_batches(given: F64) -> F64:
    rng, size = np.random.default_rng(1), round(UNITS * RATE)
    return np.array([np.isin(np.arange(UNITS), rng.permutation(UNITS)[:size]) for _ in given], dtype=np.float64)


def shuffled(given: F64) -> F64:
    """Five batches of a shuffled data set, then it is shuffled again."""
    rng, size = np.random.default_rng(2), round(UNITS * RATE)
    orders = [rng.permutation(UNITS) for _ in range(len(given) // 5 + 1)]
    rows = [np.isin(np.arange(UNITS), orders[at // 5][at % 5 * size :][:size]) for at in range(len(given))]
    return np.array(rows, dtype=np.float64)


def never_the_first(given: F64) -> F64:
    given[:, 0] = 0
    return given


def the_same_again(given: F64) -> F64:
    return np.repeat(given[::2], 2, axis=0)


SAMPLES = {
    "a tenth more": (lambda g: np.maximum(g, np.random.default_rng(3).random(g.shape) < 0.025), "sampling: rate"),
    "a tenth less": (lambda g: g * (np.random.default_rng(3).random(g.shape) > 0.1), "sampling: rate"),
    "a fixed size": (fixed_batches, "sampling: sizes vary"),
    "shuffled": (shuffled, "sampling: independent across steps"),
    "the same again": (the_same_again, "sampling: independent across steps"),
    "never the first": (never_the_first, "sampling: every unit"),
    "twice": (lambda g: 2 * g, "sampling: whole or not at all"),
    "no number": (lambda g: g * math.nan, "sampling: whole or not at all"),
}


@pytest.mark.parametrize("fault", SAMPLES)
def test_faulty_samples_are_found(fault: str) -> None:
    change, name = SAMPLES[fault]
    assert name in failed(drawn(change))


def test_samples_of_a_fixed_size_pass_where_they_are_claimed_and_only_there() -> None:
    size = round(UNITS * RATE)
    assert not failed(drawn(fixed_batches, size=size))
    assert failed(drawn(fixed_batches, size=size + 1)) == {"sampling: size"}
    assert "sampling: size" in failed(drawn(lambda given: given, size=size))


def in_turn(given: F64) -> F64:
    """Unit u in steps u, u + 5, ..."""
    return np.asarray(np.arange(len(given))[:, None] % 5 == np.arange(UNITS) % 5, dtype=np.float64)


def test_units_that_come_back_too_soon_are_found() -> None:
    assert not failed(drawn(in_turn, apart=5))
    assert failed(drawn(in_turn, apart=6)) == {"sampling: rounds apart"}


def test_a_unit_that_never_comes_back_is_far_enough_apart() -> None:
    assert not failed(drawn(lambda given: in_turn(given)[:4], apart=4, steps=4))


def test_a_check_that_measured_no_number_fails() -> None:
    check = Check(name="x", measured=math.nan, low=None, high=1.0, sees="", blind="")
    assert not check.passed
    assert replace(check, measured=0.5).passed
    assert not replace(check, measured=1.5).passed
    assert not replace(check, measured=math.inf, low=0.0, high=None).passed


def test_a_probe_that_gives_other_shapes_is_refused() -> None:
    with pytest.raises(ValueError, match="releases of 10000 values"):
        self_test(replace(honest(), releases=lambda n: np.zeros((n, 3))))
    with pytest.raises(ValueError, match="releases of 10000 values"):
        self_test(replace(honest(), groups=(5,)))
    with pytest.raises(ValueError, match="400 units gave"):
        self_test(replace(honest(), draws=replace(draws(), take=lambda n: np.zeros((n, 3)))))
