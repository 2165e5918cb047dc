"""What a plan with privacy may not hold: every row of the table, with the key that is named."""

from typing import Any
from unittest.mock import patch

import pytest

from tests.federation_of_points import point_plan
from wardround.plan import Plan, PlanError
from wardround.strategies.composition import check
from wardround.strategies.refusals import REFUSED_UNDER_PRIVACY

ROWS = ("privacy.unit=row", "privacy.noise_multiplier=2", "privacy.public_sizes=true")
CLIENTS = ("privacy.unit=client", "privacy.noise_multiplier=2", "cohort.weighting=uniform")
BANDED = (*CLIENTS, "privacy.mechanism=banded-mf", "privacy.bands=2")
COLUMNS = ('data.columns=[{ name = "a", range = [0, 1] }]', "data.standardize=federated")
CLASSES = ("task.name=tabular-classifier", 'data.target={ name = "y", classes = ["a", "b"] }')
MASKED = ("protection.mode=masking",)
SKELLAM = (*CLIENTS, *MASKED, "privacy.mechanism=skellam")
ADAPTIVE = ("privacy.clipping=adaptive", "privacy.count_noise=4")

CASES: dict[tuple[str, ...], str] = {
    (*ROWS, *COLUMNS): "data.standardize",
    (
        *CLIENTS,
        *COLUMNS,
        "privacy.statistics=dp",
        "privacy.statistics_noise_multiplier=4",
    ): "privacy.statistics",
    (*ROWS, "privacy.statistics=dp", "privacy.statistics_noise_multiplier=4"): "privacy.statistics",
    (*ROWS, *CLASSES, "training.class_weights=balanced"): "training.class_weights",
    (*ROWS[:2],): "privacy.public_sizes",
    (*ROWS[:2], "privacy.relation=replace-one"): "privacy.public_sizes",
    (*ROWS, "evaluation.patience=3"): "evaluation.patience",
    (*ROWS, "evaluation.select=best"): "evaluation.select",
    (*ROWS, "robust.rule=auto", "robust.num_byzantine=1"): "robust.rule",
    (*ROWS, "privacy.sampling=shuffle"): "privacy.sampling",
    (*ROWS, "privacy.sampling=fixed-size"): "privacy.sampling",
    (*CLIENTS, "privacy.sampling=poisson"): "cohort.size",
    (*CLIENTS, "privacy.sampling=fixed-size", "cohort.size=2"): "privacy.relation",
    (*CLIENTS, "privacy.sampling=poisson", "cohort.size=2", "cohort.min_replies=1"): "cohort.min_replies",
    (*ROWS, "privacy.unit=patient"): "data.patient",
    (*ROWS, "training.gradient_clip_norm=1"): "training.gradient_clip_norm",
    (*ROWS, *ADAPTIVE): "privacy.clipping",
    (*ROWS, "privacy.mechanism=banded-mf", "privacy.bands=2"): "privacy.mechanism",
    (*ROWS, "robust.rule=fltrust", "robust.num_byzantine=1", "robust.root_examples=3"): "robust.rule",
    (*CLIENTS, "robust.rule=median", "robust.num_byzantine=1"): "robust.rule",
    (*CLIENTS[:2],): "cohort.weighting",
    (*CLIENTS, "clipping.clip_norm=1"): "clipping.clip_norm",
    (*CLIENTS, "privacy.mechanism=skellam"): "privacy.mechanism",
    (*ROWS, *MASKED, "clipping.clip_norm=1", "cohort.weighting=uniform", SKELLAM[-1]): "privacy.mechanism",
    (*SKELLAM, "privacy.relation=add-remove"): "privacy.relation",
    (*SKELLAM, "privacy.sampling=poisson"): "privacy.sampling",
    (*SKELLAM, *ADAPTIVE): "privacy.clipping",
    (*SKELLAM, "privacy.clipping=per-layer"): "privacy.clipping",
    (*BANDED, "cohort.size=2", *ADAPTIVE): "privacy.clipping",
    (*BANDED, "cohort.size=2", "privacy.sampling=poisson"): "privacy.sampling",
    (*BANDED, "cohort.size=2", "privacy.epsilon=3"): "privacy.noise_multiplier",
    (*BANDED,): "cohort.size",
}


@pytest.mark.parametrize(
    ("settings", "key"), CASES.items(), ids=lambda value: value if isinstance(value, str) else None
)
def test_what_a_claim_does_not_hold_for_is_refused(settings: tuple[str, ...], key: str) -> None:
    with pytest.raises(PlanError) as caught:
        point_plan(*settings)
    assert caught.value.path == key, caught.value


def _raw(*settings: str) -> Plan:
    """A plan that is decoded and not checked."""
    with patch("wardround.plan.names", return_value=()):
        return point_plan(*settings)


def test_every_row_is_met_by_one_of_the_cases() -> None:
    met: set[Any] = set()
    for settings in CASES:
        plan = _raw(*settings)
        met.update(index for index, row in enumerate(REFUSED_UNDER_PRIVACY) if row.when(plan))
    flower = ("task.flower_app=a:b", "task.flower_initial=a:c", "data.source=app", "task.name=", "data.target=")
    met.update(index for index, row in enumerate(REFUSED_UNDER_PRIVACY) if row.when(_raw(*flower, *ROWS)))
    assert met == set(range(len(REFUSED_UNDER_PRIVACY)))


@pytest.mark.parametrize(
    "settings",
    [
        ROWS,
        CLIENTS,
        (*BANDED, "cohort.size=2"),
        (*CLIENTS, "privacy.clipping=per-layer"),
        SKELLAM,
        (*SKELLAM, "privacy.relation=replace-one"),
    ],
)
def test_what_a_claim_holds_for_is_accepted(settings: tuple[str, ...]) -> None:
    check(point_plan(*settings))


@pytest.mark.parametrize("rule", ["median", "krum", "geometric_median"])
def test_noise_inside_the_sites_leaves_every_rule_free(rule: str) -> None:
    point_plan(*ROWS, f"robust.rule={rule}", "robust.num_byzantine=1", sites=8)


def test_nothing_is_refused_without_privacy() -> None:
    point_plan("robust.rule=auto", "robust.num_byzantine=1", sites=5)
    point_plan(*CLASSES, "training.class_weights=balanced")
