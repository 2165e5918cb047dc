"""What a plan with secure aggregation may not hold: every row of the table, with the key that is named."""

from typing import Any
from unittest.mock import patch

import pytest

from tests.federation_of_points import point_plan
from wardround.plan import Plan, PlanError
from wardround.strategies.composition import check, least_replies, quarantine_threshold
from wardround.strategies.refusals import REFUSED_UNDER_MASKING

SITES = 20
MASKED = ("protection.mode=masking", "cohort.weighting=uniform", "clipping.clip_norm=1")
GROUPS = (*MASKED, "protection.groups=5", "protection.min_survivors=3", "protection.dropout=0.25")
RULE = ("robust.rule=median", "robust.num_byzantine=2")
APP = ("task.flower_app=a:b", "task.flower_initial=a:c", "data.source=app", "task.name=", "data.target=")
COLUMNS = ('data.columns=[{ name = "a", range = [0, 1] }]', "data.standardize=federated")
ROWS = ("privacy.unit=row", "privacy.noise_multiplier=2", "privacy.public_sizes=true")
CLIENTS = ("privacy.unit=client", "privacy.noise_multiplier=2", "clipping.clip_norm=")
EACH_ROUND = "protection.tables=each-round"
QUARANTINE = "robust.quarantine.enabled=true"

CASES: dict[tuple[str, ...], str] = {
    (*MASKED, "cohort.size=5"): "cohort.size",
    (*MASKED, f"cohort.size={SITES}"): "cohort.size",
    (*MASKED, "evaluation.sites=5"): "evaluation.sites",
    (*MASKED, "cohort.min_replies=5"): "cohort.min_replies",
    (*MASKED, "cohort.weighting=examples"): "cohort.weighting",
    (*MASKED, "clipping.clip_norm="): "clipping.clip_norm",
    (*MASKED, 'protection.metrics=["f1"]'): "protection.metrics",
    (*MASKED, *APP, *CLIENTS, "privacy.mechanism=skellam", 'protection.metrics=["f1"]'): "protection.metrics",
    (*MASKED, *ROWS, EACH_ROUND): "protection.tables",
    (*GROUPS, EACH_ROUND): "protection.tables",
    (*GROUPS, *ROWS, EACH_ROUND, "privacy.evaluation=clear"): "privacy.evaluation",
    (*GROUPS, "robust.rule=auto", "robust.num_byzantine=1"): "robust.rule",
    (*MASKED, *RULE): "robust.rule",
    (*GROUPS, *RULE, 'robust.detectors=["foolsgold"]'): "robust.detectors",
    (*GROUPS, *RULE, 'robust.detectors=["norm", "fldetector"]'): "robust.detectors",
    (*GROUPS, *RULE, QUARANTINE): "robust.quarantine.enabled",
    (*GROUPS, *ROWS, EACH_ROUND, *RULE, QUARANTINE): "protection.min_roster",
    (*GROUPS, *RULE, *COLUMNS): "data.standardize",
    (*MASKED, *CLIENTS): "privacy.mechanism",
    (*MASKED, *CLIENTS, "privacy.mechanism=banded-mf", "privacy.bands=2"): "privacy.mechanism",
    (*MASKED, *CLIENTS, "privacy.mechanism=skellam", "protection.value_bits=20"): "protection.value_bits",
    # -- what is not in the table, since it follows from numbers
    (*MASKED, "protection.groups=7"): "protection.groups",
    (*MASKED, "protection.colluding=19"): "protection.colluding",
    (*MASKED, "protection.value_bits=28"): "protection.value_bits",
    (*MASKED, "cohort.weighting=capped", "cohort.weight_cap=1000000"): "cohort.weight_cap",
    (*GROUPS, "robust.rule=median", "robust.num_byzantine=3"): "robust.num_byzantine",
}


def plan_of(*settings: str) -> Plan:
    return point_plan(*settings, sites=SITES)


@pytest.mark.parametrize(
    ("settings", "key"), CASES.items(), ids=lambda value: value if isinstance(value, str) else None
)
def test_what_masking_does_not_go_with_is_refused(settings: tuple[str, ...], key: str) -> None:
    with pytest.raises(PlanError) as caught:
        plan_of(*settings)
    assert caught.value.path == key, caught.value


def test_every_row_is_met_by_one_of_the_cases() -> None:
    met: set[Any] = set()
    for settings in CASES:
        with patch("wardround.plan.names", return_value=()):  # decoded, and not checked
            plan = plan_of(*settings)
        met.update(index for index, row in enumerate(REFUSED_UNDER_MASKING) if row.when(plan))
    assert met == set(range(len(REFUSED_UNDER_MASKING)))


@pytest.mark.parametrize(
    "settings",
    [
        MASKED,
        (*MASKED, "robust.rule=mean"),
        (*MASKED, "cohort.weighting=capped", "cohort.weight_cap=500"),
        (*MASKED, *COLUMNS),
        (*MASKED, *APP, 'protection.metrics=["f1"]'),
        (*MASKED, "simulation.dropout=0.1", "simulation.late_dropout=0.1", "simulation.cryptography=accounting"),
        (*GROUPS, *RULE),
        (*GROUPS, "robust.rule=krum", "robust.num_byzantine=1", "robust.pre=['nnm']"),
        (*GROUPS, *RULE, 'robust.detectors=["flame"]'),
        (*GROUPS, *RULE, *ROWS),
        (*GROUPS, *RULE, *ROWS, EACH_ROUND),
        (*GROUPS, *RULE, *ROWS, EACH_ROUND, QUARANTINE, "protection.min_roster=18"),
        (*GROUPS, *RULE, *CLIENTS, "privacy.mechanism=skellam"),
        (*GROUPS, *RULE, *CLIENTS, "privacy.mechanism=skellam", EACH_ROUND),
    ],
)
def test_what_masking_goes_with_is_accepted(settings: tuple[str, ...]) -> None:
    assert any("the server learns" in note for note in check(plan_of(*settings)))


@pytest.mark.parametrize(
    ("settings", "least"),
    [
        (MASKED, 1),
        (GROUPS, 5),
        ((*GROUPS, "robust.rule=mean"), 5),
        ((*GROUPS, *RULE), 5),  # 2 · 2 < n
        ((*GROUPS, "robust.rule=median", "robust.num_byzantine=1"), 4),
        ((*GROUPS, "robust.rule=krum", "robust.num_byzantine=1"), 5),  # 2 · 1 + 2 < n
        ((*GROUPS, *CLIENTS, "privacy.mechanism=skellam"), 5),
        (
            (*GROUPS, *CLIENTS, "privacy.mechanism=skellam", "robust.rule=trimmed_mean", "robust.num_byzantine=1"),
            4,
        ),
    ],
)
def test_a_round_needs_as_many_groups_as_can_be_missed(settings: tuple[str, ...], least: int) -> None:
    assert least_replies(plan_of(*settings)) == least


def test_a_plan_says_what_the_server_learns_and_what_one_bad_site_does() -> None:
    assert check(plan_of(*GROUPS, *RULE)) == (
        "the server learns 5 sums of at least 3 updates in a round, no single one",
        "median reckons with 2 bad group means of 5 in a round, no more",
        "one bad site makes the mean of its group bad, however many honest ones are in it",
        "a round needs 5 groups",
        "no site is quarantined (robust.quarantine.enabled)",
    )
    assert check(plan_of(*MASKED, "simulation.cryptography=accounting")) == (
        "the server learns the sum of at least 20 updates in a round, no single one",
        "no cryptography runs in this simulation (simulation.cryptography): it hides nothing",
    )


def test_no_suspicion_is_enough_where_sites_stay_in_one_group() -> None:
    assert quarantine_threshold(plan_of(*GROUPS, *RULE, "rounds=200")) is None
    drawn = plan_of(*GROUPS, *RULE, *ROWS, EACH_ROUND, "rounds=200")
    alone = plan_of(*RULE, "rounds=200")
    found, single = quarantine_threshold(drawn), quarantine_threshold(alone)
    assert single is not None
    assert found is None or found < single, "evidence is 1/4 of what it is against a single site"
