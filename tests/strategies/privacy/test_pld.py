import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from dp_accounting import DpEvent, GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.pld import privacy_loss_distribution as theirs
from dp_accounting.privacy_accountant import NeighboringRelation

from wardround.plan_privacy import Relation
from wardround.strategies.privacy import pld
from wardround.strategies.privacy.events import Event, FixedSizeGaussian, Gaussian, PoissonGaussian
from wardround.strategies.privacy.gaussian_dp import delta_of_mu, epsilon_of_mu
from wardround.strategies.privacy.pld import epsilon_of_pld
from wardround.vector import F64


def gaussian(noise_std: float, count: int = 1, relation: Relation = Relation.ADD_REMOVE) -> Gaussian:
    sensitivity = 2 if relation is Relation.REPLACE_ONE else 1
    return Gaussian(noise_std=noise_std, sensitivity=sensitivity, relation=relation, count=count)


def poisson(noise_std: float, rate: float, count: int = 1, relation: Relation = Relation.ADD_REMOVE) -> PoissonGaussian:
    """Of a sum of parts of norm 1: the sensitivity is 1, or 2 where one part is exchanged for another."""
    sensitivity = 2 if relation is Relation.REPLACE_ONE else 1
    return PoissonGaussian(noise_std=noise_std, sensitivity=sensitivity, relation=relation, rate=rate, count=count)


def epsilon(events: list[Event], delta: float) -> float:
    found = epsilon_of_pld(events, delta)
    assert found is not None
    return found


def their_epsilon(relation: NeighboringRelation, delta: float, *events: tuple[DpEvent, int]) -> float:
    accountant = PLDAccountant(relation)
    for event, count in events:
        accountant.compose(event, count)
    return float(accountant.get_epsilon(delta))


REFERENCES = [
    (0.01, 4.0, 10_000, 0.9470, 5e-5),
    (250 / 60_000, 1.1, 14_400, 2.3496, 5e-5),
    (0.05, 1.0, 200, 4.766, 5e-4),
]


@pytest.mark.parametrize(("rate", "noise", "count", "reference", "rounded"), REFERENCES)
def test_the_reference_values_are_met_and_never_undercut(
    rate: float, noise: float, count: int, reference: float, rounded: float
) -> None:
    found = epsilon([poisson(noise, rate, count)], 1e-5)
    assert reference - rounded <= found <= reference + 0.002


@pytest.mark.parametrize("relation", [Relation.ADD_REMOVE, Relation.ZERO_OUT])
@pytest.mark.parametrize(("rate", "noise", "count"), [(0.2, 3.0, 30), (0.9, 8.0, 5), (0.03, 1.5, 1)])
@pytest.mark.parametrize("delta", [1e-3, 1e-9])
def test_add_remove_and_zero_out_are_dp_accountings(
    relation: Relation, rate: float, noise: float, count: int, delta: float
) -> None:
    expected = their_epsilon(
        NeighboringRelation.ADD_OR_REMOVE_ONE, delta, (PoissonSampledDpEvent(rate, GaussianDpEvent(noise)), count)
    )
    assert epsilon([poisson(noise, rate, count, relation)], delta) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("rate", "noise", "count"), [(0.2, 3.0, 30), (0.9, 8.0, 5), (0.03, 1.5, 1)])
def test_of_an_exchange_nothing_is_doubled_twice(rate: float, noise: float, count: int) -> None:
    # dp-accounting's noise multiplier is over the norm of one part, whatever the relation
    expected = their_epsilon(
        NeighboringRelation.REPLACE_ONE, 1e-6, (PoissonSampledDpEvent(rate, GaussianDpEvent(noise)), count)
    )
    found = epsilon([poisson(noise, rate, count, Relation.REPLACE_ONE)], 1e-6)
    assert found == pytest.approx(expected, rel=1e-5)
    assert found > 1.01 * epsilon([poisson(noise, rate, count)], 1e-6)


def test_of_an_exchange_without_sampling_nothing_is_left_undoubled() -> None:
    exact = epsilon_of_mu(2 * math.sqrt(10) / 5, 1e-5)
    found = epsilon([gaussian(5, 10, Relation.REPLACE_ONE)], 1e-5)
    assert exact <= found <= exact * (1 + 1e-6)


def exact_delta_of_one(noise: float, rate: float, epsilon: float) -> float:
    """The larger hockey-stick divergence of N(0) and its mixture with N(1), one release, by its two closed forms."""
    remove = rate * delta_at(1 / noise, math.log1p(math.expm1(epsilon) / rate))
    left = 1 - math.exp(epsilon) * (1 - rate)
    add = left * delta_at(1 / noise, epsilon + math.log(rate / left)) if left > 0 else 0.0
    return max(remove, add)


def delta_at(mu: float, epsilon: float) -> float:
    if epsilon >= 0:
        return delta_of_mu(mu, epsilon)
    return 1 - math.exp(epsilon) + math.exp(epsilon) * delta_of_mu(mu, -epsilon)


@pytest.mark.parametrize("noise", [0.9, 4.0])
@pytest.mark.parametrize("rate", [0.01, 0.3, 0.95])
def test_one_release_is_within_a_step_of_the_exact_answer_and_never_below(noise: float, rate: float) -> None:
    for delta in (1e-2, 1e-5, 1e-9):
        found = epsilon([poisson(noise, rate)], delta)
        assert exact_delta_of_one(noise, rate, found) <= delta
        if found > 1e-3:
            assert exact_delta_of_one(noise, rate, found * (1 - 1e-5) - 1e-4) > delta


@pytest.mark.parametrize(("rate", "noise", "count"), [(0.05, 2.0, 200), (0.5, 20.0, 500), (0.01, 1.2, 50)])
def test_many_releases_are_between_optimism_and_a_little_more(rate: float, noise: float, count: int) -> None:
    optimistic = theirs.from_gaussian_mechanism(
        noise, sampling_prob=rate, pessimistic_estimate=False, use_connect_dots=False
    ).self_compose(count)
    least = optimistic.get_epsilon_for_delta(1e-6)
    assert least <= epsilon([poisson(noise, rate, count)], 1e-6) <= least * 1.01 + count * 2e-4


@pytest.mark.parametrize("relation", [Relation.ADD_REMOVE, Relation.REPLACE_ONE])
@pytest.mark.parametrize(("noise", "count"), [(100, 10_000), (300, 100_000)])
def test_rounding_of_the_transforms_does_not_undercut_the_closed_form(
    relation: Relation, noise: float, count: int
) -> None:
    # without its allowance the last of these is 2e-4 of itself below the exact answer
    nearly_all = PoissonGaussian(noise_std=noise, sensitivity=1, relation=relation, rate=1 - 1e-12, count=count)
    for delta in (1e-9, 1e-10):
        exact = epsilon_of_mu(math.sqrt(count) / noise, delta)
        assert exact * (1 - 1e-9) <= epsilon([nearly_all], delta) <= exact * 1.02


def test_sampled_and_other_releases_compose() -> None:
    expected = their_epsilon(
        NeighboringRelation.ADD_OR_REMOVE_ONE,
        1e-6,
        (PoissonSampledDpEvent(0.1, GaussianDpEvent(2.0)), 40),
        (PoissonSampledDpEvent(0.3, GaussianDpEvent(5.0)), 1),
        (GaussianDpEvent(10.0), 4),
    )
    events: list[Event] = [
        gaussian(10.0, 3), poisson(2.0, 0.1, 15), poisson(5.0, 0.3), gaussian(10.0), poisson(2.0, 0.1, 25),
        poisson(5.0, 0.3, 0),
    ]  # fmt: skip
    assert epsilon(events, 1e-6) == pytest.approx(expected, rel=1e-5)


def test_nothing_released_is_nothing_spent() -> None:
    assert epsilon([], 1e-5) == 0
    assert epsilon([poisson(1, 0.1, 0), gaussian(1, 0)], 1e-5) == 0


def hockey_stick(noise: float, rate: float, one: F64, other: F64, epsilon: float) -> float:
    """Of N(0) mixed with N(one) and N(0) mixed with N(other), both in the plane, by a sum over a grid."""
    axis = np.linspace(-9 * noise - 1, 9 * noise + 1, 601)
    x, y = np.meshgrid(axis, axis)

    def density(at: F64) -> F64:
        found: F64 = np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * noise**2))
        return found

    rest = (1 - rate) * density(np.zeros(2))
    p, q = rest + rate * density(one), rest + rate * density(other)
    return float(np.maximum(p - math.exp(epsilon) * q, 0).sum() / rest.sum() * (1 - rate))


@pytest.mark.parametrize(("noise", "rate"), [(0.7, 0.1), (1.0, 0.5), (3.0, 0.9)])
@pytest.mark.parametrize("at", [-1.0, -0.1, 0.0, 0.1, 1.0])
def test_the_worst_exchange_is_of_opposite_parts_of_full_norm(noise: float, rate: float, at: float) -> None:
    worst = hockey_stick(noise, rate, np.array([-1.0, 0.0]), np.array([1.0, 0.0]), at)
    for angle in np.linspace(0, math.pi, 9):
        for long, short in [(1.0, 1.0), (1.0, 0.6), (0.6, 1.0), (1.0, 0.0)]:
            one, other = long * np.array([-1.0, 0.0]), short * np.array([math.cos(angle), math.sin(angle)])
            assert hockey_stick(noise, rate, one, other, at) <= worst + 1e-9


def test_one_exchange_is_the_divergence_of_the_worst_one() -> None:
    found = epsilon([poisson(1.0, 0.3, 1, Relation.REPLACE_ONE)], 0.01)
    exact = hockey_stick(1.0, 0.3, np.array([-1.0, 0.0]), np.array([1.0, 0.0]), found)
    assert exact == pytest.approx(0.01, rel=2e-3)


def test_below_its_least_delta_pld_does_not_answer() -> None:
    assert epsilon_of_pld([poisson(4, 0.01)], 1e-10) is not None
    assert epsilon_of_pld([poisson(4, 0.01)], 0.99e-10) is None
    assert epsilon_of_pld([poisson(4, 0.01, 1_000_000)], 1e-10) is None


def test_a_fixed_size_is_none_of_its_events() -> None:
    event = FixedSizeGaussian(noise_std=5, sensitivity=2, drawn=1, population=9)
    assert epsilon_of_pld([gaussian(5, 1, Relation.REPLACE_ONE), event], 1e-5) is None


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """Puts another maker of distributions in the library's place."""

    def put(one: Callable[[float, float, bool], Any]) -> None:
        monkeypatch.setattr(pld, "_one", one)

    yield put


@pytest.mark.parametrize(
    "event", [poisson(0.02, 0.01), poisson(0.3, 0.5, 10), poisson(1, 0.5, 10_000), gaussian(0.1), poisson(1e-9, 0.5)]
)
def test_what_would_be_slow_is_not_begun(event: Event, library: Callable[[Any], None]) -> None:
    def one(ratio: float, rate: float, replaced: bool) -> Any:
        raise AssertionError("a distribution was made")

    library(one)
    assert epsilon_of_pld([event], 1e-5) is None


def test_what_is_quick_is_answered_of_an_exchange_too() -> None:
    assert epsilon([poisson(0.8, 0.03, 100, Relation.REPLACE_ONE)], 1e-5) < 10
    assert epsilon_of_pld([poisson(0.4, 0.03, 100)], 1e-5) is None  # which is as wide as the exchange is not


@pytest.mark.parametrize("failure", [ValueError("x"), ZeroDivisionError(), OverflowError(), MemoryError()])
def test_a_failing_library_is_no_answer(failure: Exception, library: Callable[[Any], None]) -> None:
    def one(ratio: float, rate: float, replaced: bool) -> Any:
        raise failure

    library(one)
    assert epsilon_of_pld([poisson(4, 0.01)], 1e-5) is None


@pytest.mark.parametrize("answer", [math.nan, -0.1])
def test_nan_and_negative_epsilons_are_no_answer(answer: float, library: Callable[[Any], None]) -> None:
    class Odd:
        def get_epsilon_for_delta(self, delta: float) -> float:
            return answer

    library(lambda ratio, rate, replaced: Odd())
    assert epsilon_of_pld([poisson(4, 0.01)], 1e-5) is None


def test_without_the_extra_pld_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pld.installed()
    monkeypatch.setattr(pld, "_library", lambda: None)
    assert not pld.installed()
    assert epsilon_of_pld([poisson(4, 0.01)], 1e-5) is None
