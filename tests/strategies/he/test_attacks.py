"""Attacks on homomorphic aggregation, run against members as sites run them and against the product's own server."""

import hashlib
import os
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import tenseal as ts

from tests.strategies.he.lying_server import SIZE, TWO_CHUNKS, LyingServer
from tests.strategies.he.seal_bytes import ciphertext, seal_frame, seal_part
from tests.strategies.he.test_homomorphic import EncryptedPoints, bfv_plan
from tests.strategies.secagg.simulated_group import KilledStore
from wardround.errors import LocalError, RemoteError
from wardround.orders import SiteId
from wardround.simulations.redteam.bfv_key_recovery import crafted_sum
from wardround.simulations.redteam.negacyclic import Integers, residues
from wardround.state_store import MemoryStore
from wardround.strategies.he.foreign_bytes import wrapped
from wardround.strategies.he.he_plan import DEGREE, Q
from wardround.strategies.he.messages import (
    Encrypted,
    KeyAccepted,
    KeyDeal,
    KeyHeader,
    Opened,
    OpenRequest,
    Wanted,
    chunks_in,
)
from wardround.strategies.he.scheme import PublicContext
from wardround.strategies.he.server_round import EncryptedServerRound
from wardround.strategies.secagg.messages import (
    Cause,
    Descriptor,
    Refusal,
    RosterSignatures,
    SurvivorSignature,
    Task,
    decode,
    digest_of,
    encode,
)
from wardround.strategies.secagg.phases import ServerRoundPhase
from wardround.strategies.secagg.signing_inputs import key_input
from wardround.strategies.secagg.wire import Record

Answer = Callable[[str, OpenRequest], Record | None]


def refusal(answer: Record | None, cause: Cause) -> Refusal:
    assert isinstance(answer, Refusal), answer
    assert answer.cause is cause, answer
    return answer


def open_all(lab: LyingServer, machine: EncryptedServerRound, answer: Answer) -> list[str]:
    """Ask openers, as an order does, until the round is over; who was asked. A refusal is an answer not taken."""
    asked: list[str] = []
    for _ in range(2 * len(lab.names) + 2):
        if machine.phase is not ServerRoundPhase.OPENINGS:
            return asked
        for one in machine.outgoing():
            assert isinstance(one.message, OpenRequest)
            asked.append(str(one.receiver))
            said = answer(str(one.receiver), one.message)
            if said is not None and not isinstance(said, Refusal):
                machine.receive(str(one.receiver), said, lab.now)
        if machine.phase is ServerRoundPhase.OPENINGS:
            machine.close()
    raise AssertionError(f"expected an end, got phase {machine.phase.name} after asking {asked}")


# -- one hospital that lies ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("sites", "liar"), [(2, 0), (2, 1), (4, 0), (4, 1), (4, 2), (4, 3)])
def test_one_lying_hospital_chooses_no_result_alone(sites: int, liar: int) -> None:
    """Its update has no right tags, so that nobody else can open the sum; then it says what the sum is."""
    lab = LyingServer(sites)
    lab.begin()
    descriptor = lab.descriptor()
    machine, bad = lab.server_round(descriptor), lab.names[liar]
    for name, update in lab.updates(descriptor).items():
        machine.receive(name, lab.untagged(name, descriptor, update) if name == bad else update, lab.now)
    lab.collect_votes(machine)
    chosen, lane = np.full(SIZE, 123456, dtype=np.uint32), np.array([sites, 999], dtype=np.uint64)

    def answer(name: str, request: OpenRequest) -> Record | None:
        if name == bad:
            return lab.said(name, descriptor, request, chosen, lane)
        return refusal(lab.tell(name, request), Cause.FORGED_SUM)

    asked = open_all(lab, machine, answer)
    assert bad in asked and machine.phase is ServerRoundPhase.ABORTED
    assert machine.results == ()
    assert machine.abort is not None and machine.abort.cause is Cause.FORGED_SUM
    assert set(machine.abort.parties) == set(lab.names)  # nobody can tell who it was
    assert [name for name in lab.names if lab.has_key(name)] == [bad]


@pytest.mark.parametrize("liar", range(4))
def test_a_lying_opener_is_outvoted_by_a_third_and_named_in_every_epoch(liar: int) -> None:
    """In no place and no epoch does it get its sum, stop the round, or have an honest member named."""
    lab = LyingServer(4)
    bad, found = lab.names[liar], 0
    for epoch in range(4):
        lab.begin(epoch)
        descriptor = lab.descriptor(0, model=bytes((epoch,)))
        machine = lab.server_round(descriptor)
        for name, update in lab.updates(descriptor).items():
            machine.receive(name, update, lab.now)
        lab.collect_votes(machine)

        def answer(name: str, request: OpenRequest, descriptor: Descriptor = descriptor) -> Record | None:
            honest = lab.tell(name, request)
            if name != bad:
                return honest
            words, lane = np.full(SIZE, 11, dtype=np.uint32), np.array([4, 10], dtype=np.uint64)
            lie = lab.said(name, descriptor, request, words, lane)
            return lie if request.wanted is Wanted.WORDS else replace(lie, words=b"", scalars=b"")

        asked = open_all(lab, machine, answer)
        [one] = machine.results
        assert one.vector.tolist() == [10] * SIZE and one.scalars.tolist() == [4, 10]
        assert (machine.abort is not None) == (bad in asked)
        if machine.abort is not None:
            assert machine.abort.cause is Cause.FORGED_SUM and machine.abort.parties == (bad,)
            found += 1
        assert all(lab.has_key(name, epoch) for name in lab.names)
    assert found == 2  # openers take turns: in two of four epochs it is one of the first two


@pytest.mark.parametrize("kind", ["boxes", "key"])
def test_a_bad_dealer_stops_no_run(kind: str) -> None:
    """Boxes that do not open, or of a key that it did not sign: one order is lost, and the next has another dealer."""
    points = EncryptedPoints(bfv_plan("protection.min_survivors=3", "protection.min_roster=3", sites=4))
    bad = points.sites[0]
    dealers: list[SiteId] = []

    def lie(site: SiteId, message: Record) -> Record:
        if not isinstance(message, KeyDeal):
            return message
        dealers.append(site)
        if site != bad:
            return message
        boxes = tuple(os.urandom(len(box)) for box in message.boxes) if kind == "boxes" else message.boxes
        header = message.header
        header = replace(header, fingerprint=bytes(32)) if kind == "key" else _with_boxes(header, boxes)
        signature = points.memberships[site].signing_key.sign(key_input(header))
        return KeyDeal(header=header, signature=signature, boxes=boxes)

    points.answering.lie = lie
    assert points.collect(1) == []
    [(cause, parties)] = points.aborts()
    assert cause == "TOO_FEW_MEMBERS" and bad in parties
    assert points.collect(2) and points.collect(3)
    assert dealers == [bad, points.sites[1]]
    assert points.noted("key.accepted").total() == 3


def test_a_bad_dealer_does_not_have_every_site_fail() -> None:
    """A run in which every site fails ends at once: boxes that do not open make the others fail, nonsense itself."""
    points = EncryptedPoints(bfv_plan("protection.min_survivors=3", "protection.min_roster=3", sites=4))
    bad = points.sites[0]
    honest = points.members[bad].answer

    def answer(frame: bytes) -> bytes:
        said = honest(frame)
        if isinstance(decode(frame), RosterSignatures):
            return b"nonsense"
        deal = decode(said) if said else None
        if not isinstance(deal, KeyDeal):
            return said
        boxes = tuple(os.urandom(len(box)) for box in deal.boxes)
        header = _with_boxes(deal.header, boxes)
        signature = points.memberships[bad].signing_key.sign(key_input(header))
        return encode(KeyDeal(header=header, signature=signature, boxes=boxes))

    points.members[bad].answer = answer  # type: ignore[method-assign]
    assert points.collect(1) == []
    failed = [absence.site for absence in points.server.absences if absence.failed]
    assert set(failed) < set(points.sites)
    assert points.collect(2)


def _with_boxes(header: KeyHeader, boxes: Iterable[bytes]) -> KeyHeader:
    return replace(header, boxes=tuple(hashlib.sha256(box).digest() for box in boxes))


def flat(lab: LyingServer) -> bytes:
    """A ciphertext of zeros, of a hundred bytes: it hides nothing."""
    context: Any = lab.context.context.seal_context().data
    return wrapped(ciphertext(context.first_parms_id()))


def transform(lab: LyingServer) -> bytes:
    """A ciphertext that says that it is the transform of one."""
    some = np.arange(DEGREE, dtype=object)
    return ciphertext_of(lab, some, some, ntt=True)


def polynomials(lab: LyingServer, chunk: bytes) -> tuple[Integers, Integers]:
    """Both polynomials of a ciphertext: anybody has them who has the bytes."""
    [found] = ts.bfv_vector_from(lab.context.context, chunk).ciphertext()
    return residues(found, 0), residues(found, 1)


def ciphertext_of(lab: LyingServer, c0: Integers, c1: Integers, *, ntt: bool = False) -> bytes:
    """A ciphertext of any two polynomials, made without a key."""
    context: Any = lab.context.context.seal_context().data
    words = np.concatenate((c0, c1)) % Q
    data = struct.pack("<Q", len(words)) + np.array([int(one) for one in words], dtype="<u8").tobytes()
    form = struct.pack("<4Q?3QdQ", *context.first_parms_id(), ntt, 2, DEGREE, 1, 1.0, 1)
    return wrapped(seal_frame(form + seal_frame(data, 0), 0))


@pytest.mark.parametrize("first", ["transparent", "transform"])
@pytest.mark.parametrize("second", ["transparent", "transform", "nonsense"])
def test_one_liar_s_ciphertexts_leave_the_sum_of_the_others_exact(first: str, second: str) -> None:
    """As the first of all: what it leaves behind must not make an honest member's update fail."""
    lab = LyingServer(4, TWO_CHUNKS)
    lab.begin()
    descriptor = lab.descriptor()
    machine, sent = lab.server_round(descriptor), lab.updates(descriptor)
    good = [bytes(one) for one in chunks_in(sent["site-0"].sizes, sent["site-0"].chunks)]
    made = {"transparent": flat(lab), "transform": transform(lab), "nonsense": bytes(50)}
    for chunks in ([made[first], made[second]], [good[0], made[second]]):
        with pytest.raises(RemoteError, match="ciphertext"):
            machine.receive("site-0", lab.resigned("site-0", descriptor, sent["site-0"], chunks), lab.now)
    for name in lab.names[1:]:
        machine.receive(name, sent[name], lab.now)
    lab.collect_votes(machine)
    open_all(lab, machine, lab.tell)
    [one] = machine.results
    assert machine.abort is None and one.members == (1, 2, 3)
    assert one.vector.tolist() == [9] * TWO_CHUNKS


def test_two_liars_who_spoil_the_sum_abort_the_round() -> None:
    """Y and -Y: SEAL refuses the zero only after it has added. Whatever comes then, nothing but RemoteError does."""
    lab = LyingServer(4, TWO_CHUNKS)
    lab.begin()
    descriptor = lab.descriptor()
    machine, sent = lab.server_round(descriptor), lab.updates(descriptor)
    good = [bytes(one) for one in chunks_in(sent["site-0"].sizes, sent["site-0"].chunks)]
    c0, c1 = polynomials(lab, good[0])
    negative = ciphertext_of(lab, -c0, -c1)
    machine.receive("site-0", lab.resigned("site-0", descriptor, sent["site-0"], good), lab.now)
    bad = lab.resigned("site-1", descriptor, sent["site-1"], [negative, good[1]])
    machine.receive("site-1", bad, lab.now)
    assert machine.phase is ServerRoundPhase.ABORTED and machine.results == ()
    assert machine.abort is not None and machine.abort.cause is Cause.MALFORMED
    for name in ("site-1", "site-2", "site-3"):
        with pytest.raises(RemoteError):
            machine.receive(name, sent[name], lab.now)
    assert machine.close() == [] and machine.outgoing() == []
    after = lab.server_round(lab.descriptor(1))  # the same epoch goes on
    for name, update in lab.updates(lab.descriptor(1)).items():
        after.receive(name, update, lab.now)
    lab.collect_votes(after)
    open_all(lab, after, lab.tell)
    assert len(after.results) == 1


# -- a server that lies about lists --------------------------------------------------------------------------


@pytest.mark.parametrize("task", [Task.FIT, Task.EVALUATE])
@pytest.mark.parametrize("restarted", [False, True])
def test_no_second_list_over_one_model_gets_a_quorum(task: Task, restarted: bool) -> None:
    """One opener is asked for the first sum, and it alone; the others have signed its list, and remember that."""
    lab = LyingServer(4)
    lab.begin()
    secret = np.arange(SIZE, dtype=np.uint32) + 1000
    for round_, names in enumerate((lab.names, lab.names[:3])):
        descriptor = lab.descriptor(round_, b"one model", task)
        sent = {name: lab.update(name, descriptor, 7, secret if name == "site-3" else None) for name in lab.names}
        votes = lab.votes(descriptor, [sent[name] for name in names])
        if round_ == 0:
            request = lab.open_request(descriptor, votes, lab.sum_of(sent.values()))
            assert isinstance(lab.tell("site-0", request), Opened)
            for name in lab.names if restarted else ():
                lab.restart(name)
            continue
        for name in lab.names:
            refusal(votes[name], Cause.POLICY)


def test_near_lists_are_refused_when_they_are_signed() -> None:
    """A site's own policy: two rounds whose lists differ in one member, each opened by another hospital."""
    lab = LyingServer(4, min_difference=3, refuse_near_lists=True, noised=True)
    lab.begin()
    for round_, names in enumerate((lab.names, lab.names[:3])):
        descriptor = lab.descriptor(round_, bytes((round_,)))
        sent = lab.updates(descriptor)
        votes = lab.votes(descriptor, [sent[name] for name in names])
        if round_ == 0:
            request = lab.open_request(descriptor, votes, lab.sum_of(sent.values()))
            assert isinstance(lab.tell("site-0", request), Opened)
            continue
        for name in lab.names:
            refusal(votes[name], Cause.POLICY)


# -- a server that lies about sums ---------------------------------------------------------------------------

Sent = dict[str, Encrypted]


def _chunk(update: Encrypted) -> bytes:
    return bytes(next(chunks_in(update.sizes, update.chunks)))


def _combined(lab: LyingServer, *signed: tuple[int, Encrypted | bytes]) -> list[bytes]:
    total = None
    for sign, one in signed:
        vector = ts.bfv_vector_from(lab.context.context, one if isinstance(one, bytes) else _chunk(one))
        if total is None:
            total = vector
        elif sign > 0:
            total.add_(vector)
        else:
            total.sub_(vector)
    assert total is not None
    return [bytes(total.serialize())]


def _shifted(lab: LyingServer, sent: Sent, part: int, by: int) -> list[bytes]:
    """The true sum, with one coefficient of one of its polynomials changed."""
    [total] = lab.sum_of(sent.values())
    parts = polynomials(lab, total)
    parts[part][0] = (int(parts[part][0]) + by) % Q
    return [ciphertext_of(lab, *parts)]


def _one_over(lab: LyingServer) -> int:
    t = lab.he.plain_modulus
    return (2 * Q + t) // (2 * t)


def _automorphism(lab: LyingServer, sent: Sent) -> list[bytes]:
    """X -> 1/X: a sum of other slots under another key, of the same coefficients."""
    turned = [np.concatenate((one[:1], -one[:0:-1] % Q)) for one in polynomials(lab, lab.sum_of(sent.values())[0])]
    return [ciphertext_of(lab, turned[0], turned[1])]


def _crafted(lab: LyingServer, sent: Sent) -> list[bytes]:
    context: Any = lab.context.context.seal_context().data
    return [wrapped(crafted_sum(context, seal_part(_chunk(sent["site-0"]))))]


FORGERIES: dict[str, Callable[[LyingServer, Sent, Sent], list[bytes]]] = {
    "(0, q/t), which decrypts to the key": lambda lab, now, old: _crafted(lab, now),
    "the sum and q/t times the key": lambda lab, now, old: _shifted(lab, now, 1, _one_over(lab)),
    "the sum and one more": lambda lab, now, old: _shifted(lab, now, 0, _one_over(lab)),
    "one left out": lambda lab, now, old: lab.sum_of(list(now.values())[1:]),
    "one update alone": lambda lab, now, old: lab.sum_of([now["site-2"]]),
    "one twice, and one not": lambda lab, now, old: lab.sum_of([now[f"site-{i}"] for i in (0, 1, 2, 2)]),
    "one of the round before": lambda lab, now, old: lab.sum_of([*list(now.values())[:3], old["site-3"]]),
    "all of the round before": lambda lab, now, old: lab.sum_of(old.values()),
    "the sum and a difference of rounds": lambda lab, now, old: _combined(
        lab, (1, lab.sum_of(now.values())[0]), (1, now["site-2"]), (-1, old["site-2"])
    ),
    "the sum twice": lambda lab, now, old: _combined(lab, *[(1, lab.sum_of(now.values())[0])] * 2),
    "more chunks than there are": lambda lab, now, old: lab.sum_of(now.values()) * 2,
    "an automorphism": lambda lab, now, old: _automorphism(lab, now),
    "no ciphertext": lambda lab, now, old: [bytes(100)],
    "a transform": lambda lab, now, old: [transform(lab)],
    "a ciphertext that hides nothing": lambda lab, now, old: [flat(lab)],
}


def _request(lab: LyingServer, make: Callable[[LyingServer, Sent, Sent], list[bytes]]) -> OpenRequest:
    """To open such a sum in an epoch's second round, by signatures of the list of all."""
    lab.begin()
    old = lab.updates(lab.descriptor(0, b"before"))
    descriptor = lab.descriptor(1)
    now = lab.updates(descriptor)
    votes = lab.votes(descriptor, now.values())
    return lab.open_request(descriptor, votes, make(lab, now, old))


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_not_opened_and_costs_the_key(name: str) -> None:
    lab = LyingServer(4)
    request = _request(lab, FORGERIES[name])
    refusal(lab.tell("site-1", request), Cause.FORGED_SUM)
    assert not lab.has_key("site-1")
    assert ("site-1", "sum.forged") in lab.notes and ("site-1", "sum.opened") not in lab.notes
    another = lab.descriptor(2, b"after")
    for _ in range(2):  # the epoch is over, also for a member that is not started again
        with pytest.raises(RemoteError):
            lab.tell("site-1", request)
        with pytest.raises(RemoteError):
            lab.update("site-1", another)
        lab.restart("site-1")


def test_the_true_sum_with_a_little_more_noise_is_the_true_sum() -> None:
    """What a member answers to is the plaintext: the forgeries above are not refused for the form that they have."""
    lab = LyingServer(4)
    answer = lab.tell("site-1", _request(lab, lambda lab, now, old: _shifted(lab, now, 0, 3)))
    assert isinstance(answer, Opened)
    assert np.frombuffer(answer.words, "<u4").tolist() == [10] * SIZE


WRONG: dict[str, Callable[[LyingServer, Sent], list[bytes]]] = {
    "the first chunk": lambda lab, sent: [_chunk(sent["site-0"]), lab.sum_of(sent.values())[1]],
    "the second chunk": lambda lab, sent: [lab.sum_of(sent.values())[0], _chunk(sent["site-0"])],
    "both": lambda lab, sent: lab.sum_of(list(sent.values())[1:]),
    "a chunk too few": lambda lab, sent: lab.sum_of(sent.values())[:1],
    "no ciphertext": lambda lab, sent: [lab.sum_of(sent.values())[0], b"x"],
    "a transform": lambda lab, sent: [transform(lab), lab.sum_of(sent.values())[1]],
}


def test_the_answer_to_a_forged_sum_is_the_same_bytes_whatever_was_wrong_and_where() -> None:
    """A server that makes chunk k fail where coefficient k of the key is 1 would else read that off the answer."""
    answers = {}
    for name, make in WRONG.items():
        lab = LyingServer(4, TWO_CHUNKS)
        lab.begin()
        descriptor = lab.descriptor()
        sent = lab.updates(descriptor)
        votes = lab.votes(descriptor, sent.values())
        answers[name] = lab.members["site-1"].answer(encode(lab.open_request(descriptor, votes, make(lab, sent))))
        assert not lab.has_key("site-1"), name
    assert len(set(answers.values())) == 1, answers


@pytest.mark.parametrize("dealer", [False, True])
def test_after_five_forged_sums_in_a_row_a_member_has_no_further_key(dealer: bool) -> None:
    """Epochs are begun at will by a lying server, and each forged sum tells it a little."""
    lab = LyingServer(4)
    victim = lab.names[0 if dealer else 1]
    for epoch in range(5):
        lab.begin(epoch)
        descriptor = lab.descriptor(0, bytes((epoch,)))
        sent = lab.updates(descriptor)
        votes = lab.votes(descriptor, sent.values())
        request = lab.open_request(descriptor, votes, lab.sum_of(list(sent.values())[1:]))
        refusal(lab.tell(victim, request), Cause.FORGED_SUM)
        assert not lab.has_key(victim, epoch)
        lab.restart(victim)
    lab.agree(5)
    deal = lab.tell(lab.names[0], lab.request())
    if dealer:
        refusal(deal, Cause.POLICY)
    else:
        assert isinstance(deal, KeyDeal)
        answers = {name: lab.tell(name, offer) for name, offer in lab.offers(deal)}
        refusal(answers.pop(victim), Cause.POLICY)
        assert all(isinstance(one, KeyAccepted) for one in answers.values())
    assert not lab.has_key(victim, 5)


# -- crashes -------------------------------------------------------------------------------------------------


@dataclass
class Victim:
    """A member that is killed at some write; what it has let out, before and after it was started again."""

    lab: LyingServer
    name: str
    killed: bool = False
    boxes: set[tuple[bytes, ...]] = field(default_factory=set)
    updates: dict[bytes, Encrypted] = field(default_factory=dict)
    lists: set[bytes] = field(default_factory=set)
    sums: set[bytes] = field(default_factory=set)

    def kill_after(self, writes: int) -> None:
        self.lab.keep(self.name, KilledStore(self.lab.store(self.name), writes))

    def revive(self) -> None:
        kept = MemoryStore()
        kept._values, kept._counters = self.lab.store(self.name)._values, self.lab.store(self.name)._counters
        self.lab.keep(self.name, kept)

    def twice(self, step: Callable[[], None]) -> None:
        """The step, and where it was killed in it the same once more, after it was started again."""
        for _ in range(2):
            try:
                step()
            except RemoteError:
                return
            except LocalError as error:
                if str(error) == "killed":
                    self.killed = True
                    self.revive()

    def told(self, message: Record) -> None:
        answer = self.lab.tell(self.name, message)
        if isinstance(answer, KeyDeal):
            self.boxes.add(answer.boxes)
            for name, offer in self.lab.offers(answer):
                self.lab.tell(name, offer)
        elif isinstance(answer, SurvivorSignature):
            self.lists.add(answer.survivors)
        elif isinstance(answer, Opened):
            self.sums.add(answer.sum)

    def trained(self, descriptor: Descriptor, value: int) -> None:
        """It has trained, or draws again what it has trained."""
        update = self.lab.update(self.name, descriptor, value)
        self.updates[bytes(update.chunks)] = update

    def started(self, descriptor: Descriptor) -> None:
        machine: Any = self.lab.members[self.name]._round
        for one in machine.receive(self.lab.start_of(descriptor), self.lab.now):
            self.updates[bytes(one.message.chunks)] = one.message


WRITES = 13
"""The last leaves the schedule below whole."""


@pytest.mark.parametrize("writes", range(WRITES))
def test_a_dealer_killed_at_any_write_seals_once_under_one_box_key(writes: int) -> None:
    """Also between erasing the key and answering, or ending the epoch: two plaintexts under one key and nonce."""
    lab = LyingServer(4)
    lab.agree()
    victim = Victim(lab, lab.names[0])
    victim.kill_after(writes)
    victim.twice(partial(victim.told, lab.request()))
    if lab.has_key(victim.name):
        lab.context = PublicContext(lab.he, lab.holder(victim.name).public)
        descriptor = lab.descriptor()
        sent = list(lab.updates(descriptor, lab.names[1:]).values())
        victim.twice(partial(victim.trained, descriptor, 1))
        votes = lab.votes(descriptor, sent, lab.names[1:])
        victim.twice(partial(victim.told, lab.offer(descriptor, sent)))
        victim.twice(partial(victim.told, lab.open_request(descriptor, votes, lab.sum_of(sent[:2]))))
        assert lab.has_key(victim.name) == (not victim.lists)  # who was killed as it spent its number sits out
    victim.revive()
    for _ in range(2):
        victim.twice(partial(victim.told, lab.request()))
        lab.restart(victim.name)
    assert len(victim.boxes) == 1 and not victim.sums
    assert victim.killed == (writes < WRITES - 1)


@pytest.mark.parametrize("writes", range(WRITES))
def test_a_member_killed_at_any_write_sends_one_update_signs_one_list_and_opens_one_sum(writes: int) -> None:
    """A lying server tries another model, another list and another sum, before and after the restart."""
    lab = LyingServer(4)
    lab.begin()
    victim = Victim(lab, "site-3")
    victim.kill_after(writes)
    one, other = lab.descriptor(0), lab.descriptor(0, b"another model")
    others = list(lab.updates(one, lab.names[:3]).values())
    for value, descriptor in enumerate((one, other, one, other)):
        victim.twice(partial(victim.trained, descriptor, value))
        victim.twice(partial(victim.started, descriptor))
    assert len(victim.updates) <= 1
    mine = [update for update in victim.updates.values() if update.header.h == digest_of(one)]
    for sent in ([*others, *mine], others, [*others, *mine]):
        victim.twice(partial(victim.told, lab.offer(one, sent)))
    for sent in ([*others, *mine], others):
        votes = lab.votes(one, sent, lab.names[:3])
        if all(isinstance(vote, SurvivorSignature) for vote in votes.values()):
            for chunks in (lab.sum_of(sent), lab.sum_of(sent[:2]), lab.sum_of(sent)):
                victim.twice(partial(victim.told, lab.open_request(one, votes, chunks)))
    assert len(victim.lists) <= 1 and len(victim.sums) <= 1
    assert victim.killed == (writes < 7) and (victim.killed or victim.sums)


# -- what was said once, said again --------------------------------------------------------------------------


def _round_of(lab: LyingServer, round_: int) -> tuple[Descriptor, Sent, dict[str, Record | None], OpenRequest]:
    descriptor = lab.descriptor(round_)
    sent = lab.updates(descriptor)
    votes = lab.votes(descriptor, sent.values())
    return descriptor, sent, votes, lab.open_request(descriptor, votes, lab.sum_of(sent.values()))


def _later(lab: LyingServer, when: str) -> tuple[LyingServer, Descriptor]:
    """The next round, another try of the same order, the same round of another epoch, or of another run."""
    if when == "epoch":
        lab.begin(1)
        return lab, lab.descriptor(0)
    if when == "run":
        other = lab.of_another_run("second")
        other.begin()
        return other, other.descriptor(0)
    descriptor = lab.descriptor(1)
    return lab, replace(descriptor, order=lab.descriptor(0).order) if when == "attempt" else descriptor


WHEN = ["round", "attempt", "epoch", "run"]


@pytest.mark.parametrize("when", WHEN)
def test_what_members_sent_is_not_taken_in_another_round_attempt_epoch_or_run(when: str) -> None:
    lab = LyingServer(4)
    lab.begin()
    _, sent, votes, request = _round_of(lab, 0)
    opened = {name: lab.tell(name, request) for name in lab.names}
    lab, descriptor = _later(lab, when)
    machine = lab.server_round(descriptor)
    for name in lab.names:
        with pytest.raises(RemoteError):
            machine.receive(name, sent[name], lab.now)
    for again in lab.updates(descriptor).values():
        machine.receive(lab.names[again.header.member], again, lab.now)
    asked = machine.close()
    for name in lab.names:
        vote = votes[name]
        assert isinstance(vote, SurvivorSignature)
        for old in (vote, replace(vote, h=digest_of(descriptor), survivors=machine._survivors)):
            with pytest.raises(RemoteError):
                machine.receive(name, old, lab.now)
    for one in asked:
        answer = lab.tell(str(one.receiver), one.message)
        assert answer is not None
        machine.receive(str(one.receiver), answer, lab.now)
    for name in lab.names:
        told = opened[name]
        assert isinstance(told, Opened)
        for late in (told, replace(told, h=digest_of(descriptor), survivors=machine._survivors)):
            with pytest.raises(RemoteError):
                machine.receive(name, late, lab.now)
    open_all(lab, machine, lab.tell)
    assert len(machine.results) == 1 and machine.abort is None


@pytest.mark.parametrize("when", WHEN)
def test_what_a_server_had_signed_is_of_no_use_in_another_round_attempt_epoch_or_run(when: str) -> None:
    """Lists, votes and headers of before, as they are and with the new round's name on them; nobody loses its key."""
    lab = LyingServer(4)
    deal = lab.begin()
    old, sent, votes, request = _round_of(lab, 0)
    offers = dict(lab.offers(deal))
    lab, descriptor = _later(lab, when)
    now = lab.updates(descriptor)
    mine = SiteId("site-1")
    refusal(lab.tell(mine, lab.offer(old, sent.values())), Cause.STALE)
    renamed_h = [replace(one, header=replace(one.header, h=digest_of(descriptor))) for one in sent.values()]
    mixed = lab.offer(descriptor, renamed_h)
    refusal(lab.tell(mine, mixed), Cause.SIGNATURE)
    fresh = lab.votes(descriptor, now.values())
    refusal(lab.tell(mine, request), Cause.STALE)
    renamed = lab.open_request(descriptor, fresh, lab.sum_of(now.values()))
    taken = tuple(
        replace(vote, signature=again.signature)
        for vote, again in zip(renamed.request.votes, request.request.votes, strict=True)
    )
    forged = replace(renamed, request=replace(renamed.request, votes=taken))
    refusal(lab.tell(mine, forged), Cause.SIGNATURE)
    machine: Any = lab.members[mine]._round
    with pytest.raises(RemoteError):
        machine.receive(lab.start_of(old), lab.now)
    if when in ("epoch", "run"):
        refusal(lab.tell(mine, offers[mine]), Cause.STALE)
    assert lab.has_key(mine, lab.cohort.epoch)
    assert isinstance(lab.tell(mine, renamed), Opened)
    assert all(isinstance(one, SurvivorSignature) for one in votes.values())
