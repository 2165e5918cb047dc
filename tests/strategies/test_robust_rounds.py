"""Rounds in which some sites lie: what the rule lets pass, what is noted, who is left out."""

from dataclasses import replace

import numpy as np
import pytest

from tests.federation_of_points import Points, PointTrainer, point_plan, points
from wardround.contribution import Verdict
from wardround.errors import LocalError
from wardround.orders import LocalResult, Order, SiteId
from wardround.plan import Plan, PlanError
from wardround.strategies.records import RunState
from wardround.tally import Tally
from wardround.vector import F32


def flipped(update: F32) -> F32:
    return -5 * update


def not_a_number(update: F32) -> F32:
    return update * np.float32(np.nan)


def robust_plan(rule: str, num_byzantine: int, *settings: str, sites: int = 10, rounds: int = 3) -> Plan:
    return point_plan(
        f"robust.rule={rule}", f"robust.num_byzantine={num_byzantine}", *settings, sites=sites, rounds=rounds
    )


def near(federation: Points, state: RunState, honest: int) -> float:
    """How far the model is from the mean of the honest points, in units of their spread."""
    rows = np.stack([trainer.point for trainer in federation.trainers[:honest]])
    return float(np.linalg.norm(state.model - rows.mean(axis=0)) / rows.std())


@pytest.mark.parametrize("rule", ["trimmed_mean", "median", "geometric_median", "multi_krum", "caf", "dnc"])
def test_a_rule_holds_where_the_mean_is_carried_off(rule: str) -> None:
    carried = points(point_plan(sites=10, rounds=8), lie=flipped, liars=3)
    held = points(robust_plan(rule, 3, rounds=8), lie=flipped, liars=3)
    assert near(carried, carried.run(), 7) > 5
    assert near(held, held.run(), 7) < 1.5


def test_what_is_not_finite_is_refused_and_the_round_goes_on_with_the_others() -> None:
    federation = points(robust_plan("trimmed_mean", 1), lie=not_a_number, liars=1)
    state = federation.run()
    assert np.isfinite(state.model).all() and state.void_rounds == 0
    for record in federation.recorder.records:
        assert not record.void and record.report.refused == 1 and not record.absences
        line = record.report.lines[-1]
        assert (line.members, line.verdict, line.weight) == ((SiteId("site-9"),), Verdict.REFUSED, 0.0)
        assert line.reason == "expected finite values, got 3 that are not"


def test_a_plain_mean_reckons_with_no_bad_site_and_leaves_such_a_round_out() -> None:
    federation = points(point_plan(sites=4, rounds=2), lie=not_a_number, liars=1)
    state = federation.run()
    np.testing.assert_array_equal(state.model, np.zeros(3, np.float32))
    assert [record.reason for record in federation.recorder.records] == ["3 usable updates of 4, and 4 are needed"] * 2


def test_more_refused_than_reckoned_with_void_the_round() -> None:
    federation = points(robust_plan("median", 1, rounds=1), lie=not_a_number, liars=3)
    federation.run()
    assert federation.recorder.records[0].reason == "7 usable updates of 10, and 8 are needed"


def test_silent_sites_do_not_void_a_round_as_long_as_there_are_no_more_than_reckoned_with() -> None:
    for silent, void in ((2, False), (3, True)):
        federation = points(robust_plan("median", 2, rounds=1))
        for trainer in federation.trainers[:silent]:
            trainer.broken = "nan"  # an honest guard sends nothing then
        federation.run()
        assert federation.recorder.records[0].void is void


def test_an_endless_vector_is_refused_beside_the_others_lengths() -> None:
    federation = points(robust_plan("median", 1, rounds=1), lie=lambda update: update * np.float32(1e6), liars=1)
    state = federation.run()
    assert "times the median" in federation.recorder.records[0].report.lines[-1].reason
    assert near(federation, state, 9) < 2


def test_what_a_site_claims_about_its_examples_changes_nothing() -> None:
    honest, boastful = points(robust_plan("trimmed_mean", 2)), points(robust_plan("trimmed_mean", 2))
    boastful.trainers[3].num_examples = 10**9
    np.testing.assert_array_equal(honest.run().model, boastful.run().model)


def test_every_round_notes_norm_cosine_and_score_of_each_contribution() -> None:
    federation = points(robust_plan("krum", 2, rounds=1), lie=flipped, liars=2)
    federation.run()
    lines = federation.recorder.records[0].report.lines
    assert [line.members[0] for line in lines] == [f"site-{i}" for i in range(10)]
    assert sum(line.weight for line in lines) == 1.0
    assert sum(line.verdict is Verdict.REJECTED for line in lines) == 9
    assert all(line.norm and line.cosine is not None and line.score is not None for line in lines)


ON = "robust.quarantine.enabled=true"


def liar(plan: Plan) -> Points:
    return points(plan, 40, lie=flipped, liars=2)


def test_a_site_that_stays_suspicious_is_left_out_and_the_others_go_on() -> None:
    federation = liar(robust_plan("trimmed_mean", 2, ON, rounds=30))
    state = federation.run()
    assert set(state.reputation.quarantined) == {"site-8", "site-9"}
    records = federation.recorder.records
    begun = max(state.reputation.quarantined.values())
    assert all(set(records[at].cohort) == {f"site-{i}" for i in range(8)} for at in range(begun, 30))
    assert {"site-8", "site-9"} <= set(records[0].cohort)
    assert any("site-9 is quarantined from round" in note for one in records for note in one.reputation.notes)
    assert records[0].reputation.quarantined == {}, "nothing is automatic after one round"


def test_no_more_sites_than_reckoned_with_are_ever_left_out() -> None:
    federation = points(robust_plan("median", 1, ON, rounds=40), 40, lie=flipped, liars=3)
    state = federation.run()
    assert len(state.reputation.quarantined) == 1
    assert any("num_byzantine = 1" in note for one in federation.recorder.records for note in one.reputation.notes)


def test_without_quarantine_nobody_is_left_out_but_a_person_is_told() -> None:
    federation = liar(robust_plan("trimmed_mean", 2, rounds=30))
    state = federation.run()
    assert any("site-9 is suspicious" in note and note.endswith("quarantine is off") for note in state.reputation.notes)
    assert not state.reputation.quarantined and state.reputation.standing(SiteId("site-9")).suspicion > 0.9


def test_a_plain_mean_keeps_no_reputation() -> None:
    assert not points(point_plan(rounds=2)).run().reputation.standings


@pytest.mark.parametrize("rule", ["centered_clipping", "trimmed_mean"])
def test_a_restored_state_continues_bit_for_bit_with_what_rule_and_detectors_keep(rule: str) -> None:
    detectors = 'robust.detectors=["norm", "cosine", "fldetector"]'
    plan = robust_plan(rule, 2, detectors, ON, rounds=12)
    whole, cut = liar(plan), liar(plan)
    expected = whole.run()
    half = cut.strategy.run(cut.grid, RunState(round=0, model=np.zeros(40, np.float32)), 5)
    rest = liar(plan)
    found = rest.strategy.run(rest.grid, replace(half))
    np.testing.assert_array_equal(found.model, expected.model)
    assert found.reputation == expected.reputation
    assert found.rule_memory.keys() == expected.rule_memory.keys() != set()
    for name, array in expected.rule_memory.items():
        np.testing.assert_array_equal(found.rule_memory[name], array)


def test_sites_that_the_plan_does_without_are_never_asked() -> None:
    federation = points(point_plan('cohort.without=["site-1"]', sites=4, rounds=2))
    federation.run()
    assert all("site-1" not in record.cohort for record in federation.recorder.records)
    assert not federation.trainers[1].jobs
    assert not any(site == "site-1" for site, kind in federation.grid.delivered if kind != "query.hello")


def test_a_name_that_no_site_has_is_refused() -> None:
    with pytest.raises(LocalError, match=r"cohort\.without: expected sites of this federation, got 'site-7'"):
        points(point_plan('cohort.without=["site-7"]', sites=4)).run()


def test_the_servers_own_update_is_the_root_of_trust() -> None:
    plan = robust_plan("fltrust", 3, "robust.root_examples=5", rounds=8)
    federation = points(plan, 40, lie=flipped, liars=3)
    asked: list[int] = []
    target = PointTrainer(np.mean([trainer.point for trainer in federation.trainers[:7]], axis=0))

    def root(order: Order, model: F32) -> F32:
        asked.append(order.round)
        return (target.point - model) / np.float32(2)

    state = Points(plan, federation.trainers, rogues=federation.rogues, root=root).run()
    assert asked == list(range(1, 9))
    assert near(federation, state, 7) < 1.5


def test_a_tally_of_another_kind_ends_no_evaluation() -> None:
    federation = points(robust_plan("median", 2, rounds=1))
    federation.trainers[0].evaluate = lambda job, model: Tally.of_means(10, {"bogus": 0.0})  # type: ignore[method-assign]
    federation.run()
    validation = federation.recorder.records[0].validation
    assert validation is not None
    assert set(validation.total.metrics()) == {"loss"} and set(validation.sites) == {f"site-{i}" for i in range(1, 10)}
    assert [(one.site, one.reason) for one in validation.absences] == [
        ("site-0", "rejected: a tally of another kind than the other sites'")
    ]


def test_a_tally_that_cannot_be_leaves_its_site_out() -> None:
    federation = points(robust_plan("median", 2, rounds=1))
    federation.trainers[0].evaluate = lambda job, model: Tally.of_means(1 << 40, {"loss": 0.0})  # type: ignore[method-assign]
    federation.run()
    validation = federation.recorder.records[0].validation
    assert validation is not None and validation.total.n > 0
    assert [one.site for one in validation.absences] == ["site-0"]


def test_what_a_clipping_guard_never_sends_is_refused() -> None:
    plan = robust_plan("median", 2, "clipping.clip_norm=0.5", rounds=1)
    federation = points(plan, lie=lambda update: update * np.float32(9), liars=2)
    federation.run()
    lines = federation.recorder.records[0].report.lines
    assert [line.verdict is Verdict.REFUSED for line in lines] == [False] * 8 + [True] * 2
    assert lines[-1].reason.startswith("expected a norm of at most 0.50005, got")


def test_a_vector_of_any_wrong_length_is_evidence() -> None:
    for lie in (lambda update: update[:-1], lambda update: np.tile(update, 1000)):
        federation = points(robust_plan("median", 2, rounds=1), lie=lie, liars=1)
        federation.run()
        (record,) = federation.recorder.records
        assert record.report.lines[-1].verdict is Verdict.REFUSED and not record.absences and not record.void
        assert record.reputation.standing(SiteId("site-9")).suspicion > 0


def test_sites_in_quarantine_are_not_missed_by_the_quorum() -> None:
    """Of 10 sites at least 7 are needed with f = 3; two are in quarantine, one honest one falls silent."""
    federation = liar(robust_plan("trimmed_mean", 3, ON, rounds=33))
    start = RunState(round=0, model=np.zeros(40, np.float32))
    state = federation.strategy.run(federation.grid, start, 29)
    assert set(state.reputation.quarantined) == {"site-8", "site-9"}
    for site, voids in ((0, 0), (1, 0), (2, 0)):
        federation.trainers[site].broken = "nan"
        state = federation.strategy.run(federation.grid, state, state.round + 1)
        assert state.void_rounds == voids
    federation.trainers[3].broken = "nan"
    assert federation.strategy.run(federation.grid, state, state.round + 1).void_rounds == 1


def test_text_from_a_site_is_printable_and_short() -> None:
    federation = points(robust_plan("median", 2, rounds=1))

    def fails(job: object, model: object) -> LocalResult:
        raise LocalError("\x1b[2J" + "x" * 10_000 + "\ud800")

    federation.trainers[0].fit = fails  # type: ignore[method-assign]
    federation.run()
    (absence,) = federation.recorder.records[0].absences
    assert absence.reason.isprintable() and len(absence.reason) <= 200


def test_the_order_of_arrival_changes_no_bit() -> None:
    plan = robust_plan("geometric_median", 2, rounds=2)
    first, second = liar(plan), liar(plan)
    send = second.grid.send_and_receive
    second.grid.send_and_receive = lambda messages, **options: iter(list(send(messages, **options))[::-1])  # type: ignore[method-assign]
    np.testing.assert_array_equal(first.run().model, second.run().model)


def test_a_rule_that_was_not_resolved_does_not_run() -> None:
    with pytest.raises(PlanError, match='only a simulation resolves "auto"'):
        points(robust_plan("auto", 2))
