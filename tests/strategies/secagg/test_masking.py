"""Secure aggregation over a Flower Grid: every site is a ClientApp behind its guard, on Flower's own records."""

import hashlib
from dataclasses import fields, replace
from datetime import timedelta

import numpy as np
import pytest
from flwr.app import Message

from tests.masked_points import LOSS, MaskedPoints, masked_plan, means, silent, with_content
from wardround import _flower
from wardround.contribution import Contribution
from wardround.errors import RemoteError
from wardround.orders import Order, OrderKind, SiteId, Split, Statistics
from wardround.strategies.privacy.secure_random import SecureRandom
from wardround.strategies.privacy.unit_clip import clip_update
from wardround.strategies.secagg.client_round import ROUNDS
from wardround.strategies.secagg.keystream import U32
from wardround.strategies.secagg.lane import lane_of, model_digest, order_digest, projected, read_lane, rotation_seed
from wardround.strategies.secagg.messages import EpochStart, Published, RosterSignatures, RoundStart, decode, encode
from wardround.strategies.secagg.plan_terms import encoding_of
from wardround.strategies.secagg.round_evidence import Stage
from wardround.tally import MeansSpec, Tally, encode_spec


def encoded_mean(points: MaskedPoints, members: list[int], round_: int = 1) -> np.ndarray:
    """What must come out, bit for bit: the same roundings added up as Python integers, and decoded."""
    order, data = points.order(round_, np.full(4, round_ / 8, dtype=np.float32))
    encoding = encoding_of(points.plan, 4, seed=rotation_seed(order))
    total = [0] * 4
    for i in members:
        update = (points.trainers[i].point - np.frombuffer(data, dtype="<f4")) / np.float32(2)
        seed = points.sites[i].encode().ljust(32, b".")
        words = encoding.encode(clip_update(update, 2.0), SecureRandom(seed)).words
        total = [(a + int(b)) % 2**32 for a, b in zip(total, words, strict=True)]
    return encoding.decode(np.array(total, dtype=np.uint32), len(members))


def test_a_sum_is_exactly_that_of_the_encoded_updates() -> None:
    points = MaskedPoints()
    [one] = points.collect()
    assert one.members == tuple(points.sites)
    assert one.weight == 5
    assert np.array_equal(next(means([one])), encoded_mean(points, [0, 1, 2, 3, 4]))
    assert one.tally.n == sum(trainer.num_examples for trainer in points.trainers)
    assert one.tally.spec == LOSS
    assert not points.server.absences


def test_groups_are_contributions_whose_weighted_mean_is_that_of_all() -> None:
    plan = masked_plan("protection.groups=2", "cohort.weighting=capped", "cohort.weight_cap=12", sites=8)
    points = MaskedPoints(plan)
    contributions = points.collect()
    assert sorted(len(one.members) for one in contributions) == [4, 4]
    assert sorted(site for one in contributions for site in one.members) == points.sites
    weights = [min(trainer.num_examples, 12) for trainer in points.trainers]
    assert sum(one.weight for one in contributions) == sum(weights)
    updates = np.array([(trainer.point - np.float32(1 / 8)) / 2 for trainer in points.trainers], dtype=np.float64)
    expected = np.average(updates, axis=0, weights=weights)
    got = np.average(list(means(contributions)), axis=0, weights=[one.weight for one in contributions])
    bound = encoding_of(plan, 4, seed=bytes(32)).error_bound(float(np.mean(weights)), 2.0)
    assert np.abs(got - expected).max() <= bound < 1e-5


@pytest.mark.parametrize(
    ("stages", "survivors", "lost"),
    [
        ([(1, 1)], [0, 2, 3, 4], {Stage.UPDATE: ("site-1",)}),
        ([(1, 2)], [0, 1, 2, 3, 4], {Stage.SIGNATURE: ("site-1",)}),
        ([(1, 3)], [0, 1, 2, 3, 4], {Stage.OPENING: ("site-1",)}),
        ([(0, 1), (3, 2)], [1, 2, 3, 4], {Stage.UPDATE: ("site-0",), Stage.SIGNATURE: ("site-3",)}),
    ],
)
def test_a_drop_out_at_any_stage_leaves_the_right_sum(
    stages: list[tuple[int, int]], survivors: list[int], lost: dict[Stage, tuple[str, ...]]
) -> None:
    points = MaskedPoints(masked_plan("protection.min_survivors=3"), tamper=silent(*stages))
    if any(stage == 1 for _, stage in stages):  # draws of other rounds are behind those of this one
        points.tamper = silent(*stages)
    [one] = points.collect()
    assert one.members == tuple(points.sites[i] for i in survivors)
    assert np.array_equal(next(means([one])), encoded_mean(points, survivors))
    record = points.server.record
    assert record is not None
    assert record.lost == lost
    assert record.groups[0].survivors == one.members
    assert set(points.why()) == {site for site in points.sites if site not in one.members}


def test_too_few_updates_give_no_sum_and_say_so() -> None:
    points = MaskedPoints(masked_plan("protection.min_survivors=3"), tamper=silent((0, 1), (1, 1), (2, 1)))
    assert points.collect() == []
    record = points.server.record
    assert record is not None
    [abort] = record.aborts
    assert abort.cause == "TOO_FEW_MEMBERS"
    assert abort.parties == ("site-0", "site-1", "site-2")
    assert set(points.why()) == set(points.sites)
    points.tamper = lambda message: message
    [one] = points.collect(2)
    assert len(one.members) == 5


def test_too_few_signatures_name_the_silent() -> None:
    points = MaskedPoints(tamper=silent((0, 2), (1, 2), (2, 2)))
    assert points.collect() == []
    record = points.server.record
    assert record is not None
    assert record.aborts[0].cause == "TOO_FEW_SIGNATURES"
    assert record.aborts[0].parties == ("site-0", "site-1", "site-2")
    assert all("no sum" in why for why in points.why().values())  # the updates of the silent had come


def test_who_falls_silent_after_its_update_in_a_group_without_a_sum_is_absent_for_that_reason() -> None:
    points = MaskedPoints(masked_plan("protection.groups=2", "protection.min_survivors=3", sites=8))
    points.collect(kind=OrderKind.EVALUATE)
    assert points.server._epoch is not None
    group, _ = points.server._epoch.cohort.groups
    points.tamper = silent((group[0], 1), (group[1], 1), (group[2], 2))
    points.collect(1, kind=OrderKind.EVALUATE)
    why = points.why()
    assert why[points.sites[group[2]]] == why[points.sites[group[3]]] == "its group gave no sum"
    assert why[points.sites[group[0]]] == "no answer"


def test_an_evaluation_is_one_sum_of_counts() -> None:
    points = MaskedPoints()
    points.collect()
    [one] = points.collect(kind=OrderKind.EVALUATE)
    assert one.tally.n == sum(trainer.num_examples for trainer in points.trainers)
    assert one.vector.size == 0
    assert one.members == tuple(points.sites)


def test_an_epoch_serves_its_rounds_and_another_follows() -> None:
    points = MaskedPoints()
    epochs = []
    for round_ in range(1, 4):
        points.collect(round_)
        epochs.append(points.server.record and points.server.record.epoch)
    assert epochs == [0, 0, 0]
    assert points.server._epoch is not None
    points.server._epoch.rounds = ROUNDS
    points.collect(3)
    assert points.server.record is not None and points.server.record.epoch == 1
    points.later(hours=13)
    points.collect(3)
    assert points.server.record.epoch == 2


def test_a_site_that_leaves_the_cohort_leaves_a_smaller_roster() -> None:
    points = MaskedPoints(
        masked_plan("protection.min_roster=4", "protection.min_survivors=3", "protection.dropout=0.25")
    )
    points.collect()
    [one] = points.collect(2, 3)
    assert one.members == tuple(site for i, site in enumerate(points.sites) if i != 3)
    assert points.server.record is not None and points.server.record.epoch == 1


def test_another_server_object_begins_above_the_epochs_before() -> None:
    points = MaskedPoints()
    points.collect()
    points.server = points.masking()
    points.collect(2)
    assert points.server.record is not None and points.server.record.epoch == 1


def test_who_does_not_sign_the_roster_is_left_out_of_the_next_epoch() -> None:
    plan = masked_plan(
        "protection.groups=2",
        "protection.min_roster=8",
        "protection.min_survivors=3",
        "protection.dropout=0.25",
        sites=9,
    )

    def tamper(message: Message) -> Message | None:
        data = _flower.read_protocol(message)
        asked = decode(data) if data and message.metadata.group_id == "epoch" else None
        mute = message.metadata.dst_node_id == 104 and not isinstance(asked, EpochStart)
        return None if mute else message

    points = MaskedPoints(plan, tamper=tamper)
    contributions = points.collect()
    assert "site-4" not in {site for one in contributions for site in one.members}
    record = points.server.record
    assert record is not None
    assert record.epoch == 1
    assert record.aborts[0].parties == ("site-4",)
    assert record.lost[Stage.EPOCH] == ("site-4",)


def test_too_few_for_a_roster_give_no_sum_and_the_first_reason_until_they_are_back() -> None:
    points = MaskedPoints()
    points.memberships[points.sites[2]].state.store.advance("secagg/run/epoch", 1)
    for _ in range(2):
        assert points.collect() == []
        record = points.server.record
        assert record is not None
        assert "at least 5 members, got 4; site-2: " in record.aborts[0].reason
        assert "expected a value above 1" in record.aborts[0].reason
        assert len(points.why()) == 5
    [one] = points.collect()
    assert len(one.members) == 5


def asked_to_train(points: MaskedPoints, site: int) -> list[Message]:
    """The messages that ordered a training of a site."""
    train = [one for step in points.grid.sent for one in step if one.metadata.message_type == "train"]
    return [one for one in train if one.metadata.dst_node_id == 100 + site]


def test_a_round_whose_sum_is_published_is_not_answered_again() -> None:
    points = MaskedPoints()
    points.collect()
    points.collect(2)
    for message in asked_to_train(points, 0):
        assert points.apps[points.sites[0]](message, points.grid._contexts[100]).has_error()
    assert len(points.trainers[0].jobs) == 2


def test_a_lost_reply_is_sent_again_byte_for_byte_and_nothing_is_trained_again() -> None:
    points = MaskedPoints(tamper=silent((0, 2), (1, 2), (2, 2)))  # the round ends before a sum
    points.collect()
    [message] = asked_to_train(points, 0)

    def answered() -> bytes:
        reply = points.apps[points.sites[0]](message, points.grid._contexts[100])
        assert reply.has_content(), reply.error
        return bytes(_flower.read_frame(reply))

    first = answered()
    points.restart(points.sites[0])
    assert answered() == first
    assert len(points.trainers[0].jobs) == 1


def forged(change: dict[str, object]) -> object:
    """A server that sends site 1 another order under the round of all."""

    def tamper(message: Message) -> Message:
        if message.metadata.message_type != "train" or message.metadata.dst_node_id != 101:
            return message
        order = replace(Order.decode(_flower.read_order(message)), **change)  # type: ignore[arg-type]
        content = _flower.pack_order(
            order.encode(), _flower.read_model(message), _flower.read_protocol(message), _flower.read_spec(message)
        )
        return with_content(message, content)

    return tamper


@pytest.mark.parametrize(
    "change",
    [
        {"round": 3},
        {"attempt": 1},
        {"split": Split.TEST},
        {"clip_norm": 1.0},
        {"model_digest": hashlib.sha256(b"other").hexdigest()},
    ],
)
def test_an_order_other_than_the_rounds_is_refused_before_training(change: dict[str, object]) -> None:
    points = MaskedPoints(tamper=forged(change))  # type: ignore[arg-type]
    [one] = points.collect()
    assert "site-1" not in one.members
    assert "expected a round whose descriptor names this order" in points.why()[SiteId("site-1")]
    assert not points.trainers[1].jobs


def test_an_order_without_a_round_is_refused() -> None:
    def tamper(message: Message) -> Message:
        if message.metadata.message_type == "train":
            return with_content(message, _flower.pack_order(_flower.read_order(message), _flower.read_model(message)))
        return message

    points = MaskedPoints(tamper=tamper)
    assert points.collect() == []
    assert all("rejected" in reason or "expected" in reason for reason in points.why().values())
    assert not any(trainer.jobs for trainer in points.trainers)


def test_counts_other_than_those_agreed_on_do_not_leave() -> None:
    points = MaskedPoints()
    points.server._specs = {**points.server._specs, OrderKind.FIT: MeansSpec(names=("age",))}
    assert points.collect() == []
    assert set(points.why().values()) == {
        f"{site}: the job failed; the site's own log says why" for site in points.sites
    }


def test_what_cannot_be_encoded_is_refused_without_telling_of_it() -> None:
    points = MaskedPoints(masked_plan("protection.min_survivors=3"))
    points.trainers[2].broken = "nan"
    [one] = points.collect()
    assert "site-2" not in one.members
    assert points.why()[SiteId("site-2")] == "site-2: the job failed; the site's own log says why"
    [one] = points.collect(kind=OrderKind.EVALUATE)
    assert len(one.members) == 5  # its round was not used up: it serves in the committee


def test_a_group_whose_weights_cannot_be_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    points = MaskedPoints(masked_plan("cohort.weighting=capped", "cohort.weight_cap=20"))
    liar = points.members[points.sites[3]]
    honest = liar.mask

    def lie(order: Order, words: U32, weight: int, tally: Tally, spec: bytes) -> bytes:
        return honest(order, words, 10**6, tally, spec)

    monkeypatch.setattr(liar, "mask", lie)
    assert points.collect() == []
    assert "expected weights of 5 to 100 together" in points.why()[SiteId("site-0")]


def test_costs_count_every_byte_of_every_stage() -> None:
    points = MaskedPoints()
    points.collect()
    record = points.server.record
    assert record is not None
    assert set(record.costs) == {Stage.EPOCH, Stage.UPDATE, Stage.SIGNATURE, Stage.OPENING}
    asked = next(step for step in points.grid.sent if step[0].metadata.message_type == "train")
    size = sum(len(_flower.read_order(one)) + len(_flower.read_model(one)) for one in asked)
    size += sum(len(_flower.read_protocol(one)) + len(_flower.read_spec(one)) for one in asked)
    assert record.costs[Stage.UPDATE].sent_bytes == size
    assert record.costs[Stage.UPDATE].received_bytes > 5 * 4 * 4


def test_every_field_of_an_order_and_what_is_counted_is_bound_to_a_round() -> None:
    points = MaskedPoints()
    order, _ = points.order()
    changes: dict[str, object] = {
        "run_id": "other",
        "plan_digest": "other",
        "kind": OrderKind.EVALUATE,
        "round": 7,
        "attempt": 3,
        "split": Split.TEST,
        "model_digest": "other",
        "statistics": Statistics(mean=(1.0,), std=(1.0,)),
        "clip_norm": 0.5,
        "records_digest": "other",
    }
    assert set(changes) == {field.name for field in fields(Order)}
    others = [replace(order, **{name: value}) for name, value in changes.items()]  # type: ignore[arg-type]
    digests = {order_digest(one, encode_spec(LOSS)) for one in (order, *others)}
    digests.add(order_digest(order, encode_spec(MeansSpec())))
    assert len(digests) == len(changes) + 2


@pytest.mark.parametrize("kind", list(OrderKind))
def test_sums_over_one_model_are_told_by_what_the_work_reads_alone(kind: OrderKind) -> None:
    points = MaskedPoints()
    order = replace(points.order()[0], kind=kind)
    same: dict[str, object] = {"run_id": "b", "round": 7, "attempt": 3, "clip_norm": 0.5, "records_digest": "other"}
    read: dict[str, object] = {"model_digest": "other"} if kind is not OrderKind.STATISTICS else {}
    (read if kind is OrderKind.EVALUATE else same)["split"] = Split.TEST
    if kind is OrderKind.STATISTICS:
        same["model_digest"] = "other"
    for name, value in same.items():
        assert model_digest(replace(order, **{name: value})) == model_digest(order), name  # type: ignore[arg-type]
    for name, value in read.items():
        assert model_digest(replace(order, **{name: value})) != model_digest(order), name  # type: ignore[arg-type]


def test_no_round_beyond_the_plans_is_trained_for() -> None:
    points = MaskedPoints()
    assert points.collect(4) == []
    assert points.why()[points.sites[0]] == "site-0: expected a round of 1 to 3, got 4.0"
    assert not any(trainer.jobs for trainer in points.trainers)


def test_of_named_means_those_that_are_asked_for_are_counted() -> None:
    tally = Tally.of_means(4, {"a": 1.0, "b": 2.0, "c": 3.0})
    assert projected(tally, MeansSpec(names=("c", "a"))).metrics() == {"c": 0.75, "a": 0.25}
    assert projected(tally, tally.spec) is tally
    with pytest.raises(ValueError, match="which the server adds up"):
        projected(tally, MeansSpec(names=("d",)))


def test_a_lane_is_empty_where_a_count_would_be_outside_the_noise() -> None:
    tally = Tally.of_means(4, {"loss": 1.0})
    plain = masked_plan()
    lane = lane_of(plain, OrderKind.FIT, 3, tally, 5)
    assert read_lane(lane, tally.spec)[0] == 3
    assert read_lane(lane, tally.spec)[1].counts.tolist() == tally.counts.tolist()


def test_the_server_that_members_pinned_must_sign_a_round() -> None:
    points = MaskedPoints()
    seen: list[bytes] = []

    def tamper(message: Message) -> Message:
        if message.metadata.message_type == "train":
            start = decode(_flower.read_protocol(message))
            assert isinstance(start, RoundStart)
            forged = encode(replace(start, signature=bytes(64)))
            seen.append(forged)
            content = _flower.pack_order(
                _flower.read_order(message), _flower.read_model(message), forged, _flower.read_spec(message)
            )
            return with_content(message, content)
        return message

    points.tamper = tamper
    assert points.collect() == []
    assert seen
    assert all("signature" in reason for reason in points.why().values())


def test_a_member_that_refuses_the_signatures_is_absent_with_its_reason() -> None:
    def tamper(message: Message) -> Message:
        data = _flower.read_protocol(message)
        asked = decode(data) if data and message.metadata.group_id == "epoch" else None
        if isinstance(asked, RosterSignatures) and message.metadata.dst_node_id == 103:
            few = replace(asked, endorsements=asked.endorsements[:1])
            return with_content(message, _flower.pack_protocol(encode(few)))
        return message

    points = MaskedPoints(masked_plan("protection.min_survivors=3"), tamper=tamper)
    [one] = points.collect()
    assert "site-3" not in one.members
    assert points.why()[SiteId("site-3")].startswith("rejected: it refused (TOO_FEW_SIGNATURES)")
    assert points.now + timedelta(0) == points.now


def test_who_lost_what_made_an_epoch_ready_gets_it_again_and_takes_part() -> None:
    lose = True

    def tamper(message: Message) -> Message | None:
        data = _flower.read_protocol(message)
        asked = decode(data) if data and message.metadata.group_id == "epoch" else None
        return None if lose and isinstance(asked, RosterSignatures) and message.metadata.dst_node_id == 102 else message

    plan = masked_plan("protection.groups=2", "protection.min_survivors=3", "protection.dropout=0.25", sites=8)
    points = MaskedPoints(plan, tamper=tamper)
    assert "site-2" not in {site for one in points.collect() for site in one.members}
    lose = False
    assert "site-2" in {site for one in points.collect(2) for site in one.members}
    points.later(hours=13)  # another epoch, of the same groups
    assert "site-2" in {site for one in points.collect(3) for site in one.members}


def test_keys_are_erased_at_the_end_of_a_run_and_of_their_time() -> None:
    points = MaskedPoints()
    points.collect()
    first, second = (points.memberships[site].state for site in points.sites[:2])
    assert len(first.get("secagg/run/epoch-state")) > 1
    points.members[points.sites[0]].close()
    assert len(first.get("secagg/run/epoch-state")) == 1
    points.later(hours=25)
    reply = points.members[points.sites[1]].answer
    with pytest.raises(RemoteError, match="a message of an epoch or round that has begun"):
        reply(encode(Published(h=bytes(32), committee=0, groups=(), signature=bytes(64))))
    assert len(second.get("secagg/run/epoch-state")) == 1


def test_a_sites_own_policy_on_nearly_equal_sums_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    points = MaskedPoints(masked_plan("protection.min_survivors=3"))
    wary = points.sites[0]
    points.memberships[wary] = replace(points.memberships[wary], min_difference=2)
    points.restart(wary)
    points.collect()
    points.tamper = silent((4, 1))
    points.collect(2)
    assert [one.message for one in caplog.records if "1 changes" in one.message and wary in one.message]


def test_an_abort_tells_why_a_site_did_not_sign() -> None:
    points = MaskedPoints(masked_plan("protection.dropout=0"))
    strict = points.sites[3]
    points.memberships[strict] = replace(points.memberships[strict], min_survivors=6)  # its policy: more than there are
    points.restart(strict)
    assert len(points.collect()) == 1  # t = 3 of 5 sign all the same
    points.tamper = silent((0, 2), (1, 2))
    assert points.collect(2) == []
    record = points.server.record
    assert record is not None
    assert record.aborts[0].parties == ("site-0", "site-1", "site-3")
    assert "site-3: rejected: it refused (TOO_FEW_MEMBERS): expected nobody or at least 6" in record.aborts[0].reason


def test_where_too_few_groups_have_updates_nothing_is_opened_and_the_same_model_serves_again() -> None:
    """Else the sums of the others would be those of this model, and the next round over it could have no others."""
    plan = masked_plan("protection.groups=2", "protection.min_survivors=3", "protection.dropout=0.25", sites=8)
    points = MaskedPoints(plan)
    points.collect(kind=OrderKind.EVALUATE)
    assert points.server._epoch is not None
    first, second = points.server._epoch.cohort.groups
    order, data = points.order(1)

    def collected(round_: int, *gone: int) -> list[Contribution]:
        points.tamper = silent(*((i, 1) for i in gone))
        points.server.open(points.grid, points.nodes())
        return list(points.server.collect(points.grid, replace(order, round=round_), data))

    assert collected(1, *first[:2]) == []
    record = points.server.record
    assert record is not None
    assert record.aborts[0].reason.startswith("expected 3 updates each in 2 groups, got so many in 1")
    assert len(collected(2, second[0])) == 2
    assert collected(3, second[1]) == []  # another sum over one model
