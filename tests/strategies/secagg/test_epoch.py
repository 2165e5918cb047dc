"""Epochs: everybody signs one roster once, or none; the same keys on both sides; nothing of it is lost by a restart."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.strategies.secagg import transcript
from tests.strategies.secagg.simulated_group import (
    AUTHORITY,
    AUTHORITY_KEY,
    GROUPED,
    GUARDED,
    NOW,
    RUN,
    SMALL,
    SimulatedGroup,
    certificate,
    name_of,
    signing_key,
    stream,
)
from wardround.errors import LocalError, RemoteError
from wardround.identity import Authority, issue_certificate
from wardround.signing_key import SigningKey
from wardround.state_store import MemoryStore
from wardround.strategies.secagg import client_epoch, cohort, key_agreement, parameters
from wardround.strategies.secagg.client_epoch import ClientEpoch
from wardround.strategies.secagg.cohort import cohort_of, draw_groups
from wardround.strategies.secagg.draws import IDLE_DRAWS_A_DAY
from wardround.strategies.secagg.messages import (
    Cause,
    Endorsement,
    Group,
    GroupTable,
    Hello,
    Published,
    Roster,
    RosterSignature,
    RosterSignatures,
    commit_nonce,
    digest_of,
    encode,
)
from wardround.strategies.secagg.parameters import Parameters, Tables
from wardround.strategies.secagg.phases import MemberEpochPhase, MemberRoundPhase, RefusedError, ServerEpochPhase
from wardround.strategies.secagg.sealed_state import SealedState
from wardround.strategies.secagg.server_epoch import ServerEpoch
from wardround.strategies.secagg.signing_inputs import hello_input, roster_input
from wardround.strategies.secagg.wire import Record


def stopped_at(group: SimulatedGroup, kind: type[Record]) -> list[Record]:
    """An epoch in which messages of one kind are held back: those messages."""
    held: list[Record] = []

    def hook(sender: str | None, receiver: str | None, message: Record) -> Iterable[Record]:
        if isinstance(message, kind):
            held.append(message)
            return []
        return [message]

    group.hook = hook
    try:
        group.start_epoch()
    except RefusedError:
        assert kind is not RosterSignatures
    return held


def roster_for(group: SimulatedGroup) -> Roster:
    """The roster that the server shows, before anybody has seen it."""
    roster = stopped_at(group, Roster)[0]
    assert isinstance(roster, Roster)
    return roster


def hello_of(
    name: str,
    like: Hello,
    *,
    key: SigningKey | None = None,
    der: bytes | None = None,
    public: bytes | None = None,
    **changes: Any,
) -> Hello:
    """A hello as `like`, of another name or keys, truly signed."""
    key = signing_key(name) if key is None else key
    public = key_agreement.generate(stream(f"another {name}")).public if public is None else public
    entry = replace(
        like.entry, name=name, public_key=public, certificate=der or certificate(name, key.public), **changes
    )
    return Hello(entry=entry, signature=key.sign(hello_input(entry)))


@pytest.mark.parametrize("wanted", [SMALL, GUARDED, GROUPED], ids=["small", "guarded", "grouped"])
def test_all_members_and_the_server_agree_on_cohort_and_keys(wanted: Parameters) -> None:
    group = SimulatedGroup(wanted)
    group.start_epoch()
    assert not group.refused
    assert group.server is not None
    cohorts = [site.epoch.agreement.cohort for site in group.sites.values()]
    assert all(cohort == group.server.cohort for cohort in cohorts)
    secrets = [site.epoch.agreement.secrets for site in group.sites.values()]
    found = set()
    for i, mine in enumerate(secrets):
        assert sorted(mine) == [j for j in range(len(secrets)) if j != i]
        for j, prk in mine.items():
            assert secrets[j][i] == prk
            found.add(prk)
    assert len(found) == len(secrets) * (len(secrets) - 1) // 2


def test_an_epoch_goes_on_without_a_member_that_is_absent() -> None:
    group = SimulatedGroup(SMALL)
    group.start_epoch(absent=[name_of(2)])
    assert group.server is not None
    assert group.server.cohort.names == tuple(name_of(i) for i in (0, 1, 3, 4))


def test_an_epoch_with_too_few_members_is_refused_by_the_server() -> None:
    group = SimulatedGroup(SMALL)
    with pytest.raises(RefusedError, match="at least 4 members, got 3") as refused:
        group.start_epoch(absent=[name_of(2), name_of(3)])
    assert refused.value.cause is Cause.TOO_FEW_MEMBERS


def test_groups_are_drawn_once_and_hold_in_later_epochs() -> None:
    group = SimulatedGroup(GROUPED)
    group.start_epoch(0)
    assert group.server is not None
    first = group.server.cohort
    assert sorted(len(one) for one in first.groups) == [4, 4]
    assert sorted(member for one in first.groups for member in one) == list(range(8))
    group.start_epoch(1)
    assert not group.refused
    assert group.server.cohort.groups == first.groups
    assert group.server.cohort.group_table == first.group_table is not None
    assert group.server.cohort.roster != first.roster
    hellos = [message for _, _, message in group.sent if isinstance(message, Hello)]
    assert [hello.entry.nonce_commitment is not None for hello in hellos] == [True] * 8 + [False] * 8


def test_drawn_groups_depend_on_every_nonce_and_have_equal_sizes() -> None:
    roster = transcript.make().messages["roster"]
    assert isinstance(roster, Roster)
    drawn = {draw_groups(roster, bytes([k]) * 32, 4).groups for k in range(30)}
    assert len(drawn) > 25
    assert all(sorted(len(one.names) for one in groups) == [1, 1, 2, 2] for groups in drawn)


def test_a_newcomer_is_no_member_of_a_table_that_was_made_before() -> None:
    made = transcript.make().messages
    roster = made["roster"]
    assert isinstance(roster, Roster)
    table = draw_groups(roster, bytes(32), 2)
    left = replace(table, groups=(table.groups[0],))
    with pytest.raises(ValueError, match="waits for the next run"):
        cohort_of(roster, [bytes(32)] * 6, left, GROUPED)


def altered_rosters() -> dict[str, tuple[Callable[[SimulatedGroup, Roster], Roster], Cause]]:
    """What a lying server could show member 0, and why it is refused."""

    def with_hello(roster: Roster, at: int, hello: Hello) -> Roster:
        hellos = [one for i, one in enumerate(roster.hellos) if i != at] + [hello]
        return replace(roster, hellos=tuple(sorted(hellos, key=lambda one: one.entry.name.encode())))

    def swapped_key(group: SimulatedGroup, roster: Roster) -> Roster:
        pair = key_agreement.generate(stream("of the server"))
        hello = roster.hellos[1]
        return with_hello(roster, 1, replace(hello, entry=replace(hello.entry, public_key=pair.public)))

    def invented(group: SimulatedGroup, roster: Roster) -> Roster:
        return with_hello(roster, 4, hello_of("site-99", roster.hellos[1]))

    def reissued(group: SimulatedGroup, roster: Roster) -> Roster:
        key = SigningKey.make(stream("another key of site 1"))
        return with_hello(roster, 1, hello_of(name_of(1), roster.hellos[1], key=key))

    def without_me(group: SimulatedGroup, roster: Roster) -> Roster:
        return replace(roster, hellos=roster.hellos[1:])

    def other_key_of_mine(group: SimulatedGroup, roster: Roster) -> Roster:
        return with_hello(roster, 0, hello_of(name_of(0), roster.hellos[0]))

    def trimmed(group: SimulatedGroup, roster: Roster) -> Roster:
        return replace(roster, hellos=roster.hellos[:3])

    def expired(group: SimulatedGroup, roster: Roster) -> Roster:
        before = NOW - timedelta(days=9)
        der = issue_certificate(
            AUTHORITY,
            AUTHORITY_KEY,
            name=name_of(1),
            public=signing_key(name_of(1)).public,
            not_before=before,
            not_after=before + timedelta(days=1),
            random=stream("expired"),
        )
        return with_hello(roster, 1, hello_of(name_of(1), roster.hellos[1], der=der))

    def other_table(group: SimulatedGroup, roster: Roster) -> Roster:
        return replace(roster, group_table=bytes(32))

    def beyond_the_prime(group: SimulatedGroup, roster: Roster) -> Roster:
        return with_hello(roster, 1, hello_of(name_of(1), roster.hellos[1], public=b"\xff" * 32))

    return {
        "swapped key": (swapped_key, Cause.SIGNATURE),
        "invented member": (invented, Cause.NOT_PINNED),
        "reissued name": (reissued, Cause.NOT_PINNED),
        "own entry missing": (without_me, Cause.PARAMETERS),
        "own entry changed": (other_key_of_mine, Cause.PARAMETERS),
        "too few members": (trimmed, Cause.TOO_FEW_MEMBERS),
        "expired certificate": (expired, Cause.CERTIFICATE),
        "other group table": (other_table, Cause.PARAMETERS),
        "key not canonical": (beyond_the_prime, Cause.MALFORMED),
    }


@pytest.mark.parametrize("what", altered_rosters())
def test_a_roster_that_is_not_in_order_is_refused_and_nothing_changes(what: str) -> None:
    group = SimulatedGroup(SMALL)
    alter, cause = altered_rosters()[what]
    roster = roster_for(group)
    site = group.sites[name_of(0)]
    stored = dict(site.store._values)
    with pytest.raises(RefusedError) as refused:
        site.receive(alter(group, roster), NOW)
    assert refused.value.cause is cause
    assert (site.epoch.phase, site.store._values) == (MemberEpochPhase.HELLO, stored)
    assert refused.value.message(RUN, 0, 0).cause is cause
    assert site.receive(roster, NOW)  # the true one is signed afterwards


def test_a_revoked_member_is_named() -> None:
    group = SimulatedGroup(SMALL)
    roster = roster_for(group)
    site = group.sites[name_of(0)]
    serial = (
        Authority(AUTHORITY)
        .verify(roster.hellos[3].entry.certificate, name=name_of(3), now=NOW, revocations=site.membership.revocations)
        .serial
    )
    strict = replace(
        site.membership, revocations=replace(site.membership.revocations, number=2, serials=frozenset({serial}))
    )
    resumed = ClientEpoch.resume(strict)
    assert resumed is not None
    with pytest.raises(RefusedError) as refused:
        resumed.receive(roster, NOW)
    assert (refused.value.cause, refused.value.party) == (Cause.REVOKED, name_of(3))


def test_a_signing_key_under_two_names_is_refused_even_where_both_are_accepted() -> None:
    group = SimulatedGroup(SMALL)
    roster = roster_for(group)

    class Everybody:
        def check(self, name: str, public: bytes) -> None: ...

    site = group.sites[name_of(0)]
    trusting = ClientEpoch.resume(replace(site.membership, accepted=Everybody()))
    twin = hello_of(
        name_of(4),
        roster.hellos[4],
        key=signing_key(name_of(3)),
        der=certificate(name_of(4), signing_key(name_of(3)).public),
    )
    assert trusting is not None
    with pytest.raises(RefusedError) as refused:
        trusting.receive(replace(roster, hellos=(*roster.hellos[:4], twin)), NOW)
    assert (refused.value.cause, refused.value.party) == (Cause.TWICE, name_of(4))


def test_a_site_may_demand_more_members_than_the_plan() -> None:
    group = SimulatedGroup(SMALL)
    group.memberships[name_of(0)] = replace(group.memberships[name_of(0)], min_roster=5)
    group.start_epoch(absent=[name_of(4)])
    causes = [error.cause for _, message, error in group.refused if isinstance(error, RefusedError)]
    assert causes[0] is Cause.TOO_FEW_MEMBERS


def test_a_member_signs_one_roster_and_sends_the_same_bytes_again_also_after_a_restart() -> None:
    group = SimulatedGroup(SMALL)
    roster = roster_for(group)
    site = group.sites[name_of(0)]
    first = site.receive(roster, NOW)
    other = replace(roster, hellos=roster.hellos[:4])
    for _ in range(2):
        assert [encode(one.message) for one in site.receive(roster, NOW)] == [encode(one.message) for one in first]
        with pytest.raises(RefusedError) as refused:
            site.receive(other, NOW)
        assert refused.value.cause is Cause.OTHER_LIST
        site.restart()
        assert [encode(one.message) for one in site.epoch.outgoing()] == [encode(one.message) for one in first]


def test_the_signature_is_stored_before_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    group = SimulatedGroup(SMALL)
    roster = roster_for(group)
    site = group.sites[name_of(0)]

    class Full(MemoryStore):
        def put(self, key: str, value: bytes) -> None:
            raise LocalError("the disk is full")

    monkeypatch.setattr(site.membership.state, "store", Full())
    with pytest.raises(LocalError, match="full"):
        site.receive(roster, NOW)
    assert site.epoch.phase is MemberEpochPhase.HELLO


def test_a_hello_is_the_same_after_a_restart_and_an_epoch_is_begun_once() -> None:
    group = SimulatedGroup(SMALL)
    roster_for(group)
    site = group.sites[name_of(0)]
    first = encode(site.epoch.outgoing()[0].message)
    site.restart()
    assert encode(site.epoch.outgoing()[0].message) == first
    with pytest.raises(LocalError, match="above 0"):
        ClientEpoch.begin(site.membership, 0, NOW)
    assert encode(site.epoch.outgoing()[0].message) == first
    second = ClientEpoch.begin(site.membership, 1, NOW)
    with pytest.raises(LocalError, match="above 1"):
        ClientEpoch.begin(site.membership, 1, NOW)
    message = second.outgoing()[0].message
    assert isinstance(message, Hello)
    assert message.entry.public_key != roster_for(SimulatedGroup(SMALL)).hellos[0].entry.public_key


def signatures_of(group: SimulatedGroup) -> RosterSignatures:
    message = stopped_at(group, RosterSignatures)[0]
    assert isinstance(message, RosterSignatures)
    return message


def test_fewer_signatures_than_needed_do_not_start_an_epoch() -> None:
    group = SimulatedGroup(GUARDED)
    message = signatures_of(group)
    site = group.sites[name_of(0)]
    with pytest.raises(RefusedError) as refused:
        site.receive(replace(message, endorsements=message.endorsements[:3]), NOW)
    assert (refused.value.cause, site.epoch.phase) == (Cause.TOO_FEW_SIGNATURES, MemberEpochPhase.SIGNED)
    site.receive(replace(message, endorsements=message.endorsements[:4]), NOW)
    assert site.epoch.phase is MemberEpochPhase.READY


def test_signatures_of_another_roster_run_or_epoch_do_not_count() -> None:
    group = SimulatedGroup(GUARDED)
    message = signatures_of(group)
    site = group.sites[name_of(0)]
    roster = group.sites[name_of(1)].epoch._signed_roster()[0]
    for run, epoch, digest in (
        ("another", 0, digest_of(roster)),
        (RUN, 1, digest_of(roster)),
        (RUN, 0, bytes(32)),
    ):
        wrong = tuple(
            replace(one, signature=signing_key(name_of(one.member)).sign(roster_input(run, epoch, digest)))
            for one in message.endorsements
        )
        with pytest.raises(RefusedError) as refused:
            site.receive(replace(message, endorsements=wrong), NOW)
        assert refused.value.cause is Cause.SIGNATURE
        with pytest.raises(RefusedError) as refused:
            site.receive(replace(message, run=run, epoch=epoch, roster=digest, endorsements=wrong), NOW)
        assert refused.value.cause is Cause.OTHER_LIST


def test_where_groups_are_drawn_every_nonce_must_be_there_and_be_the_promised_one() -> None:
    group = SimulatedGroup(GROUPED)
    message = signatures_of(group)
    site = group.sites[name_of(0)]
    for endorsements, cause in (
        (message.endorsements[:7], Cause.TOO_FEW_SIGNATURES),
        ((*message.endorsements[:7], replace(message.endorsements[7], nonce=None)), Cause.NONCE),
        ((*message.endorsements[:7], replace(message.endorsements[7], nonce=bytes(32))), Cause.NONCE),
    ):
        with pytest.raises(RefusedError) as refused:
            site.receive(replace(message, endorsements=endorsements), NOW)
        assert refused.value.cause is cause
    assert "table" not in {key.rsplit("/", 1)[-1] for key in site.store._values}
    site.receive(message, NOW)
    assert site.epoch.phase is MemberEpochPhase.READY


def test_a_key_of_small_order_is_refused_by_name_and_no_secret_is_agreed_on_with_it() -> None:
    group = SimulatedGroup(SMALL)
    roster = roster_for(group)
    site = group.sites[name_of(0)]
    zero = hello_of(name_of(4), roster.hellos[4], public=bytes(32))
    lie = replace(roster, hellos=(*roster.hellos[:4], zero))
    site.receive(lie, NOW)
    digest = digest_of(lie)
    signatures = tuple(
        Endorsement(member=i, signature=signing_key(name_of(i)).sign(roster_input(RUN, 0, digest))) for i in range(1, 5)
    )
    with pytest.raises(RefusedError) as refused:
        site.receive(RosterSignatures(run=RUN, epoch=0, roster=digest, endorsements=signatures), NOW)
    assert (refused.value.cause, refused.value.party) == (Cause.MALFORMED, name_of(4))
    assert site.epoch.phase is MemberEpochPhase.SIGNED


def test_a_member_that_withholds_its_nonce_voids_the_epoch_and_is_named() -> None:
    group = SimulatedGroup(GROUPED)

    def hook(sender: str | None, receiver: str | None, message: Record) -> Iterable[Record]:
        return [] if isinstance(message, RosterSignature) and sender == name_of(5) else [message]

    group.hook = hook
    with pytest.raises(RefusedError) as refused:
        group.start_epoch()
    assert (refused.value.cause, refused.value.party) == (Cause.TOO_FEW_SIGNATURES, name_of(5))


def test_nonces_are_revealed_for_eight_draws_in_24_hours_at_most() -> None:
    group = SimulatedGroup(GROUPED)
    now = NOW
    site = group.memberships[name_of(0)]
    signed = 0
    for epoch in range(IDLE_DRAWS_A_DAY + 1):
        roster = draws(group, epoch)
        machine = ClientEpoch.resume(site)
        assert machine is not None
        if epoch == IDLE_DRAWS_A_DAY:
            with pytest.raises(RefusedError) as refused:
                machine.receive(roster, now)
            assert refused.value.cause is Cause.POLICY
            assert machine.phase is MemberEpochPhase.HELLO
            assert machine.receive(roster, now + timedelta(hours=24))
        else:
            assert machine.receive(roster, now)
            signed += 1
    assert signed == IDLE_DRAWS_A_DAY


def draws(group: SimulatedGroup, epoch: int) -> Roster:
    held: list[Roster] = []

    def hook(sender: str | None, receiver: str | None, message: Record) -> Iterable[Record]:
        if isinstance(message, Roster):
            held.append(message)
            return []
        return [message]

    group.hook = hook
    with pytest.raises(RefusedError):
        group.start_epoch(epoch)
    return held[0]


def test_a_run_has_a_cap_of_draws() -> None:
    group = SimulatedGroup(replace(GROUPED, starts=1))
    roster = draws(group, 0)
    site = group.memberships[name_of(0)]
    machine = ClientEpoch.resume(site)
    assert machine is not None
    machine.receive(roster, NOW)
    roster = draws(group, 1)
    machine = ClientEpoch.resume(site)
    assert machine is not None
    with pytest.raises(RefusedError) as refused:
        machine.receive(roster, NOW + 2 * client_epoch.EPOCH_LASTS)
    assert refused.value.cause is Cause.POLICY


def test_a_ready_member_has_the_same_keys_after_a_restart() -> None:
    group = SimulatedGroup(GROUPED)
    group.start_epoch()
    site = group.sites[name_of(3)]
    before = site.epoch
    site.restart()
    assert site.epoch is not before
    assert site.epoch.agreement == before.agreement and site.epoch.agreement.member == 3


def test_private_key_and_nonce_are_not_in_plain_in_the_store_and_are_erased_at_the_end() -> None:
    group = SimulatedGroup(GROUPED)
    group.start_epoch()
    site = group.sites[name_of(3)]
    private, nonce = site.epoch._parts[2], site.epoch._parts[3]
    assert len(private) == len(nonce) == 32
    assert not any(private in value or nonce in value for value in site.store._values.values())
    site.epoch.end()
    with pytest.raises(LocalError, match="ready"):
        _ = site.epoch.agreement
    resumed = ClientEpoch.resume(site.membership)
    assert resumed is not None and resumed.phase is MemberEpochPhase.ENDED
    assert site.membership.state.get(f"secagg/{RUN}/epoch-state") == [bytes(4)]
    with pytest.raises(LocalError, match="above 0"):
        ClientEpoch.begin(site.membership, 0, NOW)


def test_a_sealed_record_opens_under_its_own_key_and_name_only() -> None:
    store = MemoryStore()
    state = SealedState(store, bytes(32), stream("nonces"))
    state.put("one", [b"first", b"", b"third"])
    assert state.get("one") == [b"first", b"", b"third"] and state.get("two") == []
    stored = store.get("one")
    assert stored is not None and b"first" not in stored
    for name, data, key in (
        ("two", stored, bytes(32)),
        ("one", stored, bytes(31) + b"1"),
        ("one", stored[:-1] + bytes([stored[-1] ^ 1]), bytes(32)),
        ("one", stored[:5], bytes(32)),
    ):
        store.put(name, data)
        with pytest.raises(LocalError, match="does not open"):
            SealedState(store, key, stream("others")).get(name)
    state.erase("one")
    assert state.get("one") == []
    with pytest.raises(ValueError, match="32 bytes"):
        SealedState(store, bytes(16), stream("nonces"))


def test_secrets_are_not_shown() -> None:
    group = SimulatedGroup(SMALL)
    group.start_epoch()
    agreement = group.sites[name_of(0)].epoch.agreement
    assert not any(repr(prk) in repr(agreement) for prk in agreement.secrets.values())


def test_a_member_that_never_began_has_nothing_to_resume() -> None:
    assert ClientEpoch.resume(SimulatedGroup(SMALL).memberships[name_of(0)]) is None


def test_every_message_that_a_phase_does_not_expect_is_refused_and_changes_nothing() -> None:
    messages = list(transcript.make().messages.values())
    listed: dict[MemberEpochPhase, set[type[Record]]] = {
        MemberEpochPhase.HELLO: {Roster},
        MemberEpochPhase.SIGNED: {Roster, RosterSignatures},
        MemberEpochPhase.READY: {Roster, RosterSignatures},
        MemberEpochPhase.ENDED: set(),
    }
    group = SimulatedGroup(SMALL)
    roster = roster_for(group)
    site = group.sites[name_of(0)]
    for phase in MemberEpochPhase:
        if phase is MemberEpochPhase.SIGNED:
            site.receive(roster, NOW)
        if phase is MemberEpochPhase.READY:
            group = SimulatedGroup(SMALL)
            group.start_epoch()
            site = group.sites[name_of(0)]
        if phase is MemberEpochPhase.ENDED:
            site.epoch.end()
        assert site.epoch.phase is phase
        stored = dict(site.store._values)
        for message in messages:
            with pytest.raises(RemoteError) as refused:
                site.epoch.receive(message, NOW)
            assert isinstance(refused.value, RefusedError) == (type(message) in listed[phase])
            assert (site.epoch.phase, site.store._values) == (phase, stored)


def test_every_message_that_the_server_does_not_expect_is_refused_and_changes_nothing() -> None:
    messages = list(transcript.make().messages.values())
    listed: dict[ServerEpochPhase, set[type[Record]]] = {
        ServerEpochPhase.HELLOS: {Hello},
        ServerEpochPhase.SIGNATURES: {RosterSignature},
        ServerEpochPhase.READY: set(),
    }
    for phase in ServerEpochPhase:
        group = SimulatedGroup(SMALL)
        if phase is ServerEpochPhase.READY:
            group.start_epoch()
        elif phase is ServerEpochPhase.SIGNATURES:
            roster_for(group)
        else:
            group.server = ServerEpoch(group.federation, 0)
        assert group.server is not None and group.server.phase is phase
        for message in messages:
            with pytest.raises(RemoteError) as refused:
                group.server.receive(name_of(0), message, NOW)
            assert isinstance(refused.value, RefusedError) == (type(message) in listed[phase])
            assert group.server.phase is phase


def test_the_server_leaves_out_bad_hellos_by_name() -> None:
    group = SimulatedGroup(SMALL)
    good = roster_for(group).hellos
    server = ServerEpoch(group.federation, 0)
    server.receive(name_of(0), good[0], NOW)
    server.receive(name_of(0), good[0], NOW)
    twin = hello_of(name_of(2), good[2], public=good[0].entry.public_key)
    nonce = commit_nonce(RUN, 0, name_of(2), bytes(32))
    for sender, hello, cause in (
        (name_of(1), good[2], Cause.SIGNATURE),
        (name_of(0), hello_of(name_of(0), good[0]), Cause.TWICE),
        (name_of(2), twin, Cause.TWICE),
        (name_of(2), hello_of(name_of(2), good[2], public=bytes(32)), Cause.MALFORMED),
        (name_of(2), hello_of(name_of(2), good[2], plan=bytes(32)), Cause.PARAMETERS),
        (name_of(2), hello_of(name_of(2), good[2], epoch=1), Cause.PARAMETERS),
        (name_of(2), hello_of(name_of(2), good[2], nonce_commitment=nonce), Cause.NONCE),
        (name_of(2), replace(good[2], signature=bytes(64)), Cause.SIGNATURE),
    ):
        with pytest.raises(RefusedError) as refused:
            server.receive(sender, hello, NOW)
        assert (refused.value.cause, refused.value.party) == (cause, sender)
    assert list(server._hellos) == [name_of(0)]


def test_the_server_counts_a_signature_for_its_sender_only() -> None:
    group = SimulatedGroup(SMALL)
    held = stopped_at(group, RosterSignature)
    message = held[2]
    assert group.server is not None and isinstance(message, RosterSignature)
    with pytest.raises(RefusedError) as refused:
        group.server.receive(name_of(1), message, NOW)
    assert (refused.value.cause, refused.value.party) == (Cause.SIGNATURE, name_of(1))
    forged = Endorsement(member=2, signature=signing_key(name_of(1)).sign(b"roster"))
    with pytest.raises(RefusedError):
        group.server.receive(name_of(2), replace(message, endorsement=forged), NOW)
    group.server.receive(name_of(2), message, NOW)


@pytest.mark.parametrize("wanted", [SMALL, GROUPED], ids=["small", "grouped"])
def test_the_server_resumes_a_ready_epoch(wanted: Parameters) -> None:
    group = SimulatedGroup(wanted)
    assert ServerEpoch.resume(group.federation) is None
    group.start_epoch()
    assert group.server is not None
    resumed = ServerEpoch.resume(group.federation)
    assert resumed is not None
    assert (resumed.cohort, resumed.epoch) == (group.server.cohort, 0)
    assert resumed.outgoing() == group.server.outgoing()


def test_group_tables_that_do_not_fit_are_refused_early() -> None:
    mine = SimulatedGroup(GROUPED).memberships[name_of(0)]
    with pytest.raises(ValueError, match="expected groups by the plan or drawn once"):
        replace(mine, parameters=replace(GROUPED, tables=Tables.EACH_ROUND, regrouped_rounds=1))
    with pytest.raises(ValueError, match="expected the table of the plan"):
        replace(mine, parameters=replace(GROUPED, tables=Tables.PLAN))


def test_a_newcomer_is_refused_by_the_server_once_groups_are_drawn() -> None:
    group = SimulatedGroup(Parameters(clients=9, colluding=1, dropout=0.2, groups=2, min_roster=8, min_survivors=3))
    group.start_epoch(0, absent=[name_of(8)])
    server = ServerEpoch(group.federation, 1)
    like = group.sites[name_of(0)].epoch._hello
    newcomer = hello_of(name_of(8), like, epoch=1, nonce_commitment=None)
    with pytest.raises(RefusedError) as refused:
        server.receive(name_of(8), newcomer, NOW)
    assert (refused.value.cause, refused.value.party) == (Cause.POLICY, name_of(8))


def test_a_group_that_may_be_all_colluders_makes_no_cohort(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Parameters(clients=14, colluding=1, dropout=0.2, groups=2, min_roster=8, min_survivors=3)
    group = SimulatedGroup(wanted, members=8)
    roster = roster_for(group)
    names = [name_of(i) for i in range(14)]
    table = GroupTable(run=RUN, groups=(Group(names=tuple(names[:7])), Group(names=tuple(names[7:]))))
    assert cohort_of(roster, [bytes(32)] * 8, table, wanted).threshold(0) == 5
    monkeypatch.setattr(cohort, "MAX_COMMITTEE", 7)
    monkeypatch.setattr(parameters, "MAX_COMMITTEE", 7)
    with pytest.raises(ValueError, match="may collude"):
        cohort_of(roster, [bytes(32)] * 8, table, wanted)


def test_a_roster_of_more_than_the_federation_is_refused() -> None:
    group = SimulatedGroup(SMALL, members=6)
    roster = roster_for(group)
    assert [(str(error), len(roster.hellos)) for _, _, error in group.refused] == [
        ("site-05: expected a federation of 5, which are all here", 5)
    ]
    larger = replace(roster, hellos=(*roster.hellos, group.sites[name_of(5)].epoch._hello))
    with pytest.raises(RefusedError, match="a roster of 4 to 5 members, got 6"):
        group.sites[name_of(0)].receive(larger, NOW)


@pytest.mark.parametrize("how", ["end", "begin"])
def test_what_a_round_left_is_erased_with_its_epoch(how: str) -> None:
    group = SimulatedGroup(SMALL)
    group.start_epoch()
    group.hook = lambda sender, receiver, message: [] if isinstance(message, Published) else [message]
    group.run_round(group.descriptor())
    site = group.sites[name_of(0)]
    site.restart()
    assert site.round is not None and site.round.phase is MemberRoundPhase.ANSWERED
    assert site.membership.state.get(f"secagg/{RUN}/round")
    if how == "end":
        site.epoch.end()
    else:
        ClientEpoch.begin(site.membership, 1, NOW)
    assert site.membership.state.get(f"secagg/{RUN}/round") == []
