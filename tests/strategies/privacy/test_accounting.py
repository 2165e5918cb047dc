import math
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wardround.plan_privacy import Relation
from wardround.strategies.privacy import accounting, pld
from wardround.strategies.privacy.accounting import Bound, calibrate_noise, epsilon_of
from wardround.strategies.privacy.events import Event, FixedSizeGaussian, Gaussian, PoissonGaussian
from wardround.strategies.privacy.gaussian_dp import epsilon_of_mu
from wardround.strategies.privacy.pld import epsilon_of_pld
from wardround.strategies.privacy.rdp import ORDERS, epsilon_of_rdp, rdp_of


def gaussian(noise_std: float, count: int = 1, relation: Relation = Relation.ADD_REMOVE) -> Gaussian:
    """Of a sum of parts of norm 1: the sensitivity is 1, or 2 where one part is exchanged for another."""
    sensitivity = 2 if relation is Relation.REPLACE_ONE else 1
    return Gaussian(noise_std=noise_std, sensitivity=sensitivity, relation=relation, count=count)


def poisson(noise_std: float, rate: float, count: int = 1, relation: Relation = Relation.ADD_REMOVE) -> PoissonGaussian:
    sensitivity = 2 if relation is Relation.REPLACE_ONE else 1
    return PoissonGaussian(noise_std=noise_std, sensitivity=sensitivity, relation=relation, rate=rate, count=count)


def fixed_size(noise_std: float, drawn: int, population: int, count: int = 1) -> FixedSizeGaussian:
    return FixedSizeGaussian(noise_std=noise_std, sensitivity=2, drawn=drawn, population=population, count=count)


def forget() -> None:
    accounting._bound.cache_clear()
    accounting._without_pld.cache_clear()


@pytest.fixture
def without_extra(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    forget()
    monkeypatch.setattr(pld, "_library", lambda: None)
    yield
    forget()


# --- epsilon_of ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "delta", "reference", "rounded"),
    [
        (poisson(4, 0.01, 10_000), 1e-5, 0.9470, 5e-5),
        (poisson(1.1, 250 / 60_000, 14_400), 1e-5, 2.3496, 5e-5),
        (poisson(1, 0.05, 200), 1e-5, 4.766, 5e-4),
        (poisson(0.5, 1e-3, 1500), 1e-6, 4.469, 5e-4),  # Opacus's Gaussian DP: 1.215
    ],
)
def test_reference_values_of_poisson_sampling(event: Event, delta: float, reference: float, rounded: float) -> None:
    bound = epsilon_of([event], delta)
    assert bound.accountant == "PLD"
    assert reference - rounded <= bound.epsilon <= reference + min(0.002, 0.005 * reference)


def test_reference_values_of_full_participation_are_exact() -> None:
    for relation, exact in ((Relation.ADD_REMOVE, 6.572970067), (Relation.REPLACE_ONE, 15.456155823)):
        bound = epsilon_of([gaussian(5, 50, relation)], 1e-5)
        assert bound.accountant == "Gaussian DP"
        assert bound.epsilon == pytest.approx(exact, abs=1e-9)


def test_fixed_size_takes_no_amplification_where_that_is_less() -> None:
    event = fixed_size(5, 10, 20, 50)
    assert epsilon_of_rdp(ORDERS, rdp_of([event], ORDERS), 1e-3) == pytest.approx(13.29, abs=0.01)
    bound = epsilon_of([event], 1e-3)
    assert bound.accountant == "Gaussian DP"
    assert bound.epsilon == pytest.approx(12.0697, abs=1e-4)


def test_fixed_size_takes_amplification_where_there_is_some() -> None:
    bound = epsilon_of([fixed_size(5, 1, 1000, 50)], 1e-5)
    assert bound.accountant == "RDP"
    assert bound.epsilon < epsilon_of([gaussian(5, 50, Relation.REPLACE_ONE)], 1e-5).epsilon / 10


def test_rdp_of_one_relation_is_never_compared_with_pld_of_another() -> None:
    # dp-accounting's RDP under replace-one forgets the doubling: 7.08 for what costs 15.456
    event = poisson(5, 0.999, 50, Relation.REPLACE_ONE)
    undoubled = epsilon_of_rdp(ORDERS, rdp_of([poisson(5, 0.999, 50)], ORDERS), 1e-5)
    bound = epsilon_of([event], 1e-5)
    assert undoubled < 7.1
    assert bound.accountant == "PLD"
    assert bound.epsilon == pytest.approx(15.44, abs=0.02)


def test_zero_out_costs_what_add_remove_costs() -> None:
    add_remove: list[Event] = [gaussian(3, 9), poisson(2, 0.1, 30)]
    zero_out: list[Event] = [gaussian(3, 9, Relation.ZERO_OUT), poisson(2, 0.1, 30, Relation.ZERO_OUT)]
    assert epsilon_of(zero_out, 1e-6) == epsilon_of(add_remove, 1e-6)
    assert epsilon_of(zero_out[:1], 1e-6) == epsilon_of(add_remove[:1], 1e-6)


@pytest.mark.usefixtures("without_extra")
def test_without_the_extra_rdp_answers_and_is_named() -> None:
    bound = epsilon_of([poisson(4, 0.01, 10_000)], 1e-5)
    assert bound.accountant == "RDP"
    assert bound.epsilon == pytest.approx(1.0355, abs=2e-3)


@pytest.mark.usefixtures("without_extra")
def test_without_the_extra_an_exchange_in_a_poisson_sample_is_not_amplified() -> None:
    bound = epsilon_of([poisson(5, 0.1, 50, Relation.REPLACE_ONE)], 1e-5)
    assert bound == Bound(epsilon_of([gaussian(5, 50, Relation.REPLACE_ONE)], 1e-5).epsilon, "Gaussian DP")


def test_below_its_least_delta_pld_is_not_used() -> None:
    event = poisson(4, 0.01, 100)
    assert epsilon_of([event], 1e-10).accountant == "PLD"
    assert epsilon_of([event], 0.99e-10).accountant == "RDP"
    tiny = epsilon_of([event], 1e-300)
    assert epsilon_of([event], 0.99e-10).epsilon < tiny.epsilon < math.inf


def test_a_slow_pld_is_not_waited_for() -> None:
    assert epsilon_of([poisson(0.2, 0.01, 10)], 1e-5).accountant == "RDP"
    assert epsilon_of([poisson(1e-3, 0.5, 10)], 1e-5).epsilon < math.inf


def test_next_to_no_noise_is_infinite_or_huge_and_never_nan() -> None:
    for event in (gaussian(1e-200), poisson(1e-200, 0.1), fixed_size(1e-200, 1, 9)):
        assert epsilon_of([event], 1e-5).epsilon == math.inf
    assert 1e17 < epsilon_of([poisson(1e-9, 0.1)], 1e-5).epsilon < math.inf


@pytest.mark.parametrize("noise", [1e9, 1e13, 1e200])
def test_noise_beyond_measure_costs_nothing(noise: float) -> None:
    for event in (gaussian(noise), poisson(noise, 0.1), fixed_size(noise, 1, 9)):
        assert epsilon_of([event], 1e-8).epsilon == 0


def test_no_events_cost_nothing() -> None:
    assert epsilon_of([], 1e-5) == Bound(0.0, "Gaussian DP")
    assert epsilon_of([gaussian(1, 0), poisson(1, 0.1, 0)], 1e-5).epsilon == 0
    assert epsilon_of([fixed_size(1, 1, 2, 0)], 1e-5).epsilon == 0


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-9, 2.0, math.nan])
def test_a_delta_that_is_no_probability_is_refused(delta: float) -> None:
    for events in ([], [gaussian(1)], [poisson(1, 0.1)]):
        with pytest.raises(ValueError, match="delta between 0 and 1"):
            epsilon_of(events, delta)
    with pytest.raises(ValueError, match="delta between 0 and 1"):
        calibrate_noise(lambda z: [gaussian(z)], 1, delta)


def test_events_of_different_relations_are_refused() -> None:
    with pytest.raises(ValueError, match="one relation, got add-remove, replace-one"):
        epsilon_of([gaussian(1), fixed_size(1, 1, 2)], 1e-5)
    with pytest.raises(ValueError, match="one relation, got add-remove, zero-out"):
        epsilon_of([gaussian(1), gaussian(1, 0, Relation.ZERO_OUT)], 1e-5)


def test_unknown_events_are_refused() -> None:
    class Laplace:
        count = 1

    with pytest.raises(TypeError, match="expected an event"):
        epsilon_of([gaussian(1), Laplace()], 1e-5)  # type: ignore[list-item]


@pytest.mark.parametrize("accountant", ["epsilon_of_pld", "epsilon_of_rdp", "epsilon_of_mu"])
def test_nan_of_any_accountant_raises(accountant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forget()
    monkeypatch.setattr(accounting, accountant, lambda *_: math.nan)
    with pytest.raises(ValueError, match="expected an epsilon of at least 0"):
        epsilon_of([poisson(3.3, 0.1)], 1e-5)
    forget()


def test_nan_of_the_closed_form_alone_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    forget()
    monkeypatch.setattr(accounting, "epsilon_of_mu", lambda *_: math.nan)
    with pytest.raises(ValueError, match="expected an epsilon of at least 0"):
        epsilon_of([gaussian(3.3)], 1e-5)
    forget()


def test_a_question_is_answered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    forget()
    asked: list[Sequence[Event]] = []

    def counted(events: Sequence[Event], delta: float) -> float | None:
        asked.append(events)
        return epsilon_of_pld(events, delta)

    monkeypatch.setattr(accounting, "epsilon_of_pld", counted)
    first = epsilon_of([poisson(6, 0.02, 30), gaussian(9)], 1e-5)
    # the same releases, told one by one
    second = epsilon_of([*[poisson(6, 0.02)] * 30, gaussian(9), gaussian(2, 0)], 1e-5)
    forget()
    assert first == second
    assert len(asked) == 1


counts = st.integers(0, 300)
noises = st.floats(0.3, 200)
ADD_REMOVE = st.one_of(
    st.builds(gaussian, noises, counts), st.builds(poisson, noises, st.floats(1e-4, 1, exclude_min=True), counts)
)
REPLACE_ONE = st.one_of(
    st.builds(gaussian, noises, counts, st.just(Relation.REPLACE_ONE)),
    st.builds(fixed_size, noises, st.integers(1, 20), st.integers(20, 400), counts),
)
COMPOSED = st.one_of(st.lists(ADD_REMOVE, max_size=4), st.lists(REPLACE_ONE, max_size=4))


@pytest.mark.usefixtures("without_extra")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(COMPOSED, st.floats(1e-15, 0.5), st.data())
def test_more_releases_never_cost_less(events: list[Event], delta: float, data: st.DataObject) -> None:
    before = epsilon_of(events, delta).epsilon
    assert before >= 0
    relation = events[0].relation if events else Relation.ADD_REMOVE
    added = data.draw(REPLACE_ONE if relation is Relation.REPLACE_ONE else ADD_REMOVE)
    assert epsilon_of([*events, added], delta).epsilon >= before * (1 - 1e-9)
    assert epsilon_of(events, delta / 2).epsilon >= before * (1 - 1e-9)


@pytest.mark.usefixtures("without_extra")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(noises, st.floats(1e-4, 0.9), st.integers(1, 500), st.floats(1e-15, 0.5), st.floats(1.01, 3))
def test_rdp_falls_with_noise_and_grows_with_rate_and_count(
    noise: float, rate: float, count: int, delta: float, factor: float
) -> None:
    before = epsilon_of([poisson(noise, rate, count)], delta).epsilon
    assert epsilon_of([poisson(noise * factor, rate, count)], delta).epsilon <= before
    assert epsilon_of([poisson(noise, min(1, rate * factor), count)], delta).epsilon >= before
    assert epsilon_of([poisson(noise, rate, math.ceil(count * factor))], delta).epsilon >= before


@pytest.mark.parametrize("relation", [Relation.ADD_REMOVE, Relation.REPLACE_ONE])
def test_pld_falls_with_noise_and_delta_and_grows_with_rate_and_count(relation: Relation) -> None:
    def spent(noise: float = 2.0, rate: float = 0.1, count: int = 100, delta: float = 1e-6) -> float:
        bound = epsilon_of([poisson(noise, rate, count, relation)], delta)
        assert bound.accountant == "PLD"
        return bound.epsilon

    assert spent(noise=3.0) < spent(noise=2.1) < spent()
    assert spent(rate=0.05) < spent(rate=0.09) < spent()
    assert spent(count=10) < spent(count=99) < spent()
    assert spent(delta=1e-3) < spent(delta=1.1e-6) < spent() < spent(delta=1e-10)


@pytest.mark.parametrize(("noise", "rate", "count"), [(1.0, 0.05, 100), (8.0, 0.7, 40), (30.0, 0.3, 3)])
def test_sampling_never_costs_more_than_no_sampling(noise: float, rate: float, count: int) -> None:
    for relation in (Relation.ADD_REMOVE, Relation.REPLACE_ONE):
        for delta in (0.3, 1e-3, 1e-7):
            sampled = epsilon_of([poisson(noise, rate, count, relation)], delta).epsilon
            assert sampled <= epsilon_of([gaussian(noise, count, relation)], delta).epsilon


# --- calibrate_noise ----------------------------------------------------------------------------------------------


def test_full_participation_needs_less_noise_than_by_rdp() -> None:
    found = calibrate_noise(lambda z: [gaussian(z, 50)], 1, 1e-3)
    assert found == pytest.approx(18.2056, abs=1e-3)
    assert 20.5 / found > 1.09  # what flwr's RDP accountant asks for
    assert epsilon_of([gaussian(found, 50)], 1e-3).epsilon <= 1
    assert epsilon_of([gaussian(found * (1 - 1e-5), 50)], 1e-3).epsilon > 1


@pytest.mark.parametrize("relation", [Relation.ADD_REMOVE, Relation.ZERO_OUT, Relation.REPLACE_ONE])
@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-6), (3.0, 1e-5), (50.0, 1e-3)])
def test_the_closed_form_is_inverted(relation: Relation, epsilon: float, delta: float) -> None:
    found = calibrate_noise(lambda z: [gaussian(z, 7, relation)], epsilon, delta)
    sensitivity = 2 if relation is Relation.REPLACE_ONE else 1
    assert epsilon * (1 - 1e-5) <= epsilon_of_mu(sensitivity * math.sqrt(7) / found, delta) <= epsilon


@pytest.mark.parametrize(
    ("rate", "count", "epsilon"), [(0.01, 1000, 1.0), (0.07, 300, 3.0), (0.2, 50, 0.5), (0.5, 20, 8.0)]
)
def test_pld_is_inverted_and_verified(rate: float, count: int, epsilon: float) -> None:
    found = calibrate_noise(lambda z: [poisson(z, rate, count)], epsilon, 1e-6)
    bound = epsilon_of([poisson(found, rate, count)], 1e-6)
    assert bound.accountant == "PLD"
    assert epsilon * (1 - 1e-3) <= bound.epsilon <= epsilon


def test_few_slow_queries_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    forget()
    asked: list[Sequence[Event]] = []

    def counted(events: Sequence[Event], delta: float) -> float | None:
        asked.append(events)
        return epsilon_of_pld(events, delta)

    monkeypatch.setattr(accounting, "epsilon_of_pld", counted)
    calibrate_noise(lambda z: [poisson(z, 0.05, 150)], 2.5, 1e-6)
    forget()
    assert 2 <= len(asked) <= 4


@pytest.mark.usefixtures("without_extra")
def test_without_the_extra_rdp_is_inverted() -> None:
    found = calibrate_noise(lambda z: [poisson(z, 0.05, 200)], 3, 1e-5)
    assert 3 * (1 - 1e-5) <= epsilon_of([poisson(found, 0.05, 200)], 1e-5).epsilon <= 3


def test_fixed_size_is_inverted() -> None:
    found = calibrate_noise(lambda z: [fixed_size(z, 1, 100, 50)], 2, 1e-5)
    assert 2 * (1 - 1e-5) <= epsilon_of([fixed_size(found, 1, 100, 50)], 1e-5).epsilon <= 2


def test_the_smallest_and_the_largest_claims_are_met() -> None:
    for epsilon in (1e-4, 1e4):
        found = calibrate_noise(lambda z: [gaussian(z, 10)], epsilon, 1e-6)
        assert epsilon * (1 - 1e-5) <= epsilon_of([gaussian(found, 10)], 1e-6).epsilon <= epsilon


def test_other_events_leave_room_or_they_do_not() -> None:
    other = gaussian(5)
    alone = epsilon_of([other], 1e-6).epsilon
    found = calibrate_noise(lambda z: [gaussian(z, 20), other], alone * 1.01, 1e-6)
    assert epsilon_of([gaussian(found, 20), other], 1e-6).epsilon <= alone * 1.01
    with pytest.raises(ValueError, match=r"no noise is enough: the other events take epsilon 0\.8341 already"):
        calibrate_noise(lambda z: [gaussian(z, 20), other], alone * 0.99, 1e-6)


def test_where_rdp_leaves_no_room_pld_may() -> None:
    other = gaussian(5)
    alone = epsilon_of([other], 1e-6).epsilon
    assert alone * 1.02 < epsilon_of_rdp(ORDERS, rdp_of([other], ORDERS), 1e-6)
    found = calibrate_noise(lambda z: [poisson(z, 0.1, 20), other], alone * 1.02, 1e-6)
    bound = epsilon_of([poisson(found, 0.1, 20), other], 1e-6)
    assert bound.accountant == "PLD"
    assert alone * 1.02 * (1 - 1e-3) <= bound.epsilon <= alone * 1.02


def test_where_pld_gives_up_the_claim_is_still_met(monkeypatch: pytest.MonkeyPatch) -> None:
    forget()
    monkeypatch.setattr(pld, "_MOST_POINTS", 200_000)
    # PLD answers from a noise of 3.02 on, with 1.12; just below it there is RDP alone, with 1.22
    for epsilon, accountant in ((1.0, "PLD"), (1.17, "PLD"), (1.3, "RDP")):
        found = calibrate_noise(lambda z: [poisson(z, 0.1, 50)], epsilon, 1e-6)
        bound = epsilon_of([poisson(found, 0.1, 50)], 1e-6)
        assert bound.epsilon <= epsilon
        assert epsilon_of([poisson(found * (1 - 2e-3), 0.1, 50)], 1e-6).epsilon > epsilon
        assert bound.accountant == accountant
        assert (bound.epsilon > 0.99 * epsilon) == (epsilon != 1.17)
    forget()


def test_where_nothing_is_released_no_noise_is_the_answer() -> None:
    with pytest.raises(ValueError, match="no noise is needed"):
        calibrate_noise(lambda z: [], 1, 1e-5)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.inf, math.nan])
def test_claims_that_are_none_are_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match="finite epsilon above 0"):
        calibrate_noise(lambda z: [gaussian(z)], epsilon, 1e-5)


def test_what_the_events_refuse_reaches_the_caller() -> None:
    def events_of(noise: float) -> Sequence[Event]:
        raise ValueError("count_noise: expected more")

    with pytest.raises(ValueError, match="count_noise"):
        calibrate_noise(events_of, 1, 1e-5)


@pytest.mark.parametrize("epsilon", [-1e-12, math.nan])
def test_a_bound_is_a_number_of_at_least_zero(epsilon: float) -> None:
    with pytest.raises(ValueError, match="at least 0 from RDP"):
        Bound(epsilon, "RDP")
