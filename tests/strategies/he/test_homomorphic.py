"""Homomorphic aggregation over a Flower Grid: sites behind their guards, the server's `Homomorphic`, lying members."""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from flwr.app import Message

from tests.masked_points import LOSS, SPECS, MaskedPoints, masked_plan, means, silent
from wardround import _flower
from wardround.client.guard.encrypting_member import EncryptingMember
from wardround.identity import Revocations
from wardround.link.limits import ciphertext_bytes
from wardround.orders import OrderKind, SiteId
from wardround.plan import Plan
from wardround.strategies.he.he_plan import Form
from wardround.strategies.he.homomorphic import Homomorphic
from wardround.strategies.he.key_ceremony import stored_key
from wardround.strategies.he.messages import KeyAccepted, KeyDeal, KeyOffer, KeyRequest, Opened
from wardround.strategies.he.scheme import KeyHolder, KeylessSum, PublicContext, new_key
from wardround.strategies.he.terms import packing_of
from wardround.strategies.privacy.secure_random import SecureRandom
from wardround.strategies.privacy.unit_clip import clip_update
from wardround.strategies.secagg.lane import rotation_seed
from wardround.strategies.secagg.messages import decode
from wardround.strategies.secagg.phases import Outgoing
from wardround.strategies.secagg.plan_terms import encoding_of, he_plan_of
from wardround.strategies.secagg.round_evidence import Stage
from wardround.strategies.secagg.signing_inputs import key_input, opened_input
from wardround.strategies.secagg.wire import Record


def bfv_plan(*settings: str, sites: int = 3) -> Plan:
    """By default three sites, any two of which are enough for a sum and for a key."""
    bfv = ("protection.mode=bfv", "protection.dropout=0.0", "protection.min_survivors=2", "protection.min_roster=2")
    return masked_plan(*bfv, *settings, sites=sites)


class Answering:
    """What a member says instead of `message`, and what it writes down. By default it is honest."""

    def __init__(self) -> None:
        self.lie: Callable[[SiteId, Record], Record] = lambda site, message: message
        self.notes: list[tuple[SiteId, str, dict[str, Any]]] = []


class EncryptedPoints(MaskedPoints):
    """The same federation under homomorphic aggregation; `answering.lie` sees every answer of a site."""

    def __init__(self, plan: Plan | None = None) -> None:
        self.answering = Answering()
        super().__init__(bfv_plan() if plan is None else plan)

    def member(self, site: SiteId) -> EncryptingMember:
        answering, random = self.answering, SecureRandom(site.encode().ljust(32, b"."))

        class Lying(EncryptingMember):
            def _receive(self, message: Record) -> list[Outgoing]:
                return [Outgoing(one.receiver, answering.lie(site, one.message)) for one in super()._receive(message)]

        def note(kind: str, **detail: Any) -> None:
            answering.notes.append((site, kind, detail))

        made = Lying(self.plan, self.memberships[site], now=lambda: self.now, note=note)
        made._random = random
        return made

    def masking(self) -> Homomorphic:
        ours = self.identities
        return Homomorphic(self.plan, ours.federation, ours.server, specs=SPECS, now=lambda: self.now)

    def noted(self, kind: str) -> Counter[SiteId]:
        return Counter(site for site, known, _ in self.answering.notes if known == kind)

    def aborts(self) -> list[tuple[str, tuple[SiteId, ...]]]:
        record = self.server.record
        return [] if record is None else [(one.cause, one.parties) for one in record.aborts]


def encoded_mean(points: EncryptedPoints, members: list[int], round_: int = 1) -> np.ndarray:
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
    points = EncryptedPoints()
    [one] = points.collect()
    assert one.members == tuple(points.sites) and one.weight == 3
    assert np.array_equal(next(means([one])), encoded_mean(points, [0, 1, 2]))
    assert one.tally.n == sum(trainer.num_examples for trainer in points.trainers) and one.tally.spec == LOSS
    assert not points.server.absences and points.aborts() == []
    [counts] = points.collect(kind=OrderKind.EVALUATE)
    assert counts.vector.size == 0 and counts.members == tuple(points.sites)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_drop_out_at_any_stage_leaves_the_right_sum(stage: int) -> None:
    points = EncryptedPoints()
    points.tamper = silent((1, stage))
    [one] = points.collect()
    survivors = [0, 2] if stage == 1 else [0, 1, 2]
    assert one.members == tuple(points.sites[i] for i in survivors)
    assert np.array_equal(next(means([one])), encoded_mean(points, survivors))
    assert set(points.why()) == {points.sites[i] for i in (0, 1, 2) if i not in survivors}


def test_fewer_updates_than_the_plan_wants_are_never_opened() -> None:
    points = EncryptedPoints(bfv_plan("protection.min_survivors=3", "protection.min_roster=3"))
    points.tamper = silent((1, 1))
    assert points.collect() == []
    assert points.aborts() == [("TOO_FEW_MEMBERS", ("site-1",))]
    assert points.noted("sum.opened") == {}


def test_an_epoch_has_one_key_and_the_next_another() -> None:
    points = EncryptedPoints()
    for round_ in (1, 2):
        points.collect(round_)
    assert points.noted("key.dealt").total() == 1 and points.noted("key.accepted").total() == 2
    points.later(hours=13)
    points.collect(3)
    assert points.noted("key.erased") == dict.fromkeys(points.sites, 1)
    told = [detail for _, kind, detail in points.answering.notes if kind in ("key.dealt", "key.accepted")]
    assert len({one["fingerprint"] for one in told}) == 2 and {one["epoch"] for one in told} == {0, 1}
    assert all(one["members"] == points.sites for one in told)


def test_who_is_revoked_has_no_key_of_the_next_epoch() -> None:
    points = EncryptedPoints()
    points.collect(1)
    gone = points.sites[2]
    serial = x509.load_der_x509_certificate(points.memberships[gone].certificate).serial_number
    renewed = Revocations(number=2, serials=frozenset({serial}), next_update=points.now + timedelta(days=30))
    points.server.renew(renewed)
    for site in points.sites[:2]:
        points.memberships[site] = replace(points.memberships[site], revocations=renewed)
        points.restart(site)
    [one] = points.collect(2)
    assert one.members == tuple(points.sites[:2])
    assert gone in points.why()
    keys = {site: stored_key(points.memberships[site], 1) for site in points.sites}
    assert keys[gone] is None and None not in (keys[points.sites[0]], keys[points.sites[1]])


def with_secret(points: EncryptedPoints, site: SiteId, deal: KeyDeal) -> KeyDeal:
    """The same deal, signed by its dealer, whose public parameters have the secret key with them."""
    secret = stored_key(points.memberships[site], deal.header.epoch)
    assert secret is not None
    header = replace(deal.header, context=secret.key)
    return replace(deal, header=header, signature=points.memberships[site].signing_key.sign(key_input(header)))


def test_a_secret_key_that_is_sent_to_the_server_is_refused_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    points = EncryptedPoints()
    liar = points.sites[0]  # who is asked first
    points.answering.lie = lambda site, message: (
        with_secret(points, site, message) if site == liar and isinstance(message, KeyDeal) else message
    )
    with caplog.at_level(logging.WARNING, "wardround"):
        [one] = points.collect()
    assert one.members == tuple(points.sites[1:])  # the liar has a key of its own, and sits the epoch out
    assert np.array_equal(next(means([one])), encoded_mean(points, [1, 2]))
    assert points.aborts() == [("SECRET_KEY", (liar,))]
    record = points.server.record
    assert record is not None and "a secret key with them" in record.aborts[0].reason
    (said,) = [one.getMessage() for one in caplog.records if "secret key" in one.getMessage()]
    assert said.startswith(liar)
    server = points.server
    assert isinstance(server, Homomorphic) and server._public is not None
    assert not server._public.context.context.has_secret_key()
    dealers = [site for site, kind, _ in points.answering.notes if kind == "key.dealt"]
    assert dealers == [liar, points.sites[1]]  # another member's key is used
    key = stored_key(points.memberships[points.sites[1]], record.epoch)
    assert key is not None and server._public.fingerprint == key.fingerprint
    again = points.masking()  # after a restart it is not asked either
    again.open(points.grid, points.nodes())
    order, data = points.order(2)
    list(again.collect(points.grid, order, data))
    assert [site for site, kind, _ in points.answering.notes if kind == "key.dealt"][2:] == [points.sites[1]]


@pytest.mark.parametrize("later", [False, True])
def test_a_dealer_whose_answer_is_lost_does_not_spoil_the_sums_of_another_key(later: bool) -> None:
    """It has kept the key that it made; nothing tells it that the server has gone on without."""
    points = EncryptedPoints()
    first, silent_ = points.sites[0], [True]

    def tamper(message: Message) -> Message | None:
        if message.metadata.dst_node_id != 100 or not silent_[0]:
            return message
        kind = _flower.read_protocol(message) if message.metadata.message_type == _flower.PROTOCOL else b""
        if kind and isinstance(decode(kind), KeyRequest):
            points.members[first].answer(kind)  # it comes, and the answer is lost
            return None
        return None if later and kind and isinstance(decode(kind), KeyOffer) else message

    points.tamper = tamper
    [one] = points.collect()
    assert one.members == tuple(points.sites[1:])
    assert np.array_equal(next(means([one])), encoded_mean(points, [1, 2]))
    assert set(points.why()) == {first}
    points.collect(kind=OrderKind.EVALUATE)
    assert points.why() == {first: "takes no part in this epoch"}
    assert points.noted("sum.forged") == {}
    silent_[0] = False
    points.later(hours=13)
    [one] = points.collect(2)
    assert one.members == tuple(points.sites)


def test_a_key_that_only_its_dealer_can_have_made_is_not_taken_from_another() -> None:
    points = EncryptedPoints()
    deals: list[KeyDeal] = []

    def lie(site: SiteId, message: Record) -> Record:
        if isinstance(message, KeyDeal):
            deals.append(message)
            return deals[0]
        return message

    points.answering.lie = lie
    points.collect()
    points.later(hours=13)
    assert points.collect(2) == []  # all of them deal the first epoch's key again
    assert points.aborts()[-1][0] == "TOO_FEW_MEMBERS"


def test_a_member_who_says_it_has_another_key_is_not_counted_on() -> None:
    points = EncryptedPoints(bfv_plan("protection.min_survivors=3", "protection.min_roster=3"))
    points.answering.lie = lambda site, message: (
        replace(message, fingerprint=bytes(32)) if isinstance(message, KeyAccepted) else message
    )
    assert points.collect() == []
    assert points.aborts() == [("TOO_FEW_MEMBERS", tuple(points.sites))]  # it may be the dealer, who is the first


@pytest.mark.parametrize("others", [1, 2])
def test_an_opener_who_lies_is_outvoted_or_there_is_no_sum(others: int) -> None:
    points = EncryptedPoints()
    points.tamper = silent((0, 2)) if others == 1 else points.tamper  # of three, one who could open it is away
    liars: list[SiteId] = []

    def lie(site: SiteId, message: Record) -> Record:
        if not isinstance(message, Opened) or not (message.words or site in liars) or liars not in ([], [site]):
            return message
        liars.append(site)
        mine = points.memberships[site]
        words = bytes(len(message.words))
        total = hashlib.sha256(words + bytes(message.scalars)).digest()
        round_ = points.members[site]._round
        assert round_ is not None
        signed = opened_input(round_.descriptor, message.survivors, total)
        return replace(message, words=words, sum=total, signature=mine.signing_key.sign(signed))

    points.answering.lie = lie
    found = points.collect()
    assert len(set(liars)) == 1
    if others == 2:
        assert np.array_equal(next(means(found)), encoded_mean(points, [0, 1, 2]))
        return
    assert found == []
    assert [cause for cause, _ in points.aborts()] == ["FORGED_SUM"]


def test_a_server_that_leaves_an_update_out_of_the_sum_ends_the_epoch_of_the_member_it_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points = EncryptedPoints()
    add = KeylessSum.add
    added: list[int] = []

    def first_only(self: KeylessSum, ciphertexts: Any) -> None:
        added.append(1)
        if len(added) == 1:
            add(self, ciphertexts)

    monkeypatch.setattr(KeylessSum, "add", first_only)
    assert points.collect() == []
    assert points.noted("sum.forged").total() >= 1 and points.noted("sum.opened") == {}
    assert points.noted("key.erased").total() == points.noted("sum.forged").total()
    monkeypatch.setattr(KeylessSum, "add", add)
    [one] = points.collect(2)  # with another key
    assert one.members == tuple(points.sites)
    assert points.server.record is not None and points.server.record.epoch == 1


def test_what_a_round_took_is_in_its_record() -> None:
    points = EncryptedPoints()
    points.collect()
    record = points.server.record
    assert record is not None
    assert record.scheme.startswith("bfv-seeded, key ") and record.lost == {}
    assert {Stage.EPOCH, Stage.UPDATE, Stage.SIGNATURE, Stage.OPENING} <= record.costs.keys()


@pytest.mark.parametrize(
    ("settings", "sites", "forms"),
    [
        ((), 3, tuple(Form)),
        (("protection.value_bits=30",), 3, tuple(Form)),
        (("protection.value_bits=8",), 5, tuple(Form)),
        (("protection.value_bits=24",), 60, (Form.SEEDED,)),
        (
            (
                "privacy.unit=client",
                "privacy.mechanism=skellam",
                "privacy.epsilon=8.0",
                "privacy.clip_norm=2.0",
                "clipping.clip_norm=",
                "protection.min_roster=5",
                "protection.min_survivors=4",
            ),
            5,
            tuple(Form),
        ),
    ],
)
@pytest.mark.parametrize("size", [1, 4094, 100_000, (1 << 20) + 1])
def test_updates_and_sums_fit_the_room_that_both_ends_of_the_link_give_them(
    settings: tuple[str, ...], sites: int, forms: tuple[Form, ...], size: int
) -> None:
    """Whatever the plan, of a model of `size` parameters: the update, the request to open a sum, the answer."""
    plan = bfv_plan(*settings, sites=sites)
    packing, he = packing_of(plan, size, 100), he_plan_of(plan)
    slots = np.random.default_rng(1).integers(0, he.plain_modulus, 4096, dtype=np.uint64)
    for form in forms:
        holder = KeyHolder(he, form, new_key(he, form))
        chunk = holder.encrypt(slots)
        total = KeylessSum(PublicContext(he, holder.public), 1)
        for _ in range(2):
            total.add([holder.encrypt(slots // np.uint64(2))])
        (summed,) = total.serialized()
        largest = max(len(chunk), len(summed)) + 64
        assert packing.chunks * (largest + 4) < ciphertext_bytes(4 * size)
    assert 4 * packing.size + 8 * packing.scalars < ciphertext_bytes(4 * size)
