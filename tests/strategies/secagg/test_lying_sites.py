"""One site that answers as it likes, over a Flower Grid: it is named, and costs the others as little as may be."""

from collections.abc import Callable, Iterable

import numpy as np
import pytest
from flwr.app import Message

from tests.federation_of_points import Recorder
from tests.masked_points import MaskedPoints, masked_plan
from tests.strategies.secagg.lying_sites import Liars, Lie, bad_bundles, bad_commitments, lying_weight
from wardround import _flower
from wardround.errors import LocalError
from wardround.orders import OrderKind, Split
from wardround.plan import Plan
from wardround.strategies.federated import FederatedStrategy
from wardround.strategies.records import RunState
from wardround.strategies.rules.build import build_rule
from wardround.strategies.secagg.messages import Roster, decode
from wardround.strategies.secagg.round_evidence import Stage
from wardround.tally import MeansSpec

LIAR = 2


def plan_of_eight(*settings: str) -> Plan:
    return masked_plan(
        "protection.colluding=1", "protection.dropout=0.15", "protection.min_survivors=3", *settings, sites=8
    )


@pytest.mark.parametrize("groups", [1, 2])
def test_a_dealer_whose_bundles_do_not_open_costs_one_round_and_the_same_model_serves_the_next(groups: int) -> None:
    """Nothing was opened, so nobody has answered a set over this model."""
    points = Liars(plan_of_eight(f"protection.groups={groups}"), LIAR)
    points.lie = bad_bundles(points)
    assert points.collect_over_one_model(1) == []
    record = points.server.record
    assert record is not None
    assert (record.aborts[0].cause, record.aborts[0].parties) == ("BAD_DEALING", ("site-2",))
    assert Stage.OPENING not in record.costs
    contributions = points.collect_over_one_model(2)
    assert sorted(site for one in contributions for site in one.members) == [
        site for site in points.sites if site != points.liar
    ]
    assert points.why() == {"site-2": "rejected: site-2: dealt badly before, and is left out of this round"}


def test_a_dealer_whose_shares_miss_its_commitment_costs_the_sum_of_its_own_group_alone() -> None:
    points = Liars(plan_of_eight("protection.groups=2"), LIAR)
    points.lie = bad_commitments(points)
    [one] = points.collect_over_one_model(1)
    assert len(one.members) == 4 and "site-2" not in one.members
    record = points.server.record
    assert record is not None
    assert [(abort.cause, abort.parties) for abort in record.aborts] == [("BAD_DEALING", ("site-2",))]
    assert sorted(len(group.survivors) for group in record.groups) == [0, 4]
    assert record.lost == {}
    assert set(points.why()) == set(points.sites) - set(one.members)


def test_who_answers_after_a_bad_dealing_was_found_is_not_among_the_lost() -> None:
    points = Liars(plan_of_eight(), LIAR)
    points.lie = bad_commitments(points)
    assert points.collect_over_one_model(1) == []
    assert points.server.record is not None
    assert points.server.record.lost == {}


def mute_at_rosters(message: Message, reply: Message) -> Message:
    data = _flower.read_protocol(message)
    asked = decode(data) if message.metadata.group_id == "epoch" else None
    return _flower.reply(message, b"") if isinstance(asked, Roster) else reply


def test_a_site_that_answers_the_roster_with_nothing_is_left_out_of_the_next_epoch() -> None:
    points = Liars(plan_of_eight("protection.groups=2", "protection.min_roster=7"), LIAR, mute_at_rosters)
    contributions = points.collect_over_one_model(1)
    assert sorted(site for one in contributions for site in one.members) == [
        site for site in points.sites if site != points.liar
    ]
    record = points.server.record
    assert record is not None
    assert record.lost == {Stage.EPOCH: ("site-2",)}


def test_a_site_that_holds_up_three_epochs_is_asked_for_no_more() -> None:
    """Every draw counts among those that a plan allows."""
    rows = ("privacy.unit=row", "privacy.noise_multiplier=2", "privacy.public_sizes=true", "rounds=5")
    drawn = ("protection.groups=2", "protection.min_roster=7", "protection.tables=each-round")
    points = Liars(plan_of_eight(*drawn, *rows), LIAR, mute_at_rosters)
    points.server._specs = {OrderKind.FIT: MeansSpec()}
    epochs = []
    for round_ in range(1, 6):
        assert len(points.collect(round_)) == 2
        assert points.server.record is not None
        epochs.append(points.server.record.epoch)
    assert epochs == [1, 3, 5, 6, 7]


@pytest.mark.parametrize("stage", [Stage.UPDATE, Stage.SIGNATURE, Stage.OPENING])
def test_a_site_that_answers_with_nothing_is_among_the_lost(stage: Stage) -> None:
    at = [Stage.UPDATE, Stage.SIGNATURE, Stage.OPENING].index(stage)
    asked: list[Message] = []

    def lie(message: Message, reply: Message) -> Message:
        if message.metadata.group_id != "1":
            return reply
        asked.append(message)
        return _flower.reply(message, b"") if len(asked) == at + 1 else reply

    points = Liars(masked_plan(), LIAR, lie)
    [one] = points.collect_over_one_model(1)
    assert ("site-2" in one.members) is (stage is not Stage.UPDATE)
    record = points.server.record
    assert record is not None
    assert record.lost == {stage: ("site-2",)}


def test_a_weight_that_no_site_can_have_voids_the_sum_and_is_no_failure_of_all() -> None:
    """Else one lie would end the run: `failed` of every site says that the run itself is wrong."""
    points = Liars(masked_plan("cohort.weighting=capped", "cohort.weight_cap=12"), LIAR)
    points.lie = lying_weight(points)
    assert points.collect_over_one_model(1) == []
    assert len(points.server.absences) == 5
    assert not any(one.failed for one in points.server.absences)
    assert "expected weights of 5 to 60 together" in points.why()[points.sites[0]]


@pytest.mark.parametrize(
    "changed",
    [
        lambda replies, before: [one for one in replies for _ in range(2)],
        lambda replies, before: reversed(replies),
        lambda replies, before: [*before, *replies],
    ],
    ids=["doubled", "in another order", "after those of the stage before"],
)
def test_a_grid_may_double_reorder_and_delay_replies(
    changed: Callable[[list[Message], list[Message]], Iterable[Message]], monkeypatch: pytest.MonkeyPatch
) -> None:
    points = Liars(masked_plan(), LIAR)
    before: list[Message] = []
    send = points.grid.send_and_receive

    def disturbed(messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        nonlocal before
        replies = list(send(messages, timeout=timeout))
        given = list(changed(replies, before))
        before = replies
        return given

    monkeypatch.setattr(points.grid, "send_and_receive", disturbed)
    for round_ in (1, 2):
        [one] = points.collect_over_one_model(round_)
        assert one.members == tuple(points.sites)
        assert points.server.record is not None
        assert points.server.record.lost == {} and points.server.record.aborts == ()


def test_a_reply_with_neither_content_nor_error_is_rejected() -> None:
    def lie(message: Message, reply: Message) -> Message:
        if message.metadata.group_id == "1":
            reply.__dict__["_content"] = None
        return reply

    points = Liars(masked_plan(), LIAR, lie)
    [one] = points.collect_over_one_model(1)
    assert "site-2" not in one.members
    assert points.why() == {"site-2": "rejected: message: expected wardround.frame"}


def run_of(points: Liars) -> tuple[FederatedStrategy, RunState, Recorder]:
    recorder = Recorder()
    strategy = FederatedStrategy(
        points.plan,
        run_id="run",
        protection=points.server,
        rule=build_rule(points.plan.robust),
        num_parameters=4,
        observers=(recorder,),
    )
    return strategy, strategy.run(points.grid, RunState(round=0, model=np.zeros(4, dtype=np.float32))), recorder


def only(kind: str, lie: Lie) -> Lie:
    return lambda message, reply: lie(message, reply) if message.metadata.message_type.startswith(kind) else reply


@pytest.mark.parametrize("deal", [bad_bundles, bad_commitments])
def test_one_site_that_deals_badly_in_a_validation_does_not_end_the_run(deal: Callable[[Liars], Lie]) -> None:
    points = Liars(plan_of_eight("robust.rule=off", "evaluation.every=1"), LIAR)
    points.lie = only("evaluate", deal(points))
    _, state, recorder = run_of(points)
    assert (state.round, state.stopped, state.void_rounds) == (3, "", 0)
    validated = [record.validation for record in recorder.records]
    assert validated[0] is None and None not in validated[1:]


def test_the_evaluation_of_the_released_model_is_asked_for_again_without_a_bad_dealer() -> None:
    points = Liars(plan_of_eight("robust.rule=off", "evaluation.every=0"), LIAR)
    points.lie = only("evaluate", bad_bundles(points))
    strategy, state, _ = run_of(points)
    record = strategy.evaluate(points.grid, state, Split.TEST)
    assert record.total.n == sum(one.num_examples for one in points.trainers) - points.trainers[LIAR].num_examples


def test_a_server_that_is_started_again_still_knows_a_bad_dealer() -> None:
    points = Liars(plan_of_eight("protection.groups=1"), LIAR)
    points.lie = bad_bundles(points)
    assert points.collect_over_one_model(1) == []
    points.server = points.masking()
    [one] = points.collect_over_one_model(2)  # as without a restart: no further round is lost
    assert points.liar not in one.members


def test_a_server_that_is_started_again_still_knows_who_held_epochs_up() -> None:
    rows = ("privacy.unit=row", "privacy.noise_multiplier=2", "privacy.public_sizes=true", "rounds=5")
    drawn = ("protection.groups=2", "protection.min_roster=7", "protection.tables=each-round")
    points = Liars(plan_of_eight(*drawn, *rows), LIAR, mute_at_rosters)
    tried = []
    for round_ in range(1, 6):
        points.server = points.masking()
        points.server._specs = {OrderKind.FIT: MeansSpec()}
        before = points.server.next_epoch()
        points.collect(round_)
        tried.append(points.server.next_epoch() - before - 1)
    assert tried == [2, 2, 2, 1, 1]  # epochs: after the third he is not asked any more


def test_a_store_that_does_not_hold_what_was_kept_is_refused() -> None:
    points = MaskedPoints()
    points.identities.federation.store.put("secagg-server/run/conduct", b"[]")
    with pytest.raises(LocalError, match="conduct"):
        points.masking()


def test_a_site_that_is_away_when_an_epoch_begins_voids_rounds_until_it_is_back() -> None:
    points = Liars(masked_plan("robust.rule=off", "evaluation.every=0"), LIAR)
    away: list[Message] = []

    def tamper(message: Message) -> Message | None:
        if message.metadata.group_id == "epoch" and message.metadata.dst_node_id == 102 and len(away) < 2:
            away.append(message)
            return None
        return message

    points.tamper = tamper
    _, state, recorder = run_of(points)
    assert [record.void for record in recorder.records] == [True, True, False]
    assert "expected at least 5 members, got 4" in recorder.records[0].reason
    assert state.round == 3
