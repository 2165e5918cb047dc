"""A site's part in homomorphic aggregation: what it keeps, notes and erases, whatever the server sends."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from tests.masked_points import masked_plan
from tests.strategies.he.encrypted_group import EncryptedGroup
from tests.strategies.secagg.simulated_group import NOW, RUN, SERVER_KEY, KilledStore, name_of
from wardround.client.guard import encrypting_member
from wardround.client.guard.encrypting_member import EncryptingMember, member_of
from wardround.client.guard.member import Member
from wardround.errors import LocalError, RemoteError
from wardround.state_store import MemoryStore
from wardround.strategies.he.client_round import EncryptedRound
from wardround.strategies.he.key_ceremony import stored_key
from wardround.strategies.he.messages import (
    Encrypted,
    EncryptedOffer,
    KeyAccepted,
    KeyDeal,
    KeyOffer,
    OfferedUpdate,
    Opened,
    OpenRequest,
    Wanted,
    chunks_in,
)
from wardround.strategies.he.scheme import KeylessSum, PublicContext
from wardround.strategies.he.terms import packing_of
from wardround.strategies.secagg import sealing
from wardround.strategies.secagg.client_epoch import ClientEpoch
from wardround.strategies.secagg.messages import (
    Cause,
    EpochStart,
    Refusal,
    RoundStart,
    SurvivorSignature,
    SurvivorVote,
    UnmaskRequest,
    decode,
    digest_of,
    encode,
)
from wardround.strategies.secagg.sealed_state import SealedState
from wardround.strategies.secagg.signing_inputs import descriptor_input
from wardround.strategies.secagg.wire import Record

PLAN = masked_plan("protection.mode=bfv", "protection.dropout=0.25", sites=4)
SIZE, SCALARS = 20, 2
KEY_AT = f"secagg/{RUN}/he-key"


@dataclass
class Sites:
    """Four members in an epoch that is ready, each behind its `EncryptingMember`; `notes` by site."""

    epoch: int = 0
    notes: dict[str, list[tuple[str, dict[str, Any]]]] = field(default_factory=dict)
    now: Any = NOW

    def __post_init__(self) -> None:
        self.group = EncryptedGroup()
        self.agree(self.epoch)
        self.sent: dict[int, Encrypted] = {}

    def agree(self, epoch: int) -> None:
        """A new epoch that all members are ready for, without a key."""
        self.group.agree(epoch)
        self.members = {i: self.made(i) for i in range(4)}

    def made(self, i: int) -> EncryptingMember:
        def note(kind: str, **detail: Any) -> None:
            self.notes.setdefault(name_of(i), []).append((kind, detail))

        return EncryptingMember(PLAN, self.group.site(i).membership, now=lambda: self.now, note=note)

    def restart(self, i: int) -> None:
        self.members[i] = self.made(i)

    def kinds(self, i: int) -> list[str]:
        return [kind for kind, _ in self.notes.get(name_of(i), [])]

    def ask(self, i: int, message: Record) -> Any:
        """The answer of a member; None where it gives none."""
        frame = self.members[i].answer(encode(message))
        return decode(frame) if frame else None

    def refused(self, i: int, message: Record) -> Cause:
        answer = self.ask(i, message)
        assert isinstance(answer, Refusal), answer
        return answer.cause

    def deal(self, dealer: int = 0) -> KeyDeal:
        answer = self.ask(dealer, self.group.request())
        assert isinstance(answer, KeyDeal), answer
        return answer

    def offer(self, dealt: KeyDeal, i: int) -> KeyOffer:
        (message,) = [one.message for one in self.group.offers(dealt) if one.receiver == name_of(i)]
        assert isinstance(message, KeyOffer)
        return message

    def give_key(self) -> KeyDeal:
        dealt = self.deal()
        for i in (1, 2, 3):
            assert isinstance(self.ask(i, self.offer(dealt, i)), KeyAccepted)
        return dealt

    def round(self, i: int) -> EncryptedRound:
        machine = self.members[i]._round
        assert isinstance(machine, EncryptedRound)
        return machine

    def signed_by_all(self, number: int = 0) -> list[SurvivorSignature]:
        """A round up to the signatures of the list of all."""
        descriptor = self.group.descriptor(number)
        start = RoundStart(descriptor=descriptor, signature=SERVER_KEY.sign(descriptor_input(descriptor)))
        self.sent = {}
        for i in range(4):
            self.round(i).receive(start, self.now)
            words = np.full(SIZE, i, dtype=np.uint32)
            (one,) = self.round(i).mask(words, np.array([i, 7], dtype=np.uint64), model=descriptor.model)
            assert isinstance(one.message, Encrypted)
            self.sent[i] = one.message
        listed = tuple(OfferedUpdate(header=one.header, signature=one.signature) for one in self.sent.values())
        offer = EncryptedOffer(h=digest_of(descriptor), members=listed)
        return [self.ask(i, offer) for i in range(4)]

    def request(self, votes: list[SurvivorSignature], dealt: KeyDeal, *members: int) -> OpenRequest:
        """For the sum of these members' updates, whatever the list says."""
        packing = packing_of(PLAN, SIZE, SCALARS)
        total = KeylessSum(PublicContext(packing.plan, dealt.header.context), packing.chunks)
        for i in members:
            total.add(chunks_in(self.sent[i].sizes, self.sent[i].chunks))
        chunks = list(total.serialized())
        request = UnmaskRequest(
            h=votes[0].h,
            committee=0,
            survivors=votes[0].survivors,
            votes=tuple(SurvivorVote(member=one.member, signature=one.signature) for one in votes),
        )
        return OpenRequest(request=request, wanted=Wanted.WORDS, sizes=tuple(map(len, chunks)), chunks=b"".join(chunks))


# -- keys ----------------------------------------------------------------------------------------------------


def test_a_round_through_the_members_gives_the_sum_and_its_notes() -> None:
    sites = Sites()
    dealt = sites.give_key()
    request = sites.request(sites.signed_by_all(), dealt, 0, 1, 2, 3)
    opened = sites.ask(2, request)
    assert isinstance(opened, Opened)
    assert np.frombuffer(opened.words, dtype="<u4").tolist() == [6] * SIZE
    assert np.frombuffer(opened.scalars, dtype="<u8").tolist() == [6, 28]
    assert sites.kinds(0) == ["key.dealt"] and sites.kinds(1) == ["key.accepted"]
    assert sites.kinds(2) == ["key.accepted", "sum.opened"]
    detail = sites.notes["site-01"][0][1]
    assert detail["dealer"] == "site-00" and detail["members"] == [name_of(i) for i in range(4)]
    assert detail["fingerprint"] == dealt.header.fingerprint.hex() and detail["epoch"] == 0


def test_a_key_that_comes_again_is_noted_once() -> None:
    sites = Sites()
    dealt = sites.give_key()
    for _ in range(2):
        assert encode(sites.deal()) == encode(dealt)
        sites.ask(1, sites.offer(dealt, 1))
        sites.restart(0)
        sites.restart(1)
    assert sites.kinds(0) == ["key.dealt"] and sites.kinds(1) == ["key.accepted"]


def test_without_an_epoch_that_is_ready_there_is_no_key() -> None:
    sites = Sites()
    dealt, request = sites.deal(), sites.group.request()
    sites.members[1].close()
    for message in (request, sites.offer(dealt, 1)):
        with pytest.raises(RemoteError, match="expected an epoch that is ready, got Key"):
            sites.ask(1, message)


def test_a_round_before_the_key_is_refused() -> None:
    sites = Sites()
    dealt = sites.deal()
    other = Sites()
    request = other.request(other.signed_by_all() if other.give_key() else [], other.deal(), 0, 1)
    with pytest.raises(RemoteError, match="expected a message of an epoch or round that has begun"):
        sites.ask(1, request)
    sites.ask(1, sites.offer(dealt, 1))


# -- one box key, one plaintext ------------------------------------------------------------------------------


class Sealings:
    """Every key that a box was sealed under, and with what."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.of: dict[bytes, set[bytes]] = {}
        seal = sealing.seal

        def watched(key: bytes, plaintext: bytes, aad: bytes) -> bytes:
            self.of.setdefault(key, set()).add(plaintext)
            return seal(key, plaintext, aad)

        monkeypatch.setattr(sealing, "seal", watched)

    def check(self) -> None:
        assert self.of and all(len(plaintexts) == 1 for plaintexts in self.of.values())


@pytest.mark.parametrize(
    "bad", [EpochStart(run=RUN, epoch=3), EpochStart(run=RUN, epoch=0), EpochStart(run="other", epoch=9)]
)
def test_an_epoch_that_is_refused_does_not_have_the_dealer_seal_another_key(
    bad: EpochStart, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Boxes have a nonce of zero: two keys under one box key would show their difference, and let boxes be forged.

    A server may send the start of an epoch that was, at any time: the one that has begun goes on as it was.
    """
    sites, sealings = Sites(epoch=5), Sealings(monkeypatch)
    dealt = sites.give_key()
    try:
        answer = sites.ask(0, bad)
    except LocalError:
        pass  # an epoch below the one that has begun
    else:
        assert isinstance(answer, Refusal)
    assert stored_key(sites.group.site(0).membership, 5) is not None and sites.kinds(0) == ["key.dealt"]
    assert encode(sites.deal()) == encode(dealt)
    sites.restart(0)
    assert encode(sites.deal()) == encode(dealt)
    sealings.check()
    assert isinstance(sites.ask(2, sites.request(sites.signed_by_all(), dealt, 0, 1, 2, 3)), Opened)


def test_a_dealer_killed_while_its_epoch_ends_makes_no_second_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """At every write of erasing and ending."""
    for writes in range(3):
        sites, sealings = Sites(), Sealings(monkeypatch)
        sites.give_key()
        membership = sites.group.site(0).membership
        kept = membership.state.store
        assert isinstance(kept, MemoryStore)
        state = SealedState(KilledStore(kept, writes), bytes(32), membership.state._random)
        killed = EncryptingMember(PLAN, replace(membership, state=state), now=lambda: NOW)
        with pytest.raises(LocalError, match="killed"):
            killed.close()
        sites.restart(0)
        try:
            answer = sites.ask(0, sites.group.request())
        except RemoteError as error:
            assert "expected an epoch that is ready" in str(error)
        else:
            assert isinstance(answer, KeyDeal | Refusal)
        sealings.check()
        monkeypatch.undo()


# -- epochs that end -----------------------------------------------------------------------------------------


def test_the_key_is_erased_with_its_epoch() -> None:
    sites = Sites()
    sites.give_key()
    sites.members[1].close()
    assert sites.kinds(1) == ["key.accepted", "key.erased"]
    assert sites.group.site(1).membership.state.get(KEY_AT) == [bytes(4)]


def test_another_epoch_erases_the_key_of_the_one_before() -> None:
    sites = Sites()
    dealt = sites.give_key()
    sites.ask(1, EpochStart(run=RUN, epoch=1))
    assert sites.kinds(1) == ["key.accepted", "key.erased"]
    assert stored_key(sites.group.site(1).membership, 0) is None and sites.members[1]._round is None
    with pytest.raises(RemoteError, match="expected an epoch that is ready"):
        sites.ask(1, sites.offer(dealt, 1))


def test_a_key_that_was_left_by_a_kill_is_erased_at_the_next_start() -> None:
    """Killed between the start of another epoch and the erasure: what is there is of an epoch that is over."""
    sites = Sites()
    sites.give_key()
    membership = sites.group.site(1).membership
    ClientEpoch.begin(membership, 1, NOW)
    assert stored_key(membership, 0) is not None
    sites.restart(1)
    assert stored_key(membership, 0) is None and sites.kinds(1) == ["key.accepted", "key.erased"]


def test_after_a_day_the_key_is_gone() -> None:
    sites = Sites()
    dealt = sites.give_key()
    request = sites.request(sites.signed_by_all(), dealt, 0, 1, 2, 3)
    sites.now += timedelta(hours=24)
    with pytest.raises(RemoteError, match="expected a message of an epoch or round that has begun"):
        sites.ask(1, request)
    assert stored_key(sites.group.site(1).membership, 0) is None and "key.erased" in sites.kinds(1)


# -- forged sums ---------------------------------------------------------------------------------------------


def test_a_forged_sum_is_refused_noted_and_ends_the_epoch_for_good() -> None:
    sites = Sites()
    dealt = sites.give_key()
    votes = sites.signed_by_all()
    forged, right = sites.request(votes, dealt, 0, 1, 2), sites.request(votes, dealt, 0, 1, 2, 3)
    assert sites.refused(1, forged) is Cause.FORGED_SUM
    assert sites.kinds(1).count("sum.forged") == 1 and sites.kinds(1).count("key.erased") == 1
    assert "sum.opened" not in sites.kinds(1)
    for restarted in (False, True):
        if restarted:
            sites.restart(1)
        for message in (forged, right, sites.offer(dealt, 1), sites.group.request()):
            with pytest.raises(RemoteError, match="expected"):
                sites.ask(1, message)
        assert stored_key(sites.group.site(1).membership, 0) is None
    assert isinstance(sites.ask(2, right), Opened)


def test_a_member_that_has_seen_too_many_forged_sums_takes_no_further_key() -> None:
    """Each could tell a lying server something of a key: so there are few in a run."""
    sites = Sites()
    for epoch in range(encrypting_member._MOST_FORGED):
        if epoch:
            sites.agree(epoch)
        dealt = sites.give_key()
        assert sites.refused(1, sites.request(sites.signed_by_all(), dealt, 0, 1)) is Cause.FORGED_SUM
    sites.agree(encrypting_member._MOST_FORGED)
    dealt = sites.deal()
    assert sites.refused(1, sites.offer(dealt, 1)) is Cause.POLICY
    assert sites.refused(1, sites.group.request()) is Cause.POLICY
    assert isinstance(sites.ask(2, sites.offer(dealt, 2)), KeyAccepted)


def test_a_sum_that_is_right_begins_the_count_of_forged_ones_anew() -> None:
    """Else one hospital's nonsense, now and then in a run of many good rounds, would end it for all."""
    sites = Sites()
    for epoch in range(2 * encrypting_member._MOST_FORGED):
        if epoch:
            sites.agree(epoch)
        dealt = sites.give_key()
        votes = sites.signed_by_all()
        if epoch % 2:
            assert isinstance(sites.ask(1, sites.request(votes, dealt, 0, 1, 2, 3)), Opened)
        else:
            assert sites.refused(1, sites.request(votes, dealt, 0, 1)) is Cause.FORGED_SUM
    sites.agree(2 * encrypting_member._MOST_FORGED)
    assert isinstance(sites.ask(1, sites.offer(sites.deal(), 1)), KeyAccepted)


# -- what a member is ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "kind"), [("bfv", EncryptingMember), ("masking", Member)])
def test_the_plan_says_what_a_member_is(mode: str, kind: type[Member]) -> None:
    plan = masked_plan(f"protection.mode={mode}", "protection.dropout=0.25", sites=4)
    assert type(member_of(plan, EncryptedGroup().base.memberships["site-00"], now=lambda: NOW)) is kind


@pytest.mark.parametrize("make", [lambda: b"", lambda: b"WSA1", lambda: b"WSA1\x14" + bytes(50)])
def test_what_is_no_message_is_a_remote_error(make: Callable[[], bytes]) -> None:
    sites = Sites()
    with pytest.raises(RemoteError):
        sites.members[0].answer(make())
