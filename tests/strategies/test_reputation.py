import json
import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.contribution import Evidence, Report, Verdict
from wardround.orders import SiteId
from wardround.plan_robust import Quarantine
from wardround.strategies.reputation import Reputation, Standing, delay, honest_flag_rate, threshold

DEFAULTS = Quarantine(enabled=True)


def line(*members: str, flagged: bool = False, verdict: Verdict = Verdict.ACCEPTED) -> Evidence:
    return Evidence(
        members=tuple(map(SiteId, members)),
        weight=1.0,
        norm=1.0,
        verdict=verdict,
        flags=("norm",) if flagged else (),
    )


def singles(flagged: str, sites: str = "abcdef") -> Report:
    return Report(tuple(line(site, flagged=site in flagged) for site in sites))


def groups(*members: str, flagged: str) -> Report:
    """Groups of one-letter sites; those with a site of `flagged` in them are flagged."""
    return Report(tuple(line(*group, flagged=bool(set(group) & set(flagged))) for group in members))


def after(
    reputation: Reputation,
    report: Report,
    round: int = 1,
    plan: Quarantine = DEFAULTS,
    *,
    limit: float | None = 0.5,
    num_byzantine: int = 2,
    least: int = 3,
    group_size: int = 1,
    fixed_groups: bool = False,
    sites: int = 6,
) -> Reputation:
    return reputation.after(
        report,
        round,
        plan,
        threshold=limit,
        sites=sites,
        num_byzantine=num_byzantine,
        least=least,
        group_size=group_size,
        fixed_groups=fixed_groups,
    )


def flag_always(
    flagged: str, rounds: int, plan: Quarantine = DEFAULTS, *, num_byzantine: int = 2, least: int = 3
) -> Reputation:
    reputation = Reputation()
    for number in range(1, rounds + 1):
        present = "".join(site for site in "abcdef" if SiteId(site) not in reputation.quarantined)
        reputation = after(
            reputation, singles(flagged, present), number, plan, num_byzantine=num_byzantine, least=least
        )
    return reputation


# -- suspicion ------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.floats(0.1, 0.99))
def test_suspicion_is_the_decayed_sum_of_a_sites_evidence(flags: list[bool], decay: float) -> None:
    plan, reputation = Quarantine(decay=decay), Reputation()
    for number, flag in enumerate(flags, 1):
        reputation = after(reputation, singles("a" if flag else ""), number, plan, limit=None)
    standing = reputation.standing(SiteId("a"))
    expected = sum((1 - decay) * decay**k * flag for k, flag in enumerate(reversed(flags)))
    assert standing.suspicion == pytest.approx(expected)
    assert (standing.seen, standing.flagged) == (len(flags), sum(flags))
    assert reputation.standing(SiteId("b")).suspicion == 0.0


def test_refused_counts_and_down_weighted_does_not() -> None:
    report = Report((line("a", verdict=Verdict.REFUSED), line("b", verdict=Verdict.DOWN_WEIGHTED), line("c")))
    reputation = after(Reputation(), report)
    assert [reputation.standing(SiteId(site)).flagged for site in "abc"] == [1, 0, 0]


def test_evidence_against_a_group_is_shared_by_its_members() -> None:
    reputation = after(Reputation(), groups("abc", "def", flagged="a"), group_size=2)
    expected = (1 - DEFAULTS.decay) / 3
    assert [reputation.standing(SiteId(site)).suspicion for site in "abcd"] == pytest.approx([expected] * 3 + [0.0])


def test_a_group_that_lost_members_is_no_stronger_evidence() -> None:
    reputation = after(Reputation(), groups("a", "def", flagged="a"), group_size=3)
    assert reputation.standing(SiteId("a")).suspicion == pytest.approx((1 - DEFAULTS.decay) / 3)


def test_a_site_that_is_away_keeps_its_standing() -> None:
    once = after(Reputation(), singles("a"))
    twice = after(once, singles("", "bcdef"), 2)
    assert twice.standing(SiteId("a")) == once.standing(SiteId("a"))


def test_the_argument_is_not_changed() -> None:
    first = after(Reputation(), singles("a"))
    written = json.dumps(first.to_json())
    after(first, singles("ab"), 2)
    first.standing(SiteId("z"))
    assert json.dumps(first.to_json()) == written


@pytest.mark.parametrize("members", [(("a",), ("a", "b")), (("a", "a"),)])
def test_a_site_in_two_places_is_refused(members: Sequence[tuple[str, ...]]) -> None:
    with pytest.raises(ValueError, match="expected each site in one contribution"):
        after(Reputation(), Report(tuple(line(*group) for group in members)))


# -- quarantine -----------------------------------------------------------------------------------


def test_a_site_that_is_always_flagged_is_quarantined_when_suspicion_reaches_the_threshold() -> None:
    rounds = delay(DEFAULTS, 0.5)
    assert not flag_always("a", rounds - 1).quarantined
    reputation = flag_always("a", rounds + 3)
    assert reputation.quarantined == {"a": rounds}
    assert reputation.standing(SiteId("a")).seen == rounds
    noted = flag_always("a", rounds).notes
    assert len(noted) == 1 and f"a is quarantined from round {rounds}" in noted[0]


def test_nothing_is_quarantined_when_it_is_disabled_or_has_no_threshold() -> None:
    assert not flag_always("a", 60, Quarantine(enabled=False)).quarantined
    reputation = Reputation()
    for number in range(1, 60):
        reputation = after(reputation, singles("a"), number, limit=None)
    assert not reputation.quarantined and reputation.standing(SiteId("a")).suspicion > 0.9


def test_at_most_num_byzantine_sites_are_in_quarantine_and_a_note_says_so() -> None:
    reputation = flag_always("abc", 20, num_byzantine=2, least=1)
    assert sorted(reputation.quarantined) == ["a", "b"]
    assert reputation.notes == (
        "c is suspicious (suspicion 0.88 of 0.50) but not quarantined: "
        "at most num_byzantine = 2 sites may be in quarantine",
    )


def test_enough_sites_remain() -> None:
    reputation = flag_always("abc", 20, num_byzantine=3, least=5)
    assert sorted(reputation.quarantined) == ["a"]
    assert [note.split(" not quarantined: ")[1] for note in reputation.notes] == [
        "fewer than 5 sites would be left"
    ] * 2


def test_the_most_suspicious_goes_first() -> None:
    reputation = Reputation()
    for number in range(1, 12):
        reputation = after(reputation, singles("f" if number == 1 else "ef"), number, limit=None)
    reputation = after(reputation, singles("ef"), 12, num_byzantine=1)
    assert [note.split(" is ")[0] for note in reputation.notes] == ["f", "e"]
    assert list(reputation.quarantined) == ["f"]


def test_a_person_releases_a_site_and_its_suspicion_begins_anew() -> None:
    held = flag_always("a", 20)
    free = held.release(SiteId("a"))
    assert not free.quarantined and free.standing(SiteId("a")) == Standing()
    assert held.quarantined == {"a": 7}
    with pytest.raises(ValueError, match=r"expected one of \[\], which are in quarantine, got 'a'"):
        free.release(SiteId("a"))
    again = after(free, singles("a"), 21)
    assert not again.quarantined


# -- groups ---------------------------------------------------------------------------------------


def run_groups(rounds: Sequence[Sequence[str]], flagged: str, limit: float, **options: bool) -> Reputation:
    reputation, plan = Reputation(), Quarantine(enabled=True, decay=0.5)
    for number, one in enumerate(rounds, 1):
        reputation = after(
            reputation,
            groups(*one, flagged=flagged),
            number,
            plan,
            limit=limit,
            group_size=2,
            num_byzantine=1,
            **options,
        )
    return reputation


REGROUPED = (("ab", "cd", "ef"), ("ac", "bd", "ef"), ("ad", "bc", "ef"))


def test_regroupings_find_the_member() -> None:
    assert not run_groups(REGROUPED[:2], "a", 0.3).quarantined
    reputation = run_groups(REGROUPED, "a", 0.3)
    assert reputation.quarantined == {"a": 3}


def test_with_groups_that_never_change_no_member_is_quarantined() -> None:
    reputation = run_groups([("ab", "cd", "ef")] * 20, "a", 0.3)
    assert not reputation.quarantined
    assert any(
        "flagged only as one of the group a, b, with which the evidence stays" in note for note in reputation.notes
    )


def test_fixed_groups_that_lose_members_are_still_fixed() -> None:
    rounds = [("abc", "def"), ("ab", "def"), ("ac", "def"), ("abc", "def")] * 3
    reputation = run_groups(rounds, "a", 0.3, fixed_groups=True)
    assert not reputation.quarantined and "with which the evidence stays" in reputation.notes[0]


def test_two_sites_that_are_always_together_are_not_told_apart() -> None:
    rounds = [("abc", "def"), ("abd", "cef"), ("abe", "cdf")] * 3
    reputation = run_groups(rounds, "a", 0.3)
    assert not reputation.quarantined
    assert any("all flagged groups with it had b in them, too" in note for note in reputation.notes)


def test_too_few_regroupings_are_noted() -> None:
    reputation = run_groups([("ab", "cd", "ef"), ("ac", "bd", "ef")] * 4, "a", 0.3)
    assert any("2 different groups with it were flagged, 3 are needed" in note for note in reputation.notes)
    assert not reputation.quarantined


def test_only_the_latest_groups_are_kept() -> None:
    sites = "bcdefghijk"
    reputation = run_groups([("a" + site, "xy") for site in sites], "a", 1.0)
    assert reputation.standing(SiteId("a")).groups == (("a", "i"), ("a", "j"), ("a", "k"))


# -- the threshold --------------------------------------------------------------------------------


def chernoff(plan: Quarantine, sites: int, rounds: int) -> float:
    """An independent, looser bound: Chernoff for the stationary sum, union over sites and rounds."""
    weights = (1 - plan.decay) * plan.decay ** np.arange(rounds)
    best = math.inf
    for theta in np.geomspace(0.1, 1000, 400):
        moment = np.logaddexp(math.log(1 - plan.flag_rate), math.log(plan.flag_rate) + theta * weights).sum()
        best = min(best, float(moment + math.log(sites * rounds / plan.false_positive)) / float(theta))
    return best


@pytest.mark.parametrize(("sites", "rounds", "decay"), [(10, 30, 0.9), (20, 100, 0.9), (20, 100, 0.95), (8, 40, 0.8)])
def test_is_below_what_a_chernoff_bound_gives(sites: int, rounds: int, decay: float) -> None:
    plan = Quarantine(decay=decay)
    assert threshold(plan, sites=sites, rounds=rounds) <= chernoff(plan, sites, rounds) + 1e-3


def simulated(plan: Quarantine, limit: float, rate: float, rounds: int, runs: int) -> float:
    """How often one site's suspicion reaches `limit`, flagged at random with probability `rate`."""
    generator = np.random.Generator(np.random.Philox(key=5))
    suspicion, over = np.zeros(runs), np.zeros(runs, dtype=bool)
    for _ in range(rounds):
        suspicion = plan.decay * suspicion + (1 - plan.decay) * (generator.random(runs) < rate)
        over |= suspicion >= limit
    return float(over.mean())


@pytest.mark.parametrize(
    ("sites", "rounds", "wished"), [(10, 30, 0.01), (20, 100, 0.01), (10, 30, 0.5), (5, 100, 0.1), (2, 10, 0.2)]
)
def test_honest_sites_are_quarantined_as_rarely_as_stated(sites: int, rounds: int, wished: float) -> None:
    plan, runs = Quarantine(false_positive=wished), 100_000
    limit = threshold(plan, sites=sites, rounds=rounds)
    rate = simulated(plan, limit, plan.flag_rate, rounds, runs)
    allowed = wished / sites
    assert rate <= allowed + 3 * math.sqrt(allowed / runs)
    # … and the bound is not idle: a threshold a tenth lower would break it.
    assert simulated(plan, 0.9 * limit, plan.flag_rate, rounds, runs) > allowed


@pytest.mark.parametrize(("sites", "rounds", "expected", "wait"), [(10, 30, 0.577, 9), (20, 100, 0.653, 11)])
def test_with_the_defaults_a_flagged_site_is_quarantined_soon(
    sites: int, rounds: int, expected: float, wait: int
) -> None:
    limit = threshold(DEFAULTS, sites=sites, rounds=rounds)
    assert limit == pytest.approx(expected, abs=0.001)
    assert delay(DEFAULTS, limit) == wait


@settings(deadline=None, max_examples=25)
@given(st.floats(0.02, 0.98), st.floats(0.01, 0.6), st.floats(0.001, 0.9), st.integers(2, 30), st.integers(1, 60))
def test_one_round_never_suffices(decay: float, rate: float, wished: float, sites: int, rounds: int) -> None:
    plan = Quarantine(decay=decay, flag_rate=rate, false_positive=wished)
    try:
        limit = threshold(plan, sites=sites, rounds=rounds)
    except ValueError:
        return
    reputation = after(Reputation(), singles("abcdef"), 1, plan, limit=limit, sites=sites, least=0)
    assert not reputation.quarantined
    assert delay(plan, limit) >= 2


def test_one_round_does_not_suffice_where_flags_are_believed_to_be_rare() -> None:
    plan = Quarantine(flag_rate=0.001, false_positive=0.9)
    assert threshold(plan, sites=2, rounds=5) == pytest.approx(1 - 0.9**2, abs=1e-3)


@pytest.mark.parametrize("decay", [0.6, 0.8, 0.9])
@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_the_bound_holds_exactly(decay: float, rate: float) -> None:
    """All sequences of flags in ten rounds, with their probabilities."""
    flags = (np.arange(1 << 10)[:, None] >> np.arange(10)) & 1
    probability = np.prod(np.where(flags, rate, 1 - rate), axis=1)
    suspicion, highest = np.zeros(len(flags)), np.zeros(len(flags))
    for column in flags.T:
        suspicion = decay * suspicion + (1 - decay) * column
        highest = np.maximum(highest, suspicion)
    for wished in np.geomspace(0.005, 0.5, 25).tolist():
        try:
            limit = threshold(Quarantine(decay=decay, flag_rate=rate, false_positive=wished), sites=2, rounds=10)
        except ValueError:
            continue
        assert probability[highest >= limit].sum() <= wished / 2 + 1e-12
        if limit > 1 - decay**2 + 1e-3:  # and a little less would be too little
            assert probability[highest >= limit - 3e-3].sum() > wished / 2


def test_more_rounds_more_sites_and_more_flags_raise_it() -> None:
    base = threshold(DEFAULTS, sites=10, rounds=30)
    assert threshold(DEFAULTS, sites=20, rounds=30) > base
    assert threshold(DEFAULTS, sites=10, rounds=60) > base
    assert threshold(Quarantine(flag_rate=0.3), sites=10, rounds=30) > base
    assert threshold(Quarantine(false_positive=0.1), sites=10, rounds=30) < base


def test_the_rate_of_an_honest_site_in_a_group_by_enumeration() -> None:
    others, bad = range(1, 10), {1, 2}
    companions = list(combinations(others, 3))
    tainted = sum(bool(bad & set(one)) for one in companions) / len(companions)
    assert honest_flag_rate(DEFAULTS, sites=10, group_size=4, num_byzantine=2) == pytest.approx(0.2 + tainted)
    assert honest_flag_rate(DEFAULTS, sites=10, num_byzantine=2) == 0.2


def test_groups_are_judged_in_their_own_unit() -> None:
    limit = threshold(DEFAULTS, sites=12, rounds=100, num_byzantine=1, group_size=3)
    alike = threshold(Quarantine(flag_rate=0.2 + 2 / 11), sites=12, rounds=100)
    assert limit == pytest.approx(alike / 3)
    assert delay(DEFAULTS, limit, group_size=3) == 17
    uneven = threshold(DEFAULTS, sites=12, rounds=100, num_byzantine=1, group_size=2, largest_group=3)
    assert uneven == pytest.approx(alike / 2)


@pytest.mark.parametrize(
    ("plan", "rounds", "message"),
    [
        (Quarantine(decay=0.5), 30, "^expected a decay closer to 1 .* more than 0.95$"),
        (DEFAULTS, 3, "^expected more rounds, .* within 3 rounds$"),
        (DEFAULTS, 1, "^expected more rounds"),
    ],
)
def test_what_cannot_be_reached_is_refused_with_what_to_change(plan: Quarantine, rounds: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        threshold(plan, sites=10, rounds=rounds)


def test_arguments_that_make_no_sense_are_refused() -> None:
    for bad in ({"rounds": 0}, {"num_byzantine": 10}, {"group_size": 11}, {"group_size": 3, "largest_group": 2}):
        with pytest.raises(ValueError, match=r"^expected 0 <= num_byzantine < sites"):
            threshold(DEFAULTS, **{"sites": 10, "rounds": 30, **bad})


# -- JSON -----------------------------------------------------------------------------------------


def test_survives_json() -> None:
    reputation = flag_always("abc", 20)
    odd = after(reputation, Report((line("Zürich\u2028", "b\x1fc", flagged=True),)), 21)
    for one in (Reputation(), reputation, odd):
        assert Reputation.from_json(json.loads(json.dumps(one.to_json()))) == one


STANDING: dict[str, object] = {"suspicion": 0.5, "seen": 3, "flagged": 2, "groups": [["a"]]}
WRONG: tuple[dict[str, object], ...] = (
    {"suspicion": 1.5},
    {"suspicion": float("nan")},
    {"suspicion": "0.5"},
    {"suspicion": True},
    {"seen": -1},
    {"seen": 1.0},
    {"flagged": 4},
    {"groups": []},
    {"groups": [[]]},
    {"groups": "a"},
    {"groups": [[1]]},
    {"extra": 0},
)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"standings": {}, "quarantined": {}},
        {"standings": {}, "quarantined": {}, "notes": [], "more": 1},
        {"standings": {}, "quarantined": {"a": "1"}, "notes": []},
        {"standings": {}, "quarantined": {"a": True}, "notes": []},
        {"standings": {}, "quarantined": {}, "notes": "text"},
        {"standings": {}, "quarantined": {}, "notes": [1]},
        *({"standings": {"a": {**STANDING, **wrong}}, "quarantined": {}, "notes": []} for wrong in WRONG),
    ],
    ids=str,
)
def test_other_json_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        Reputation.from_json(value)
