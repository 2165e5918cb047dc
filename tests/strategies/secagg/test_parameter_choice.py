import itertools
import re
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from wardround.strategies.secagg.parameter_choice import choose
from wardround.strategies.secagg.parameters import InfeasibleError, Parameters, Tables

POSSIBLE = {
    "groups": r"groups = (\d+) \(",
    "colluding": r"colluding = (\d+) \(",
    "dropout": r"dropout = ([\d.]+) \(",
    "min_survivors": r"min_survivors = (\d+) \(",
    "min_roster": r"min_roster = (\d+) \(",
}

small = st.fixed_dictionaries(
    {
        "clients": st.integers(3, 12),
        "colluding": st.integers(0, 3),
        "dropout": st.sampled_from([0.0, 0.1, 0.2, 0.25, 0.34, 0.5]),
        "groups": st.integers(1, 3),
        "min_roster": st.none() | st.integers(3, 12),
        "min_survivors": st.none() | st.integers(2, 8),
        "tables": st.sampled_from([Tables.PLAN, Tables.ONCE]),
    }
)


def is_possible(**wish: Any) -> bool:
    try:
        choose(**wish)
    except InfeasibleError:
        return False
    return True


def refusal(**wish: Any) -> str:
    with pytest.raises(InfeasibleError) as caught:
        choose(**wish)
    return str(caught.value)


def choices(text: str, wish: dict[str, Any]) -> dict[str, Any]:
    """The values that a refusal calls possible, each by its name."""
    after = text.split("; possible: ")[1]
    found = {name: re.search(rf"(?:^|or ){pattern}", after) for name, pattern in POSSIBLE.items()}
    return {name: type(wish[name])(one.group(1)) for name, one in found.items() if one}


def possible_by_hand(wish: dict[str, Any]) -> bool:
    """The spec's inequalities for up to 255 clients and so few draws that chance excludes nothing, one by one."""
    n_max, f, m = wish["clients"], wish["colluding"], wish["groups"]
    n_min = wish["min_roster"] or n_max
    share = Fraction(str(wish["dropout"]))
    smallest, largest = n_min // m, -(-n_max // m)
    u_min = wish["min_survivors"] or smallest - int(share * smallest)
    if not 0 < u_min <= smallest - int(share * smallest):
        return False
    if u_min - max(1, min(f, largest)) < 2:
        return False
    for roster in range(n_min, n_max + 1):
        signers = roster - int(share * roster)
        if not any(2 * t > roster + min(f, roster) for t in range(1, signers + 1)):
            return False
    return True


def test_the_example_of_twenty_hospitals_is_possible() -> None:
    chosen = choose(clients=20, colluding=2, dropout=0.2, groups=4)
    assert (chosen.min_survivors, chosen.min_roster, chosen.known, chosen.noise_share) == (4, 20, 2, 2)
    assert (chosen.committee.size, chosen.committee.threshold) == (20, 12)


@pytest.mark.parametrize(
    ("clients", "colluding", "groups", "dropout", "beyond"),
    [
        (10, 3, 1, 0.3, 0.4),
        (5, 1, 1, 0.2, 0.4),
        (3, 1, 1, 0.0, 0.34),
        (100, 30, 1, 0.34, 0.35),
        (10_000, 3000, 100, 0.14, 0.15),
    ],
)
def test_worked_examples_tolerate_as_many_drop_outs_as_the_spec_says_and_no_more(
    clients: int, colluding: int, groups: int, dropout: float, beyond: float
) -> None:
    assert is_possible(clients=clients, colluding=colluding, groups=groups, dropout=dropout)
    assert not is_possible(clients=clients, colluding=colluding, groups=groups, dropout=beyond)


def test_absent_survivors_are_the_most_that_tolerate_the_drop_outs_of_the_smallest_group() -> None:
    wish = {"clients": 47, "colluding": 1, "dropout": 0.25, "groups": 4, "min_roster": 40}
    chosen = choose(**wish)  # type: ignore[arg-type]
    assert chosen.min_survivors == 8, "of groups of 10, 2 may be lost"
    assert "9 survivors are needed" in refusal(**wish, min_survivors=9)


@settings(deadline=None, max_examples=300)
@given(wish=small)
def test_possible_are_exactly_those_that_keep_every_inequality(wish: dict[str, Any]) -> None:
    assume(wish["groups"] <= wish["clients"] and (wish["min_roster"] or 0) <= wish["clients"])
    assume((wish["min_survivors"] or 0) <= wish["clients"])
    assert is_possible(**wish) == possible_by_hand(wish)


def harm(chosen: Parameters, roster: int, colluders: tuple[int, ...]) -> str:
    """What goes wrong in a roster with these colluders, for every loss that the plan tolerates; empty if nothing."""
    groups = [range(start, roster, chosen.groups) for start in range(chosen.groups)]
    inside = [sum(one in colluders for one in group) for group in groups]
    for group, bad in zip(groups, inside, strict=True):
        if bad > chosen.colluders_in(len(group), roster):
            return "more colluders in a group than reckoned"
        # the worst sum keeps all colluders; one honest member may look at it too
        if chosen.min_survivors - max(1, bad) < max(2, chosen.noise_share):
            return "too few honest updates in a sum"
        if len(group) - int(Fraction(str(chosen.dropout)) * len(group)) < chosen.min_survivors:
            return "a tolerated loss empties a group"
    committee = chosen.committee_of(roster, len(groups[0]), 0)
    needed, signers = committee.threshold, range(committee.size)
    bad = len(colluders)
    if bad >= needed:
        return "colluders open alone"
    if committee.size - int(Fraction(str(chosen.dropout)) * committee.size) < needed:
        return "a tolerated loss stops the committee"
    for split in range(len(signers) - bad + 1):  # so many honest members sign one list, the others the other
        if min(split + bad, committee.size - split) >= needed:
            return "two lists are signed"
    return ""


@settings(deadline=None, max_examples=60)
@given(wish=small)
def test_no_placement_of_colluders_does_harm_where_parameters_are_possible(wish: dict[str, Any]) -> None:
    try:
        chosen = choose(**wish)
    except ValueError:
        assume(False)
        return
    for roster in range(chosen.min_roster, chosen.clients + 1):
        for colluders in itertools.combinations(range(roster), min(chosen.colluding, roster)):
            assert not harm(chosen, roster, colluders)


@settings(deadline=None, max_examples=200)
@given(wish=small)
def test_what_a_refusal_calls_possible_is_possible_and_the_next_value_is_not(wish: dict[str, Any]) -> None:
    try:
        choose(**wish)
        assume(False)
    except InfeasibleError as error:
        text = str(error)
    except ValueError:
        assume(False)
    for name, value in choices(text, wish).items():
        assert is_possible(**{**wish, name: value}), text
        if name == "colluding":
            assert not is_possible(**{**wish, name: value + 1})
        if name == "dropout":
            assert not is_possible(**{**wish, name: round(value + 0.01, 2)})
            assert value < wish["dropout"]
        if name == "min_roster":
            assert not is_possible(**{**wish, name: value - 1})


def test_refusal_names_the_nearest_choice_of_each_value_in_words() -> None:
    text = refusal(clients=10_000, colluding=3000, dropout=0.15, groups=100)
    assert text.startswith("a committee of 100 with 70 colluders needs 86 signatures, but only 85 members are left")
    assert "groups = 98 (98 groups of 102 or 103; a robust rule over 98 group means tolerates 48 malicious" in text
    assert "or colluding = 2934 (one more that helps the server voids the promise)" in text
    assert "or dropout = 0.14 (a round is lost to more than 14 missing of a group of 100" in text
    assert not is_possible(clients=10_000, colluding=3000, dropout=0.15, groups=99)
    assert not is_possible(clients=10_000, colluding=2935, dropout=0.15, groups=100)


def test_refusal_of_too_few_survivors_names_the_fewest_that_hide_two() -> None:
    text = refusal(clients=20, colluding=2, dropout=0.2, groups=4, min_survivors=2)
    assert text.startswith("a sum of 2 updates leaves 0 unknown to those who look, who may know 2")
    assert "possible: min_survivors = 4 (a sum hides 2 honest updates)" in text


def test_refusal_of_a_small_roster_names_the_smallest_that_is_possible() -> None:
    wish = {"clients": 20, "colluding": 2, "dropout": 0.2, "groups": 4}
    text = refusal(**wish, min_roster=15)
    assert "min_roster = 16 (no epoch starts with fewer)" in text
    assert is_possible(**wish, min_roster=16)


def test_committee_of_the_smallest_roster_must_bear_the_drop_outs_too() -> None:
    wish = {"clients": 10, "colluding": 3, "dropout": 0.3, "groups": 1}
    text = refusal(**wish, min_roster=7)
    assert text.startswith("a committee of 7 with 3 colluders needs 6 signatures, but only 5 members are left")
    assert "min_roster = 8 (no epoch starts with fewer)" in text
    assert is_possible(**wish, min_roster=8)


def test_refusal_where_no_single_value_helps_names_several() -> None:
    text = refusal(clients=20, colluding=9, dropout=0.5, groups=4)
    assert "possible: groups = 1, colluding = 9 and dropout = 0.29, all 20 clients" in text
    assert is_possible(clients=20, colluding=9, dropout=0.29, groups=1)
    assert not is_possible(clients=20, colluding=9, dropout=0.3, groups=1)
    assert "groups = 1, colluding = 1 and dropout = 0," in refusal(clients=3, colluding=3, dropout=0.9, groups=3)


def test_groups_larger_than_a_committee_are_refused_with_the_fewest_that_are_not() -> None:
    text = refusal(clients=1000, colluding=10, dropout=0.1, groups=2)
    assert text.startswith("2 groups of 1000 clients have up to 500 members, more than the 255 of a committee")
    assert "possible: groups = 4 (4 groups of 250;" in text


def test_two_clients_hide_nobody() -> None:
    assert refusal(clients=2, colluding=0, dropout=0, groups=1).endswith("; fewer than 3 clients hide nobody")


def test_three_clients_are_enough_and_any_number_has_some_choice() -> None:
    for clients in (3, 4, 255, 256, 1_000_000):
        text = refusal(clients=clients, colluding=clients, dropout=0.99, groups=clients)
        assert "; possible: " in text
