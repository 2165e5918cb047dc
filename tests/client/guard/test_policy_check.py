"""Which plans a policy allows: rule by rule, and random ones against bounds that are stated here again."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from tests.client.agent.site_world import PLAN
from wardround.client.guard.policy import (
    CodeLeave,
    DataPolicy,
    EvaluationLeave,
    PinLeave,
    Requirement,
    SitePolicy,
)
from wardround.client.guard.policy_check import (
    DataFacts,
    RunFacts,
    check_order,
    evaluates,
    undecided,
    violations,
)
from wardround.client.guard.violation import PolicyError
from wardround.decoding import PlanError
from wardround.orders import OrderKind, SiteId
from wardround.plan import Plan, parse_plan
from wardround.plan_privacy import Unit
from wardround.strategies.composition import check
from wardround.strategies.privacy.claim import Claim, claims_of

MASKED = (
    'protection.mode="masking"',
    'cohort.weighting="uniform"',
    "clipping.clip_norm=1.0",
    "simulation.sites=6",
    "protection.colluding=1",
)
BFV = ('protection.mode="bfv"', "protection.colluding=0", "protection.min_survivors=4")
PRIVATE = ('privacy.unit="row"', "privacy.noise_multiplier=2.0", "privacy.public_sizes=true", "training.steps=2")
NOBODY = RunFacts(members={}, pinned={})


def plan_of(*changes: str, code: tuple[tuple[str, str], ...] | None = None) -> Plan:
    plan = parse_plan(PLAN).override(changes)
    return plan if code is None else parse_plan(plan.to_toml(), code_files=code)


def claim_of(plan: Plan, units: int = 48) -> Claim | None:
    if not plan.privacy.on:
        return None
    return claims_of(plan, {SiteId("A"): units} if plan.privacy.per_example else None, num_parameters=6)[0]


def data_of(plan: Plan, **changes: Any) -> DataFacts:
    known: dict[str, Any] = {"name": "ehr", "rows": 60, "has_schema": True, "claim": claim_of(plan)}
    return DataFacts(**known | changes)


def broken(policy: SitePolicy, plan: Plan, run: RunFacts = NOBODY, **changes: Any) -> dict[str, str]:
    return {one.rule: one.words() for one in violations(policy, plan, run, data_of(plan, **changes))}


def test_without_a_policy_every_plan_is_allowed() -> None:
    assert broken(SitePolicy(), plan_of()) == {} == broken(SitePolicy(), plan_of(*MASKED))


@pytest.mark.parametrize(
    ("policy", "plan", "expected"),
    [
        (SitePolicy(max_epsilon=3.0), plan_of(), "max_epsilon: expected differential privacy .* at most 3, got none"),
        (SitePolicy(max_epsilon=0.1), plan_of(*PRIVATE), "max_epsilon: expected .* at most 0.1, got"),
        (SitePolicy(data={"ehr": DataPolicy(max_epsilon=0.1)}), plan_of(*PRIVATE), "max_epsilon"),
        (SitePolicy(max_delta=1e-9), plan_of(*PRIVATE), "max_delta: expected .* at most 1e-09, got 1e-6"),
        (SitePolicy(require=(Requirement.SECURE_AGGREGATION,)), plan_of(), 'require: .*masking" or "bfv", got "off"'),
        (SitePolicy(require=(Requirement.DP,)), plan_of(), "require: expected dp"),
        (SitePolicy(require=(Requirement.PATIENT_LEVEL_DP,)), plan_of(*PRIVATE), 'require: .*"patient", got "row"'),
        (SitePolicy(min_sites=3), plan_of(), "min_sites: expected at least 3 updates in a round that counts, .* got 2"),
        (SitePolicy(min_sites=7), plan_of(*MASKED), "min_sites: expected at least 7 updates in every sum"),
        (SitePolicy(min_sites=4), plan_of(*MASKED, "protection.groups=2", "protection.colluding=0"), "min_sites"),
        (SitePolicy(tasks=("image-classifier",)), plan_of(), "tasks: .*image-classifier, got tabular-classifier"),
        (SitePolicy(max_rounds=2), plan_of(), "max_rounds: expected at most 2 rounds, got 3"),
        (SitePolicy(evaluation=EvaluationLeave.NONE), plan_of(), "evaluation: expected that nothing"),
        (SitePolicy(evaluation=EvaluationLeave.SUMMED), plan_of(), "evaluation: expected counts"),
        (SitePolicy(min_rows=61), plan_of(), "min_rows: .* got 60 rows of at least 61"),
    ],
)
def test_each_rule(policy: SitePolicy, plan: Plan, expected: str) -> None:
    (words,) = broken(policy, plan).values()
    assert re.search(expected, words), words


@pytest.mark.parametrize(
    ("policy", "plan"),
    [
        (SitePolicy(max_epsilon=100.0, max_delta=1e-6), plan_of(*PRIVATE)),
        (SitePolicy(data={"other": DataPolicy(max_epsilon=0.1)}), plan_of(*PRIVATE)),
        (SitePolicy(require=(Requirement.DP, Requirement.EXAMPLE_LEVEL_DP)), plan_of(*PRIVATE)),
        (SitePolicy(min_sites=2, min_rows=60, max_rounds=3), plan_of()),
        (SitePolicy(evaluation=EvaluationLeave.NONE), plan_of("evaluation.every=0", "data.test=0.0")),
        (SitePolicy(evaluation=EvaluationLeave.NONE), plan_of(*PRIVATE)),
        (SitePolicy(evaluation=EvaluationLeave.SUMMED), plan_of(*MASKED)),
        (SitePolicy(require=(Requirement.SECURE_AGGREGATION,), min_sites=4), plan_of(*MASKED, *BFV)),
        (SitePolicy(evaluation=EvaluationLeave.SUMMED), plan_of(*MASKED, *BFV)),
    ],
)
def test_what_keeps_to_a_rule_is_allowed(policy: SitePolicy, plan: Plan) -> None:
    assert broken(policy, plan) == {}


def test_every_rule_that_is_broken_is_listed() -> None:
    policy = SitePolicy(
        max_epsilon=1.0, require=(Requirement.SECURE_AGGREGATION, Requirement.DP), min_sites=3, max_rounds=1
    )
    found = violations(policy, plan_of(), NOBODY, data_of(plan_of()))
    assert [one.rule for one in found] == ["max_epsilon", "require", "require", "min_sites", "max_rounds"]
    assert str(PolicyError(found)).count("expected") == 5


def test_pins_of_all_or_of_some() -> None:
    run = RunFacts(members={"B": "b" * 64, "C": "c" * 64}, pinned={"B": "b" * 64, "C": "d" * 64})
    assert "or another of C" in broken(SitePolicy(pins=PinLeave.ALL), plan_of(), run)["pins"]
    assert broken(SitePolicy(pins=("B", "D")), plan_of(), run) == {}
    assert "pins" in broken(SitePolicy(pins=("C",)), plan_of(), run)


def test_code_bundles_by_digest() -> None:
    files = (("task.py", "ab" * 32),)
    toml = PLAN.replace('name = "tabular-classifier"\nmodel = "logistic"', 'code = "code"\nentry = "task:Task"')
    plan = parse_plan(toml, code_files=files)
    assert "got 1 files" in broken(SitePolicy(code=CodeLeave.NONE), plan)["code"]
    assert broken(SitePolicy(code=(plan.code_digest,), tasks=("task:Task",)), plan) == {}
    changed = parse_plan(toml, code_files=(("task.py", "ac" * 32),))
    assert changed.code_digest in broken(SitePolicy(code=(plan.code_digest,)), changed)["code"]
    assert broken(SitePolicy(code=CodeLeave.NONE), plan_of()) == {}


def test_a_claim_that_depends_on_the_data_is_decided_once_they_were_read() -> None:
    plan, policy = plan_of(*PRIVATE), SitePolicy(max_epsilon=0.1, max_delta=1e-9)
    assert broken(policy, plan, claim=None) == {}
    assert undecided(policy, plan, data_of(plan, claim=None)) == ["max_epsilon", "max_delta"]
    assert undecided(policy, plan, data_of(plan)) == [] == undecided(policy, plan_of(), data_of(plan_of()))
    assert broken(policy, plan).keys() == {"max_epsilon", "max_delta"}


def test_what_the_coordinator_is_told_has_no_figure_of_the_data() -> None:
    policy = SitePolicy(
        max_epsilon=0.1, min_rows=98765, require_schema=True, pins=PinLeave.ALL, data={"ehr": DataPolicy()}
    )
    run = RunFacts(members={"Hospital X": "b" * 64}, pinned={})
    found = violations(policy, plan_of(*PRIVATE), run, data_of(plan_of(*PRIVATE), rows=54321, has_schema=False))
    told = PolicyError(found).told
    assert [one.rule for one in found] == ["max_epsilon", "pins", "min_rows", "require_schema"]
    assert all(one.rule in told for one in found)
    for secret in ("54321", "98765", "ehr", "Hospital X"):
        assert secret not in told
    assert "54321" in str(PolicyError(found))


def test_an_order_beyond_the_plan_is_refused() -> None:
    plan = plan_of("evaluation.every=0", "data.test=0.0")
    for leave in (EvaluationLeave.NONE, EvaluationLeave.SUMMED):
        check_order(SitePolicy(evaluation=leave), plan, OrderKind.FIT)
        with pytest.raises(PolicyError, match="evaluation"):
            check_order(SitePolicy(evaluation=leave), plan, OrderKind.EVALUATE)
    check_order(SitePolicy(evaluation=EvaluationLeave.SUMMED), plan_of(*MASKED), OrderKind.EVALUATE)
    check_order(SitePolicy(), plan, OrderKind.EVALUATE)


# -- random policies and plans ----------------------------------------------------------------------------


def _some(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.sampled_from([0, 0, 1]).flatmap(lambda chosen: strategy if chosen else st.none())


POLICIES = st.builds(
    SitePolicy,
    max_epsilon=_some(st.sampled_from([0.5, 3.0, 20.0, 500.0])),
    max_delta=_some(st.sampled_from([1e-7, 1e-6, 1e-5])),
    require=st.lists(st.sampled_from(Requirement), unique=True, max_size=2).map(tuple),
    min_sites=_some(st.integers(1, 7)),
    pins=st.sampled_from([(), (), PinLeave.ALL, ("B",)]),
    tasks=_some(st.sampled_from([("tabular-classifier",), ("image-classifier",)])),
    min_rows=_some(st.integers(40, 80)),
    require_schema=st.sampled_from([False, False, True]),
    max_rounds=_some(st.integers(1, 5)),
    evaluation=st.sampled_from(EvaluationLeave),
    data=st.sampled_from([{}, {"ehr": DataPolicy(max_epsilon=3.0)}, {"x": DataPolicy(max_epsilon=0.1)}]),
)
PRIVACY = st.sampled_from(
    [
        (),
        PRIVATE,
        ('privacy.unit="row"', "privacy.epsilon=3.0", "privacy.public_sizes=true", "training.steps=2"),
        (
            'privacy.unit="patient"',
            "privacy.epsilon=3.0",
            "privacy.public_sizes=true",
            'data.patient="id"',
            "training.steps=1",
        ),
        ('privacy.unit="client"', "privacy.epsilon=20.0", "privacy.delta=1e-6", 'cohort.weighting="uniform"'),
    ]
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    changes = [
        f"rounds={draw(st.integers(1, 5))}",
        f"evaluation.every={draw(st.integers(0, 1))}",
        f"data.test={draw(st.sampled_from([0.0, 0.2]))}",
        f"simulation.sites={draw(st.integers(2, 9))}",
        *draw(PRIVACY),
    ]
    if draw(st.booleans()):
        changes += MASKED[:3]
        changes += [f"protection.groups={draw(st.integers(1, 3))}", f"protection.colluding={draw(st.integers(0, 2))}"]
        changes += [f"protection.dropout={draw(st.sampled_from([0.0, 0.2]))}"]
    elif draw(st.booleans()):
        changes.append(f"cohort.min_replies={draw(st.integers(1, 9))}")
    try:
        return plan_of(*changes)
    except PlanError:
        assume(False)
        raise


RUNS = st.sampled_from(
    [
        RunFacts(members={"B": "b" * 64}, pinned={"B": "b" * 64}),
        RunFacts(members={"B": "b" * 64, "C": "c" * 64}, pinned={"B": "b" * 64}),
        RunFacts(members={"B": "b" * 64}, pinned={"B": "e" * 64}),
    ]
)


def _told_sum(plan: Plan) -> int:
    """The fewest updates in what the server learns, as `plan check` and the plan's keys say."""
    if plan.protection.on:
        found = re.search(r"at least (\d+) updates in a round", " ".join(check(plan)))
        assert found is not None
        return int(found[1])
    if plan.cohort.min_replies is not None:
        return plan.cohort.min_replies
    return 0 if plan.privacy.unit is Unit.CLIENT else plan.cohort_size


@settings(max_examples=100, deadline=None)
@given(POLICIES, plans(), RUNS, st.integers(30, 90), st.booleans())
def test_no_violations_exactly_when_every_stated_bound_holds(
    policy: SitePolicy, plan: Plan, run: RunFacts, rows: int, schema: bool
) -> None:
    try:
        claim = claim_of(plan)
    except PlanError:
        assume(False)
        raise
    strictest = 3.0 if "ehr" in policy.data else None
    epsilon = float("inf") if claim is None else claim.epsilon
    delta = float("inf") if claim is None else claim.delta
    must: list[Callable[[], bool]] = [
        lambda: policy.max_epsilon is None or epsilon <= policy.max_epsilon,
        lambda: strictest is None or epsilon <= strictest,
        lambda: policy.max_delta is None or delta <= policy.max_delta,
        lambda: "secure-aggregation" not in policy.require or str(plan.protection.mode) == "masking",
        lambda: "dp" not in policy.require or str(plan.privacy.unit) != "off",
        lambda: "example-level-dp" not in policy.require or str(plan.privacy.unit) in ("row", "patient"),
        lambda: "patient-level-dp" not in policy.require or str(plan.privacy.unit) == "patient",
        lambda: policy.min_sites is None or _told_sum(plan) >= policy.min_sites,
        lambda: policy.pins != "all" or dict(run.members).items() <= dict(run.pinned).items(),
        lambda: "B" not in (policy.pins if policy.pins != "all" else ()) or run.pinned.get("B") == run.members["B"],
        lambda: policy.tasks is None or "tabular-classifier" in policy.tasks,
        lambda: policy.min_rows is None or rows >= policy.min_rows,
        lambda: schema or not policy.require_schema,
        lambda: policy.max_rounds is None or plan.rounds <= policy.max_rounds,
        lambda: (
            policy.evaluation == "any"
            or (policy.evaluation == "summed" and str(plan.protection.mode) == "masking")
            or str(plan.privacy.unit) != "off"
            or (plan.evaluation.every == 0 and plan.data.test == 0)
        ),
    ]
    found = violations(policy, plan, run, DataFacts(name="ehr", rows=rows, has_schema=schema, claim=claim))
    event(f"allowed: {not found}")
    assert (not found) == all(holds() for holds in must), [one.words() for one in found]


def test_evaluates_as_the_strategy_does() -> None:
    assert evaluates(plan_of()) and evaluates(plan_of("evaluation.every=0"))
    assert not evaluates(plan_of("evaluation.every=0", "data.test=0.0")) and not evaluates(plan_of(*PRIVATE))
    assert evaluates(plan_of(*PRIVATE, 'privacy.evaluation="clear"'))


def test_patient_level_privacy_needs_a_schema_that_says_whose_a_row_is() -> None:
    policy = SitePolicy(require=(Requirement.PATIENT_LEVEL_DP,))
    plan = plan_of(*(one for one in PRIVATE if "unit" not in one), 'privacy.unit="patient"', 'data.patient="id"')
    assert violations(policy, plan, NOBODY, data_of(plan)) == []
    (found,) = violations(policy, plan, NOBODY, data_of(plan, has_schema=False))
    assert found.rule == "require" and "registered with a schema" in found.words()


def test_limits_hold_for_a_population_too() -> None:
    policy = SitePolicy(data={"cardio": DataPolicy(max_epsilon=0.001)})
    plan = plan_of(*PRIVATE)
    assert violations(policy, plan, NOBODY, data_of(plan, name="later")) == []
    (found,) = violations(policy, plan, NOBODY, data_of(plan, name="later", population="cardio"))
    assert found.rule == "max_epsilon"


def test_a_long_entry_takes_no_place_from_the_next_rule() -> None:
    policy = SitePolicy(pins=PinLeave.ALL, max_rounds=1)
    run = RunFacts(members={f"{number:0>200}": "f" for number in range(50)}, pinned={})
    plan = plan_of()
    text = str(PolicyError(violations(policy, plan, run, data_of(plan))))
    assert len(text) < 1000 and "max_rounds" in text and "pins" in text
