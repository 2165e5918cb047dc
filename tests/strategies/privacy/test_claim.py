"""A claim says everything that its numbers need, never less than was spent, and what it does not cover."""

import json
import math
from collections.abc import Callable
from dataclasses import fields, replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.decoding import PlanError, decode
from wardround.errors import LocalError
from wardround.orders import SiteId
from wardround.plan import Plan, parse_plan
from wardround.plan_privacy import Relation, Sampling, Unit
from wardround.strategies.privacy.claim import (
    FEW_CLIENTS,
    Claim,
    claims_of,
    noise_warning,
    rounded_up,
    stated,
    worst,
)
from wardround.strategies.privacy.terms import client_terms, site_terms

A, B = SiteId("a"), SiteId("b")
CLAIM = Claim(
    epsilon=2.9812,
    delta=1e-6,
    unit=Unit.PATIENT,
    relation=Relation.ADD_REMOVE,
    adversary="everybody else",
    sampling="each with probability 0.1",
)


def plan_of(*, sites: int = 10, rounds: int = 8, patient: bool = False, **privacy: Any) -> Plan:
    """A plan with this [privacy]; by default of rows whose numbers are public, all of them in every step."""
    chosen = {"unit": "row", "public_sizes": True, "sampling": "full"} if "unit" not in privacy else {}
    data: dict[str, Any] = {"source": "csv", "path": "rows.csv", "target": {"name": "ill", "classes": ["no", "yes"]}}
    data |= {"columns": [{"name": "x"}]} | ({"patient": "who"} if patient else {})
    return parse_plan(
        {
            "name": "claimed",
            "rounds": rounds,
            "task": {"name": "tabular-classifier"},
            "data": data,
            "cohort": {"weighting": "uniform"} | privacy.pop("cohort", {}),
            "evaluation": {"every": 0},
            "training": privacy.pop("training", {}),
            "privacy": chosen | privacy,
            "simulation": {"sites": sites},
        }
    )


def patients(**privacy: Any) -> Plan:
    return plan_of(patient=True, unit="patient", public_sizes=True, **privacy)


def clients(**privacy: Any) -> Plan:
    return plan_of(unit="client", **{"noise_multiplier": 5.0, **privacy})


def test_the_headline_holds_epsilon_delta_unit_and_relation() -> None:
    assert CLAIM.headline() == "epsilon 2.99 at delta 1e-6 for every patient (add-remove)"


def test_the_words_hold_everything_that_the_numbers_need() -> None:
    words = replace(CLAIM, assumptions=("the code.",), not_covered=("the rest.",), warnings=("beware.",)).words()
    for part in (CLAIM.headline(), "everybody else", "each with probability 0.1", "all of their rows", "19.8 times"):
        assert part in words, part
    assert "It rests on:\n- the code." in words and "It does not cover:\n- the rest." in words
    assert "Warnings:\n- beware." in words and "Warnings" not in CLAIM.words()


def test_an_epsilon_that_protects_next_to_nothing_is_called_so() -> None:
    assert "next to no protection" in replace(CLAIM, epsilon=1000.0).words()
    assert "next to no protection" not in CLAIM.words()


@pytest.mark.parametrize(
    "change",
    [
        *({"epsilon": value} for value in (math.nan, math.inf, -0.1)),
        *({"delta": value} for value in (math.nan, 0.0, 1.0)),
        {"unit": Unit.OFF},
    ],
)
def test_what_is_no_claim_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        replace(CLAIM, **change)


def test_json_holds_every_field_and_reads_back() -> None:
    table = json.loads(json.dumps(CLAIM.to_json()))
    assert table.pop("headline") == CLAIM.headline()
    assert decode(Claim, table) == CLAIM
    named = {field.name for field in fields(Claim)}
    assert {"epsilon", "delta", "unit", "relation", "adversary", "sampling", "not_covered"} <= set(table) <= named


@given(st.floats(1e-12, 1e6))
def test_figures_are_rounded_up_and_by_less_than_a_per_cent(value: float) -> None:
    shown = Decimal(rounded_up(value))
    assert Decimal(repr(value)) <= shown <= Decimal(repr(value)) * Decimal("1.01")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (1e-6, "1e-6"), (0.1, "0.1"), (3.0, "3"), (3.0001, "3.01"), (1234.5, "1240"), (1.5e7, "1.5e7")],
)
def test_figures_are_as_people_write_them(value: float, shown: str) -> None:
    assert rounded_up(value) == shown


def test_every_site_has_its_claim_and_the_headline_is_the_largest() -> None:
    plan = plan_of(noise_multiplier=4.0, sampling="poisson", training={"batch_size": 10})
    claims = claims_of(plan, {A: 40, B: 400})
    for claim, count in zip(claims, (40, 400), strict=True):
        terms = site_terms(plan, count)
        assert (claim.epsilon, claim.delta) == (terms.claim.epsilon, terms.delta)
        assert (claim.population, claim.noise_multiplier, claim.accountant) == (count, 4.0, terms.claim.accountant)
        assert f"with probability {10 / count:.4g}, 10 of {count} on average" in claim.sampling
    assert [claim.site for claim in claims] == ["a", "b"]
    assert claims[0].epsilon > claims[1].epsilon
    assert worst(plan, claims).epsilon == claims[0].epsilon == worst(plan, claims[::-1]).epsilon


def test_the_headline_holds_at_the_site_with_the_largest_delta() -> None:
    plan = plan_of(noise_multiplier=4.0)
    small, large = claims_of(plan, {A: 100, B: 1_000_000})
    assert small.delta == 1e-6 and large.delta == pytest.approx(10**-6.6)
    assert small.epsilon < large.epsilon
    both = worst(plan, (small, large))
    assert (both.epsilon, both.delta, both.site, both.population) == (large.epsilon, small.delta, "", None)


def test_no_claims_have_no_headline() -> None:
    with pytest.raises(ValueError):
        worst(plan_of(epsilon=1), ())


def test_a_plan_without_privacy_claims_nothing() -> None:
    assert claims_of(plan_of(unit="off")) == ()


def test_without_data_a_claim_is_the_plans_own_and_one_of_noise_needs_the_units() -> None:
    (claim,) = claims_of(plan_of(epsilon=3))
    assert (claim.epsilon, claim.delta, claim.site, claim.population) == (3.0, 1e-6, "", None)
    (claim,) = claims_of(plan_of(epsilon=3, delta=1e-7))
    assert claim.delta == 1e-7
    with pytest.raises(LocalError, match="expected the number of patients at a site"):
        claims_of(patients(noise_multiplier=2))


def test_a_site_that_is_too_small_for_the_batch_is_named() -> None:
    plan = plan_of(noise_multiplier=4.0, sampling="poisson", training={"batch_size": 50})
    with pytest.raises(PlanError, match=r"plan.training.batch_size: expected at most the 40 rows .* got 50 \(b\)"):
        claims_of(plan, {A: 400, B: 40})


def test_what_a_run_spent_is_stated_in_the_plans_words() -> None:
    plan = plan_of(epsilon=3)
    assert stated(plan, 1.5, 1e-7) == replace(claims_of(plan)[0], epsilon=1.5, delta=1e-7)


# -- what every claim says, and what only some do -----------------------------------------------------


def test_every_claim_says_what_no_claim_covers() -> None:
    for plan in (plan_of(epsilon=3), patients(epsilon=3, sampling="full"), clients()):
        (claim,) = claims_of(plan)
        covered = " ".join(claim.not_covered)
        for part in ("every trial is a charge of its own", "sent in clear", "in two hospitals", "researcher's view"):
            assert part in covered, (plan.privacy.unit, part)
        assert claim.adversary in claim.words() and claim.sampling in claim.words()


TRUSTED = "The server is trusted to add the noise"
EXAMPLES = "The approved code"
SEVERAL = "A patient with several rows is not covered as such"
EVALUATED = "evaluation patients are not covered; if used for selection, neither is the selected model"
RESEARCH = "research_delta is set"
PUBLIC = "its number of rows, which is declared public"
HIDDEN = "never published"
CAPPED = "at most 3 training rows of a patient are used"
CHARGED = "released once, with noise"
COUNTED = "The clip follows a noisy count"
AT_ONCE = "all rounds are charged at once"
ALL_PARTS = (TRUSTED, EXAMPLES, SEVERAL, EVALUATED, RESEARCH, PUBLIC, HIDDEN, CAPPED, CHARGED, COUNTED, AT_ONCE)
REPLACED: dict[str, Any] = {"relation": "replace-one"}


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (lambda: plan_of(epsilon=3), {EXAMPLES, SEVERAL, PUBLIC}),
        (lambda: plan_of(epsilon=3, **REPLACED), {EXAMPLES, SEVERAL, PUBLIC}),
        (lambda: plan_of(epsilon=3, evaluation="clear"), {EXAMPLES, SEVERAL, PUBLIC, EVALUATED}),
        (lambda: plan_of(epsilon=3, delta=1e-3, research_delta=True), {EXAMPLES, SEVERAL, PUBLIC, RESEARCH}),
        (lambda: patients(epsilon=3, max_rows=3), {EXAMPLES, PUBLIC, CAPPED}),
        (lambda: clients(), {TRUSTED}),
        (
            lambda: clients(sites=100, cohort={"size": 10}, sampling="poisson", noise_multiplier=1.0),
            {TRUSTED, HIDDEN},
        ),
        (lambda: clients(clipping="adaptive", sites=200), {TRUSTED, COUNTED}),
        (lambda: clients(mechanism="banded-mf", bands=3, cohort={"size": 3}), {TRUSTED, AT_ONCE}),
    ],
    ids=("rows", "replaced", "evaluated", "research", "patients", "clients", "sampled", "adaptive", "banded"),
)
def test_a_claim_says_what_its_mechanism_rests_on_and_leaves_open(plan: Callable[[], Plan], said: set[str]) -> None:
    (claim,) = claims_of(plan())
    words = claim.words()
    assert {part for part in ALL_PARTS if part in words} == said


def test_noisy_statistics_are_told() -> None:
    plan = plan_of(epsilon=3)
    columns = (replace(plan.data.columns[0], range=(0.0, 1.0)),)
    privacy = {"privacy.statistics": "dp", "privacy.statistics_noise_multiplier": "9", "data.standardize": "federated"}
    plan = replace(plan, data=replace(plan.data, columns=columns)).override([f"{k}={v}" for k, v in privacy.items()])
    assert CHARGED in claims_of(plan)[0].words()


def test_a_research_delta_is_repeated_in_the_headline() -> None:
    (claim,) = claims_of(plan_of(epsilon=3, delta=1e-3, research_delta=True))
    assert claim.headline() == "epsilon 3 at delta 0.001 for every row (add-remove), research delta"
    assert claim.to_json()["research_delta"] is True


def test_the_rounds_that_a_budget_allows_are_told() -> None:
    plan = plan_of(epsilon=3, noise_multiplier=2.0, rounds=1000)
    (claim,) = claims_of(plan, {A: 100})
    rounds = site_terms(plan, 100).rounds
    assert 0 < rounds < 1000
    assert f"before epsilon 3 is exceeded, after {rounds} of 1000 rounds at the latest" in claim.words()
    assert "before epsilon 3 is exceeded." in claims_of(plan)[0].words()


def test_secret_samples_are_claimed_only_against_those_who_do_not_learn_them() -> None:
    (full,) = claims_of(clients())
    (sampled,) = claims_of(clients(sites=100, cohort={"size": 10}, sampling="poisson"))
    assert "who took part" in full.adversary and "other clients, together" in full.adversary
    assert "do not learn who took part" in sampled.adversary and "other clients, together" not in sampled.adversary
    assert "not the server" in full.adversary and "not the server" in sampled.adversary
    assert sampled.sampling.startswith("each client takes part in a round by itself with probability 0.1, 10 of 100")
    assert full.sampling == "every client takes part in every round; sampling lowers nothing"


@pytest.mark.parametrize("sampling", list(Sampling))
def test_amplification_is_claimed_for_secret_samples_alone(sampling: Sampling) -> None:
    plan = replace(plan_of(epsilon=3), privacy=replace(plan_of(epsilon=3).privacy, sampling=sampling))
    text = stated(plan, 3, 1e-6).sampling
    assert ("in secret" in text) == (sampling in (Sampling.POISSON, Sampling.FIXED_SIZE))


def test_rounds_apart_are_told_of_banded_noise() -> None:
    (claim,) = claims_of(clients(mechanism="banded-mf", bands=3, cohort={"size": 3}))
    assert "at least 3 apart, at most 3 of 8" in claim.sampling


# -- the noise that few clients must expect -----------------------------------------------------------


def test_few_clients_are_warned_of_the_noise_beside_the_clip() -> None:
    plan = clients(sites=20, clip_norm=0.5)
    (claim,) = claims_of(plan, num_parameters=10_000)
    each = 5.0 * 0.5 / 20  # z C / planned clients
    (warning,) = claim.warnings
    assert f"an expected length of {each * 100:.3g} ({each:.3g} in each parameter, of 10000)" in warning
    assert "at most 0.5 long" in warning and "only 20 clients (fewer than 100)" in warning
    assert f"has {each:.3g} in each parameter" in claims_of(plan)[0].warnings[0]


def test_adaptive_and_banded_noise_is_at_least_so_long() -> None:
    adaptive = clients(clipping="adaptive", sites=99, noise_multiplier=1.0)
    for plan in (adaptive, clients(mechanism="banded-mf", bands=3, cohort={"size": 3})):
        assert "at least" in noise_warning(plan, client_terms(plan))
    assert "at least" not in noise_warning(clients(), client_terms(clients()))


def test_many_clients_and_sites_with_hidden_rows_are_not_warned() -> None:
    assert claims_of(clients(sites=FEW_CLIENTS))[0].warnings == ()
    assert len(claims_of(clients(sites=FEW_CLIENTS - 1))[0].warnings) == 1
    assert claims_of(plan_of(noise_multiplier=1.0), {A: 50})[0].warnings == ()
