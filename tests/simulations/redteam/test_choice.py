"""Which rule is taken: the one whose worst attack does least harm."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.simulations.redteam.cells import CellResult
from wardround.simulations.redteam.choice import choose, mean_of

Scores = Mapping[str, Mapping[str, list[float | None]]]


def results(scores: Scores) -> list[CellResult]:
    return [
        CellResult(rule=rule, attack=attack, seed=seed, value=value)
        for rule, row in scores.items()
        for attack, values in row.items()
        for seed, value in enumerate(values)
    ]


def chosen(scores: Scores, *, higher: bool = True) -> tuple[str, float | None, str]:
    found = choose(results(scores), higher_is_better=higher)
    assert found is not None
    return found.rule, found.worst, found.worst_attack


def test_the_best_worst_case_of_means_over_seeds_is_taken() -> None:
    scores: Scores = {
        "mean": {"none": [0.9, 1.0], "flip": [0.1, 0.3]},
        "median": {"none": [0.8, 0.8], "flip": [0.5, 0.7]},
        "krum": {"none": [0.5, 0.5], "flip": [0.9, 0.9]},
    }
    rule, worst, attack = chosen(scores)
    assert (rule, attack) == ("median", "flip") and worst == pytest.approx(0.6)
    found = choose(results(scores), higher_is_better=True)
    assert found is not None and found.why == (
        "its worst attack (flip) leaves 0.600, the best worst case of 3 rules; without an attack it reaches 0.800"
    )


def test_no_attack_counts_as_a_case() -> None:
    assert chosen({"a": {"none": [0.2], "x": [0.9]}, "b": {"none": [0.3], "x": [0.3]}}) == ("b", 0.3, "none")


def test_where_lower_is_better_the_largest_error_counts() -> None:
    scores: Scores = {"a": {"none": [1.0], "x": [9.0]}, "b": {"none": [3.0], "x": [4.0]}}
    assert chosen(scores, higher=False) == ("b", 4.0, "x")
    assert chosen(scores, higher=True) == ("b", 3.0, "none")


def test_one_failed_run_is_the_worst_that_can_be() -> None:
    scores: Scores = {"a": {"none": [0.9, 0.9], "x": [0.9, None]}, "b": {"none": [0.1, 0.1], "x": [0.1, 0.1]}}
    for higher in (True, False):
        assert chosen(scores, higher=higher)[0] == "b"
    failed: Scores = {"a": {"none": [0.9], "x": [None]}}
    assert chosen(failed) == ("a", None, "x")
    found = choose(results(failed), higher_is_better=True)
    assert found is not None and "leaves a run that fails, the best worst case of 1 rules" in found.why


def test_what_was_not_tried_under_every_attack_is_not_taken() -> None:
    assert chosen({"a": {"none": [0.9]}, "b": {"none": [0.1], "x": [0.1]}})[0] == "b"


def test_equal_worst_cases_are_told_apart_by_the_average_and_then_by_the_order() -> None:
    scores: Scores = {
        "a": {"none": [0.7], "x": [0.5]},
        "b": {"none": [0.9], "x": [0.5]},
        "c": {"none": [0.9], "x": [0.5]},
    }
    assert chosen(scores)[0] == "b"
    assert chosen({name: scores[name] for name in "cba"})[0] == "c"


def test_nothing_is_chosen_from_nothing() -> None:
    assert choose([], higher_is_better=True) is None and mean_of([]) is None


@given(
    st.dictionaries(
        st.sampled_from("abcd"),
        st.fixed_dictionaries({"none": st.floats(0, 1), "x": st.floats(0, 1), "y": st.floats(0, 1)}),
        min_size=1,
    ),
    st.booleans(),
)
def test_no_other_rule_has_a_better_worst_case(scores: dict[str, dict[str, float]], higher: bool) -> None:
    table: Scores = {rule: {attack: [value] for attack, value in row.items()} for rule, row in scores.items()}
    rule, worst, attack = chosen(table, higher=higher)
    worst_of, best_of = (min, max) if higher else (max, min)
    assert worst == scores[rule][attack] == worst_of(scores[rule].values())
    assert worst == best_of(worst_of(row.values()) for row in scores.values())
