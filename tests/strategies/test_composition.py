"""What may stand together in a plan, and how many updates a round needs."""

import pytest

from tests.federation_of_points import point_plan
from wardround.contribution import Report
from wardround.plan import PlanError
from wardround.plan_robust import Quarantine, Robust
from wardround.strategies.composition import check, least_replies, quarantine_threshold
from wardround.strategies.refusals import REFUSED
from wardround.strategies.rules.build import build_rule
from wardround.strategies.rules.mean import Mean
from wardround.strategies.rules.preaggregators.bucketing import Bucketing
from wardround.strategies.rules.robust import Robust as RobustRule


@pytest.mark.parametrize(
    ("settings", "sites", "least"),
    [
        ((), 10, 10),
        (("cohort.size=6",), 10, 6),
        (("cohort.min_replies=3",), 10, 3),
        (("robust.rule=median", "robust.num_byzantine=3"), 10, 7),
        (("robust.rule=krum", "robust.num_byzantine=3"), 10, 9),  # 2 · 3 + 2 < 9
        (("robust.rule=bulyan", "robust.num_byzantine=1"), 7, 7),  # 4 · 1 + 3
        (("robust.rule=bulyan", "robust.num_byzantine=1"), 10, 9),
        (("robust.rule=median", "robust.num_byzantine=3", "cohort.min_replies=8"), 10, 8),
        (("robust.rule=auto", "robust.num_byzantine=3"), 10, 10),
        (('cohort.without=["site-1"]',), 10, 9),
    ],
)
def test_a_round_needs_as_many_as_can_be_missed(settings: tuple[str, ...], sites: int, least: int) -> None:
    assert least_replies(point_plan(*settings, sites=sites)) == least


def test_every_row_of_the_table_refuses_something() -> None:
    """Each is shown as a person meets it in tests/test_plan.py; here, that none is dead."""
    app = ["task.flower_app=a:b", "task.flower_initial=a:c", "data.source=app", "task.name=", "data.target="]
    plans = {
        "cohort.weighting": [
            "robust.rule=median",
            "robust.num_byzantine=1",
            "cohort.weighting=capped",
            "cohort.weight_cap=3",
        ],
        "robust.num_byzantine": ["robust.rule=auto"],
        "robust.rule": [*app, "robust.rule=fltrust", "robust.root_examples=3"],
        "robust.detectors": ["robust.rule=fltrust", "robust.root_examples=3", "robust.num_byzantine=2"],
        "robust.quarantine.enabled": [
            "robust.rule=median",
            "robust.num_byzantine=1",
            'robust.detectors=["flame"]',
            "robust.quarantine.enabled=true",
        ],
        "simulation.attack.name": [*app, "simulation.attack.name=label_flip", "simulation.attack.attackers=1"],
        "simulation.cryptography": ["simulation.cryptography=accounting"],
        "protection.sealed_model": ["protection.mode=masking", "protection.sealed_model=true"],
        "simulation.late_dropout": ["simulation.late_dropout=0.1"],
    }
    assert set(plans) == {row.key for row in REFUSED}
    for key, settings in plans.items():
        with pytest.raises(PlanError) as caught:
            point_plan(*settings)
        assert caught.value.path == key


def test_an_attack_on_updates_goes_with_a_flower_app() -> None:
    app = ["task.flower_app=a:b", "task.flower_initial=a:c", "data.source=app", "task.name=", "data.target="]
    check(point_plan(*app, "simulation.attack.name=sign_flip", "simulation.attack.attackers=1"))


def test_a_plan_without_a_rule_has_the_weighted_mean() -> None:
    assert isinstance(build_rule(Robust()), Mean)


def test_options_reach_the_pieces_that_they_name() -> None:
    settings = Robust(
        rule="trimmed_mean",
        num_byzantine=2,
        pre=("bucketing",),
        detectors=("norm",),
        norm_factor=7.0,
        options={"bucketing": {"size": 2}, "norm": {"threshold": 9.0}},
    )
    rule = build_rule(settings)
    assert isinstance(rule, RobustRule)
    bucketing = rule.pre[0]
    assert isinstance(bucketing, Bucketing) and (bucketing.num_byzantine, bucketing.size) == (2, 2)
    assert rule.rule.num_byzantine == 2 and rule.norm_factor == 7.0
    assert [(name, getattr(detector, "threshold")) for name, detector in rule.detectors] == [("norm", 9.0)]  # noqa: B009


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": -1}, "plan.robust.options.bucketing: expected options that fit (expected size"),
        ({"size": 0.5}, "plan.robust.options.bucketing.size: expected a whole number, got 0.5"),
        ({"size": True}, "plan.robust.options.bucketing.size: expected a whole number, got True"),
        ({"sise": 2}, "plan.robust.options.bucketing.sise: expected a known option; did you mean 'size'?"),
        ({"num_byzantine": 2}, "plan.robust.options.bucketing.num_byzantine: expected a known option"),
    ],
)
def test_an_option_that_a_piece_cannot_take_is_refused_with_its_path(options: dict[str, float], message: str) -> None:
    with pytest.raises(PlanError) as caught:
        build_rule(Robust(rule="median", num_byzantine=1, pre=("bucketing",), options={"bucketing": options}))
    assert str(caught.value).startswith(message)


def test_no_threshold_where_nobody_is_ever_left_out() -> None:
    robust = ("robust.rule=median", "robust.num_byzantine=1")
    assert quarantine_threshold(point_plan(rounds=30)) is None
    assert quarantine_threshold(point_plan(*robust, rounds=2)) is None, "two rounds tell nobody from bad luck"
    found = quarantine_threshold(point_plan(*robust, rounds=30))
    assert found is not None and 1 - Quarantine().decay < found < 1


def test_a_report_counts_what_no_rule_saw() -> None:
    assert Report().refused == 0
