"""Each check removed in turn, and what a liar wins then; pins, thresholds, redos and more are in `test_attacks`."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.strategies.secagg.lying_server import (
    ALL,
    answer,
    masked_by_all,
    recovered,
    refused,
    request,
    secret_of,
    sign,
    started,
    unchecked,
    without,
)
from tests.strategies.secagg.simulated_group import (
    AUTHORITY,
    AUTHORITY_KEY,
    GUARDED,
    NOW,
    SERVER_KEY,
    UNREVOKED,
    SimulatedGroup,
    certificate,
    expected_sum,
    name_of,
    signing_key,
    stream,
    update_of,
)
from tests.strategies.secagg.test_epoch import hello_of, roster_for, signatures_of
from wardround.identity import issue_certificate
from wardround.signing_key import SigningKey
from wardround.strategies.secagg import (
    client_epoch,
    client_round,
    key_agreement,
    roster_check,
    server_round,
    shamir,
    signing_inputs,
    survivor_check,
)
from wardround.strategies.secagg.client_epoch import ClientEpoch
from wardround.strategies.secagg.cohort import Cohort, cohort_of, sign_of
from wardround.strategies.secagg.messages import (
    Cause,
    Descriptor,
    Fault,
    Hello,
    Masked,
    Published,
    Report,
    Roster,
    RoundStart,
    digest_of,
)
from wardround.strategies.secagg.phases import MemberEpochPhase, MemberRoundPhase, RefusedError, ServerRoundPhase
from wardround.strategies.secagg.server_epoch import ServerEpoch
from wardround.strategies.secagg.signing_inputs import descriptor_input, header_input, reports_input
from wardround.strategies.secagg.survivor_check import check_votes

# --- rosters


def is_signed(group: SimulatedGroup, alter: Callable[[Roster], Roster], **policy: object) -> Cause | None:
    """The cause for which member 0 refuses an altered roster; None where it signs."""
    roster = roster_for(group)
    member = ClientEpoch.resume(replace(group.memberships[name_of(0)], **policy))  # type: ignore[arg-type]
    assert member is not None
    try:
        member.receive(alter(roster), NOW)
    except RefusedError as error:
        return error.cause
    assert member.phase is MemberEpochPhase.SIGNED
    return None


def with_last(roster: Roster, hello: Hello) -> Roster:
    return replace(roster, hellos=(*roster.hellos[:-1], hello))


def test_a_stolen_key_with_an_expired_certificate_is_in_no_roster_but_without_the_check_of_certificates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = NOW - timedelta(days=9)
    der = issue_certificate(
        AUTHORITY,
        AUTHORITY_KEY,
        name=name_of(4),
        public=signing_key(name_of(4)).public,
        not_before=before,
        not_after=before + timedelta(days=1),
        random=stream("expired"),
    )

    def thief(roster: Roster) -> Roster:
        return with_last(roster, hello_of(name_of(4), roster.hellos[4], der=der))

    assert is_signed(SimulatedGroup(GUARDED), thief) is Cause.CERTIFICATE
    monkeypatch.setattr(roster_check, "check_hello", lambda hello, *_: signing_key(hello.entry.name).public)
    assert is_signed(SimulatedGroup(GUARDED), thief) is None


def test_a_member_whose_key_was_revoked_is_in_no_roster_but_without_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    group = SimulatedGroup(GUARDED)
    der = certificate(name_of(4), signing_key(name_of(4)).public)
    serial = group.authority.verify(der, name=name_of(4), now=NOW, revocations=UNREVOKED).serial
    strict = replace(UNREVOKED, serials=frozenset({serial}))
    assert is_signed(group, lambda roster: roster, revocations=strict) is Cause.REVOKED
    blank = replace(strict, serials=frozenset())
    check = roster_check.check_hello
    monkeypatch.setattr(roster_check, "check_hello", lambda hello, own, _, now: check(hello, own, blank, now))
    assert is_signed(SimulatedGroup(GUARDED), lambda roster: roster, revocations=strict) is None


def test_a_site_under_two_names_counts_once_but_twice_without_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """One colluder as two members would be two of those who must survive, and two votes."""
    twin = signing_key(name_of(3))

    def doubled(roster: Roster) -> Roster:
        return with_last(
            roster, hello_of(name_of(4), roster.hellos[4], key=twin, der=certificate(name_of(4), twin.public))
        )

    class Everybody:
        def check(self, name: str, public: bytes) -> None: ...

    class Unlike(bytes):
        """A key that is equal to no other."""

        def __eq__(self, other: object) -> bool:
            return self is other

        __hash__ = object.__hash__

    assert is_signed(SimulatedGroup(GUARDED), doubled, accepted=Everybody()) is Cause.TWICE
    check = roster_check.check_hello
    monkeypatch.setattr(roster_check, "check_hello", lambda *args: Unlike(check(*args)))
    assert is_signed(SimulatedGroup(GUARDED), doubled, accepted=Everybody()) is None


def test_a_roster_of_an_earlier_epoch_is_not_signed_again_but_without_the_check_of_the_own_entry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its keys were erased by honest members, and kept by those who meant to use them."""
    group = SimulatedGroup(GUARDED)
    old = roster_for(group)
    member = ClientEpoch.begin(group.memberships[name_of(0)], 1, NOW)
    refused(Cause.PARAMETERS, lambda: member.receive(old, NOW))
    check = roster_check.check_roster
    monkeypatch.setattr(client_epoch, "check_roster", lambda mine, own, *rest: check(mine, old.hellos[0], *rest))
    member.receive(old, NOW)
    assert member.phase is MemberEpochPhase.SIGNED


def test_a_roster_that_the_server_has_trimmed_is_not_signed_but_without_the_smallest_roster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Honest members are left out until those who are left are as many as the server has helpers."""

    def trimmed(roster: Roster) -> Roster:
        return replace(roster, hellos=roster.hellos[:3])

    assert is_signed(SimulatedGroup(GUARDED), trimmed) is Cause.TOO_FEW_MEMBERS
    check, made = roster_check.check_roster, cohort_of
    loose = replace(GUARDED, min_roster=3, colluding=0, min_survivors=3, dropout=0.0)

    def unbounded(mine: Any, *rest: Any) -> tuple[bytes, ...]:
        return check(replace(mine, parameters=loose), *rest)

    monkeypatch.setattr(client_epoch, "check_roster", unbounded)
    monkeypatch.setattr(client_epoch, "cohort_of", lambda roster, keys, table, _: made(roster, keys, table, loose))
    assert is_signed(SimulatedGroup(GUARDED), trimmed) is None


def views(group: SimulatedGroup) -> list[bytes]:
    """What members 0 and 1 have in common, to whom the server shows rosters without 4 and without 3: the keys of one
    pair in two rosters."""
    roster = roster_for(group)
    private = [group.sites[name_of(i)].epoch._parts[2] for i in (0, 1)]
    public = [roster.hellos[i].entry.public_key for i in (1, 0)]
    shown = [replace(roster, hellos=roster.hellos[:4]), replace(roster, hellos=(*roster.hellos[:3], roster.hellos[4]))]
    return [
        key_agreement.pair_key(mine, other, digest_of(seen))
        for mine, other, seen in zip(private, public, shown, strict=True)
    ]


def test_members_of_two_rosters_share_no_secret_but_where_it_is_not_bound_to_the_roster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = views(SimulatedGroup(GUARDED))
    assert first != second
    extract = key_agreement.hmac.digest  # type: ignore[attr-defined]

    class Saltless:
        @staticmethod
        def digest(salt: bytes, shared: bytes, name: str) -> bytes:
            return extract(bytes(32), shared, name)  # type: ignore[no-any-return]

    monkeypatch.setattr(key_agreement, "hmac", Saltless)
    first, second = views(SimulatedGroup(GUARDED))
    assert first == second


def test_an_endorsement_that_its_member_did_not_sign_starts_no_epoch_but_without_the_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server would sign for everybody, and each member would be alone with its roster."""
    group = SimulatedGroup(GUARDED)
    message = signatures_of(group)
    forged = replace(message, endorsements=tuple(replace(one, signature=bytes(64)) for one in message.endorsements))
    site = group.sites[name_of(0)]
    refused(Cause.SIGNATURE, lambda: site.receive(forged, NOW))
    monkeypatch.setattr(roster_check, "check_signature", unchecked)
    site.receive(forged, NOW)
    assert site.epoch.phase is MemberEpochPhase.READY


# --- the start of a round


def start_of(descriptor: Descriptor, key: SigningKey = SERVER_KEY) -> RoundStart:
    return RoundStart(descriptor=descriptor, signature=key.sign(descriptor_input(descriptor)))


def test_a_stranger_starts_no_round_but_without_the_servers_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    group = started()
    site, descriptor = group.sites[name_of(0)], group.descriptor()
    foreign = start_of(descriptor, signing_key(name_of(4)))
    refused(Cause.SIGNATURE, lambda: site.receive(foreign, NOW))
    monkeypatch.setattr(client_round, "_check_server", unchecked)
    site.receive(foreign, NOW)
    assert site.round is not None and site.round.mask(*update_of(site.name, 0), model=descriptor.model)


def test_a_stranger_ends_no_round_but_without_the_servers_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    group = started()
    machine = masked_by_all(group)
    site = group.sites[name_of(0)]
    forged = Published(h=machine._h, committee=0, groups=(), signature=bytes(64))
    refused(Cause.SIGNATURE, lambda: site.receive(forged, NOW))
    monkeypatch.setattr(client_round, "_check_server", unchecked)
    site.receive(forged, NOW)
    assert site.round is not None and site.round.phase is MemberRoundPhase.IDLE


def test_an_update_from_another_model_is_not_masked_but_without_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that trained on one model would have its update counted in a round of another."""
    group = started()
    group.start_round(group.descriptor())
    site = group.sites[name_of(0)]
    assert site.round is not None
    machine, other = site.round, hashlib.sha256(b"another").digest()
    refused(Cause.PARAMETERS, lambda: machine.mask(*update_of(site.name, 0), model=other))

    class Any_(bytes):
        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = bytes.__hash__

    assert machine.mask(*update_of(site.name, 0), model=Any_(other))


# --- lists and votes


def test_the_same_list_opens_nothing_for_votes_on_another_but_where_the_list_is_not_signed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both halves of a committee open what they were shown, as if all had agreed; then only the number of shares that
    are needed, t of L, stands between the server and the victim."""

    def both_open(group: SimulatedGroup) -> int:
        machine = masked_by_all(group)
        shown = {0: ALL, 1: ALL, 2: range(1, 5), 4: range(1, 5)}
        votes = {i: sign(group, machine, i, survivors) for i, survivors in shown.items()}
        opened = 0
        for i, vote in votes.items():
            lie = [replace(one, survivors=vote.survivors) for one in votes.values()]
            group.sites[name_of(i)].receive(request(lie), NOW)
            opened += 1
        return opened

    refused(Cause.SIGNATURE, lambda: both_open(started(GUARDED)))
    survivors_input = signing_inputs.survivors_input

    def without_list(descriptor: Descriptor, committee: int, _: bytes) -> bytes:
        return survivors_input(descriptor, committee, bytes(32))

    for module in (client_round, survivor_check):
        monkeypatch.setattr(module, "survivors_input", without_list)
    assert both_open(started(GUARDED)) == 4


def test_votes_of_members_outside_the_committee_do_not_count_but_without_the_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = started()
    machine = masked_by_all(group)
    votes = [sign(group, machine, i, ALL) for i in range(3)]
    cohort = group.sites[name_of(0)].epoch.agreement.cohort
    ask = request(votes)
    holders = Cohort.holders

    def fewer(own: Cohort, committee: int) -> tuple[int, ...]:
        return holders(own, committee)[:2]

    monkeypatch.setattr(Cohort, "holders", fewer)
    monkeypatch.setattr(Cohort, "threshold", lambda *args: 3)
    refused(Cause.SIGNATURE, lambda: check_votes(cohort, group.descriptor(), 0, ask.survivors, ask))
    monkeypatch.setattr(Cohort, "holders", holders)
    check_votes(cohort, group.descriptor(), 0, ask.survivors, ask)


def blamed(group: SimulatedGroup) -> frozenset[int]:
    """Whom the server can prove bad when it puts other roots into the header of honest dealer 2."""
    machine = masked_by_all(group)
    header, signature, sealed = machine._offered[2]
    machine._offered[2] = replace(header, roots=tuple(bytes(32) for _ in header.roots)), signature, sealed
    machine._settle(frozenset(ALL))
    for i in (0, 1, 3, 4):
        vote = sign(group, machine, i, ALL)
        assert vote.reports == (Report(dealer=2, fault=Fault.WRONG_SHARES),)
        machine.receive(name_of(i), vote, NOW)
    return machine.bad_dealers


def test_a_header_that_was_altered_is_refused_but_proves_an_honest_dealer_bad_without_its_signature(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused(Cause.SIGNATURE, lambda: blamed(started(GUARDED)))
    monkeypatch.setattr(survivor_check, "check_signature", unchecked)
    assert blamed(started(GUARDED)) == {2}


def test_a_false_report_of_one_colluder_excludes_nobody_but_where_one_is_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def excluded() -> frozenset[int]:
        group = started(GUARDED)
        machine = masked_by_all(group)
        machine._settle(frozenset(ALL))
        vote = sign(group, machine, 4, ALL)
        lie = (Report(dealer=1, fault=Fault.WRONG_SHARES),)
        signature = signing_key(name_of(4)).sign(reports_input(group.descriptor(), 0, lie))
        machine.receive(name_of(4), replace(vote, reports=lie, reports_signature=signature), NOW)
        return machine.bad_dealers

    assert excluded() == frozenset()
    monkeypatch.setattr(Cohort, "reports_needed", lambda *args: 1)
    assert excluded() == {1}


def test_reports_that_a_member_did_not_sign_are_refused_but_without_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would be no evidence, and whoever carries messages could write them."""

    def counted() -> frozenset[int]:
        group = started(GUARDED)
        machine = masked_by_all(group)
        machine._settle(frozenset(ALL))
        for i in (3, 4):
            vote = sign(group, machine, i, ALL)
            lie = (Report(dealer=1, fault=Fault.WRONG_SHARES),)
            machine.receive(name_of(i), replace(vote, reports=lie, reports_signature=bytes(64)), NOW)
        return machine.bad_dealers

    refused(Cause.SIGNATURE, counted)
    monkeypatch.setattr(server_round, "check_signature", unchecked)
    assert counted() == {1}


# --- updates


def summed(group: SimulatedGroup, alter: Callable[[Masked], Iterable[Masked]]) -> bool:
    """Whether the sum is right where what member 0 sends is altered on the way."""
    group.hook = lambda sender, receiver, message: (
        alter(message) if isinstance(message, Masked) and sender == name_of(0) else [message]
    )
    descriptor = group.descriptor()
    machine = group.start_round(descriptor)
    group.send_updates(group.names, descriptor)
    group.hook = lambda sender, receiver, message: [message]
    group.post(None, machine.close())
    if machine.phase is ServerRoundPhase.SIGNATURES:
        group.post(None, machine.close())
    assert machine.phase is ServerRoundPhase.DONE
    names = [name_of(member) for member in machine.results[0].members]
    return bool(machine.results[0].vector.tolist() == expected_sum(names, 0)[0])


def garbled(masked: Masked) -> list[Masked]:
    return [replace(masked, vector=bytes([masked.vector[0] ^ 1]) + bytes(masked.vector[1:]))]


def test_an_update_that_was_altered_on_the_way_is_left_out_but_spoils_the_sum_without_its_digest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert summed(started(), garbled)
    monkeypatch.setattr(Masked, "check_contents", unchecked)
    assert not summed(started(), garbled)


def test_a_second_update_of_one_member_is_refused_but_spoils_the_sum_without_the_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = started()

    def another(masked: Masked) -> list[Masked]:
        ones = b"\1" * len(masked.vector)
        header = replace(masked.header, vector=hashlib.sha256(ones).digest())
        signature = signing_key(name_of(0)).sign(header_input(group.descriptor(), header))
        return [masked, replace(masked, header=header, signature=signature, vector=ones)]

    assert summed(group, another)
    assert [error.cause for _, _, error in group.refused if isinstance(error, RefusedError)] == [Cause.TWICE]
    group = started()
    take = server_round.ServerRound._take

    def forgetful(machine: Any, sender: str, masked: Masked, now: datetime) -> Any:
        offered, machine._offered = machine._offered, {}
        try:
            return take(machine, sender, masked, now)
        finally:
            machine._offered = {**machine._offered, **offered}

    table: dict[Any, Any] = server_round._TABLE  # type: ignore[assignment]
    monkeypatch.setitem(table, (ServerRoundPhase.MASKS, Masked), forgetful)
    assert not summed(group, another)


# --- bundles


def late_update(group: SimulatedGroup) -> list[int]:
    """The victim's update came too late for the list, so that its pair seeds are opened. What the server reads of its
    own seed, if what i seals to the victim and what the victim seals to i are sealed alike: the victim opens its
    shares of the survivors' seeds, which gives the keystream of the other direction."""
    victim, survivors = 4, range(4)
    machine = masked_by_all(group)
    votes = [sign(group, machine, i, survivors) for i in ALL]
    answers = {i: answer(group, i, votes) for i in ALL}
    sealed = {
        one.header.member: one.sealed for _, _, one in group.sent if isinstance(one, Masked)
    }  # of i for l: number l, without i itself
    shares = {}
    for opening in answers[victim].openings:
        if opening.dealer == opening.peer:
            i = opening.dealer
            there, back = sealed[i][victim - 1][:32], sealed[victim][i][:32]
            shares[i] = bytes(a ^ b ^ c for a, b, c in zip(there, back, opening.share, strict=True))
    cohort = group.sites[name_of(0)].epoch.agreement.cohort
    own = shamir.combine(shares, cohort.threshold(0))
    pairs: dict[int, dict[int, bytes]] = {}
    for i, one in answers.items():
        for opening in one.openings:
            if opening.peer == victim:
                pairs.setdefault(opening.dealer, {})[i] = opening.share
    seeds = [(shamir.combine(held, cohort.threshold(0)), sign_of(victim, j)) for j, held in pairs.items()]
    return without(group, machine, victim, [(own, 1), *seeds])


def test_a_late_update_stays_hidden_but_not_where_both_directions_of_a_pair_are_sealed_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert late_update(started()) != secret_of(4)
    share_key = key_agreement.share_key
    monkeypatch.setattr(
        key_agreement, "share_key", lambda prk, h, one, other: share_key(prk, h, min(one, other), max(one, other))
    )
    assert late_update(started()) == secret_of(4)


def test_what_is_left_of_the_masks_hides_a_late_update() -> None:
    """The same, by what the committee opens: its pair seeds without exception, and no share of its own seed."""
    group = started()
    machine = masked_by_all(group)
    votes = [sign(group, machine, i, range(4)) for i in ALL]
    opened = {(one.dealer, one.peer) for i in ALL for one in answer(group, i, votes).openings}
    assert {(i, 4) for i in range(4)} <= opened and not [dealer for dealer, _ in opened if dealer == 4]
    assert recovered(group, machine, 4, []) is None


def test_a_server_counts_a_hello_of_its_own_run_plan_and_parameters_only() -> None:
    group = SimulatedGroup(GUARDED)
    like = roster_for(group).hellos[1]
    server = ServerEpoch(group.federation, 0)
    for changes in ({"plan": bytes(32)}, {"parameters": bytes(32)}, {"run": "another"}, {"authority": bytes(32)}):
        hello = hello_of(name_of(1), like, **changes)
        refused(Cause.PARAMETERS, lambda hello=hello: server.receive(name_of(1), hello, NOW))  # type: ignore[misc]
