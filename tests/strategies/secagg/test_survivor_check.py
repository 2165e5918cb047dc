"""Lists of survivors, bundles and votes that are not in order: refused or reported, by the member or the server."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from tests.strategies.secagg.simulated_group import (
    GROUPED,
    GUARDED,
    NOW,
    RUN,
    SERVER_KEY,
    SMALL,
    SimulatedGroup,
    name_of,
    signing_key,
    update_of,
)
from wardround.errors import LocalError
from wardround.strategies.secagg.messages import (
    Cause,
    Fault,
    Header,
    Masked,
    Report,
    RoundStart,
    SurvivorOffer,
    SurvivorSignature,
    SurvivorVote,
    UnmaskAnswer,
    UnmaskRequest,
    survivors_of,
)
from wardround.strategies.secagg.parameters import Parameters
from wardround.strategies.secagg.phases import RefusedError, ServerRoundPhase
from wardround.strategies.secagg.server_epoch import ServerEpoch
from wardround.strategies.secagg.server_round import ServerRound
from wardround.strategies.secagg.signing_inputs import descriptor_input, header_input, reports_input, survivors_input
from wardround.strategies.secagg.wire import Record


def offered(parameters: Parameters = SMALL, senders: Iterable[int] | None = None) -> tuple[SimulatedGroup, ServerRound]:
    """A round whose offers, M2, are made but not delivered."""
    group = SimulatedGroup(parameters)
    group.start_epoch()
    group.hook = lambda sender, receiver, message: [] if isinstance(message, SurvivorOffer) else [message]
    machine = group.start_round(group.descriptor())
    names = group.names if senders is None else [name_of(i) for i in senders]
    group.send_updates(names, group.descriptor())
    group.post(None, machine.close())
    assert machine.phase is ServerRoundPhase.SIGNATURES and not group.refused
    group.hook = lambda sender, receiver, message: [message]
    return group, machine


def offer_to(machine: ServerRound, member: int) -> SurvivorOffer:
    message = machine.outgoing()[member].message
    assert isinstance(message, SurvivorOffer)
    return message


def refused(cause: Cause, do: Callable[[], object]) -> None:
    with pytest.raises(RefusedError) as error:
        do()
    assert error.value.cause is cause


def signed(group: SimulatedGroup, header: Header, **changes: Any) -> tuple[Header, bytes]:
    """A header with changes that its own dealer signs."""
    header = replace(header, **changes)
    return header, signing_key(name_of(header.member)).sign(header_input(group.descriptor(), header))


def with_header(offer: SurvivorOffer, at: int, header: Header, signature: bytes, **changes: Any) -> SurvivorOffer:
    members = list(offer.groups[0].members)
    members[at] = replace(members[at], header=header, signature=signature, **changes)
    return replace(offer, groups=(replace(offer.groups[0], members=tuple(members)), *offer.groups[1:]))


def vote_of(group: SimulatedGroup, machine: ServerRound, member: int) -> SurvivorSignature:
    message = group.sites[name_of(member)].receive(offer_to(machine, member), NOW)[0].message
    assert isinstance(message, SurvivorSignature)
    return message


def test_a_member_that_lost_its_update_signs_no_list_with_itself() -> None:
    group = SimulatedGroup(SMALL)
    group.start_epoch()
    site = group.sites[name_of(4)]
    machine = group.start_round(group.descriptor())
    before = dict(site.store._values)
    group.send_updates(group.names, group.descriptor())
    site.store._values = before
    site.restart()
    site.receive(machine.outgoing()[0].message, NOW)
    machine.close()
    refused(Cause.STATE_LOST, lambda: site.receive(offer_to(machine, 4), NOW))


def test_a_signature_without_an_update_uses_the_rounds_number_up() -> None:
    group, machine = offered(senders=(0, 1, 2))
    vote_of(group, machine, 4)
    site = group.sites[name_of(4)]
    with pytest.raises(LocalError, match="above 0"):
        site.store.advance(f"secagg/{RUN}/round/0", 0)
    site.restart()
    assert site.round is not None
    with pytest.raises(LocalError, match="waits for an update"):
        site.round.mask(*update_of(site.name, 0), model=group.descriptor().model)


def test_offers_to_others_or_with_other_groups_are_refused() -> None:
    group, machine = offered(GROUPED)
    offer = offer_to(machine, 0)
    first, second = offer.groups
    swapped = replace(offer, groups=(replace(first, members=second.members), replace(second, members=first.members)))
    site = group.sites[name_of(0)]
    refused(Cause.STALE, lambda: site.receive(offer_to(machine, 1), NOW))
    refused(Cause.MALFORMED, lambda: site.receive(replace(offer, groups=(first,)), NOW))
    refused(Cause.MALFORMED, lambda: site.receive(swapped, NOW))
    empty = replace(offer, groups=(first, replace(second, members=())))
    assert site.receive(empty, NOW)  # a group may be given up


def test_headers_of_other_sizes_are_refused_by_members_and_server() -> None:
    group, machine = offered()
    offer = offer_to(machine, 0)
    header = offer.groups[0].members[2].header
    site = group.sites[name_of(0)]
    for changes in (
        {"commitments": header.commitments[:4]},
        {"roots": header.roots[:4], "ciphertexts": header.ciphertexts[:3], "commitments": header.commitments[:4]},
        {"roots": (*header.roots, bytes(32)), "ciphertexts": (*header.ciphertexts, bytes(32))},
    ):
        altered, signature = signed(group, header, **changes)
        with pytest.raises(RefusedError) as error:
            site.receive(with_header(offer, 2, altered, signature), NOW)
        assert error.value.cause is Cause.MALFORMED
    refused(Cause.SIGNATURE, lambda: site.receive(with_header(offer, 2, header, bytes(64)), NOW))


@pytest.mark.parametrize("fault", Fault)
def test_a_bad_bundle_is_reported_and_what_it_holds_is_not_opened(fault: Fault) -> None:
    group, machine = offered()
    offer = offer_to(machine, 0)
    header = offer.groups[0].members[2].header
    sealed = offer.groups[0].members[2].sealed
    if fault is Fault.UNREADABLE:
        sealed = bytes(len(sealed))
        digests = (hashlib.sha256(sealed).digest(), *header.ciphertexts[1:])
        lie = with_header(offer, 2, *signed(group, header, ciphertexts=digests), sealed=sealed)
    else:
        lie = with_header(offer, 2, *signed(group, header, roots=(bytes(32), *header.roots[1:])))
    site = group.sites[name_of(0)]
    vote = site.receive(lie, NOW)[0].message
    assert isinstance(vote, SurvivorSignature)
    assert vote.reports == (Report(dealer=2, fault=fault),)
    votes = []
    for member in range(3):
        data = survivors_input(group.descriptor(), 0, vote.survivors)
        votes.append(SurvivorVote(member=member, signature=signing_key(name_of(member)).sign(data)))
    request = UnmaskRequest(h=vote.h, committee=0, survivors=vote.survivors, votes=tuple(votes))
    answer = site.receive(request, NOW)[0].message
    assert isinstance(answer, UnmaskAnswer)
    assert {one.dealer for one in answer.openings} == {0, 1, 3, 4}


def test_a_bundle_that_the_server_put_in_an_honest_dealers_place_is_no_report_of_the_dealer() -> None:
    group, machine = offered()
    offer = offer_to(machine, 0)
    honest = offer.groups[0].members[2]
    swapped = with_header(offer, 2, honest.header, honest.signature, sealed=offer.groups[0].members[3].sealed)
    site = group.sites[name_of(0)]
    before = dict(site.store._values)
    refused(Cause.MALFORMED, lambda: site.receive(swapped, NOW))
    assert site.store._values == before
    message = site.receive(offer, NOW)[0].message
    assert isinstance(message, SurvivorSignature) and message.reports == ()


def test_a_member_whose_record_is_lost_signs_no_second_list_of_a_round_that_its_counter_knows() -> None:
    group, machine = offered(senders=(0, 1, 2))
    vote_of(group, machine, 4)
    site = group.sites[name_of(4)]
    offer = offer_to(machine, 4)
    fewer = replace(offer, groups=(replace(offer.groups[0], members=()),))
    for _ in range(2):
        site.membership.state.erase(f"secagg/{RUN}/round")
        site.restart()
        start = RoundStart(
            descriptor=group.descriptor(), signature=SERVER_KEY.sign(descriptor_input(group.descriptor()))
        )
        site.receive(start, NOW)
        before = dict(site.store._values)
        refused(Cause.STATE_LOST, lambda: site.receive(fewer, NOW))
        refused(Cause.STATE_LOST, lambda: site.receive(offer, NOW))
        assert site.store._values == before


def test_a_false_report_that_costs_the_sum_names_both_sides_and_calls_no_honest_dealer_bad() -> None:
    group = SimulatedGroup(GUARDED)
    group.start_epoch()
    liar, dealer = name_of(1), 3

    def hook(sender: str | None, receiver: str | None, message: Record) -> Iterable[Record]:
        if sender == name_of(0) and isinstance(message, SurvivorSignature | UnmaskAnswer):
            return []
        if sender == liar and isinstance(message, SurvivorSignature):
            lie = (Report(dealer=dealer, fault=Fault.UNREADABLE),)
            signature = signing_key(liar).sign(reports_input(group.descriptor(), 0, lie))
            return [replace(message, reports=lie, reports_signature=signature)]
        if sender == liar and isinstance(message, UnmaskAnswer):
            return [replace(message, openings=tuple(one for one in message.openings if one.dealer != dealer))]
        return [message]

    group.hook = hook
    machine = group.run_round(group.descriptor())
    assert machine.abort is not None and machine.bad_dealers == frozenset()
    assert machine.abort.cause is Cause.TOO_FEW_SIGNATURES
    assert machine.abort.parties == (liar, name_of(dealer)) and "prove nothing" in machine.abort.reason


def test_requests_for_another_list_or_with_votes_of_strangers_are_refused() -> None:
    group, machine = offered()
    votes = [vote_of(group, machine, i) for i in range(3)]
    request = UnmaskRequest(
        h=votes[0].h,
        committee=0,
        survivors=votes[0].survivors,
        votes=tuple(SurvivorVote(member=one.member, signature=one.signature) for one in votes),
    )
    site = group.sites[name_of(0)]
    stranger = SurvivorVote(member=5, signature=bytes(64))
    refused(Cause.OTHER_LIST, lambda: site.receive(replace(request, survivors=bytes(32)), NOW))
    refused(Cause.SIGNATURE, lambda: site.receive(replace(request, votes=(*request.votes, stranger)), NOW))
    refused(Cause.STALE, lambda: site.receive(replace(request, committee=1), NOW))
    assert site.receive(request, NOW)


# --- at the server


def test_updates_of_another_round_size_or_content_are_refused_by_the_server() -> None:
    group = SimulatedGroup(SMALL)
    group.start_epoch()
    held: list[Masked] = []

    def hook(sender: str | None, receiver: str | None, message: Record) -> Iterable[Record]:
        if isinstance(message, Masked):
            held.append(message)
            return []
        return [message]

    group.hook = hook
    group.start_round(group.descriptor(0))
    group.send_updates([name_of(0)], group.descriptor(0))
    machine = group.start_round(group.descriptor(1))
    refused(Cause.STALE, lambda: machine.receive(name_of(0), held[0], NOW))
    group.send_updates([name_of(0)], group.descriptor(1))
    good = held[1]

    def resigned(masked: Masked, **changes: Any) -> Masked:
        header = replace(masked.header, **changes)
        signature = signing_key(name_of(0)).sign(header_input(group.descriptor(1), header))
        return replace(masked, header=header, signature=signature)

    short = replace(good, sealed=tuple(one[:-1] for one in good.sealed))
    digests = tuple(hashlib.sha256(one).digest() for one in short.sealed)
    refused(Cause.MALFORMED, lambda: machine.receive(name_of(0), resigned(short, ciphertexts=digests), NOW))
    fewer = resigned(good, commitments=good.header.commitments[:4])
    refused(Cause.MALFORMED, lambda: machine.receive(name_of(0), fewer, NOW))
    assert machine.receive(name_of(0), good, NOW) == []
    other = resigned(good, roots=good.header.roots[::-1])
    refused(Cause.TWICE, lambda: machine.receive(name_of(0), other, NOW))


def test_votes_for_another_list_or_a_second_time_are_refused_by_the_server() -> None:
    group, machine = offered(GUARDED)
    vote = vote_of(group, machine, 0)
    descriptor = group.descriptor()

    def resigned(reports: tuple[Report, ...] = (), survivors: bytes = vote.survivors, member: int = 0) -> Record:
        key = signing_key(name_of(member))
        return replace(
            vote,
            member=member,
            survivors=survivors,
            signature=key.sign(survivors_input(descriptor, 0, survivors)),
            reports=reports,
            reports_signature=key.sign(reports_input(descriptor, 0, reports)) if reports else None,
        )

    report = Report(dealer=4, fault=Fault.UNREADABLE)
    refused(Cause.OTHER_LIST, lambda: machine.receive(name_of(0), resigned(survivors=bytes(32)), NOW))
    refused(Cause.SIGNATURE, lambda: machine.receive(name_of(1), vote, NOW))
    refused(Cause.SIGNATURE, lambda: machine.receive(name_of(0), replace(vote, signature=bytes(64)), NOW))
    assert machine.receive(name_of(0), resigned((report,)), NOW) == []
    refused(Cause.TWICE, lambda: machine.receive(name_of(0), vote, NOW))
    assert machine.bad_dealers == frozenset()  # one of them may collude
    machine.receive(name_of(1), resigned((report,), member=1), NOW)
    assert machine.bad_dealers == {4}
    assert survivors_of(header for header, _, _ in machine._offered.values())


def test_an_answer_of_one_whose_signature_never_came_is_refused_by_the_server() -> None:
    group, machine = offered()
    votes = [vote_of(group, machine, i) for i in range(4)]
    for vote in votes[:3]:
        machine.receive(name_of(vote.member), vote, NOW)
    sent = machine.close()
    answer = group.sites[name_of(3)].receive(sent[0].message, NOW)[0].message
    refused(Cause.OTHER_LIST, lambda: machine.receive(name_of(3), answer, NOW))
    good = group.sites[name_of(0)].receive(sent[0].message, NOW)[0].message
    assert isinstance(good, UnmaskAnswer)
    refused(Cause.SIGNATURE, lambda: machine.receive(name_of(1), good, NOW))
    refused(Cause.MALFORMED, lambda: machine.receive(name_of(0), replace(good, openings=good.openings[1:]), NOW))


def test_an_epoch_that_was_not_stored_as_a_whole_is_not_resumed() -> None:
    group = SimulatedGroup(SMALL)
    group.start_epoch(0)
    old = group.federation.store.get(f"secagg-server/{RUN}/signatures")
    group.start_epoch(1)
    assert old is not None and ServerEpoch.resume(group.federation) is not None
    group.federation.store.put(f"secagg-server/{RUN}/signatures", old)
    assert ServerEpoch.resume(group.federation) is None
