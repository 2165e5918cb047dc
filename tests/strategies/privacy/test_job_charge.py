import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.plan_privacy import Relation, Sampling, Unit
from wardround.strategies.privacy.events import Event, FixedSizeGaussian, Gaussian, PoissonGaussian
from wardround.strategies.privacy.job_charge import (
    JobCharge,
    charge_of,
    client_charge_on_examples,
    decode_charge,
    encode_charge,
)
from wardround.strategies.privacy.terms import Terms

ADD_REMOVE, ZERO_OUT, REPLACE_ONE = Relation.ADD_REMOVE, Relation.ZERO_OUT, Relation.REPLACE_ONE
POSITIVE = st.floats(1e-6, 1e6)
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(
        Gaussian,
        noise_std=POSITIVE,
        sensitivity=POSITIVE,
        relation=st.sampled_from(Relation),
        count=st.integers(0, 10**9),
    ),
    st.builds(
        PoissonGaussian,
        noise_std=POSITIVE,
        sensitivity=POSITIVE,
        relation=st.sampled_from(Relation),
        rate=st.floats(1e-9, 1),
        count=st.integers(0, 10**9),
    ),
    st.builds(
        FixedSizeGaussian, noise_std=POSITIVE, sensitivity=POSITIVE, drawn=st.integers(1, 9), population=st.just(9)
    ),
)
CHARGES = st.builds(
    JobCharge,
    job=st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=200),
    plan_digest=st.text(max_size=64),
    unit=st.sampled_from([Unit.ROW, Unit.PATIENT, Unit.CLIENT]),
    once=st.lists(EVENTS, max_size=2).map(tuple),
    per_round=st.lists(EVENTS, max_size=2).map(tuple),
    rounds=st.integers(0, 10**6),
    whole=st.booleans(),
    delta=st.floats(1e-300, 0.5),
)
CLIENTS = Terms(
    unit=Unit.CLIENT,
    relation=ZERO_OUT,
    sampling=Sampling.FULL,
    population=200,
    delta=1e-4,
    noise_multiplier=6.0,
    noise_std=3.0,
    sensitivity=0.5,
    steps=1,
    drawn=200.0,
    rounds=30,
)
CHARGE = charge_of(CLIENTS, "run-1", "digest")


@given(CHARGES)
def test_a_charge_survives_json(charge: JobCharge) -> None:
    assert decode_charge(json.loads(json.dumps(encode_charge(charge)))) == charge


def test_whole_numbers_where_a_float_is_meant_survive_json_too() -> None:
    event = PoissonGaussian(noise_std=2, sensitivity=1, relation=ADD_REMOVE, rate=1)
    charge = replace(CHARGE, per_round=(event,))
    assert decode_charge(json.loads(json.dumps(encode_charge(charge)))) == charge


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("v", 2),
        ("v", True),
        ("job", ""),
        ("job", "a\x1b[31mb"),
        ("job", "a" * 201),
        ("job", 7),
        ("unit", "off"),
        ("unit", "hospital"),
        ("rounds", -1),
        ("rounds", 1.0),
        ("rounds", True),
        ("whole", 1),
        ("delta", 0.0),
        ("delta", 1.0),
        ("delta", float("nan")),
        ("delta", "1e-5"),
        ("once", None),
        ("once", [None]),
        ("per_round", [{}]),
        ("per_round", [{"kind": "laplace"}]),
        ("surprise", 1),
    ],
)
def test_a_charge_that_is_none_is_refused(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"expected|is not a valid"):
        decode_charge({**encode_charge(CHARGE), key: value})


@pytest.mark.parametrize("missing", encode_charge(CHARGE))
def test_a_charge_without_a_key_is_refused(missing: str) -> None:
    with pytest.raises(ValueError, match="expected exactly the keys"):
        decode_charge({key: value for key, value in encode_charge(CHARGE).items() if key != missing})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("noise_std", 0.0),
        ("noise_std", float("inf")),
        ("sensitivity", float("nan")),
        ("sensitivity", 1),
        ("relation", "both"),
        ("count", -1),
        ("rate", 0.5),
    ],
)
def test_an_event_that_is_none_is_refused(key: str, value: object) -> None:
    table: dict[str, Any] = encode_charge(CHARGE)
    table["per_round"][0][key] = value
    with pytest.raises(ValueError, match=r"expected|is not a valid"):
        decode_charge(table)


def test_a_charge_of_terms_has_one_round_and_how_many_there_are() -> None:
    once = (Gaussian(noise_std=9.0, sensitivity=1.0, relation=ZERO_OUT),)
    charge = charge_of(replace(CLIENTS, once=once, steps=4), "run-1", "digest")
    assert charge.once == once
    assert charge.per_round == (Gaussian(noise_std=3.0, sensitivity=0.5, relation=ZERO_OUT, count=4),)
    assert (charge.rounds, charge.whole, charge.delta, charge.unit) == (30, False, 1e-4, Unit.CLIENT)


@pytest.mark.parametrize("rounds", [1, 30])
def test_the_worst_of_a_charge_is_what_its_terms_say(rounds: int) -> None:
    once = (Gaussian(noise_std=9.0, sensitivity=1.0, relation=ZERO_OUT),)
    for terms in (CLIENTS, replace(CLIENTS, steps=3), replace(CLIENTS, spans=4), replace(CLIENTS, once=once)):
        there = replace(terms, rounds=rounds)
        assert charge_of(there, "run-1", "digest").worst == there.events(rounds)


def test_correlated_noise_is_charged_as_a_whole() -> None:
    charge = charge_of(replace(CLIENTS, spans=4), "run-1", "digest")
    assert charge.whole
    assert charge.per_round == (Gaussian(noise_std=3.0, sensitivity=1.0, relation=ZERO_OUT),)


@pytest.mark.parametrize("relation", Relation)
def test_a_release_that_hides_clients_costs_examples_twice_the_clip(relation: Relation) -> None:
    charge = client_charge_on_examples(CLIENTS, "run-1", "digest", relation)
    assert charge.per_round == (Gaussian(noise_std=3.0, sensitivity=1.0, relation=relation),)
    assert (charge.unit, charge.rounds) == (Unit.PATIENT, 30)


def test_clients_under_replace_one_have_the_doubled_clip_already() -> None:
    doubled = replace(CLIENTS, relation=REPLACE_ONE, sensitivity=1.0)
    charge = client_charge_on_examples(doubled, "run-1", "digest", REPLACE_ONE)
    assert charge.per_round == (Gaussian(noise_std=3.0, sensitivity=1.0, relation=REPLACE_ONE),)


def test_examples_gain_nothing_from_the_sampling_of_their_client() -> None:
    sampled = replace(CLIENTS, sampling=Sampling.POISSON, drawn=20.0)
    assert isinstance(charge_of(sampled, "run-1", "digest").per_round[0], PoissonGaussian)
    charge = client_charge_on_examples(sampled, "run-1", "digest", REPLACE_ONE)
    assert charge.per_round == (Gaussian(noise_std=3.0, sensitivity=1.0, relation=REPLACE_ONE),)


def test_examples_of_correlated_noise_are_charged_as_a_whole_too() -> None:
    charge = client_charge_on_examples(replace(CLIENTS, spans=4), "run-1", "digest", REPLACE_ONE)
    assert charge.whole
    assert charge.per_round == (Gaussian(noise_std=3.0, sensitivity=2.0, relation=REPLACE_ONE),)
