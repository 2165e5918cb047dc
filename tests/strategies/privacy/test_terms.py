"""Terms of clients whose own noise is in the sums: those of `calibrated`, and bounds where the size is not known."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import LocalError
from wardround.plan import Plan, PlanError, parse_plan
from wardround.plan_privacy import Relation
from wardround.state_store import MemoryStore
from wardround.strategies.privacy.accounting import epsilon_of
from wardround.strategies.privacy.build import build_central
from wardround.strategies.privacy.claim import claims_of
from wardround.strategies.privacy.job_charge import charge_of, client_charge_on_examples, decode_charge, encode_charge
from wardround.strategies.privacy.rdp import ORDERS, rdp_of
from wardround.strategies.privacy.skellam import (
    SkellamMechanism,
    any_size,
    calibrated,
    honest_share,
    l1_bound,
    padded_scale,
    squared_l2_bound,
)
from wardround.strategies.privacy.terms import client_terms
from wardround.strategies.secagg.plan_terms import parameters_of

SIZE = 1000  # 1024 when padded
RELATIONS = [Relation.ZERO_OUT, Relation.REPLACE_ONE]


def plan_of(*, sites: int = 200, groups: int = 10, rounds: int = 10, **privacy: Any) -> Plan:
    return parse_plan(
        {
            "name": "hidden clients",
            "rounds": rounds,
            "task": {"name": "tabular-regressor"},
            "data": {"source": "arrays", "target": {"name": "y", "range": [0.0, 1.0]}},
            "cohort": {"weighting": "uniform"},
            "privacy": {"unit": "client", "mechanism": "skellam", "clip_norm": 0.5, **privacy},
            "protection": {"mode": "masking", "groups": groups, "colluding": 2, "dropout": 0.1},
            "simulation": {"sites": sites},
        }
    )


@pytest.mark.parametrize("epsilon", [3.0, 8.0])
@pytest.mark.parametrize("relation", RELATIONS)
def test_an_epsilon_takes_exactly_the_noise_that_calibrated_finds(epsilon: float, relation: Relation) -> None:
    plan = plan_of(epsilon=epsilon, relation=relation.value)
    terms = client_terms(plan, SIZE)
    assert (parameters_of(plan).min_survivors, parameters_of(plan).known) == (18, 2)
    assert terms.honest == honest_share(18, 2) == 16
    wanted = calibrated(
        epsilon=epsilon,
        delta=terms.delta,
        rounds=10,
        clip_norm=0.5,
        scale=4 * math.sqrt(1024) / 0.5,
        size=SIZE,
        honest=16,
        relation=relation,
    )
    assert terms.skellam == wanted
    assert terms.events(10) == (wanted.event(10),)
    assert epsilon * 0.999 <= terms.claim.epsilon == epsilon_of([wanted.event(10)], terms.delta).epsilon <= epsilon
    assert terms.claim.accountant == "RDP"


def test_a_noise_multiplier_is_certain_noise_over_what_one_client_moves() -> None:
    terms = client_terms(plan_of(noise_multiplier=2.0), SIZE)
    assert terms.skellam is not None
    square = squared_l2_bound(0.5, terms.skellam.scale, 1024)
    assert math.sqrt(terms.skellam.certain_variance) == pytest.approx(2.0 * math.sqrt(square), rel=1e-12)
    assert terms.noise_std == pytest.approx(math.sqrt(terms.skellam.certain_variance) / terms.skellam.scale, rel=1e-12)
    assert terms.sensitivity == pytest.approx(math.sqrt(square) / terms.skellam.scale, rel=1e-12)
    doubled = client_terms(plan_of(noise_multiplier=2.0, relation="replace-one"), SIZE)
    assert doubled.noise_std == terms.noise_std and doubled.sensitivity == 2 * terms.sensitivity
    assert doubled.claim.epsilon > terms.claim.epsilon


def test_the_mean_of_everybody_has_the_noise_of_everybody() -> None:
    terms = client_terms(plan_of(noise_multiplier=2.0), SIZE)
    assert terms.skellam is not None
    in_mean = math.sqrt(200 * terms.skellam.client_variance) / terms.skellam.scale / 200
    assert terms.noise_in_mean(200) == pytest.approx(in_mean, rel=1e-12)


def test_beside_an_epsilon_training_stops_before_it_is_exceeded() -> None:
    terms = client_terms(plan_of(noise_multiplier=2.0, epsilon=4.0), SIZE)
    assert 0 < terms.rounds < 10
    assert terms.claim.epsilon <= 4.0 < terms.spent(terms.rounds + 1).epsilon


def mechanism(size: int, multiplier: float, relation: Relation) -> SkellamMechanism:
    padded, scale = padded_scale(0.7, size)
    variance = multiplier * multiplier * squared_l2_bound(0.7, scale, padded) / 5
    return SkellamMechanism(
        clip_norm=0.7, scale=scale, size=padded, honest=5, client_variance=variance, relation=relation
    )


@given(
    power=st.integers(0, 30),
    multiplier=st.floats(0.05, 100),
    relation=st.sampled_from(RELATIONS),
)
def test_no_size_exceeds_the_bound_for_any_size(power: int, multiplier: float, relation: Relation) -> None:
    bound = rdp_of([any_size(multiplier, relation)], ORDERS)
    found = rdp_of([mechanism(1 << power, multiplier, relation).event()], ORDERS)
    assert (found <= bound * (1 + 1e-9)).all()


@pytest.mark.parametrize("relation", RELATIONS)
def test_the_bound_for_any_size_costs_little(relation: Relation) -> None:
    bound, found = any_size(2.0, relation), mechanism(1 << 20, 2.0, relation).event()
    ratio = epsilon_of([replace(bound, count=10)], 1e-6).epsilon / epsilon_of([replace(found, count=10)], 1e-6).epsilon
    assert 1 <= ratio < 1.02
    assert bound.l1_sensitivity > l1_bound(bound.sensitivity, 1) * (1 - 1e-12)


@pytest.mark.parametrize("size", [1, 3, 62, 1000, 10**6])
def test_terms_without_a_size_are_upper_bounds(size: int) -> None:
    plan = plan_of(noise_multiplier=1.5)
    unknown, known = client_terms(plan), client_terms(plan, size)
    assert unknown.skellam is None
    assert unknown.claim.epsilon >= known.claim.epsilon
    assert unknown.noise_std >= known.noise_std
    wanted = plan_of(epsilon=8)
    assert client_terms(wanted).noise_multiplier >= client_terms(wanted, size).noise_multiplier * 0.999
    assert client_terms(wanted).claim.epsilon <= 8


def test_a_claim_says_where_it_holds_for_a_model_of_any_size() -> None:
    plan = plan_of(epsilon=8)
    assert "A model of any size" in claims_of(plan)[0].words()
    assert "A model of any size" not in claims_of(plan, num_parameters=SIZE)[0].words()


def test_a_claim_names_who_may_collude_and_how_much_noise_is_counted() -> None:
    (claim,) = claims_of(plan_of(epsilon=8), num_parameters=SIZE)
    words = claim.words()
    for part in (
        "the server included, together with up to 2 other clients",
        "adds 1/16 of what is claimed",
        "At most 2 of the 200 clients collude",
        "at least 18 clients and whoever looks knows at most 2 of them",
        "zero-out: in one of two data sets what one client gives counts as zero",
        "Secure aggregation: single updates stay hidden behind masks",
        "Which clients' updates are in a sum",
    ):
        assert part in words, part
    assert "The server is trusted" not in words and "2^-40" not in words


def test_chance_that_puts_colluders_together_is_told_beside_delta() -> None:
    plan = parse_plan(
        {
            "name": "many",
            "rounds": 2,
            "task": {"name": "tabular-regressor"},
            "data": {"source": "arrays", "target": {"name": "y", "range": [0.0, 1.0]}},
            "cohort": {"weighting": "uniform"},
            "privacy": {"unit": "client", "mechanism": "skellam", "epsilon": 8},
            "protection": {"mode": "masking", "groups": 20, "colluding": 100},
            "simulation": {"sites": 2000},
        }
    )
    words = claims_of(plan)[0].words()
    assert f"more than {parameters_of(plan).known} who collude has a probability of at most 2^-40" in words


def test_the_noise_of_few_clients_is_told_beside_their_claim() -> None:
    plan = plan_of(sites=40, groups=2, epsilon=8)
    (claim,) = claims_of(plan, num_parameters=SIZE)
    each = client_terms(plan, SIZE).noise_in_mean(40)
    assert claim.warnings and f"({each:.3g} in each parameter, of {SIZE})" in claim.warnings[0]


def test_a_round_is_charged_once_and_patients_of_a_client_for_twice_as_much() -> None:
    terms = client_terms(plan_of(epsilon=8), SIZE)
    assert terms.skellam is not None
    charge = charge_of(terms, "run", "digest")
    assert charge.per_round == (terms.skellam.event(),) and charge.rounds == 10 and not charge.whole
    assert decode_charge(encode_charge(charge)) == charge
    own = client_charge_on_examples(terms, "run", "digest", Relation.REPLACE_ONE)
    assert own.per_round == (replace(terms.skellam.event().times(2), relation=Relation.REPLACE_ONE),)
    doubled = client_terms(plan_of(epsilon=8, relation="replace-one"), SIZE)
    assert doubled.each is not None
    found = client_charge_on_examples(doubled, "run", "digest", Relation.ADD_REMOVE)
    assert found.per_round == (replace(doubled.each, relation=Relation.ADD_REMOVE),)


def test_the_account_of_sums_has_no_mechanism_of_the_server() -> None:
    plan = plan_of(epsilon=8)
    central = build_central(plan, (600, 400), MemoryStore())
    assert central.terms == client_terms(plan, SIZE)
    assert central.rule is None and central.clip_norm({}) is None and central.cohort({}, 0) is None
    assert [central.begin() for _ in range(10)] == list(range(10))
    assert central.record(None, {}).epsilon == central.terms.claim.epsilon
    assert central.record(None, {}).clip_norm == 0.5
    assert "the privacy budget is spent: 10 rounds" in central.obstacle()
    with pytest.raises(LocalError, match='got "skellam", which clients add'):
        _ = central.mean


def test_noise_over_signal_is_that_of_a_mean_of_all() -> None:
    central = build_central(plan_of(epsilon=8), (SIZE,), MemoryStore())
    update = np.full(SIZE, 0.01, np.float32)
    noise = central.record(update, {}).noise_to_signal
    assert noise == pytest.approx(central.terms.noise_in_mean(200) / 0.01, rel=1e-6)


def test_too_little_noise_for_a_claim_is_refused() -> None:
    with pytest.raises(PlanError, match="which one round takes at this noise_multiplier"):
        plan_of(epsilon=0.1, noise_multiplier=0.5)
