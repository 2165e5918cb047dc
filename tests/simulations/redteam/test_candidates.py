import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.simulations.attacked_federation import plan
from wardround.errors import LocalError
from wardround.registry import names
from wardround.simulations.redteam import auto
from wardround.simulations.redteam.candidates import CANDIDATES, Candidate, parse_candidate, why_not
from wardround.strategies.composition import check


@given(
    st.lists(st.sampled_from(names("wardround.preaggregators")), max_size=3), st.sampled_from(names("wardround.rules"))
)
def test_a_label_is_read_back(pre: list[str], rule: str) -> None:
    candidate = Candidate(rule, tuple(pre))
    assert candidate.label == "+".join([*pre, rule]) and parse_candidate(candidate.label) == candidate


@pytest.mark.parametrize(
    ("label", "wrong"),
    [
        ("trimed_mean", "'trimed_mean'; did you mean 'trimmed_mean'"),
        ("nmm+median", "'nmm'; did you mean 'nnm'"),
        ("median+nnm", "'median'"),
        ("nnm", "'nnm'"),
        ("", "''"),
        ("+median", "''"),
        ("nnm+", "''"),
        ("nnm + median", "'nnm '"),
        ("nnm+off", "'off'"),
        ("auto", "'auto'"),
    ],
)
def test_a_label_of_what_is_not_registered_is_refused(label: str, wrong: str) -> None:
    with pytest.raises(LocalError) as refusal:
        parse_candidate(label)
    assert f"expected a registered rule after pre-aggregators, got {wrong}" in str(refusal.value)


def test_what_is_compared_by_default_is_registered_and_each_once() -> None:
    for candidates in (CANDIDATES, auto.CANDIDATES):
        assert [parse_candidate(one.label) for one in candidates] == list(candidates)
        assert len(set(candidates)) == len(candidates)


def test_a_candidates_plan_is_the_plan_with_another_rule() -> None:
    robust = {
        "rule": "trimmed_mean",
        "num_byzantine": 1,
        "pre": ["bucketing"],
        "norm_factor": 7.0,
        "options": {"bucketing": {"size": 1}},
    }
    before = plan(robust=robust)
    found = Candidate("median", ("bucketing",)).plan(before, 2)
    assert (found.robust.rule, found.robust.pre, found.robust.num_byzantine) == ("median", ("bucketing",), 2)
    assert found.robust.detectors == () and not found.robust.quarantine.enabled
    assert found.robust.norm_factor == 7.0 and found.robust.options == {"bucketing": {"size": 1}}
    assert Candidate("median").plan(before, 2).robust.options == {}
    check(found)


def test_off_is_the_plan_without_any_rule() -> None:
    found = parse_candidate("off").plan(plan(), 2).robust
    assert (found.rule, found.num_byzantine, found.pre) == ("off", 0, ()) and why_not(Candidate("off"), plan(), 4) == ""


def test_why_a_candidate_cannot_be_used() -> None:
    assert why_not(Candidate("median"), plan(), 2) == ""
    assert "a rule that works for a cohort of 5 (Bulyan: expected " in why_not(Candidate("bulyan"), plan(), 1)
    assert "rows of the server" in why_not(Candidate("fltrust"), plan(), 1)
    rooted = plan(robust={"rule": "fltrust", "root_examples": 20, "num_byzantine": 1})
    assert why_not(Candidate("fltrust"), rooted, 1) == "" == why_not(Candidate("median"), rooted, 1)
    capped = plan(
        "cohort.weighting=capped",
        "cohort.weight_cap=9",
        robust={"rule": "off"},
        cohort={"weight_cap": 9, "weighting": "capped"},
    )
    assert why_not(Candidate("median"), capped, 1).startswith('"uniform" (or no key)')
