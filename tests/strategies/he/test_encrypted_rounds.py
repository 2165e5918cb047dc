"""Rounds of homomorphic aggregation: drop-outs, restarts, servers and members that lie, and sums that are exact."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import cycle

import numpy as np
import pytest

from tests.strategies.he.encrypted_group import (
    PAIR,
    SCALARS,
    SIZE,
    EncryptedGroup,
    Member,
    check_sum,
    expected_sum,
    packing_of,
    refused,
    refuses,
    result_of,
    update_of,
)
from tests.strategies.secagg.simulated_group import SERVER_KEY, Hook, name_of, signing_key
from wardround.errors import LocalError, RemoteError
from wardround.strategies.he import client_round, encryption
from wardround.strategies.he.client_round import EncryptedRound
from wardround.strategies.he.encryption import ChunkCipher
from wardround.strategies.he.foreign_bytes import wrapped
from wardround.strategies.he.key_ceremony import EpochKey, stored_key
from wardround.strategies.he.memory_file import saved_bytes
from wardround.strategies.he.messages import (
    Encrypted,
    EncryptedHeader,
    EncryptedOffer,
    OfferedUpdate,
    Opened,
    OpenRequest,
    Wanted,
    chunks_digest,
    chunks_in,
)
from wardround.strategies.he.scheme import KeylessSum, PublicContext
from wardround.strategies.he.server_round import EncryptedServerRound
from wardround.strategies.secagg.keystream import U32, U64
from wardround.strategies.secagg.messages import (
    Cause,
    Descriptor,
    RoundStart,
    SurvivorSignature,
    SurvivorVote,
    Task,
    UnmaskRequest,
    digest_of,
    encode,
    survivors_of,
)
from wardround.strategies.secagg.phases import MemberRoundPhase, Outgoing, RefusedError, ServerRoundPhase
from wardround.strategies.secagg.signing_inputs import descriptor_input, encrypted_input, opened_input
from wardround.strategies.secagg.wire import Record

ALL = range(4)


def ready(hook: Hook | None = None) -> EncryptedGroup:
    group = EncryptedGroup()
    group.start_epoch()
    assert not group.refused
    if hook is not None:
        group.hook = hook
    return group


def sent_by_all(group: EncryptedGroup, round_: int = 0, members: Iterable[int] = ALL) -> EncryptedServerRound:
    """A round in which these have sent their updates, and the server has said nothing yet."""
    descriptor = group.descriptor(round_)
    machine = group.start_round(descriptor)
    group.send_updates(members, descriptor)
    return machine


# -- sums ----------------------------------------------------------------------------------------------------


def test_the_sum_of_all_members_is_exact_in_every_round() -> None:
    group = ready()
    for round_ in range(3):
        check_sum(group.run_round(group.descriptor(round_)), ALL, round_)
    assert not group.refused


def test_rounds_of_several_epochs_have_their_own_keys() -> None:
    group = ready()
    for epoch in range(3):
        if epoch:
            group.start_epoch(epoch, dealer=epoch)
        check_sum(group.run_round(group.descriptor(0)), ALL)
    assert not group.refused


def test_two_members_open_for_each_other() -> None:
    group = EncryptedGroup(PAIR)
    group.start_epoch()
    check_sum(group.run_round(), range(2))


def test_an_update_is_as_many_bytes_as_its_float32_values_at_two_a_slot() -> None:
    """The gate of the specification is at 16 bits and 8 members; here the bytes of one chunk."""
    group = ready()
    group.run_round()
    sent = [message for _, _, message in group.sent if isinstance(message, Encrypted)]
    for message in sent:
        assert len(encode(message)) < 1.0 * 4 * 2 * group.plan.slots * len(message.sizes)


def test_the_server_sees_other_bytes_in_each_round_for_the_same_update() -> None:
    group = ready()
    for round_ in (0, 1):
        descriptor = group.descriptor(round_)
        group.start_round(descriptor)
        words, lane = update_of(0)
        group.post("site-00", group.site(0).machine.mask(words, lane, model=descriptor.model))
    first, second = (message for _, _, message in group.sent if isinstance(message, Encrypted))
    assert bytes(first.chunks) != bytes(second.chunks)
    for one in chunks_in(first.sizes, first.chunks):
        assert bytes(one)[100:200] not in bytes(second.chunks)


def test_openers_take_turns() -> None:
    group = ready()
    told = []
    for round_ in range(4):
        before = len(group.sent)
        group.run_round(group.descriptor(round_))
        opened = [(who, one) for who, _, one in group.sent[before:] if isinstance(one, Opened)]
        assert len(opened) == 2 and {bool(one.words) for _, one in opened} == {True, False}
        told += [who for who, one in opened if one.words]
    assert told == [name_of(i) for i in ALL]


# -- drop-outs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("member", [0, 1, 3])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_drop_out_at_any_stage_leaves_the_right_sum(member: int, stage: int) -> None:
    group = ready()
    machine = group.run_round(silent={member: stage})
    check_sum(machine, [i for i in ALL if i != member or stage > 1])
    check_sum(group.run_round(group.descriptor(1)), ALL, 1)


def test_two_openers_may_die_where_two_others_are_there() -> None:
    group = ready()
    check_sum(group.run_round(silent={0: 3, 1: 3}), ALL)
    openers = {who for who, _, one in group.sent if isinstance(one, Opened)}
    assert openers == {"site-02", "site-03"}


def test_one_opener_alone_is_not_believed() -> None:
    """It could say what it likes, and have made the others refuse: no sum, and nobody is named without it."""
    group = ready()
    machine = group.run_round(silent={1: 3, 2: 3, 3: 3})
    assert machine.abort is not None and machine.abort.cause is Cause.FORGED_SUM and not machine.results
    assert machine.abort.parties == tuple(group.names)
    check_sum(group.run_round(group.descriptor(1)), ALL, 1)


@pytest.mark.parametrize("silent", [0, 1])
def test_of_two_hospitals_both_must_open(silent: int) -> None:
    group = EncryptedGroup(PAIR)
    group.start_epoch()
    machine = group.run_round(silent={silent: 3})
    assert machine.abort is not None and machine.abort.parties == tuple(group.names) and not machine.results
    check_sum(group.run_round(group.descriptor(1)), range(2), 1)


@pytest.mark.parametrize("member", [0, 1, 2])
def test_who_only_gave_a_digest_tells_the_sum_where_the_teller_died(member: int) -> None:
    """Three have signed, and one of them dies: the two others open, whichever of them was to tell."""
    group = ready()
    check_sum(group.run_round(silent={3: 2, member: 3}), ALL)


def test_without_any_opener_there_is_no_sum_and_the_silent_are_named() -> None:
    group = ready()
    machine = group.run_round(silent=dict.fromkeys(ALL, 3))
    assert machine.abort is not None and not machine.results
    assert machine.abort.parties == tuple(name_of(i) for i in ALL)


def test_too_few_updates_give_no_sum_and_name_who_is_missing() -> None:
    group = ready()
    machine = group.run_round(silent={1: 1, 3: 1})
    assert machine.abort is not None and machine.abort.cause is Cause.TOO_FEW_MEMBERS
    assert machine.abort.parties == ("site-01", "site-03")
    assert not any(isinstance(one, EncryptedOffer | OpenRequest) for _, _, one in group.sent)
    check_sum(group.run_round(group.descriptor(1)), ALL, 1)


def test_too_few_signatures_give_no_sum_and_open_nothing() -> None:
    group = ready()
    machine = group.run_round(silent={1: 2, 3: 2})
    assert machine.abort is not None and machine.abort.cause is Cause.TOO_FEW_SIGNATURES
    assert machine.abort.parties == ("site-01", "site-03")
    assert not any(isinstance(one, OpenRequest) for _, _, one in group.sent)


def test_a_late_update_is_refused_and_not_added() -> None:
    group = ready()
    machine = sent_by_all(group, members=[0, 1, 2])
    (late,) = group.site(3).machine.mask(*update_of(3), model=group.descriptor().model)
    offers = machine.close()
    with pytest.raises(RemoteError, match="expected SurvivorSignature in phase SIGNATURES, got Encrypted"):
        machine.receive("site-03", late.message, group.now)
    group.post(None, offers)
    group.finish(machine)
    check_sum(machine, [0, 1, 2])


def test_a_member_that_sent_no_update_signs_and_opens_all_the_same() -> None:
    """It trains no more in this round: its number is used."""
    group = ready()
    descriptor = group.descriptor()
    machine = group.start_round(descriptor)
    group.send_updates([0, 1, 2], descriptor)
    group.finish(machine)
    check_sum(machine, [0, 1, 2])
    assert "site-03" in {who for who, _, one in group.sent if isinstance(one, SurvivorSignature)}
    with pytest.raises(LocalError, match="expected a round that waits for an update, got phase"):
        group.site(3).machine.mask(*update_of(3), model=descriptor.model)


# -- restarts of a member ------------------------------------------------------------------------------------


def restart_before(kind: type[Record], member: int) -> Callable[[EncryptedGroup], Hook]:
    """`member` is killed, and starts again from its store, when a message of this kind is about to reach it."""

    def of(group: EncryptedGroup) -> Hook:
        def hook(sender: str | None, receiver: str | None, message: Record) -> Iterable[Record]:
            if isinstance(message, kind) and receiver == name_of(member):
                group.site(member).restart()
            return [message]

        return hook

    return of


@pytest.mark.parametrize("kind", [RoundStart, EncryptedOffer, OpenRequest])
@pytest.mark.parametrize("member", [0, 1])
def test_a_member_that_starts_again_at_any_step_goes_on(kind: type[Record], member: int) -> None:
    group = ready()
    group.hook = restart_before(kind, member)(group)
    for round_ in range(2):
        check_sum(group.run_round(group.descriptor(round_)), ALL, round_)
    assert not group.refused


def test_a_member_that_starts_again_before_its_update_still_sends_one() -> None:
    group = ready()
    descriptor = group.descriptor()
    machine = group.start_round(descriptor)
    group.site(2).restart()
    group.send_updates(ALL, descriptor)
    group.finish(machine)
    check_sum(machine, ALL)


def test_whatever_is_sent_again_is_the_same_bytes() -> None:
    """After a restart too: of each step there is one message, and no other of that round."""
    group = ready()
    machine = sent_by_all(group)
    start, site = machine.outgoing()[0].message, group.site(1)
    (first,) = [one for who, _, one in group.sent if isinstance(one, Encrypted) and who == "site-01"]
    for _ in range(2):
        (again,) = site.machine.receive(start, group.now)
        assert encode(again.message) == encode(first)
        with pytest.raises(LocalError, match="expected a round that waits for an update"):
            site.machine.mask(*update_of(3), model=group.descriptor().model)
        site.restart()
    group.post(None, machine.close())
    offer = next(one for _, _, one in group.sent if isinstance(one, EncryptedOffer))
    signed = site.machine.receive(offer, group.now)
    site.restart()
    assert encode(site.machine.receive(offer, group.now)[0].message) == encode(signed[0].message)
    request = next(one for _, _, one in group.sent if isinstance(one, OpenRequest))
    opened = site.machine.receive(request, group.now)
    site.restart()
    assert encode(site.machine.receive(request, group.now)[0].message) == encode(opened[0].message)


def train(site: Member, words: U32, lane: U64, descriptor: Descriptor) -> list[Outgoing]:
    return site.machine.mask(words, lane, model=descriptor.model)


@pytest.mark.parametrize("writes", range(15))
def test_a_member_killed_at_any_write_never_sends_two_of_anything(writes: int) -> None:
    """Two rounds, in one of which it is killed; it trains anew whenever it is asked, and each time another update.

    Whatever was stored or sent before, the sum is that of the members in it, each with the one update that it sent.
    """
    group = ready()
    victim, deliver = group.site(1), group.arrive
    deaths, trained = 0, dict[bytes, int]()

    def alive(do: Callable[[], list[Outgoing]]) -> list[Outgoing]:
        nonlocal deaths
        try:
            return do()
        except LocalError as error:
            if str(error) != "killed":
                raise
            deaths += 1
            victim.revived()
            return []

    def arrive(sender: str | None, receiver: str | None, message: Record) -> list[Outgoing]:
        answers = alive(lambda: deliver(sender, receiver, message)) if receiver == victim.name else None
        return deliver(sender, receiver, message) if answers is None else answers

    group.arrive = arrive  # type: ignore[method-assign]
    victim.killed_after(writes)
    for round_ in range(2):
        descriptor, before = group.descriptor(round_), len(group.sent)
        machine = group.start_round(descriptor)
        group.send_updates([0, 2, 3], descriptor)
        for attempt in range(2):
            group.post(None, [Outgoing(victim.name, machine.outgoing()[0].message)])  # the order again
            words, lane = update_of(1, 10 * attempt + round_)
            try:
                made = alive(partial(train, victim, words, lane, descriptor))
            except LocalError:
                continue  # it has sent its update, or the round's number is used, and it sits this one out
            for one in made:
                trained[encode(one.message)] = 10 * attempt + round_
            group.post(victim.name, made)
        group.finish(machine)
        sent = [one for who, _, one in group.sent[before:] if who == victim.name]
        updates = {encode(one) for one in sent if isinstance(one, Encrypted)}
        assert len(updates) <= 1 and len({encode(one) for one in sent if isinstance(one, SurvivorSignature)}) <= 1
        assert len({one.sum for one in sent if isinstance(one, Opened)}) <= 1
        members, told, scalars = result_of(machine)
        assert members == ((0, 1, 2, 3) if updates else (0, 2, 3))
        expected = expected_sum([0, 2, 3], round_)
        for update in updates:
            words, lane = update_of(1, trained[update])
            expected = (
                [a + b for a, b in zip(expected[0], words.view(np.int32).tolist(), strict=True)],
                [(a + b) % 2**64 for a, b in zip(expected[1], lane.tolist(), strict=True)],
            )
        assert (told, scalars) == expected
    assert deaths == (writes < 14), "it writes so often, and was killed at each of these"


def test_killed_between_storing_and_sending_the_update_it_is_sent_after_the_restart() -> None:
    group = ready()
    descriptor = group.descriptor()
    machine = group.start_round(descriptor)
    group.send_updates([0, 2, 3], descriptor)
    (lost,) = group.site(1).machine.mask(*update_of(1), model=descriptor.model)
    group.site(1).restart()
    group.post(None, [Outgoing("site-01", machine.outgoing()[0].message)])
    (sent,) = [one for who, _, one in group.sent if isinstance(one, Encrypted) and who == "site-01"]
    assert encode(sent) == encode(lost.message)
    group.finish(machine)
    check_sum(machine, ALL)


def test_killed_before_the_update_was_stored_it_sits_the_round_out_and_signs() -> None:
    """Its number is used before anything is encrypted: pads of tags are never used for two updates."""
    group = ready()
    descriptor = group.descriptor()
    machine = group.start_round(descriptor)
    group.send_updates([0, 2, 3], descriptor)
    group.site(1).killed_after(1)
    with pytest.raises(LocalError, match="killed"):
        group.site(1).machine.mask(*update_of(1), model=descriptor.model)
    group.site(1).revived()
    with pytest.raises(LocalError, match="expected a value above 0"):
        group.site(1).machine.mask(*update_of(3), model=descriptor.model)
    group.finish(machine)
    check_sum(machine, [0, 2, 3])


def test_a_round_s_number_is_used_once() -> None:
    group = ready()
    check_sum(group.run_round(group.descriptor(3)), ALL, 3)
    for number in (0, 2, 3):
        with pytest.raises(RemoteError, match="expected a round above 3"):
            group.site(0).receive(signed_start(group, group.descriptor(number, model=bytes(32))), group.now)
    check_sum(group.run_round(group.descriptor(4)), ALL, 4)


def signed_start(group: EncryptedGroup, descriptor: Descriptor) -> RoundStart:
    return RoundStart(descriptor=descriptor, signature=SERVER_KEY.sign(descriptor_input(descriptor)))


# -- stale and foreign ---------------------------------------------------------------------------------------


def test_rounds_of_another_epoch_are_stale() -> None:
    group = ready()
    old = signed_start(group, group.descriptor())
    group.start_epoch(1)
    for start in (old, signed_start(group, group.descriptor(0, epoch=2))):
        with pytest.raises(RemoteError):
            group.site(0).receive(start, group.now)
    assert group.site(0).machine.phase is MemberRoundPhase.IDLE


def test_an_epoch_ends_for_its_members_after_a_day() -> None:
    group = ready()
    group.now += timedelta(hours=24)
    late = group.descriptor(0, deadline_ms=int((group.now + timedelta(hours=1)).timestamp() * 1000))
    refuses(Cause.STALE, lambda: group.site(0).receive(signed_start(group, late), group.now))


def test_a_round_that_the_server_did_not_sign_is_refused() -> None:
    group = ready()
    start = signed_start(group, group.descriptor())
    with pytest.raises(RemoteError):
        group.site(0).receive(replace(start, signature=signing_key("site-01").sign(b"x")), group.now)


def test_an_update_for_another_model_is_refused_before_anything_is_used() -> None:
    group = ready()
    descriptor = group.descriptor()
    machine = group.start_round(descriptor)
    refuses(Cause.PARAMETERS, lambda: group.site(0).machine.mask(*update_of(0), model=bytes(32)))
    with pytest.raises(ValueError, match="a value above the clip"):
        words = update_of(0)[0].copy()
        words[5] = 1 << 20
        group.site(0).machine.mask(words, update_of(0)[1], model=descriptor.model)
    group.send_updates(ALL, descriptor)
    group.finish(machine)
    check_sum(machine, ALL)


def test_without_a_round_nothing_is_sent_signed_or_opened() -> None:
    group = ready()
    with pytest.raises(LocalError, match="expected a round that waits for an update, got phase IDLE"):
        group.site(0).machine.mask(*update_of(0), model=bytes(32))
    other = ready()
    other.run_round()
    for kind in (EncryptedOffer, OpenRequest):
        message = next(one for _, _, one in other.sent if isinstance(one, kind))
        with pytest.raises(RemoteError, match="expected RoundStart in phase IDLE"):
            group.site(0).receive(message, group.now)


# -- a server that lies about the list -----------------------------------------------------------------------


def offered(group: EncryptedGroup, members: Iterable[int], round_: int = 0) -> EncryptedOffer:
    """The list of these members, as a server makes it from what they have sent."""
    h = digest_of(group.descriptor(round_))
    found: dict[int, Encrypted] = {}
    for _, _, one in group.sent:
        if isinstance(one, Encrypted) and one.header.h == h:
            found[one.header.member] = one
    listed = tuple(OfferedUpdate(header=found[i].header, signature=found[i].signature) for i in members)
    return EncryptedOffer(h=h, members=listed)


def sign(group: EncryptedGroup, offer: EncryptedOffer, member: int) -> SurvivorSignature:
    (outgoing,) = group.site(member).receive(offer, group.now)
    assert isinstance(outgoing.message, SurvivorSignature)
    return outgoing.message


def test_a_list_of_too_few_is_not_signed() -> None:
    group = ready()
    sent_by_all(group)
    for members in ([0], [1, 2]):
        refuses(Cause.TOO_FEW_MEMBERS, lambda m=members: sign(group, offered(group, m), 0))
    sign(group, offered(group, [0, 1, 2]), 0)


def test_a_member_s_own_policy_may_ask_for_more() -> None:
    group = ready()
    site = group.site(0)
    site.membership = replace(site.membership, min_survivors=4)
    site.round = None
    sent_by_all(group)
    refuses(Cause.TOO_FEW_MEMBERS, lambda: sign(group, offered(group, [0, 1, 2]), 0))
    sign(group, offered(group, ALL), 0)


def test_one_list_is_signed_in_a_round() -> None:
    group = ready()
    sent_by_all(group)
    first = sign(group, offered(group, [0, 1, 2]), 0)
    for members in ([0, 1, 3], [1, 2, 3], ALL):
        refuses(Cause.OTHER_LIST, lambda m=members: sign(group, offered(group, m), 0))
    group.site(0).restart()
    refuses(Cause.OTHER_LIST, lambda: sign(group, offered(group, ALL), 0))
    assert sign(group, offered(group, [0, 1, 2]), 0) == first


def test_two_lists_of_a_round_do_not_both_get_a_quorum() -> None:
    """The server shows one list to half of the members, and another to the others: neither is opened."""
    group = ready()
    machine = sent_by_all(group)
    votes = {i: sign(group, offered(group, [0, 1, 2]), i) for i in (0, 1)}
    votes |= {i: sign(group, offered(group, [1, 2, 3]), i) for i in (2, 3)}
    group.post(None, machine.close())
    for listed, members in (((0, 1), [0, 1, 2]), ((2, 3), [1, 2, 3])):
        request = request_of(group, [votes[i] for i in listed], sum_of(group, members))
        refuses(
            Cause.TOO_FEW_SIGNATURES,
            lambda i=listed[0], r=request: group.site(i).receive(r, group.now),
        )


def test_a_list_without_this_member_is_signed_only_where_it_sent_nothing_that_is_hidden() -> None:
    """A list with a member who has sent no update in this round: somebody else's word for it."""
    group = ready()
    descriptor = group.descriptor()
    group.start_round(descriptor)
    group.send_updates([0, 1, 2], descriptor)
    header = replace(offered(group, [0]).members[0].header, member=3)
    forged = OfferedUpdate(
        header=header, signature=group.site(3).membership.signing_key.sign(encrypted_input(descriptor, header))
    )
    good = offered(group, [0, 1, 2])
    offer = EncryptedOffer(h=good.h, members=(*good.members[:2], good.members[2], forged))
    refuses(Cause.STATE_LOST, lambda: sign(group, offer, 3))
    assert sign(group, good, 3).member == 3


@pytest.mark.parametrize("change", ["signature", "round", "chunks", "stranger"])
def test_updates_in_a_list_are_signed_by_their_members_in_this_round(change: str) -> None:
    group = ready()
    group.run_round()
    sent_by_all(group, 1)
    good = offered(group, ALL, 1)
    first = good.members[0]
    changed: dict[str, tuple[Cause, OfferedUpdate]] = {
        "signature": (Cause.SIGNATURE, replace(first, signature=bytes(64))),
        "round": (Cause.STALE, offered(group, [0], 0).members[0]),
        "chunks": (Cause.SIGNATURE, replace(first, header=replace(first.header, chunks=bytes(32)))),
        "stranger": (Cause.MALFORMED, replace(first, header=replace(first.header, member=9))),
    }
    cause, bad = changed[change]
    if change == "round":  # such an offer is no message at all
        with pytest.raises(ValueError, match="expected updates of one round"):
            replace(good, members=(bad, *good.members[1:]))
        with pytest.raises(RemoteError):
            sign(group, replace(good, members=(bad, *offered(group, [1, 2, 3], 0).members)), 2)
        return
    members = (*good.members[1:], bad) if change == "stranger" else (bad, *good.members[1:])
    refuses(cause, lambda: sign(group, replace(good, members=members), 2))


def test_over_one_model_two_lists_are_not_both_signed() -> None:
    """Two sums over one model that differ in one member give that member's update away: not in two rounds either."""
    group = ready()
    model = bytes(32)
    first = group.run_round(group.descriptor(0, model=model))
    check_sum(first, ALL)
    second = group.run_round(group.descriptor(1, model=model), silent={2: 1})
    assert second.abort is not None and second.abort.cause is Cause.TOO_FEW_SIGNATURES
    assert {error.cause for _, _, error in group.refused} == {Cause.POLICY}  # type: ignore[attr-defined]
    check_sum(group.run_round(group.descriptor(2, model=model)), ALL, 2)


def test_a_list_that_was_signed_binds_over_its_model_though_nothing_was_opened() -> None:
    """Who has signed cannot know whether others opened it: another list waits for those who were in the first."""
    group = ready()
    model = bytes(32)
    first = group.run_round(group.descriptor(0, model=model), silent={1: 2, 3: 2})
    assert first.abort is not None and first.abort.cause is Cause.TOO_FEW_SIGNATURES
    second = group.run_round(group.descriptor(1, model=model), silent={3: 1})
    assert second.abort is not None and second.abort.cause is Cause.TOO_FEW_SIGNATURES
    refusing = {who: error.cause for who, _, error in group.refused if isinstance(error, RefusedError)}
    assert refusing == {name_of(i): Cause.POLICY for i in (0, 2)} | refusing
    check_sum(group.run_round(group.descriptor(2, model=model)), ALL, 2)
    check_sum(group.run_round(group.descriptor(3), silent={3: 1}), [0, 1, 2], 3)


# -- a server that lies about the sum ------------------------------------------------------------------------


def chunks_of(group: EncryptedGroup, member: int, round_: int = 0) -> list[bytes]:
    h = digest_of(group.descriptor(round_))
    (one,) = [
        one
        for _, _, one in group.sent
        if isinstance(one, Encrypted) and (one.header.member, one.header.h) == (member, h)
    ]
    return [bytes(chunk) for chunk in chunks_in(one.sizes, one.chunks)]


def sum_of(group: EncryptedGroup, members: Iterable[int], round_: int = 0) -> list[bytes]:
    assert group.deal is not None
    total = KeylessSum(PublicContext(group.plan, group.deal.header.context), group.packing.chunks)
    for member in members:
        total.add(chunks_of(group, member, round_))
    return list(total.serialized())


def request_of(
    group: EncryptedGroup, votes: Iterable[SurvivorSignature], chunks: list[bytes], wanted: Wanted = Wanted.WORDS
) -> OpenRequest:
    votes = sorted(votes, key=lambda one: one.member)
    request = UnmaskRequest(
        h=votes[0].h,
        committee=0,
        survivors=votes[0].survivors,
        votes=tuple(SurvivorVote(member=one.member, signature=one.signature) for one in votes),
    )
    return OpenRequest(request=request, wanted=wanted, sizes=tuple(map(len, chunks)), chunks=b"".join(chunks))


def voted(group: EncryptedGroup, round_: int = 0) -> list[SurvivorSignature]:
    """Everybody has signed the list of all."""
    sent_by_all(group, round_)
    return [sign(group, offered(group, ALL, round_), i) for i in ALL]


def test_a_right_sum_is_opened_and_the_same_one_again() -> None:
    group = ready()
    votes = voted(group)
    request = request_of(group, votes, sum_of(group, ALL))
    (first,) = group.site(2).receive(request, group.now)
    opened = first.message
    assert isinstance(opened, Opened)
    words = np.frombuffer(opened.words, dtype="<i4").tolist(), np.frombuffer(opened.scalars, dtype="<u8").tolist()
    assert words == expected_sum(ALL)
    for wanted in Wanted:
        (again,) = group.site(2).receive(replace(request, wanted=wanted), group.now)
        assert isinstance(again.message, Opened) and again.message.sum == opened.sum
        assert bool(again.message.words) == (wanted is Wanted.WORDS)


def test_a_second_sum_of_a_round_is_not_opened_even_if_it_is_right_too() -> None:
    """The same plaintext in other bytes: whether it is the same, nobody may find out by asking."""
    group = ready()
    votes = voted(group)
    first, second = sum_of(group, ALL), sum_of(group, [3, 2, 1, 0])
    reordered = [second[1], second[0]]
    group.site(1).receive(request_of(group, votes, first), group.now)
    for other in (reordered, sum_of(group, [0, 1, 2]), [first[0]]):
        refuses(Cause.TWICE, lambda o=other: group.site(1).receive(request_of(group, votes, o), group.now))
    group.site(1).restart()
    refuses(Cause.TWICE, lambda: group.site(1).receive(request_of(group, votes, reordered), group.now))
    group.site(1).receive(request_of(group, votes, first), group.now)


FORGED: dict[str, Callable[[EncryptedGroup], list[bytes]]] = {
    "one update": lambda group: chunks_of(group, 2, 1),
    "one update twice": lambda group: sum_of(group, [0, 1, 2, 3, 3], 1),
    "one left out": lambda group: sum_of(group, [0, 1, 2], 1),
    "one in another's place": lambda group: sum_of(group, [0, 1, 2, 2], 1),
    "chunks exchanged": lambda group: sum_of(group, ALL, 1)[::-1],
    "one chunk of one update": lambda group: [chunks_of(group, 2, 1)[0], sum_of(group, ALL, 1)[1]],
    "the last chunk of another sum": lambda group: [sum_of(group, ALL, 1)[0], sum_of(group, [0, 1, 2], 1)[1]],
    "a chunk too few": lambda group: sum_of(group, ALL, 1)[:1],
    "a chunk too many": lambda group: [*sum_of(group, ALL, 1), sum_of(group, ALL, 1)[0]],
    "no ciphertexts": lambda group: [b"x", b"y"],
    "half a ciphertext": lambda group: [(one := sum_of(group, ALL, 1))[0][:5000], one[1]],
    "the round before": lambda group: sum_of(group, ALL, 0),
    "one update of the round before": lambda group: [sum_of(group, ALL, 1)[0], sum_of(group, ALL, 0)[1]],
}


@pytest.mark.parametrize(("name", "wanted"), list(zip(FORGED, cycle(Wanted), strict=False)))
def test_a_forged_sum_erases_the_key_and_nothing_is_opened_after_it(name: str, wanted: Wanted) -> None:
    group = ready()
    check_sum(group.run_round(), ALL)
    site = group.site(1)
    votes = voted(group, 1)
    request = request_of(group, votes, FORGED[name](group), wanted)
    refuses(Cause.FORGED_SUM, lambda: site.receive(request, group.now))
    assert stored_key(site.membership, 0) is None
    site.restart()
    for message in (request_of(group, votes, sum_of(group, ALL, 1)), signed_start(group, group.descriptor(2))):
        with pytest.raises(RemoteError, match="expected a key for this epoch, got none"):
            site.receive(message, group.now)
    assert group.deal is not None
    (offer,) = [one.message for one in group.offers(group.deal) if one.receiver == "site-01"]
    refuses(Cause.STALE, lambda: site.receive(offer, group.now))
    group.start_epoch(1)
    check_sum(group.run_round(group.descriptor(0)), ALL)


def test_a_forged_sum_at_a_member_killed_while_it_erases_is_forged_again() -> None:
    """Its digest is stored before anything is decrypted: after the restart no other sum is opened in that round."""
    group = ready()
    votes = voted(group)
    site = group.site(1)
    site.killed_after(1)  # the sum's digest is stored; the key is still there
    with pytest.raises(LocalError, match="killed"):
        site.receive(request_of(group, votes, sum_of(group, [0, 1, 2])), group.now)
    site.revived()
    assert stored_key(site.membership, 0) is not None
    refuses(Cause.TWICE, lambda: site.receive(request_of(group, votes, sum_of(group, ALL)), group.now))
    refuses(Cause.FORGED_SUM, lambda: site.receive(request_of(group, votes, sum_of(group, [0, 1, 2])), group.now))
    assert stored_key(site.membership, 0) is None


@pytest.mark.parametrize("change", ["few", "forged", "stranger", "other list", "other round"])
def test_a_sum_is_opened_only_for_the_list_that_a_quorum_signed(change: str) -> None:
    group = ready()
    votes = voted(group)
    good = request_of(group, votes, sum_of(group, ALL))
    other = digest_of(survivors_of(one.header for one in offered(group, [0, 1, 2]).members))
    changed: dict[str, tuple[Cause, UnmaskRequest]] = {
        "few": (Cause.TOO_FEW_SIGNATURES, replace(good.request, votes=good.request.votes[:2])),
        "forged": (
            Cause.SIGNATURE,
            replace(
                good.request,
                votes=(*good.request.votes[:3], replace(good.request.votes[3], signature=votes[0].signature)),
            ),
        ),
        "stranger": (
            Cause.SIGNATURE,
            replace(good.request, votes=(*good.request.votes, SurvivorVote(member=9, signature=votes[0].signature))),
        ),
        "other list": (Cause.OTHER_LIST, replace(good.request, survivors=other)),
        "other round": (Cause.STALE, replace(good.request, h=bytes(32))),
    }
    cause, request = changed[change]
    refuses(cause, lambda: group.site(1).receive(replace(good, request=request), group.now))
    assert stored_key(group.site(1).membership, 0) is not None
    group.site(1).receive(good, group.now)


def test_a_member_that_signed_no_list_opens_none() -> None:
    group = ready()
    sent_by_all(group)
    votes = [sign(group, offered(group, ALL), i) for i in (0, 1, 2)]
    with pytest.raises(RemoteError, match="expected EncryptedOffer or RoundStart in phase MASKED, got OpenRequest"):
        group.site(3).receive(request_of(group, votes, sum_of(group, ALL)), group.now)


def test_a_sum_of_an_older_round_is_not_opened_in_the_next() -> None:
    group = ready()
    votes = voted(group)
    late = request_of(group, votes, sum_of(group, ALL))
    voted(group, 1)
    refuses(Cause.STALE, lambda: group.site(1).receive(late, group.now))
    assert stored_key(group.site(1).membership, 0) is not None


def test_without_noise_an_evaluation_is_one_list_over_a_model_too() -> None:
    group = ready()
    model = bytes(32)
    check_sum(group.run_round(group.descriptor(0, model=model, task=Task.EVALUATE)), ALL)
    machine = group.run_round(group.descriptor(1, model=model, task=Task.EVALUATE), silent={2: 1})
    assert machine.abort is not None


# -- members that lie ----------------------------------------------------------------------------------------


def lying_opener(group: EncryptedGroup, liar: int, much: int = 1) -> Hook:
    """`liar` adds so much to the first value of whatever it opens, and signs that."""

    def hook(sender: str | None, receiver: str | None, message: Record) -> Iterable[Record]:
        if not isinstance(message, Opened) or sender != name_of(liar):
            return [message]
        words = np.frombuffer(message.words, dtype="<u4").copy()
        if words.size:
            words[0] += much
        total = hashlib.sha256(words.tobytes())
        total.update(message.scalars or bytes((much,)))
        assert group.round is not None
        signed = opened_input(group.round._start.descriptor, message.survivors, total.digest())
        signature = group.site(liar).membership.signing_key.sign(signed)
        return [replace(message, words=words.tobytes(), sum=total.digest(), signature=signature)]

    return hook


@pytest.mark.parametrize("liar", [0, 1])
def test_a_lying_opener_is_outvoted_and_named(liar: int) -> None:
    """The one who tells the sum, or the witness: a third decides, and the sum is the right one."""
    group = ready()
    group.hook = lying_opener(group, liar)
    machine = group.run_round()
    assert result_of(machine) == (tuple(ALL), *expected_sum(ALL))
    assert machine.abort is not None and machine.abort.cause is Cause.FORGED_SUM
    assert machine.abort.parties == (name_of(liar),)


def test_a_lying_opener_is_found_out_though_the_first_witness_died() -> None:
    group = ready()
    group.hook = lying_opener(group, 0)
    machine = group.run_round(silent={1: 3})
    assert result_of(machine) == (tuple(ALL), *expected_sum(ALL))
    assert machine.abort is not None and machine.abort.parties == ("site-00",)


@pytest.mark.parametrize("liar", [0, 1])
def test_where_only_two_open_and_one_lies_there_is_no_sum_and_both_are_named(liar: int) -> None:
    group = EncryptedGroup(PAIR)
    group.start_epoch()
    group.hook = lying_opener(group, liar)
    machine = group.run_round()
    assert machine.abort is not None and machine.abort.cause is Cause.FORGED_SUM and not machine.results
    assert set(machine.abort.parties) == {"site-00", "site-01"}


def test_two_who_lie_in_different_ways_do_not_agree() -> None:
    group = ready()
    first, second = lying_opener(group, 0, 1), lying_opener(group, 1, 2)

    def hook(sender: str | None, receiver: str | None, message: Record) -> Iterable[Record]:
        return (second if sender == "site-01" else first)(sender, receiver, message)

    group.hook = hook
    machine = group.run_round()
    assert result_of(machine) == (tuple(ALL), *expected_sum(ALL))
    assert machine.abort is not None and set(machine.abort.parties) == {"site-00", "site-01"}


def test_an_honest_witness_s_refusal_is_not_answered_by_its_reason() -> None:
    """A server that alters chunks learns that the sum was refused, and not at which of them."""
    reasons = set()
    for name in ("chunks exchanged", "the last chunk of another sum", "no ciphertexts", "a chunk too few"):
        group = ready()
        check_sum(group.run_round(), ALL)
        votes = voted(group, 1)
        with pytest.raises(RefusedError) as error:
            group.site(1).receive(request_of(group, votes, FORGED[name](group)), group.now)
        reasons.add(str(error.value))
    assert len(reasons) == 1


def test_an_opener_s_words_are_those_that_it_signed_and_as_many_as_asked_for() -> None:
    group = ready()
    caught: list[Opened] = []

    def keep(sender: str | None, receiver: str | None, message: Record) -> Iterable[Record]:
        if isinstance(message, Opened):
            caught.append(message)
            return []
        return [message]

    group.hook = keep
    machine = sent_by_all(group)
    group.post(None, machine.close())
    words = next(one for one in caught if one.words)
    sender = name_of(words.member)
    bad: dict[str, tuple[Cause, Opened]] = {
        "words": (Cause.MALFORMED, replace(words, words=bytes(len(words.words)))),
        "short": (Cause.MALFORMED, resigned(group, words, words=bytes(words.words)[:-4])),
        "scalars": (Cause.MALFORMED, resigned(group, words, scalars=bytes(8 * SCALARS + 8))),
        "signature": (Cause.SIGNATURE, replace(words, signature=bytes(64))),
        "list": (Cause.OTHER_LIST, replace(words, survivors=bytes(32))),
        "round": (Cause.OTHER_LIST, replace(words, h=bytes(32))),
        "member": (Cause.SIGNATURE, replace(words, member=(words.member + 1) % 4)),
    }
    for cause, message in bad.values():
        refuses(cause, lambda m=message: machine.receive(sender, m, group.now))
    assert not machine._opened
    for one in caught:
        machine.receive(name_of(one.member), one, group.now)
    check_sum(machine, ALL)


def resigned(group: EncryptedGroup, message: Opened, **changes: bytes) -> Opened:
    """Another sum than the right one, signed as its opener would."""
    changed = replace(message, **changes)  # type: ignore[arg-type]
    total = hashlib.sha256(changed.words)
    total.update(changed.scalars)
    assert group.round is not None
    signed = opened_input(group.round._start.descriptor, message.survivors, total.digest())
    signature = group.site(message.member).membership.signing_key.sign(signed)
    return replace(changed, sum=total.digest(), signature=signature)


def test_an_update_that_is_not_tagged_ends_the_epoch_and_gives_no_sum() -> None:
    """A member that encrypts without tags, or under another round: nobody can say who it was, and nothing is told."""
    group = ready()
    descriptor = group.descriptor()
    machine = group.start_round(descriptor)
    group.send_updates([0, 1, 2], descriptor)
    cipher = ChunkCipher(group.plan, key_at(group.site(3)))
    slots = group.packing.pack(*update_of(3))
    message = signed_update(group, 3, cipher.encrypt(bytes(32), 3, slots))
    machine.receive("site-03", message, group.now)
    group.finish(machine)
    assert machine.abort is not None and machine.abort.cause is Cause.FORGED_SUM and not machine.results
    assert [stored_key(group.site(i).membership, 0) is None for i in ALL] == [True, True, True, False]  # all who signed


def key_at(site: Member) -> EpochKey:
    key = stored_key(site.membership, 0)
    assert key is not None
    return key


def signed_update(group: EncryptedGroup, member: int, parts: list[bytes], **changes: object) -> Encrypted:
    sizes, data = tuple(map(len, parts)), b"".join(parts)
    made = EncryptedHeader(
        h=digest_of(group.descriptor()),
        member=member,
        size=SIZE,
        scalars=SCALARS,
        chunks=chunks_digest(sizes, data),
    )
    header: EncryptedHeader = replace(made, **changes)  # type: ignore[arg-type]
    key = group.site(member).membership.signing_key
    signature = key.sign(encrypted_input(group.descriptor(), header))
    return Encrypted(header=header, signature=signature, sizes=sizes, chunks=data)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ("foreign", Cause.SIGNATURE),
        ("signature", Cause.SIGNATURE),
        ("stranger", Cause.MALFORMED),
        ("round", Cause.STALE),
        ("size", Cause.MALFORMED),
        ("scalars", Cause.MALFORMED),
        ("fewer", Cause.MALFORMED),
        ("more", Cause.MALFORMED),
        ("digest", Cause.MALFORMED),
        ("garbage", Cause.MALFORMED),
        ("last bad", Cause.MALFORMED),
    ],
)
def test_a_bad_update_is_refused_and_the_sum_of_the_others_is_exact(change: str, cause: Cause) -> None:
    group = ready()
    descriptor = group.descriptor()
    machine = group.start_round(descriptor)
    group.send_updates([0], descriptor)
    (made,) = group.site(3).machine.mask(*update_of(3), model=descriptor.model)
    good = made.message
    assert isinstance(good, Encrypted)
    chunks = [bytes(one) for one in chunks_in(good.sizes, good.chunks)]
    bad: dict[str, Callable[[], Encrypted]] = {
        "foreign": lambda: signed_update(group, 2, chunks),
        "signature": lambda: replace(good, signature=bytes(64)),
        "stranger": lambda: replace(good, header=replace(good.header, member=4)),
        "round": lambda: signed_update(group, 3, chunks, h=bytes(32)),
        "size": lambda: signed_update(group, 3, chunks, size=SIZE + 1),
        "scalars": lambda: signed_update(group, 3, chunks, scalars=SCALARS + 1),
        "fewer": lambda: signed_update(group, 3, chunks[:1]),
        "more": lambda: signed_update(group, 3, [*chunks, chunks[0]]),
        "digest": lambda: signed_update(group, 3, chunks, chunks=bytes(32)),
        "garbage": lambda: signed_update(group, 3, [b"x", b"y"]),
        "last bad": lambda: signed_update(group, 3, [chunks[0], chunks[1][:-1]]),
    }
    refuses(cause, lambda: machine.receive("site-03", bad[change](), group.now))
    machine.receive("site-03", good, group.now)
    group.send_updates([1, 2], descriptor)
    group.finish(machine)
    check_sum(machine, ALL)


def test_one_update_counts_and_another_of_the_same_member_does_not() -> None:
    group = ready()
    descriptor = group.descriptor()
    machine = group.start_round(descriptor)
    group.send_updates(ALL, descriptor)
    (first,) = [one for who, _, one in group.sent if isinstance(one, Encrypted) and who == "site-03"]
    machine.receive("site-03", first, group.now)
    cipher = ChunkCipher(group.plan, key_at(group.site(3)))
    second = signed_update(group, 3, cipher.encrypt(digest_of(descriptor), 3, group.packing.pack(*update_of(2))))
    refuses(Cause.TWICE, lambda: machine.receive("site-03", second, group.now))
    group.finish(machine)
    check_sum(machine, ALL)


def test_two_members_whose_ciphertexts_add_up_to_nothing_end_the_round_and_one_is_named() -> None:
    group = ready()
    descriptor = group.descriptor()
    machine = group.start_round(descriptor)
    group.send_updates([3], descriptor)
    opposite = [negated(group, chunk) for chunk in chunks_of(group, 3)]
    assert machine.receive("site-02", signed_update(group, 2, opposite), group.now) == []
    assert machine.phase is ServerRoundPhase.ABORTED and machine.abort is not None
    assert machine.abort.cause is Cause.MALFORMED and machine.abort.parties == ("site-02",)
    group.start_epoch(1)
    check_sum(group.run_round(group.descriptor(0)), ALL)


def negated(group: EncryptedGroup, chunk: bytes) -> bytes:
    import tenseal as ts
    import tenseal.sealapi as seal

    assert group.context is not None
    context = group.context.context
    (found,) = ts.bfv_vector_from(context, chunk).ciphertext()
    seal.Evaluator(context.seal_context().data).negate_inplace(found)
    return wrapped(saved_bytes(found.save))


def test_signatures_of_another_list_or_member_are_not_counted() -> None:
    group = ready()
    machine = sent_by_all(group)
    caught: list[SurvivorSignature] = []

    def keep(sender: str | None, receiver: str | None, message: Record) -> Iterable[Record]:
        if isinstance(message, SurvivorSignature):
            caught.append(message)
            return []
        return [message]

    group.hook = keep
    group.post(None, machine.close())
    first = caught[0]
    for cause, sender, bad in (
        (Cause.SIGNATURE, "site-01", first),
        (Cause.SIGNATURE, "site-00", replace(first, signature=bytes(64))),
        (Cause.SIGNATURE, "site-00", replace(first, member=7)),
        (Cause.OTHER_LIST, "site-00", replace(first, survivors=bytes(32))),
        (Cause.OTHER_LIST, "site-00", replace(first, h=bytes(32))),
    ):
        refuses(cause, lambda s=sender, b=bad: machine.receive(s, b, group.now))
    assert not machine._votes


# -- every (phase, message) cell -----------------------------------------------------------------------------


def test_a_message_out_of_turn_is_refused_and_changes_nothing() -> None:
    """At the server and at a member: each kind of message in each phase, and the round goes on."""
    other = ready()
    other.run_round()
    kinds = (RoundStart, Encrypted, EncryptedOffer, SurvivorSignature, OpenRequest, Opened)
    samples = [next(one for _, _, one in other.sent if isinstance(one, kind)) for kind in kinds]
    allowed_here = {phase: {kind for at, kind in client_round._TABLE if at is phase} for phase in MemberRoundPhase}
    group = ready()
    seen: set[MemberRoundPhase] = set()

    def probe(sender: str | None, receiver: str | None, message: Record) -> Iterable[Record]:
        for site in group.sites.values():
            machine = site.machine
            seen.add(machine.phase)
            for sample in samples:
                if type(sample) not in allowed_here[machine.phase]:
                    with pytest.raises(RemoteError, match=f"in phase {machine.phase.name}"):
                        machine.receive(sample, group.now)
        if group.round is not None:
            expected = {
                ServerRoundPhase.MASKS: Encrypted,
                ServerRoundPhase.SIGNATURES: SurvivorSignature,
                ServerRoundPhase.OPENINGS: Opened,
            }.get(group.round.phase)
            for sample in samples:
                if type(sample) is not expected:
                    with pytest.raises(RemoteError, match="in phase"):
                        group.round.receive("site-00", sample, group.now)
        return [message]

    group.hook = probe
    check_sum(group.run_round(), ALL)
    assert seen >= set(MemberRoundPhase) - {MemberRoundPhase.IDLE}


# -- many chunks ---------------------------------------------------------------------------------------------


def test_workers_give_what_one_process_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of one chunk, one after another or in processes of their own; opened whole, each at its own place."""
    group = ready()
    key, h = key_at(group.site(0)), bytes(32)
    packing = packing_of(group.plan, 3 * 2 * group.plan.slots, 0)
    words = (np.arange(packing.size) % 1000).astype(np.uint32)
    lane: U64 = np.zeros(0, dtype=np.uint64)
    slots = packing.pack(words, lane)
    alone = ChunkCipher(group.plan, key)
    monkeypatch.setattr(encryption, "_PIECE", 1)
    in_pieces = alone.encrypt(h, 2, slots)
    monkeypatch.setattr(encryption, "_WORTH_A_PROCESS", 2)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    spread = ChunkCipher(group.plan, key)
    made = spread.encrypt(h, 2, slots)
    assert np.array_equal(spread.decrypt(h, [2], made), slots)
    with pytest.raises(RemoteError, match="expected the sum of the listed"):
        spread.decrypt(h, [2], [made[0], made[2], made[1]])
    monkeypatch.undo()
    for chunks in (made, in_pieces):
        assert np.array_equal(alone.decrypt(h, [2], chunks), slots)
    back: U32 = packing.unpack(slots, 1)[0]
    assert np.array_equal(back, words)


def test_a_machine_made_anew_has_no_round_of_another_epoch() -> None:
    group = ready()
    group.run_round()
    site = group.site(0)
    again = EncryptedRound(site.membership, site.epoch.agreement, key_at(site), partial(packing_of, group.plan))
    assert again.phase is MemberRoundPhase.ANSWERED
    group.start_epoch(1)
    assert group.site(0).machine.phase is MemberRoundPhase.IDLE
    with pytest.raises(LocalError, match="expected a round that has begun"):
        _ = group.site(0).machine.descriptor


def test_the_server_lets_go_of_the_sum_at_the_end() -> None:
    group = ready()
    machine = group.run_round()
    assert machine._total[1]
    machine.end()
    assert machine._total == ((), b"")


def test_a_server_round_begins_once() -> None:
    group = ready()
    group.run_round(group.descriptor(4))
    for number in (0, 4):
        with pytest.raises(LocalError, match="expected a value above 4"):
            group.start_round(group.descriptor(number))


def test_refusals_name_who_is_the_reason() -> None:
    group = ready()
    machine = group.start_round(group.descriptor())
    (made,) = group.site(3).machine.mask(*update_of(3), model=group.descriptor().model)
    with pytest.raises(RemoteError) as error:
        machine.receive("site-02", made.message, group.now)
    refused(Cause.SIGNATURE, error.value)
    assert str(error.value).startswith("site-02: expected its own update, got one of site-03")
