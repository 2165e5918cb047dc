import dataclasses
import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.strategies.secagg.parameters import (
    MAX_COMMITTEE,
    Committee,
    InfeasibleError,
    Parameters,
    Tables,
    lost,
    most_colluders,
)

TWENTY = Parameters(clients=20, colluding=2, dropout=0.2, groups=4, min_roster=20, min_survivors=4)
MANY = Parameters(clients=10_000, colluding=3000, dropout=0.14, groups=100, min_roster=10_000, min_survivors=86)


def chance_of_more(population: int, colluding: int, drawn: int, colluders: int) -> Fraction:
    """P[more than `colluders` of the first `colluding` clients are drawn], by counting every draw."""
    draws = list(itertools.combinations(range(population), drawn))
    return Fraction(sum(sum(one < colluding for one in draw) > colluders for draw in draws), len(draws))


def both_can_be_signed(size: int, colluders: int, needed: int) -> bool:
    """Whether two lists get `needed` signatures each, by trying every list for every honest member."""
    honest = size - colluders
    return any(
        min(colluders + signed.count("A"), colluders + signed.count("B")) >= needed
        for signed in itertools.product(("A", "B", ""), repeat=honest)
    )


@pytest.mark.parametrize(
    ("size", "colluders", "threshold", "may_drop"),
    [(10, 3, 7, 3), (5, 1, 4, 1), (3, 0, 2, 1), (3, 1, 3, 0), (100, 30, 66, 34), (100, 70, 86, 14)],
)
def test_threshold_is_the_one_of_the_worked_examples(size: int, colluders: int, threshold: int, may_drop: int) -> None:
    committee = Committee(size, colluders)
    assert (committee.threshold, committee.may_drop) == (threshold, may_drop)


@pytest.mark.parametrize(("size", "colluders"), [(n, c) for n in range(1, 8) for c in range(n)])
def test_threshold_is_the_smallest_at_which_two_lists_cannot_both_be_signed(size: int, colluders: int) -> None:
    threshold = Committee(size, colluders).threshold
    assert not both_can_be_signed(size, colluders, threshold)
    assert both_can_be_signed(size, colluders, threshold - 1)


def test_colluders_alone_never_reach_the_threshold() -> None:
    for size in range(1, MAX_COMMITTEE + 1):
        for colluders in range(size):
            assert colluders < Committee(size, colluders).threshold <= size


@pytest.mark.parametrize("size", [0, 256])
def test_committee_that_shares_cannot_name_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="1 to 255"):
        Committee(size, 0)


def test_committee_that_may_be_all_colluders_is_refused() -> None:
    with pytest.raises(InfeasibleError, match="all 3 members"):
        Committee(3, 3)


def test_ten_thousand_clients_in_groups_of_a_hundred_are_the_worked_example() -> None:
    assert MANY.group_size == 100
    assert MANY.committee == Committee(100, 70)
    assert (MANY.committee.threshold, MANY.committee.may_drop) == (86, 14)
    assert (MANY.known, MANY.noise_share) == (70, 16)


@given(population=st.integers(1, 10), odds=st.integers(1, 300), colluding=st.integers(0, 10), drawn=st.integers(0, 10))
def test_most_colluders_is_the_quantile_of_all_draws_counted(
    population: int, odds: int, colluding: int, drawn: int
) -> None:
    colluding, drawn = min(colluding, population), min(drawn, population)
    found = most_colluders(population, colluding, drawn, odds)
    fewest = max(0, drawn + colluding - population)
    assert fewest <= found <= min(colluding, drawn)
    assert chance_of_more(population, colluding, drawn, found) <= Fraction(1, odds)
    if found > fewest:
        assert chance_of_more(population, colluding, drawn, found - 1) > Fraction(1, odds)


@pytest.mark.parametrize(
    ("population", "colluding", "drawn", "odds"),
    [(10_000, 3000, 100, 2400 * 10**13), (600, 60, 50, 1 << 50), (1_000_000, 200_000, 255, 1 << 60)],
)
def test_most_colluders_agrees_with_scipy(population: int, colluding: int, drawn: int, odds: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    found = most_colluders(population, colluding, drawn, odds)
    tails = stats.hypergeom(population, colluding, drawn).sf([found, found - 1])
    assert tails[0] < 1 / odds < tails[1]


def test_most_colluders_refuses_what_is_no_draw() -> None:
    for arguments in ((10, 11, 5, 2), (10, 5, 11, 2), (10, -1, 5, 2), (10, 5, 5, 0)):
        with pytest.raises(ValueError, match="within 10"):
            most_colluders(*arguments)


@settings(deadline=None)
@given(least=st.integers(6, 60), more=st.integers(0, 60), part=st.floats(0, 1), groups=st.integers(2, 9))
def test_colluders_of_the_smallest_roster_suffice_for_every_larger_one(
    least: int, more: int, part: float, groups: int
) -> None:
    odds, colluding, largest = 1000, int(part * least), -(-(least + more) // groups)
    reckoned = most_colluders(least, colluding, min(least, largest), odds)
    for roster in range(least, least + more + 1):
        size = -(-roster // groups)
        assert most_colluders(roster, colluding, size, odds) <= reckoned


def test_colluders_in_drawn_groups_are_of_the_smallest_roster_and_all_draws() -> None:
    trimmed = Parameters(clients=10_000, colluding=3000, dropout=0, groups=100, min_roster=9_500, min_survivors=95)
    odds = 100 * (240 * 7000 // 6500) << 40
    assert trimmed.colluders_in(100, 10_000) == most_colluders(9_500, 3000, 100, odds) > 70
    again = Parameters(
        clients=10_000,
        colluding=3000,
        dropout=0,
        groups=100,
        min_roster=10_000,
        min_survivors=100,
        tables=Tables.EACH_ROUND,
        regrouped_rounds=10**6,
    )
    assert again.colluders_in(100, 10_000) == most_colluders(10_000, 3000, 100, 100 * 1_000_240 << 40) > 70


@settings(deadline=None)
@given(
    data=st.data(), starts=st.integers(1, 4), least=st.integers(6, 12), more=st.integers(0, 14), bad=st.integers(0, 2)
)
def test_draws_of_rosters_side_by_side_are_counted(
    data: st.DataObject, starts: int, least: int, more: int, bad: int
) -> None:
    """A server puts honest clients into rosters as it likes, until each has had as many draws as it takes part in."""
    left, draws = dict.fromkeys(range(least + more - bad), starts), 0
    while len(willing := [client for client, count in left.items() if count]) >= least - bad:
        for client in data.draw(st.permutations(willing))[: least - bad]:
            left[client] -= 1
        draws += 1
    found = Parameters(
        clients=least + more, colluding=bad, dropout=0, groups=1, min_roster=least, min_survivors=least, starts=starts
    )
    assert draws <= found._draws


def test_newcomers_who_draw_among_themselves_may_all_collude() -> None:
    assert MANY.colluders_in(100, 3000) == 100
    assert MANY.colluders_in(100, 3200) > MANY.colluders_in(100, 10_000)


def test_groups_fixed_by_the_plan_are_reckoned_with_every_colluder() -> None:
    fixed = Parameters(
        clients=1000, colluding=90, dropout=0, groups=10, min_roster=1000, min_survivors=100, tables=Tables.PLAN
    )
    drawn = dataclasses.replace(fixed, tables=Tables.ONCE)
    assert (fixed.committee, fixed.noise_share) == (Committee(100, 90), 10)
    assert drawn.committee.colluders < 50


@pytest.mark.parametrize("groups", [1, 4])
def test_all_colluders_may_be_in_one_group_that_chance_does_not_make(groups: int) -> None:
    parameters = Parameters(
        clients=40, colluding=3, dropout=0, groups=groups, min_roster=40, min_survivors=8, tables=Tables.PLAN
    )
    assert parameters.colluders_in(parameters.group_size, 40) == 3
    assert not parameters.drawn


def test_committee_is_everyone_up_to_255_and_else_the_group() -> None:
    parameters = Parameters(clients=260, colluding=20, dropout=0.2, groups=2, min_roster=250, min_survivors=100)
    inside = parameters.colluders_in(130, 260)
    assert parameters.committee_of(255, 128, inside) == Committee(255, 20)
    assert parameters.committee_of(256, 128, inside) == Committee(128, inside)
    assert parameters.committee_of(256, 100, inside) == Committee(100, inside), "the missing ones may be honest"
    with pytest.raises(InfeasibleError, match="all 20 members"):
        parameters.committee_of(256, 20, inside)
    for roster in (249, 261):
        with pytest.raises(ValueError, match="250 to 260"):
            parameters.committee_of(roster, 128, inside)


@pytest.mark.parametrize(("roster", "colluding", "signatures"), [(20, 2, 12), (19, 2, 11), (10, 3, 7), (3, 0, 2)])
def test_two_rosters_of_the_same_members_never_both_start_an_epoch(
    roster: int, colluding: int, signatures: int
) -> None:
    parameters = Parameters(
        clients=roster, colluding=colluding, dropout=0, groups=1, min_roster=roster, min_survivors=roster
    )
    assert parameters.signatures_needed(roster, drawing=False) == signatures
    assert 2 * signatures > roster + colluding >= 2 * (signatures - 1)
    assert parameters.signatures_needed(roster, drawing=True) == roster


def test_lost_counts_the_share_as_it_is_written() -> None:
    assert math.floor(0.29 * 100) == 28
    assert lost(100, 0.29) == 29
    assert [lost(5, 0.2), lost(4, 0.2), lost(10, 0.3), lost(7, 0.0)] == [1, 0, 3, 0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("clients", 0),
        ("clients", 1_000_001),
        ("colluding", -1),
        ("colluding", 21),
        ("groups", 0),
        ("groups", 21),
        ("min_roster", 0),
        ("min_roster", 21),
        ("min_survivors", 0),
        ("min_survivors", 21),
        ("starts", 0),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("dropout", math.nan),
        ("regrouped_rounds", 1),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(name: str, value: float) -> None:
    values = {"clients": 20, "colluding": 2, "dropout": 0.2, "groups": 4, "min_roster": 20, "min_survivors": 4}
    with pytest.raises(ValueError, match=rf"^{name}: expected .*got") as caught:
        Parameters(**{**values, name: value})  # type: ignore[arg-type]
    assert not isinstance(caught.value, InfeasibleError)


def test_fresh_groups_each_round_need_their_number() -> None:
    with pytest.raises(ValueError, match=r"regrouped_rounds: expected 1 to .* 'each-round', got 0"):
        Parameters(
            clients=20,
            colluding=2,
            dropout=0.2,
            groups=4,
            min_roster=20,
            min_survivors=4,
            tables=Tables.EACH_ROUND,
        )


def test_costs_are_those_of_the_model() -> None:
    costs = MANY.costs(1_000_000)
    assert costs.upload_bytes == 4 * 10**6 + 32 * 100 * 100 + 80 * 100 + 32 * 100 + 1024
    assert costs.client_s == pytest.approx((1.4 + 100 * 0.38) * 1e-3)
    assert costs.server_s == pytest.approx(100 * (86 * (0.15 + 0.38) + 14 * 86 * 0.38) * 1e-3)
    with pytest.raises(ValueError, match="at least 1 parameter"):
        MANY.costs(0)


def test_explanation_says_what_is_learnt_tolerated_and_paid() -> None:
    lines = {line[:12].strip(): line[12:] for line in TWENTY.explain().splitlines()}
    assert lines["groups"].startswith("20 clients in 4 groups of 5, drawn once")
    assert "sum of at least 4 updates, or nothing; at least 2 of them are honest" in lines["server"]
    assert "a group of 5 may lose 1" in lines["drop-outs"]
    assert "committee of 20 (everyone) 8, since 12 must sign" in lines["drop-outs"]
    assert "any 2 of the 20" in lines["collusion"]
    assert "2 of them may be in one group" in lines["collusion"]
    assert "over 4 group means tolerates 1 malicious, one per bad group" in lines["malicious"]
    assert "adds 1/2 of the variance" in lines["noise"]
    assert "at least 20 of 20" in lines["epoch"]
    assert "12 must sign the same roster, and all of them where groups are drawn" in lines["epoch"]
    assert lines["costs"].startswith("(a model, not measured here) with 1,000,000 parameters a client sends 4.01 MB")
    assert "only differential privacy" in lines["unbounded"]


def test_explanation_of_many_names_the_chance_that_is_left() -> None:
    text = MANY.explain()
    assert "no group has more than 70 of them, but for a chance of 2^-40 in the whole run" in text
    assert "tolerates 49 malicious" in text
    assert "committee of 100 (one for each group)" in text


def test_explanation_of_one_group_promises_nothing_against_the_malicious() -> None:
    text = Parameters(clients=10, colluding=3, dropout=0.3, groups=1, min_roster=10, min_survivors=7).explain()
    assert "10 clients in one group of 10\n" in text
    assert "no rule over so few groups tolerates a malicious client" in text
