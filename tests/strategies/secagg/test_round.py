"""Rounds: the exact sum of those who survive, whoever drops out when, and whatever is restarted."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies.secagg import transcript
from tests.strategies.secagg.simulated_group import (
    GROUPED,
    GUARDED,
    NOW,
    SERVER_KEY,
    SIZE,
    SMALL,
    KilledStore,
    SimulatedGroup,
    Site,
    expected_sum,
    name_of,
    signing_key,
    update_of,
)
from wardround.errors import LocalError, RemoteError
from wardround.file_store import FileStore
from wardround.signing_key import SigningKey
from wardround.state_store import MemoryStore
from wardround.strategies.secagg import cohort, key_agreement, parameters, shamir
from wardround.strategies.secagg.client_round import ClientRound
from wardround.strategies.secagg.masked_update import mask_update
from wardround.strategies.secagg.messages import (
    Cause,
    Descriptor,
    GroupTable,
    Masked,
    Published,
    Roster,
    RoundStart,
    SurvivorOffer,
    SurvivorSignature,
    Task,
    UnmaskAnswer,
    UnmaskRequest,
    decode,
    encode,
)
from wardround.strategies.secagg.parameters import Parameters
from wardround.strategies.secagg.phases import MemberRoundPhase, Outgoing, RefusedError, ServerRoundPhase
from wardround.strategies.secagg.server_round import ServerRound
from wardround.strategies.secagg.signing_inputs import descriptor_input
from wardround.strategies.secagg.survivor_check import check_offer, open_bundles, openings_of
from wardround.strategies.secagg.wire import Record


def started(parameters: Parameters = SMALL) -> SimulatedGroup:
    group = SimulatedGroup(parameters)
    group.start_epoch()
    assert not group.refused
    return group


def assert_exact(machine: ServerRound, round_: int, members: Iterable[str]) -> None:
    """The results are the plain sums, by another arithmetic, of the updates of exactly these members."""
    assert machine.phase is ServerRoundPhase.DONE
    assert sorted(name_of(one) for result in machine.results for one in result.members) == sorted(members)
    for result in machine.results:
        expected = expected_sum([name_of(one) for one in result.members], round_)
        assert (result.vector.tolist(), result.scalars.tolist()) == expected


def test_attack_4_the_sum_is_exact_for_every_subset_of_drop_outs_at_every_stage_that_is_tolerated() -> None:
    group = started()
    tolerated = SMALL.committee.may_drop
    plans = [
        dict(zip(who, stages, strict=True))
        for number in range(tolerated + 1)
        for who in combinations(group.names, number)
        for stages in product((1, 2, 3), repeat=number)
    ]
    assert (tolerated, len(plans)) == (2, 1 + 15 + 90)
    for number, silent in enumerate(plans):
        epoch, round_ = divmod(number, 100)
        if round_ == 0 and epoch:
            group.start_epoch(epoch)
        machine = group.run_round(group.descriptor(round_), silent)
        assert_exact(machine, round_, [name for name in group.names if silent.get(name) != 1])
    assert not group.refused


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_attack_4_one_drop_out_too_many_ends_the_round_with_a_cause_and_names_and_no_sum(stage: int) -> None:
    group = started()
    gone = {name_of(i): stage for i in (0, 2, 4)}
    machine = group.run_round(group.descriptor(), gone)
    assert machine.phase is ServerRoundPhase.ABORTED and machine.abort is not None
    assert machine.results == ()
    assert machine.abort.cause is (Cause.TOO_FEW_MEMBERS if stage == 1 else Cause.TOO_FEW_SIGNATURES)
    assert machine.abort.parties == tuple(gone)
    assert_exact(group.run_round(group.descriptor(1)), 1, group.names)  # the next round is not harmed


def test_a_member_that_is_absent_from_the_epoch_is_not_missed() -> None:
    group = SimulatedGroup(SMALL)
    group.start_epoch(absent=[name_of(1)])
    machine = group.start_round(group.descriptor())
    group.send_updates([name_of(i) for i in (0, 2, 3, 4)], group.descriptor())
    group.post(None, machine.close())
    assert machine.phase is ServerRoundPhase.DONE
    present = [name_of(i) for i in (0, 2, 3, 4)]
    assert (machine.results[0].vector.tolist(), machine.results[0].scalars.tolist()) == expected_sum(present, 0)


def test_each_round_uses_other_masks_for_one_and_the_same_update() -> None:
    group = started()
    words, lane = update_of(name_of(0), 0)
    seen = set()
    for round_ in range(3):
        group.start_round(group.descriptor(round_))
        site = group.sites[name_of(0)]
        assert site.round is not None
        message = site.round.mask(words, lane, model=group.descriptor(round_).model)[0].message
        assert isinstance(message, Masked)
        seen |= {bytes(message.vector), bytes(message.scalars), *message.header.commitments, *message.sealed}
        assert bytes(message.vector) != words.tobytes()
    assert len(seen) == 3 * (2 + 5 + 4)


@pytest.mark.parametrize("silent", [(), (0,), (0, 7)], ids=["nobody", "one", "two"])
def test_groups_have_sums_of_their_own(silent: tuple[int, ...]) -> None:
    group = started(GROUPED)
    assert group.server is not None
    groups = group.server.cohort.groups
    out = {name_of(groups[i % 2][i % 4]): 1 for i in silent}
    machine = group.run_round(group.descriptor(), out)
    assert_exact(machine, 0, [name for name in group.names if name not in out])
    assert [result.members for result in machine.results] == [
        tuple(member for member in one if name_of(member) not in out) for one in groups
    ]


def test_a_group_with_too_few_is_given_up_as_a_whole_and_the_other_has_its_sum() -> None:
    group = started(GROUPED)
    assert group.server is not None
    first, second = group.server.cohort.groups
    machine = group.run_round(group.descriptor(), {name_of(first[0]): 1, name_of(first[1]): 1})
    assert_exact(machine, 0, [name_of(member) for member in second])
    opened = [one for _, _, one in group.sent if isinstance(one, UnmaskAnswer)]
    assert {opening.dealer for answer in opened for opening in answer.openings} == set(second)


def test_where_a_roster_is_too_large_for_one_committee_each_group_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohort, "MAX_COMMITTEE", 4)
    monkeypatch.setattr(parameters, "MAX_COMMITTEE", 4)
    wanted = Parameters(clients=8, colluding=0, dropout=0.25, groups=2, min_roster=8, min_survivors=3)
    group = started(wanted)
    assert group.server is not None
    agreed = group.server.cohort
    assert agreed.committees == (0, 1)
    assert all(len(site.epoch.agreement.secrets) == 3 for site in group.sites.values())
    for committee in agreed.committees:
        members = [name_of(member) for member in agreed.groups[committee]]
        machine = group.run_round(group.descriptor(committee), {members[1]: 1}, committee=committee)
        assert_exact(machine, committee, [members[0], *members[2:]])


def test_the_server_publishes_the_sums_digest_and_members_check_its_signature() -> None:
    group = started()
    group.run_round(group.descriptor())
    site = group.sites[name_of(0)]
    assert site.round is not None
    published = site.round.published
    assert published is not None and published.groups[0].members == (0, 1, 2, 3, 4)
    for forged in (replace(published, signature=bytes(64)), replace(published, h=bytes(32))):
        with pytest.raises(RefusedError):
            site.receive(forged, NOW)


def test_a_member_that_sent_no_update_helps_with_signature_and_shares() -> None:
    group = started()
    machine = group.start_round(group.descriptor())
    group.send_updates([name_of(i) for i in (0, 1, 2)], group.descriptor())
    group.post(None, machine.close())
    assert_exact(machine, 0, [name_of(i) for i in (0, 1, 2)])
    answers = {one.member for _, _, one in group.sent if isinstance(one, UnmaskAnswer)}
    assert {3, 4} <= answers
    site = group.sites[name_of(4)]
    assert site.round is not None
    with pytest.raises(LocalError, match="waits for an update"):
        site.round.mask(*update_of(name_of(4), 0), model=group.descriptor().model)


# --- the test vectors

VECTORS = Parameters(clients=6, colluding=1, dropout=0.0, groups=2, min_roster=6, min_survivors=3)


def vectors() -> tuple[transcript.Transcript, cohort.Cohort, list[dict[int, bytes]]]:
    """The transcript that is played by hand, its cohort, and each member's secrets with the others."""
    made = transcript.make()
    roster, table = made.messages["roster"], made.messages["group_table"]
    assert isinstance(roster, Roster) and isinstance(table, GroupTable)
    keys = [SigningKey.make(transcript.stream(f"signing {name}")).public for name in transcript.NAMES]
    agreed = cohort.cohort_of(roster, keys, table, VECTORS)
    private = [key_agreement.generate(transcript.stream(f"agreement {name}")).private for name in transcript.NAMES]
    public = [hello.entry.public_key for hello in roster.hellos]
    secrets = [
        {j: key_agreement.pair_key(private[i], public[j], agreed.roster) for j in range(6) if j != i} for i in range(6)
    ]
    return made, agreed, secrets


@pytest.mark.parametrize("member", [0, 1, 3, 4, 5])
def test_updates_are_those_of_the_test_vectors_byte_by_byte(member: int) -> None:
    made, agreed, secrets = vectors()
    assert (agreed.groups, agreed.threshold(0)) == (transcript.GROUPS, transcript.THRESHOLD)
    name, descriptor = transcript.NAMES[member], made.messages["descriptor"]
    assert isinstance(descriptor, Descriptor)
    draws = [transcript.stream(f"own {name}"), transcript.stream(f"shares {name}")]
    words = [(1000 * member + k) * (-1) ** k % 2**32 for k in range(transcript.SIZE)]
    dealt = mask_update(
        agreed,
        member,
        secrets[member],
        descriptor,
        np.array(words, dtype=np.uint32),
        np.array([10 + member], dtype=np.uint64),
        SigningKey.make(transcript.stream(f"signing {name}")),
        lambda size: draws.pop(0)(size),
    )
    assert encode(dealt.masked) == encode(made.messages[f"masked_{member}"])


def test_a_members_checks_pass_on_the_test_vectors_and_its_openings_are_theirs() -> None:
    made, agreed, secrets = vectors()
    descriptor, offer = made.messages["descriptor"], made.messages["survivor_offer"]
    expected = made.messages["unmask_answer_1"]
    assert isinstance(descriptor, Descriptor) and isinstance(offer, SurvivorOffer)
    assert isinstance(expected, UnmaskAnswer)
    lists = check_offer(agreed, 1, descriptor, offer, 2)
    assert lists == {0: (0, 4), 1: (1, 3, 5)}
    name = transcript.NAMES[1]
    own = transcript.stream(f"own {name}")(32)
    pairs = [key_agreement.pair_seed(secrets[1][j], offer.h, min(1, j), max(1, j)) for j in (3, 5)]
    own_shares = shamir.split(b"".join((own, *pairs)), 4, 6, transcript.stream(f"shares {name}"))[1]
    shares, reports = open_bundles(agreed, 1, secrets[1], own_shares, offer)
    assert reports == ()
    assert openings_of(agreed, shares, lists) == expected.openings


# --- restarts


def test_a_member_goes_on_from_files_with_the_same_bytes(tmp_path: Path) -> None:
    group = SimulatedGroup(SMALL)
    mine = group.memberships[name_of(0)]
    with FileStore(tmp_path / "state") as store:
        mine.state.store = store
        group.start_epoch()
        machine = group.start_round(group.descriptor())
        group.send_updates([name_of(0)], group.descriptor())
    with FileStore(tmp_path / "state") as store:
        mine.state.store = store
        site = group.sites[name_of(0)]
        site.restart()
        again = site.receive(machine.outgoing()[0].message, NOW)[0].message
        assert [encode(one) for _, _, one in group.sent if isinstance(one, Masked)] == [encode(again)]
        group.send_updates(group.names[1:], group.descriptor())
        group.post(None, machine.close())
    assert_exact(machine, 0, group.names)


def test_members_that_are_killed_before_every_message_still_give_the_exact_sum() -> None:
    group = started(GUARDED)
    for round_, silent in enumerate(({}, {name_of(2): 1}, {name_of(3): 3})):
        descriptor = group.descriptor(round_)

        def hook(sender: str | None, receiver: str | None, message: Record) -> Iterable[Record]:
            if isinstance(message, SurvivorOffer | UnmaskRequest) and receiver is not None:
                group.sites[receiver].restart()
                return [message, message]  # and a lost reply is asked for again
            return [message]

        group.hook = hook
        machine = group.run_round(descriptor, silent)
        assert_exact(machine, round_, [name for name in group.names if silent.get(name) != 1])
    for kind in (SurvivorSignature, UnmaskAnswer):
        sent: dict[tuple[str | None, bytes], set[bytes]] = {}
        for sender, _, message in group.sent:
            if isinstance(message, kind):
                sent.setdefault((sender, message.h), set()).add(encode(message))
        assert len(sent) >= 13 and all(len(one) == 1 for one in sent.values())


def test_a_member_that_is_killed_after_its_update_sends_the_same_bytes_again() -> None:
    group = started()
    machine = group.start_round(group.descriptor())
    group.send_updates([name_of(0)], group.descriptor())
    first = [encode(one) for _, _, one in group.sent if isinstance(one, Masked)]
    site = group.sites[name_of(0)]
    for _ in range(2):
        site.restart()
        again = site.receive(machine.outgoing()[0].message, NOW)
        assert [encode(one.message) for one in again] == first
        assert site.round is not None
        with pytest.raises(LocalError, match="waits for an update"):
            site.round.mask(*update_of(name_of(0), 0), model=group.descriptor().model)


@pytest.mark.parametrize("sends", [False, True])
def test_a_member_that_is_killed_before_its_update_still_sends_it_or_helps_without(sends: bool) -> None:
    group = started()
    machine = group.start_round(group.descriptor())
    site = group.sites[name_of(4)]
    site.restart()
    assert member_phase(group, name_of(4)) is MemberRoundPhase.STARTED
    group.send_updates(group.names if sends else group.names[:4], group.descriptor())
    group.post(None, machine.close())
    assert_exact(machine, 0, group.names if sends else group.names[:4])
    assert {one.member for _, _, one in group.sent if isinstance(one, UnmaskAnswer)} == set(range(5))


@pytest.mark.parametrize("step", ["mask", "sign", "answer"])
@pytest.mark.parametrize("writes", range(4))
def test_killed_at_any_write_a_member_sends_no_second_different_message(step: str, writes: int) -> None:
    group = started()
    descriptor = group.descriptor()
    machine = group.start_round(descriptor)
    others = [name_of(i) for i in (1, 2, 3, 4)]
    site = group.sites[name_of(0)]
    state = site.membership.state
    whole = state.store
    assert isinstance(whole, MemoryStore) and site.round is not None
    messages: list[Record] = []

    def attempt(do: Callable[[], list[Outgoing]]) -> bool:
        """Whether it was killed; then only the store is left."""
        state.store = KilledStore(whole, writes)
        try:
            messages.extend(one.message for one in do())
            return False
        except LocalError as error:
            assert str(error) == "killed"
            return True
        finally:
            state.store = whole
            site.restart()

    def mask(round_: int) -> list[Outgoing]:
        assert site.round is not None
        return site.round.mask(*update_of(name_of(0), round_), model=group.descriptor(round_).model)

    if step == "mask":
        killed = attempt(lambda: mask(0))
        again = site.receive(machine.outgoing()[0].message, NOW)
        messages += [one.message for one in again]
        if killed and not again and writes:
            with pytest.raises(LocalError, match=r"above 0|waits for an update"):  # the number is spent: it sits out
                mask(0)
        elif not killed:
            assert again
    else:
        group.post(name_of(0), mask(0))
        group.send_updates(others, descriptor)
        held: list[Record] = []

        def hook(sender: str | None, receiver: str | None, message: Record) -> Iterable[Record]:
            kind = SurvivorOffer if step == "sign" else UnmaskRequest
            if isinstance(message, kind) and receiver == name_of(0):
                held.append(message)
                return []
            return [] if isinstance(message, Published) else [message]

        group.hook = hook
        group.post(None, machine.close())
        assert len(held) == 1
        attempt(lambda: site.receive(held[0], NOW))
        messages += [one.message for one in site.receive(held[0], NOW)]
        messages += [one.message for one in site.receive(held[0], NOW)]
    assert len({encode(message) for message in messages}) <= 1
    group.hook = lambda sender, receiver, message: [message]
    assert_exact(group.run_round(group.descriptor(1)), 1, group.names)


@pytest.mark.parametrize("phase", [ServerRoundPhase.MASKS, ServerRoundPhase.SIGNATURES, ServerRoundPhase.OPENINGS])
def test_a_server_that_is_killed_resumes_the_same_round_with_the_same_list(phase: ServerRoundPhase) -> None:
    group = started()
    descriptor = group.descriptor()
    machine = group.start_round(descriptor)
    assert group.setting is not None
    assert ServerRound.resume(replace(group.setting, committee=1)) is None

    def deaf(sender: str | None, receiver: str | None, message: Record) -> Iterable[Record]:
        lost = {ServerRoundPhase.SIGNATURES: SurvivorSignature, ServerRoundPhase.OPENINGS: UnmaskAnswer}.get(phase)
        return [] if lost is not None and isinstance(message, lost) else [message]

    group.hook = deaf
    group.send_updates([name_of(i) for i in (0, 1, 2)], descriptor)
    if phase is not ServerRoundPhase.MASKS:
        group.post(None, machine.close())
    if phase is ServerRoundPhase.MASKS:
        group.round = ServerRound.resume(group.setting)
        group.send_updates([name_of(3)], descriptor)
    else:
        group.round = ServerRound.resume(group.setting)
    assert group.round is not None
    group.hook = lambda sender, receiver, message: [message]
    if phase is ServerRoundPhase.MASKS:
        group.post(None, group.round.close())
    else:
        assert group.round.phase is ServerRoundPhase.SIGNATURES
        group.post(None, group.round.outgoing())
    names = [name_of(i) for i in ((0, 1, 2, 3) if phase is ServerRoundPhase.MASKS else (0, 1, 2))]
    assert_exact(group.round, 0, names)
    with pytest.raises(LocalError, match="above 0"):
        ServerRound.begin(group.setting, descriptor)


# --- what a member refuses of a round's start


def start_of(descriptor: Descriptor, key: SigningKey = SERVER_KEY) -> RoundStart:
    return RoundStart(descriptor=descriptor, signature=key.sign(descriptor_input(descriptor)))


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"run": "another"}, Cause.PARAMETERS),
        ({"roster": bytes(32)}, Cause.PARAMETERS),
        ({"group_table": bytes(32)}, Cause.PARAMETERS),
        ({"epoch": 1}, Cause.STALE),
        ({"round": 100}, Cause.STALE),
        ({"round": 4}, Cause.STALE),
        ({"round": 5, "task": Task.EVALUATE}, Cause.STALE),
        ({"deadline_ms": int(NOW.timestamp() * 1000)}, Cause.DEADLINE),
    ],
    ids=["run", "roster", "table", "epoch", "too high", "used", "used with another task", "deadline"],
)
def test_a_round_that_is_not_in_order_is_refused_and_nothing_changes(changes: dict[str, Any], cause: Cause) -> None:
    group = started()
    group.run_round(group.descriptor(5))
    site = group.sites[name_of(0)]
    assert site.round is not None
    for _ in range(2):
        stored, phase = dict(site.store._values), site.round.phase
        with pytest.raises(RefusedError) as refused:
            site.receive(start_of(replace(group.descriptor(6), **changes)), NOW)
        assert refused.value.cause is cause
        assert (site.store._values, site.round.phase) == (stored, phase)
        site.restart()


def test_a_descriptor_that_the_server_did_not_sign_is_refused() -> None:
    group = started()
    with pytest.raises(RefusedError) as refused:
        group.sites[name_of(0)].receive(start_of(group.descriptor(), signing_key(name_of(1))), NOW)
    assert refused.value.cause is Cause.SIGNATURE


def test_an_epoch_has_rounds_for_24_hours() -> None:
    group = started()
    later = NOW + timedelta(hours=24)
    descriptor = group.descriptor(deadline_ms=int(later.timestamp() * 1000) + 1)
    site = group.sites[name_of(0)]
    with pytest.raises(RefusedError, match="24"):
        site.receive(start_of(descriptor), later)
    assert site.receive(start_of(descriptor), later - timedelta(seconds=1)) == []


def test_an_update_from_another_model_is_not_masked_and_the_round_not_used() -> None:
    group = started()
    group.start_round(group.descriptor())
    site = group.sites[name_of(0)]
    assert site.round is not None
    with pytest.raises(RefusedError, match="model"):
        site.round.mask(*update_of(name_of(0), 0), model=bytes(32))
    assert site.round.mask(*update_of(name_of(0), 0), model=group.descriptor().model)


def test_words_of_another_width_are_refused_and_the_round_not_used() -> None:
    group = started()
    group.start_round(group.descriptor())
    words, lane = update_of(name_of(0), 0)
    site = group.sites[name_of(0)]
    assert site.round is not None
    wrong: list[tuple[Any, Any]] = [(lane, lane), (words, words), (words.reshape(1, -1), lane), (words * 1.0, lane)]
    for vector, scalars in wrong:
        with pytest.raises(ValueError, match="expected a vector of uint"):
            site.round.mask(vector, scalars, model=group.descriptor().model)
    assert site.round.mask(words, lane, model=group.descriptor().model)


def test_the_update_that_is_masked_is_not_changed() -> None:
    group = started()
    group.start_round(group.descriptor())
    words, lane = update_of(name_of(0), 0)
    words, lane = words.copy(), lane.copy()
    site = group.sites[name_of(0)]
    assert site.round is not None
    site.round.mask(words, lane, model=group.descriptor().model)
    assert np.array_equal(words, update_of(name_of(0), 0)[0]) and np.array_equal(lane, update_of(name_of(0), 0)[1])


# --- cells


def member_in(phase: MemberRoundPhase) -> Site:
    group = started()
    descriptor = group.descriptor()
    site = group.sites[name_of(0)]
    if phase is MemberRoundPhase.IDLE:
        site.round = ClientRound(site.membership, site.epoch.agreement)
        return site
    lost = {
        MemberRoundPhase.MASKED: SurvivorOffer,
        MemberRoundPhase.SIGNED: UnmaskRequest,
        MemberRoundPhase.ANSWERED: Published,
    }.get(phase)
    group.hook = lambda sender, receiver, message: [] if lost and isinstance(message, lost) else [message]
    if phase is MemberRoundPhase.STARTED:
        group.start_round(descriptor)
    else:
        group.run_round(descriptor)
    return site


@pytest.mark.parametrize("phase", MemberRoundPhase)
def test_every_message_of_another_round_or_phase_is_refused_by_a_member_and_changes_nothing(
    phase: MemberRoundPhase,
) -> None:
    site = member_in(phase)
    assert site.round is not None and site.round.phase is phase
    later = {MemberRoundPhase.SIGNED, MemberRoundPhase.ANSWERED}
    listed: set[type[Record]] = {RoundStart, Published}
    listed |= {SurvivorOffer} if phase is not MemberRoundPhase.IDLE else set()
    listed |= {UnmaskRequest} if phase in later else set()
    stored = dict(site.store._values)
    for message in transcript.make().messages.values():
        with pytest.raises(RemoteError) as refused:
            site.round.receive(message, NOW)
        assert isinstance(refused.value, RefusedError) == (type(message) in listed)
        assert (site.round.phase, site.store._values) == (phase, stored)


@pytest.mark.parametrize("phase", ServerRoundPhase)
def test_every_message_of_another_round_or_phase_is_refused_by_the_server_and_changes_nothing(
    phase: ServerRoundPhase,
) -> None:
    group = started()
    lost = {
        ServerRoundPhase.MASKS: RoundStart,
        ServerRoundPhase.SIGNATURES: SurvivorOffer,
        ServerRoundPhase.OPENINGS: UnmaskRequest,
    }.get(phase)
    group.hook = lambda sender, receiver, message: [] if lost and isinstance(message, lost) else [message]
    machine = group.start_round(group.descriptor())
    if phase is not ServerRoundPhase.MASKS:
        count = 2 if phase is ServerRoundPhase.ABORTED else 5
        group.send_updates(group.names[:count], group.descriptor())
        group.post(None, machine.close())
    assert machine.phase is phase
    table: dict[ServerRoundPhase, set[type[Record]]] = {
        ServerRoundPhase.MASKS: {Masked},
        ServerRoundPhase.SIGNATURES: {SurvivorSignature},
        ServerRoundPhase.OPENINGS: {UnmaskAnswer},
        ServerRoundPhase.DONE: {UnmaskAnswer},
        ServerRoundPhase.ABORTED: {UnmaskAnswer},
    }
    listed = table[phase]
    before = (machine.outgoing(), dict(group.federation.store._values))  # type: ignore[attr-defined]
    for message in transcript.make().messages.values():
        with pytest.raises(RemoteError) as refused:
            machine.receive(name_of(0), message, NOW)
        assert isinstance(refused.value, RefusedError) == (type(message) in listed)
        assert machine.phase is phase
    assert before == (machine.outgoing(), group.federation.store._values)  # type: ignore[attr-defined]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_bytes_that_were_altered_on_the_way_are_refused_and_never_crash_a_machine(data: st.DataObject) -> None:
    group = started()
    kind = data.draw(
        st.sampled_from((RoundStart, Masked, SurvivorOffer, SurvivorSignature, UnmaskRequest, UnmaskAnswer))
    )
    altered = 0

    def hook(sender: str | None, receiver: str | None, message: Record) -> Iterable[Record]:
        nonlocal altered
        if not isinstance(message, kind) or name_of(0) not in (sender, receiver):
            return [message]
        whole = encode(message)
        at, bit = data.draw(st.integers(5, len(whole) - 1)), data.draw(st.integers(0, 7))
        altered += 1
        try:
            return [decode(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])]
        except RemoteError:
            return []

    group.hook = hook
    descriptor = group.descriptor()
    machine = group.start_round(descriptor)
    group.send_updates(
        [name for name in group.names if member_phase(group, name) is MemberRoundPhase.STARTED], descriptor
    )
    while machine.phase not in (ServerRoundPhase.DONE, ServerRoundPhase.ABORTED):
        group.post(None, machine.close())
    assert altered >= 1 and machine.phase is ServerRoundPhase.DONE
    assert_exact(machine, 0, [name_of(i) for i in machine.results[0].members])
    assert {1, 2, 3, 4} <= set(machine.results[0].members)


def member_phase(group: SimulatedGroup, name: str) -> MemberRoundPhase | None:
    machine = group.sites[name].round
    return None if machine is None else machine.phase


# --- what the server refuses of an update


def test_the_server_refuses_updates_of_another_size_sender_round_or_content() -> None:
    group = started()
    group.hook = lambda sender, receiver, message: [] if isinstance(message, Masked) else [message]
    machine = group.start_round(group.descriptor())
    made = []
    for i, words in ((0, SIZE), (1, SIZE + 1)):
        site = group.sites[name_of(i)]
        assert site.round is not None
        message = site.round.mask(
            np.zeros(words, dtype=np.uint32), update_of(name_of(i), 0)[1], model=group.descriptor().model
        )[0].message
        assert isinstance(message, Masked)
        made.append(message)
    good, long = made
    garbled = bytes(good.vector[:-1]) + bytes([good.vector[-1] ^ 1])
    for sender, update, cause in (
        (name_of(1), long, Cause.MALFORMED),
        (name_of(1), good, Cause.SIGNATURE),
        (name_of(0), replace(good, signature=bytes(64)), Cause.SIGNATURE),
        (name_of(0), replace(good, vector=garbled), Cause.MALFORMED),
        (name_of(0), replace(good, sealed=good.sealed[::-1]), Cause.MALFORMED),
    ):
        with pytest.raises(RefusedError) as refused:
            machine.receive(sender, update, NOW)
        assert refused.value.cause is cause
    assert machine._sums == {}
    assert machine.receive(name_of(0), good, NOW) == machine.receive(name_of(0), good, NOW) == []
    assert np.array_equal(machine._sums[0][0], np.frombuffer(good.vector, dtype=np.uint32))  # counted once
