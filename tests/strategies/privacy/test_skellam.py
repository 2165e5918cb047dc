import math
from dataclasses import replace
from typing import Any

import mpmath
import numpy as np
import pytest
from scipy.stats import skellam

from wardround.plan_privacy import Relation, Unit
from wardround.strategies.privacy.accounting import epsilon_of, quick_epsilon_of
from wardround.strategies.privacy.books import Books
from wardround.strategies.privacy.events import Gaussian, PoissonGaussian, Skellam
from wardround.strategies.privacy.gaussian_dp import mu_of
from wardround.strategies.privacy.job_charge import JobCharge, client_charge_on_examples, decode_charge, encode_charge
from wardround.strategies.privacy.pld import epsilon_of_pld
from wardround.strategies.privacy.rdp import ORDERS, epsilon_of_rdp, rdp_of
from wardround.strategies.privacy.skellam import (
    SkellamMechanism,
    calibrated,
    honest_share,
    l1_bound,
    squared_l2_bound,
)
from wardround.strategies.privacy.terms import Terms

D = 1 << 20
ROOT = 1024.0


def event(variance: float, l2: float, l1: float, count: int = 1, relation: Relation = Relation.ZERO_OUT) -> Skellam:
    return Skellam(variance=variance, sensitivity=l2, l1_sensitivity=l1, relation=relation, count=count)


def mechanism(scale: float = ROOT, multiplier: float = 1.0, spread: float = 1.0, members: int = 50) -> SkellamMechanism:
    """Noise of `multiplier` on Δ₂ if `members` survive, and `spread` times that variance for the worst case."""
    square = squared_l2_bound(1.0, scale, D)
    return SkellamMechanism(
        clip_norm=1.0,
        scale=scale,
        size=D,
        honest=members,
        client_variance=multiplier**2 * square * spread / members,
        relation=Relation.ZERO_OUT,
    )


def renyi(variance: float, shift: int, order: float) -> float:
    """D_α of a Skellam moved by `shift` from it where it is: the sum as it stands, in 40 digits."""
    with mpmath.workdps(40):
        mu, alpha = mpmath.mpf(variance), mpmath.mpf(order)
        reach = int(12 * variance**0.5 + order * shift + 60)
        p = [mpmath.besseli(k, mu) * mpmath.exp(-mu) for k in range(reach + shift + 1)]
        terms = (p[abs(x - shift)] ** alpha * p[abs(x)] ** (1 - alpha) for x in range(-reach, reach + 1))
        return float(mpmath.log(mpmath.fsum(terms)) / (alpha - 1))


@pytest.mark.parametrize("variance", [0.5, 2.0, 30.0, 300.0])
@pytest.mark.parametrize("shift", [1, 2, 7])
def test_the_bound_is_never_below_the_divergence_of_a_moved_skellam(variance: float, shift: int) -> None:
    orders = [1.1, 1.5, 2.0, 2.7, 3.0, 5.0, 9.0]
    bound = rdp_of([event(variance, shift, shift)], orders)
    exact = np.array([renyi(variance, shift, order) for order in orders])
    assert (bound >= exact).all()
    if variance == 300:
        assert (bound <= 1.05 * exact)[[order.is_integer() for order in orders]].all()


def test_the_bound_is_the_papers_formula_at_whole_orders() -> None:
    # Agarwal, Kairouz & Liu 2021, Corollary 3.6, by hand: α = 4, Δ₂ = 3, Δ₁ = 5
    assert rdp_of([event(10, 3, 5)], [4.0]) == pytest.approx([4 * 9 / 20 + (7 * 9 + 30) / 400], rel=1e-14)
    assert rdp_of([event(0.1, 3, 5)], [4.0]) == pytest.approx([4 * 9 / 0.2 + 15 / 0.2], rel=1e-14)
    assert rdp_of([event(10, 3, 5, count=7)], [4.0]) == pytest.approx(7 * rdp_of([event(10, 3, 5)], [4.0]), rel=1e-14)
    assert rdp_of([event(10, 3, 5, count=0)], [4.0]).tolist() == [0.0]


def test_between_whole_orders_the_cumulant_is_the_chord() -> None:
    two, three = rdp_of([event(10, 3, 5)], [2.0, 3.0])
    assert rdp_of([event(10, 3, 5)], [2.25]) == pytest.approx([(0.75 * two + 0.25 * 2 * three) / 1.25], rel=1e-14)
    assert rdp_of([event(10, 3, 5)], [1.5]) == pytest.approx([two], rel=1e-14)


def test_with_much_noise_it_costs_as_much_as_a_gaussian_and_never_less() -> None:
    gaussian = Gaussian(noise_std=1000, sensitivity=1000, relation=Relation.ZERO_OUT)
    ours = event(1e6, 1000, 1e4)
    assert (rdp_of([ours], ORDERS) >= rdp_of([gaussian], ORDERS)).all()
    bound = epsilon_of([ours], 1e-6)
    assert bound.accountant == "RDP"
    assert bound.epsilon == pytest.approx(epsilon_of_rdp(ORDERS, rdp_of([gaussian], ORDERS), 1e-6), rel=0.03)
    assert bound == quick_epsilon_of([ours], 1e-6)


def test_accountants_that_do_not_know_it_refuse_it() -> None:
    with pytest.raises(ValueError, match="Gaussian events"):
        mu_of([event(10, 3, 5)])
    assert epsilon_of_pld([event(10, 3, 5)], 1e-5) is None


def test_it_composes_with_gaussian_events_of_its_relation_only() -> None:
    ours = event(100, 3, 5, relation=Relation.REPLACE_ONE)
    sampled = PoissonGaussian(noise_std=2, sensitivity=1, relation=Relation.REPLACE_ONE, rate=0.1)
    whole = Gaussian(noise_std=2, sensitivity=1, relation=Relation.REPLACE_ONE)
    assert epsilon_of([ours, sampled], 1e-6) == epsilon_of([ours, whole], 1e-6)
    assert epsilon_of([ours, whole], 1e-6).epsilon > epsilon_of([ours], 1e-6).epsilon
    assert epsilon_of([ours, ours], 1e-6) == epsilon_of([replace(ours, count=2)], 1e-6)
    with pytest.raises(ValueError, match="one relation"):
        epsilon_of([ours, event(100, 3, 5)], 1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"variance": 0.0},
        {"variance": math.nan},
        {"sensitivity": 0.0},
        {"l1_sensitivity": math.inf},
        {"l1_sensitivity": 2.0},
        {"count": -1},
    ],
    ids=["no variance", "nan", "no sensitivity", "infinite", "L1 below L2", "count"],
)
def test_events_that_make_no_sense_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        replace(event(10, 3, 5), **change)


def charge(one: Skellam) -> JobCharge:
    return JobCharge(
        job="one",
        plan_digest="0",
        unit=Unit.CLIENT,
        once=(),
        per_round=(one,),
        rounds=3,
        whole=False,
        delta=1e-6,
    )


def test_a_ledger_charges_it_by_rdp_and_keeps_its_record() -> None:
    ours = charge(event(1e4, 30, 300))
    assert decode_charge(encode_charge(ours)) == ours
    books = Books.at(epsilon=8, delta=1e-5, unit=Unit.CLIENT, relation=Relation.ZERO_OUT)
    worst = books.cost(ours, books.nothing).worst
    assert worst.gaussian == math.inf
    assert np.array(worst.rdp) == pytest.approx(rdp_of([event(1e4, 30, 300, count=3)], books.orders), rel=1e-12)
    assert worst.epsilon == pytest.approx(epsilon_of(ours.worst, 1.25e-6).epsilon, rel=0.1)


def test_a_replace_one_ledger_doubles_both_sensitivities() -> None:
    books = Books.at(epsilon=8, delta=1e-5, unit=Unit.CLIENT, relation=Relation.REPLACE_ONE)
    worst = books.cost(charge(event(1e4, 30, 300)), books.nothing).worst
    assert np.array(worst.rdp) == pytest.approx(rdp_of([event(1e4, 60, 600, count=3)], books.orders), rel=1e-12)


def test_patients_of_a_client_are_charged_twice_the_sensitivity(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = charge(event(1e4, 30, 300))
    monkeypatch.setattr("wardround.strategies.privacy.job_charge.charge_of", lambda *_: ours)
    terms = Terms.__new__(Terms)
    object.__setattr__(terms, "relation", Relation.ZERO_OUT)
    found = client_charge_on_examples(terms, "one", "0", Relation.ADD_REMOVE)
    assert found.per_round == (event(1e4, 60, 600, relation=Relation.ADD_REMOVE),)


@pytest.mark.parametrize("size", [1, 16, 1 << 10])
@pytest.mark.parametrize("long", [1.0, 40.0])
def test_roundings_are_within_the_bound_as_often_as_beta_promises(size: int, long: float) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal(size)
    x *= long / np.linalg.norm(x)
    rounded = np.floor(x + rng.random((4000, size)))
    within = ((rounded**2).sum(axis=1) <= squared_l2_bound(long, 1.0, size)).mean()
    assert within >= 1 - math.exp(-0.5)


def test_the_bound_on_integers_is_the_papers_and_a_whole_number() -> None:
    likely = 1024**2 + D / 4 + 1 * (1024 + 512)
    assert squared_l2_bound(1.0, ROOT, D) == math.floor(likely)
    assert squared_l2_bound(1.0, ROOT, D, beta=1e-300) == math.floor(
        1024**2 + D / 4 + (600 * math.log(10)) ** 0.5 * 1536
    )
    assert squared_l2_bound(1.0, 1.0, 1, beta=1e-300) == 4  # (Cs + √d)²
    assert l1_bound(3.0, 4) == 6
    assert l1_bound(3.0, 100) == 9


def test_rounding_to_one_step_per_value_costs_twelve_percent_of_noise() -> None:
    assert math.sqrt(squared_l2_bound(1.0, ROOT, D)) / ROOT == pytest.approx(1.12, abs=0.005)
    assert math.sqrt(squared_l2_bound(1.0, 16 * ROOT, D)) / (16 * ROOT) < 1.001


@pytest.mark.parametrize(
    ("scale", "spread", "bits"), [(1, 1.0, 13.8), (1, 3.3, 14.6), (5, 3.3, 16.8)], ids=["one", "worst", "fine"]
)
def test_words_are_as_wide_as_worked_out(scale: float, spread: float, bits: float) -> None:
    assert mechanism(scale=scale * ROOT, spread=spread).width_bits(50) == pytest.approx(bits, abs=0.06)


def test_few_values_wrap_where_the_word_just_fits() -> None:
    ours = mechanism()
    assert ours.expected_wraps(50, 16) < 1e-20
    narrow = replace(ours, client_variance=(2**15 / 6) ** 2 / 50)  # the least word is 16 bits, or a hair more
    assert narrow.width_bits(50) == pytest.approx(16, abs=0.01)
    assert 1e-7 * D > narrow.expected_wraps(50, 16) > 2 * float(skellam.sf(2**15 - 1, *[(2**15 / 6) ** 2 / 2] * 2)) * D


def test_clients_are_charged_the_noise_of_the_honest_who_survive_for_certain() -> None:
    ours = replace(mechanism(), honest=7, client_variance=100.0)
    assert ours.certain_variance == 700
    assert ours.event(9) == event(700, math.sqrt(ours.squared_norm_bound), ours.event().l1_sensitivity, count=9)
    assert ours.event().l1_sensitivity == pytest.approx(min(1024 * ours.event().sensitivity, ours.squared_norm_bound))


def test_replace_one_doubles_the_l2_sensitivity_and_recomputes_the_other() -> None:
    small = SkellamMechanism(
        clip_norm=1.0, scale=3.0, size=256, honest=2, client_variance=100.0, relation=Relation.ZERO_OUT
    )
    other = replace(small, relation=Relation.REPLACE_ONE).event()
    assert other.sensitivity == 2 * small.event().sensitivity
    assert other.l1_sensitivity == min(16 * other.sensitivity, other.sensitivity**2)
    with pytest.raises(ValueError, match="members are public"):
        replace(small, relation=Relation.ADD_REMOVE)


def test_the_share_counts_survivors_without_colluders() -> None:
    assert honest_share(10, 3) == 7
    for survivors, colluders in [(3, 2), (2, 1), (5, 0), (1, 4)]:
        with pytest.raises(ValueError, match="more survivors than colluders"):
            honest_share(survivors, colluders)


@pytest.mark.parametrize("relation", [Relation.ZERO_OUT, Relation.REPLACE_ONE], ids=lambda each: each.value)
@pytest.mark.parametrize(("epsilon", "rounds"), [(1.0, 1), (8.0, 100)], ids=["once", "often"])
def test_the_least_noise_for_a_claim_keeps_it_and_less_does_not(
    relation: Relation, epsilon: float, rounds: int
) -> None:
    found = calibrated(
        epsilon=epsilon,
        delta=1e-6,
        rounds=rounds,
        clip_norm=0.5,
        scale=200.0,
        size=3000,
        honest=7,
        relation=relation,
    )
    assert found.size == 4096
    assert found.honest == 7
    assert epsilon_of([found.event(rounds)], 1e-6).epsilon <= epsilon
    less = replace(found, client_variance=found.client_variance * 0.99)
    assert epsilon_of([less.event(rounds)], 1e-6).epsilon > epsilon * 0.999
    more = replace(found, client_variance=found.client_variance * 0.96)
    assert epsilon_of([more.event(rounds)], 1e-6).epsilon > epsilon


def test_what_is_no_mechanism_is_refused() -> None:
    ours = mechanism()
    changes: list[dict[str, Any]] = [
        {"size": 1000},
        {"honest": 1},
        {"client_variance": 0.0},
        {"client_variance": math.nan},
        {"scale": 0.0},
        {"scale": math.nan},
        {"scale": 1e9},
        {"clip_norm": math.nan},
    ]
    for change in changes:
        with pytest.raises(ValueError, match="expected"):
            replace(ours, **change)
    with pytest.raises(ValueError, match="another scale"):
        squared_l2_bound(1.0, 1e-3, 1)
    with pytest.raises(ValueError, match="one member"):
        ours.width_bits(0)
    for rounds, size in [(0, 10), (1, 0)]:
        with pytest.raises(ValueError, match="at least one"):
            calibrated(
                epsilon=1.0,
                delta=1e-6,
                rounds=rounds,
                clip_norm=1.0,
                scale=1.0,
                size=size,
                honest=2,
                relation=Relation.ZERO_OUT,
            )
