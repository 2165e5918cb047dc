"""Noisy sums: the noise is as large as the event says, a unit moves them no further, and statistics stay usable."""

import itertools
from typing import Any

import numpy as np
import pytest
from scipy import stats

from wardround.decoding import PlanError
from wardround.errors import RemoteError
from wardround.plan_privacy import Privacy, PrivateStatistics, Relation, Unit
from wardround.plan_sections import Column, ColumnType, Data, Standardize, Target
from wardround.standardization import (
    SUM_BITS,
    robust_statistics,
    statistics_fault,
    statistics_of,
    statistics_tally,
)
from wardround.strategies.privacy.secure_random import SecureRandom
from wardround.strategies.privacy.statistics_noise import (
    noisy_statistics,
    statistics_noise_std,
    statistics_sensitivity,
)
from wardround.tally import Tally
from wardround.vector import F32, F64

CATEGORY = Column(name="ward", type=ColumnType.CATEGORY, categories=("a", "b"))
RANGES = ((0.0, 50.0), (-1e4, 3e4), (0.0, 1e-3))


def data(*ranges: tuple[float, float]) -> Data:
    """A category of two inputs, then number columns."""
    numbers = tuple(Column(name=f"n{at}", range=limits) for at, limits in enumerate(ranges))
    target = Target(name="y", classes=("0", "1"))
    return Data(source="arrays", target=target, columns=(CATEGORY, *numbers), standardize=Standardize.FEDERATED)


def inputs(scaled: F64, *ranges: tuple[float, float]) -> F32:
    """Rows whose numbers are `scaled` from [0, 1] to their ranges."""
    low, high = np.array(ranges).reshape(-1, 2).T
    return np.concatenate((np.tile([1.0, 0.0], (len(scaled), 1)), low + (high - low) * scaled), axis=1).astype(
        np.float32
    )


def privacy(multiplier: float = 2.0, **more: Any) -> Privacy:
    given = {"unit": Unit.ROW, "epsilon": 1.0, "public_sizes": True, "statistics": PrivateStatistics.DP}
    return Privacy(**{**given, "statistics_noise_multiplier": multiplier, **more})


def keyed(number: int = 0) -> SecureRandom:
    return SecureRandom(number.to_bytes(32, "little"))


class Silent(SecureRandom):
    """Noise that is none."""

    def normal(self, n: int) -> F64:
        return np.zeros(n)


def sums(tally: Tally) -> F64:
    found: F64 = tally.counts[1:] / (1 << SUM_BITS)
    return found


@pytest.mark.parametrize(("unit", "max_rows"), [(Unit.ROW, 1), (Unit.PATIENT, 3)])
def test_the_noise_has_the_standard_deviation_of_the_event(unit: Unit, max_rows: int) -> None:
    """So many spread rows that no sum is moved into bounds; chi-square of 2p sums for 300 keys, at 1e-9 either way."""
    section, rule = data(*RANGES), privacy(3.0, unit=unit, max_rows=max_rows)
    std = statistics_noise_std(section, rule)
    assert std == pytest.approx(max_rows * 3.0 * 6**0.5)
    x = inputs(np.tile([[0.2, 0.1, 0.3], [0.8, 0.9, 0.7]], (2000, 1)), *RANGES)
    true = sums(statistics_tally(section, x))
    noise = np.array([sums(noisy_statistics(section, x, rule, keyed(at))) - true for at in range(300)])
    low, high = stats.chi2(noise.size).ppf([1e-9, 1 - 1e-9])
    assert low < (noise**2).sum() / std**2 < high
    assert abs(noise.mean()) < 6 * std / noise.size**0.5
    assert abs(np.corrcoef(noise.T) - np.eye(6)).max() < 6 / 300**0.5


def test_the_noise_is_on_the_grid_of_the_sums_and_fills_it() -> None:
    """The lowest bits of a released sum are those of a whole number of grid steps, and none of them is favoured."""
    section, rule = data((0.0, 1.0)), privacy(1.0)
    x = inputs(np.tile([[0.3], [0.7]], (500, 1)), (0.0, 1.0))
    released = np.array([noisy_statistics(section, x, rule, keyed(at)).counts[1] for at in range(400)])
    step = 1 << (SUM_BITS - 20)  # the noise is √2: its grid is 2^-20
    assert (released % step == 0).all()
    last = released // step % 8
    assert stats.chisquare(np.bincount(last, minlength=8)).pvalue > 1e-9


@pytest.mark.parametrize("max_rows", [1, 3])
def test_a_unit_moves_the_joint_vector_by_the_sensitivity_and_no_further(max_rows: int) -> None:
    """Brute force over rows at and beyond the ends of the range, added, removed and exchanged; the bound is reached."""
    ranges = ((0.0, 1.0), (-5.0, 7.0))
    section = data(*ranges)
    rule = privacy(1e-3, unit=Unit.PATIENT, max_rows=max_rows)  # so little that sums stay in bounds; the grid is 2^-29
    bound = statistics_sensitivity(section, max_rows)
    assert bound == max_rows * 2.0
    base = np.random.default_rng(1).uniform(0.1, 0.9, (40, 2))
    units = [np.zeros((0, 2))]
    units += [
        np.array(rows)
        for count in range(1, max_rows + 1)
        for rows in itertools.combinations_with_replacement(
            itertools.product((-3.0, 0.0, 1 / 3, 1.0, 4.0), (0.0, 1.0)), count
        )
    ]

    def vector(unit: F64) -> F64:
        found = noisy_statistics(section, inputs(np.concatenate((base, unit)), *ranges), rule, Silent())
        return sums(found)

    vectors = np.array([vector(unit) for unit in units])
    distance = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
    assert distance.max() <= bound
    assert distance.max() == bound


def test_the_order_of_rows_changes_no_bit() -> None:
    section, rule = data(*RANGES), privacy(0.7)
    x = inputs(np.random.default_rng(2).random((40_000, 3)), *RANGES)
    one, other = (noisy_statistics(section, rows, rule, keyed()) for rows in (x, x[::-1]))
    assert np.array_equal(one.counts, other.counts)
    assert np.abs(sums(one) - sums(statistics_tally(section, x))).max() < 8 * statistics_noise_std(section, rule)


def test_little_noise_gives_nearly_the_true_statistics() -> None:
    section = data(*RANGES)
    x = inputs(np.random.default_rng(3).beta(2, 5, (5000, 3)), *RANGES)
    rule = privacy(1.0)
    noisy, true = noisy_statistics(section, x, rule, keyed()), statistics_tally(section, x)
    assert noisy.n == 5000 and statistics_fault(section, noisy, noisy=True) == ""
    found = statistics_of(section, noisy, statistics_noise_std(section, rule))
    exact = statistics_of(section, true)
    width = np.array([high - low for low, high in RANGES])
    assert np.abs(np.subtract(found.mean, exact.mean) / width).max() < 5e-3
    np.testing.assert_allclose(found.std, exact.std, rtol=0.05)


@pytest.mark.parametrize("multiplier", [1e-9, 1e-3, 1.0, 1e3, 1e9, 1e200])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, None])
def test_sums_fit_and_deviations_are_usable_whatever_the_noise(multiplier: float, value: float | None) -> None:
    """Between that of the noise and that of even values: never 1 in the column's unit, since noise hides the spread."""
    section, rule = data(*RANGES), privacy(multiplier)
    random = np.random.default_rng(4)
    width = np.array([high - low for low, high in RANGES])
    std = statistics_noise_std(section, rule)
    tallies = []
    for site in range(5):
        scaled = random.random((60, 3)) if value is None else np.full((60, 3), value)
        tallies.append(noisy_statistics(section, inputs(scaled, *RANGES), rule, keyed(site)))
        assert statistics_fault(section, tallies[-1], noisy=True) == ""
    found = (
        statistics_of(section, sum(tallies[1:], start=tallies[0]), std * 5**0.5),
        robust_statistics(section, tallies, std),
    )
    for statistics in found:
        scaled_std = np.array(statistics.std) / width
        assert (scaled_std >= min(std / 60, 1 / 12) ** 0.5 / 3).all() and (scaled_std <= 0.5 + 1e-6).all()
        scaled_mean = (np.array(statistics.mean) - [low for low, _ in RANGES]) / width
        assert (scaled_mean >= -1e-6).all() and (scaled_mean <= 1 + 1e-6).all()


def test_noise_that_hides_the_spread_leaves_the_deviation_of_even_values() -> None:
    section, rule = data((0.0, 50.0)), privacy(1e6)
    x = inputs(np.full((20, 1), 0.5), (0.0, 50.0))
    stds = {
        statistics_of(section, noisy_statistics(section, x, rule, keyed(at)), statistics_noise_std(section, rule)).std[
            0
        ]
        for at in range(20)
    }
    assert min(stds) == pytest.approx(50 / 12**0.5)


def test_sums_without_noise_are_never_taken_for_noisy_ones_and_the_other_way_round() -> None:
    section, rule = data(*RANGES), privacy()
    x = inputs(np.full((9, 3), 0.5), *RANGES)
    clear, noisy = statistics_tally(section, x), noisy_statistics(section, x, rule, keyed())
    assert statistics_fault(section, clear, noisy=True) == statistics_fault(section, noisy) != ""
    for tally, std in ((clear, 1.0), (noisy, 0.0)):
        with pytest.raises(RemoteError, match="sums over at least one row of the plan's columns"):
            statistics_of(section, tally, std)
        with pytest.raises(RemoteError, match="sums over at least one row of the plan's columns"):
            robust_statistics(section, [tally], std)
    with pytest.raises(RemoteError):
        robust_statistics(section, [])


def test_columns_without_numbers_release_their_count() -> None:
    section = data()
    assert statistics_sensitivity(section, 4) == statistics_noise_std(section, privacy()) == 0
    assert noisy_statistics(section, inputs(np.zeros((7, 0))), privacy(), keyed()).counts.tolist() == [7]


def test_fresh_noise_comes_from_the_operating_system() -> None:
    section, x = data(*RANGES), inputs(np.full((900, 3), 0.5), *RANGES)
    one, other = (noisy_statistics(section, x, privacy(), SecureRandom()) for _ in range(2))
    assert (one.counts[1:] != other.counts[1:]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"statistics": PrivateStatistics.OFF, "statistics_noise_multiplier": None},
            r'privacy\.statistics: expected "dp"',
        ),
        ({"unit": Unit.CLIENT}, r'privacy\.statistics: expected "dp" with unit = "row" or "patient"'),
        ({"public_sizes": False}, r"privacy\.public_sizes: expected true"),
        ({"public_sizes": False, "unit": Unit.PATIENT, "relation": Relation.REPLACE_ONE}, r"privacy\.public_sizes"),
    ],
)
def test_plans_that_ask_for_no_noisy_sums(changes: dict[str, Any], message: str) -> None:
    x = inputs(np.full((9, 3), 0.5), *RANGES)
    with pytest.raises(PlanError, match=message):
        noisy_statistics(data(*RANGES), x, privacy(**changes), keyed())


def test_exchanged_rows_leave_their_number_as_it_is() -> None:
    x = inputs(np.full((9, 3), 0.5), *RANGES)
    rule = privacy(public_sizes=False, relation=Relation.REPLACE_ONE)
    assert noisy_statistics(data(*RANGES), x, rule, keyed()).n == 9


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    x = inputs(np.full((9, 3), 0.5), *RANGES)
    x[4, 3] = value
    with pytest.raises(ValueError, match="finite values, got NaN"):
        noisy_statistics(data(*RANGES), x, privacy(), keyed())
    with pytest.raises(ValueError, match="one training row, got none"):
        noisy_statistics(data(*RANGES), x[:0], privacy(), keyed())
