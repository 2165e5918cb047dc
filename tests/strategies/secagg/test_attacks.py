"""Attacks on secure aggregation, run against the real machines; and each again with the check that stops it removed.

The server of these tests lies at will (`lying_server`), and makes its own rosters too.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from tests.strategies.secagg import simulated_group
from tests.strategies.secagg.lying_server import (
    ALL,
    allow_any_list,
    answer,
    masked_by_all,
    recovered,
    refused,
    secret_of,
    sign,
    started,
    unchecked,
    without,
)
from tests.strategies.secagg.simulated_group import (
    GROUPED,
    GUARDED,
    NOW,
    RUN,
    SERVER_KEY,
    SMALL,
    Hook,
    SimulatedGroup,
    Site,
    certificate,
    expected_sum,
    name_of,
    signing_key,
    stream,
    update_of,
)
from wardround.errors import LocalError
from wardround.signing_key import SigningKey
from wardround.state_store import MemoryStore
from wardround.strategies.secagg import (
    client_round,
    commitments,
    key_agreement,
    keystream,
    masked_update,
    roster_check,
    sealing,
    shamir,
    survivor_check,
    unmasking,
)
from wardround.strategies.secagg.client_epoch import ClientEpoch
from wardround.strategies.secagg.cohort import Cohort, sign_of
from wardround.strategies.secagg.keystream import U64
from wardround.strategies.secagg.masked_update import remove_masks
from wardround.strategies.secagg.messages import (
    Cause,
    Descriptor,
    Endorsement,
    Hello,
    Masked,
    Opening,
    Roster,
    RosterSignature,
    RosterSignatures,
    RoundStart,
    SurvivorOffer,
    Task,
    UnmaskAnswer,
    UnmaskRequest,
    digest_of,
    encode,
)
from wardround.strategies.secagg.parameters import Parameters
from wardround.strategies.secagg.phases import MemberEpochPhase, RefusedError
from wardround.strategies.secagg.phases import ServerRoundPhase as Phase
from wardround.strategies.secagg.sealed_state import SealedState
from wardround.strategies.secagg.server_round import ServerRound
from wardround.strategies.secagg.signing_inputs import (
    descriptor_input,
    hello_input,
    roster_input,
    survivors_input,
)
from wardround.strategies.secagg.wire import Record

# --- 1: alive and dead


def alive_and_dead(group: SimulatedGroup, machine: ServerRound) -> list[int] | None:
    """The victim 4 is alive in a first list and dead in a second one."""
    votes = [sign(group, machine, i, ALL) for i in range(4)]
    answers = [answer(group, i, votes) for i in range(4)]
    assert recovered(group, machine, 4, answers) is None
    votes = [sign(group, machine, i, range(4)) for i in range(4)]
    answers += [answer(group, i, votes) for i in range(4)]
    return recovered(group, machine, 4, answers)


def test_attack_1_a_victim_is_not_alive_and_dead_in_one_round() -> None:
    group = started()
    machine = masked_by_all(group)
    refused(Cause.OTHER_LIST, lambda: alive_and_dead(group, machine))
    group.sites[name_of(1)].restart()
    refused(Cause.OTHER_LIST, lambda: sign(group, machine, 1, range(4)))


def test_attack_1_succeeds_without_the_rule_of_one_list(monkeypatch: pytest.MonkeyPatch) -> None:
    allow_any_list(monkeypatch)
    group = started()
    assert alive_and_dead(group, masked_by_all(group)) == secret_of(4)


def test_attack_1_no_opening_is_of_two_survivors_or_of_one_outside_the_list() -> None:
    group = started()
    machine = group.run_round(group.descriptor(), {name_of(3): 1})
    assert machine.phase is Phase.DONE
    opened = {
        (one.dealer, one.peer)
        for _, _, message in group.sent
        if isinstance(message, UnmaskAnswer)
        for one in message.openings
    }
    survivors = {0, 1, 2, 4}
    assert opened == {(i, i) for i in survivors} | {(i, 3) for i in survivors}


def test_attack_1_a_replayed_request_of_an_earlier_round_is_refused() -> None:
    group = started()
    group.run_round(group.descriptor(0))
    old = next(one for _, _, one in group.sent if isinstance(one, UnmaskRequest))
    old_offer = next(one for _, to, one in group.sent if isinstance(one, SurvivorOffer) and to == name_of(0))
    machine = masked_by_all(group, 1)
    site = group.sites[name_of(0)]
    refused(Cause.STALE, lambda: site.receive(old_offer, NOW))
    sign(group, machine, 0, ALL)
    refused(Cause.STALE, lambda: site.receive(old, NOW))


# --- 2: seeds


def test_attack_2_seeds_have_256_bits_and_nothing_shorter_is_taken() -> None:
    group = started()
    seeds = set()
    for site in group.sites.values():
        for other, prk in site.epoch.agreement.secrets.items():
            lo, hi = sorted((site.epoch.agreement.member, other))
            seeds.add(key_agreement.pair_seed(prk, bytes(32), lo, hi))
    assert len(seeds) == 10 and {len(seed) for seed in seeds} == {32}
    for short in (4, 16, 24):
        with pytest.raises(ValueError, match="32 bytes"):
            keystream.mask(bytes(short), 1)


SEARCHED = 1 << 16


def found_by_search(group: SimulatedGroup, derive: Callable[[int], bytes]) -> list[int] | None:
    """A server that tries `SEARCHED` seeds for each mask of member 4 against what its header is committed to, and has
    its own seed from the committee, as in every round: the update, if all pair seeds are among those that it tries."""
    machine = masked_by_all(group)
    votes = [sign(group, machine, i, ALL) for i in ALL]
    answers = [answer(group, i, votes) for i in ALL]
    shares = {one.member: opening.share for one in answers for opening in one.openings if opening.dealer == 4}
    cohort = group.sites[name_of(4)].epoch.agreement.cohort
    header = machine._offered[4][0]
    seeds = [(shamir.combine(shares, cohort.threshold(0)), 1)]
    wanted = {header.commitments[1 + at]: peer for at, peer in enumerate(cohort.peers(4))}
    for guess in range(SEARCHED):
        seed = derive(guess)
        for peer in (0, 1, 2, 3):
            if wanted.get(commitments.commit_pair_seed(header.h, peer, 4, seed)) == peer:
                seeds.append((seed, sign_of(4, peer)))
    return without(group, machine, 4, seeds) if len(seeds) == 5 else None


def test_attack_2_seeds_that_are_folded_to_few_bits_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 16 of 256 bits left, 4 x 2^16 hashes give the update. Folded to 28 bits, as by Flower's SecAgg+, it would be
    2^12 times as many, which is seconds; of 256 bits the same search covers 2^-240."""

    def folded(guess: int) -> bytes:
        return hashlib.sha256(guess.to_bytes(2, "big")).digest()

    assert found_by_search(started(), folded) is None
    seed = key_agreement.pair_seed
    monkeypatch.setattr(
        key_agreement,
        "pair_seed",
        lambda prk, h, lo, hi: folded(int.from_bytes(seed(prk, h, lo, hi)[:2], "big")),
    )
    assert found_by_search(started(), folded) == secret_of(4)


# --- 3: rosters


def shown(group: SimulatedGroup) -> Roster:
    """The roster of an epoch in which the server shows none."""
    held: list[Roster] = []

    def hook(sender: str | None, receiver: str | None, message: Record) -> Iterable[Record]:
        if isinstance(message, Roster):
            held.append(message)
            return []
        return [message]

    group.hook = hook
    with pytest.raises(RefusedError):
        group.start_epoch()
    group.hook = lambda sender, receiver, message: [message]
    return held[0]


def forged_hello(like: Hello, pair: key_agreement.KeyPair, key: SigningKey, der: bytes) -> Hello:
    entry = replace(like.entry, public_key=pair.public, certificate=der)
    return Hello(entry=entry, signature=key.sign(hello_input(entry)))


def alone_among_puppets(site: Site, roster: Roster, keys: Mapping[int, SigningKey]) -> list[int]:
    """What a server learns of member 0 when it holds the X25519 keys of all others in the roster."""
    pairs = {i: key_agreement.generate(stream(f"puppet {i}")) for i in range(1, 5)}
    hellos = [roster.hellos[0]]
    for i, pair in pairs.items():
        hello = roster.hellos[i]
        der = certificate(name_of(i), keys[i].public) if keys[i] is not signing_key(name_of(i)) else None
        hellos.append(
            forged_hello(hello, pair, keys[i], der)
            if der is not None
            else replace(hello, entry=replace(hello.entry, public_key=pair.public))
        )
    lie = Roster(hellos=tuple(hellos))
    site.receive(lie, NOW)
    digest = digest_of(lie)
    signatures = tuple(Endorsement(member=i, signature=keys[i].sign(roster_input(RUN, 0, digest))) for i in range(1, 5))
    site.receive(RosterSignatures(run=RUN, epoch=0, roster=digest, endorsements=signatures), NOW)
    assert site.epoch.phase is MemberEpochPhase.READY
    # the server needs no committee: it has every pair seed, and t of the shares of the victim's own seed
    descriptor = Descriptor(
        run=RUN,
        epoch=0,
        round=0,
        task=Task.FIT,
        model=bytes(32),
        order=bytes(32),
        roster=digest,
        deadline_ms=int(NOW.timestamp() * 1000) + 1,
    )
    site.receive(RoundStart(descriptor=descriptor, signature=SERVER_KEY.sign(descriptor_input(descriptor))), NOW)
    assert site.round is not None
    masked = site.round.mask(*update_of(site.name, 0), model=bytes(32))[0].message
    assert isinstance(masked, Masked)
    h, shares, seeds = digest_of(descriptor), {}, []
    for i, pair in pairs.items():
        prk = key_agreement.pair_key(pair.private, roster.hellos[0].entry.public_key, digest)
        seeds.append((key_agreement.pair_seed(prk, h, 0, i), 1))
        sealed = masked.sealed[i - 1]
        aad = sealing.bundle_aad(h, 0, i)
        shares[i] = sealing.open_sealed(key_agreement.share_key(prk, h, 0, i), sealed, aad)[:32]
    own = shamir.combine(shares, site.epoch.agreement.cohort.threshold(0))
    vector, lane = np.frombuffer(masked.vector, dtype="<u4").copy(), np.frombuffer(masked.scalars, dtype="<u8").copy()
    remove_masks(vector, lane, [(own, 1), *seeds])
    found: list[int] = vector.tolist()
    return found


PUPPETS = {i: SigningKey.make(stream(f"puppet's signing {i}")) for i in range(1, 5)}
OTHERS = {i: signing_key(name_of(i)) for i in range(1, 5)}


def test_attack_3_a_victim_among_invented_members_refuses() -> None:
    group = SimulatedGroup(SMALL)
    roster = shown(group)
    refused(Cause.NOT_PINNED, lambda: alone_among_puppets(group.sites[name_of(0)], roster, PUPPETS))


def test_attack_3_invented_members_learn_the_update_without_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster_check, "check_pin", unchecked)
    group = SimulatedGroup(SMALL)
    roster = shown(group)
    assert alone_among_puppets(group.sites[name_of(0)], roster, PUPPETS) == secret_of(0)


def test_attack_3_swapped_keys_are_refused() -> None:
    group = SimulatedGroup(SMALL)
    roster = shown(group)
    refused(Cause.SIGNATURE, lambda: alone_among_puppets(group.sites[name_of(0)], roster, OTHERS))


def test_attack_3_swapped_keys_give_the_update_without_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster_check, "check_signature", unchecked)
    group = SimulatedGroup(SMALL)
    roster = shown(group)
    assert alone_among_puppets(group.sites[name_of(0)], roster, OTHERS) == secret_of(0)


def two_rosters(group: SimulatedGroup) -> list[MemberEpochPhase]:
    """Rosters without member 3 and without member 2 are shown to two halves; member 4 colludes and signs both."""
    roster = shown(group)
    phases = []
    for left_out, half in ((3, (0, 1)), (2, (3,))):
        view = replace(roster, hellos=tuple(one for i, one in enumerate(roster.hellos) if i != left_out))
        names = [hello.entry.name for hello in view.hellos]
        digest = digest_of(view)
        given = {}
        for i in half:
            message = group.sites[name_of(i)].receive(view, NOW)[0].message
            assert isinstance(message, RosterSignature)
            given[names.index(name_of(i))] = message.endorsement
        at = names.index(name_of(4))
        given[at] = Endorsement(member=at, signature=signing_key(name_of(4)).sign(roster_input(RUN, 0, digest)))
        signatures = RosterSignatures(
            run=RUN, epoch=0, roster=digest, endorsements=tuple(given[at] for at in sorted(given))
        )
        for i in half:
            try:
                group.sites[name_of(i)].receive(signatures, NOW)
            except RefusedError as error:
                assert error.cause is Cause.TOO_FEW_SIGNATURES
            phases.append(group.sites[name_of(i)].epoch.phase)
    return phases


def test_attack_3_two_rosters_do_not_both_start(monkeypatch: pytest.MonkeyPatch) -> None:
    assert two_rosters(SimulatedGroup(GUARDED)).count(MemberEpochPhase.READY) < 3
    monkeypatch.setattr(Parameters, "signatures_needed", lambda *args, **kwargs: 2)
    assert two_rosters(SimulatedGroup(GUARDED)) == [MemberEpochPhase.READY] * 3


class Forgetful(MemoryStore):
    """A store without the check of counters."""

    def advance(self, key: str, to: int) -> None: ...


def test_attack_3_an_epoch_is_not_begun_twice() -> None:
    group = SimulatedGroup(SMALL)
    roster = shown(group)
    site = group.sites[name_of(0)]
    first = site.receive(roster, NOW)[0].message
    with pytest.raises(LocalError, match="above 0"):
        ClientEpoch.begin(site.membership, 0, NOW)
    forgetful = Forgetful()
    forgetful._values = site.store._values
    site.membership.state.store = forgetful
    again = ClientEpoch.begin(site.membership, 0, NOW)
    hello = again.outgoing()[0].message
    assert isinstance(hello, Hello)
    second = again.receive(replace(roster, hellos=(hello, *roster.hellos[1:])), NOW)[0].message
    assert isinstance(first, RosterSignature) and isinstance(second, RosterSignature)
    assert (first.epoch, first.roster != second.roster) == (second.epoch, True)  # without it: two rosters signed


def test_attack_3_a_nonce_that_others_chose_after_the_fact_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def tried() -> tuple[SimulatedGroup, RosterSignatures]:
        group = SimulatedGroup(GROUPED)
        held: list[RosterSignatures] = []

        def hook(sender: str | None, receiver: str | None, message: Record) -> Iterable[Record]:
            if isinstance(message, RosterSignatures):
                held.append(message)
                return []
            return [message]

        group.hook = hook
        group.start_epoch()
        last = replace(held[0].endorsements[7], nonce=b"chosen".ljust(32))
        return group, replace(held[0], endorsements=(*held[0].endorsements[:7], last))

    group, lie = tried()
    refused(Cause.NONCE, lambda: group.sites[name_of(0)].receive(lie, NOW))
    monkeypatch.setattr(roster_check, "commit_nonce", lambda run, epoch, name, nonce: commitment_of(group, name))
    group, lie = tried()
    group.sites[name_of(0)].receive(lie, NOW)
    assert group.sites[name_of(0)].epoch.phase is MemberEpochPhase.READY


def commitment_of(group: SimulatedGroup, name: str) -> bytes | None:
    hello = group.sites[name].epoch._hello
    return hello.entry.nonce_commitment


# --- 5: different models


def sum_over_two_models(group: SimulatedGroup, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether masks cancel between members that were told of different models; own seeds are given away for free."""
    own: list[bytes] = []
    commit = commitments.commit_own_seed

    def record(h: bytes, dealer: int, seed: bytes) -> bytes:
        own.append(seed)
        return commit(h, dealer, seed)

    monkeypatch.setattr(commitments, "commit_own_seed", record)
    total = np.zeros(7, dtype=np.uint32)
    for i, site in enumerate(group.sites.values()):
        descriptor = group.descriptor(0, model=hashlib.sha256(bytes([i == 0])).digest())
        site.receive(RoundStart(descriptor=descriptor, signature=SERVER_KEY.sign(descriptor_input(descriptor))), NOW)
        assert site.round is not None
        masked = site.round.mask(*update_of(site.name, 0), model=descriptor.model)[0].message
        assert isinstance(masked, Masked)
        total += np.frombuffer(masked.vector, dtype="<u4")
    keystream.add_masks(total, [(seed, -1) for seed in own])
    return bool(total.tolist() == expected_sum(group.sites, 0)[0])


def test_attack_5_masks_of_different_models_do_not_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not sum_over_two_models(started(), monkeypatch)


def test_attack_5_succeeds_where_the_rounds_hash_is_not_in_the_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    seed = key_agreement.pair_seed
    monkeypatch.setattr(key_agreement, "pair_seed", lambda prk, h, lo, hi: seed(prk, bytes(32), lo, hi))
    assert sum_over_two_models(started(), monkeypatch)


# --- 6: members and dealers that lie


def altering(member: int) -> Callable[[str | None, str | None, Record], Iterable[Record]]:
    def hook(sender: str | None, receiver: str | None, message: Record) -> Iterable[Record]:
        if isinstance(message, UnmaskAnswer) and sender == name_of(member):
            first = message.openings[0]
            wrong = replace(first, share=bytes([first.share[0] ^ 1]) + first.share[1:])
            return [replace(message, openings=(wrong, *message.openings[1:]))]
        return [message]

    return hook


def test_attack_6_a_wrong_share_names_the_member_and_others_replace_it() -> None:
    group = started()
    group.hook = altering(1)
    machine = group.run_round(group.descriptor())
    assert machine.phase is Phase.DONE
    assert machine.results[0].vector.tolist() == expected_sum(group.names, 0)[0]
    errors = [error for _, _, error in group.refused if isinstance(error, RefusedError)]
    assert [(one.party, one.cause) for one in errors] == [(name_of(1), Cause.BAD_DEALING)]


class Anything(bytes):
    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


def test_attack_6_a_wrong_share_blames_an_honest_dealer_without_proofs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commitments, "proved_root", lambda *args: Anything())
    group = started()
    group.hook = altering(1)
    machine = group.run_round(group.descriptor())
    assert machine.abort is not None and machine.abort.parties == (name_of(0),)
    monkeypatch.setattr(unmasking, "is_committed", lambda *args: True)
    group = started()
    group.hook = altering(1)
    machine = group.run_round(group.descriptor())
    assert machine.phase is Phase.DONE
    assert machine.results[0].vector.tolist() != expected_sum(group.names, 0)[0]


def dealt_badly(group: SimulatedGroup, monkeypatch: pytest.MonkeyPatch) -> ServerRound:
    """A round in which member 0 deals shares that lie on no polynomial."""
    descriptor = group.descriptor()
    machine = group.start_round(descriptor)
    split = shamir.split

    def inconsistent(secrets: bytes, threshold: int, holders: int, random: Callable[[int], bytes]) -> list[bytes]:
        good = split(secrets, threshold, holders, random)
        return [good[0], good[1], *(bytes(len(one)) for one in good[2:])]

    with monkeypatch.context() as patched:
        patched.setattr(shamir, "split", inconsistent)
        group.send_updates([name_of(0)], descriptor)
    group.send_updates([name_of(i) for i in range(1, 5)], descriptor)
    group.post(None, machine.close())
    return machine


def test_attack_6_inconsistent_dealing_voids_the_round_and_its_dealer_is_left_out_of_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = started()
    machine = dealt_badly(group, monkeypatch)
    assert machine.phase is Phase.ABORTED and machine.abort is not None
    assert (machine.abort.cause, machine.abort.parties) == (Cause.BAD_DEALING, (name_of(0),))
    assert machine.results == () and machine.bad_dealers == {0}
    machine = group.start_round(group.descriptor(1), excluded=machine.bad_dealers)
    group.send_updates(group.names, group.descriptor(1))
    group.post(None, machine.close())
    assert machine.phase is Phase.DONE and machine.results[0].members == (1, 2, 3, 4)
    assert machine.results[0].vector.tolist() == expected_sum(group.names[1:], 1)[0]


def test_attack_6_inconsistent_dealing_gives_a_wrong_sum_without_commitments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unmasking, "is_committed", lambda *args: True)
    machine = dealt_badly(started(), monkeypatch)
    assert machine.phase is Phase.DONE
    assert machine.results[0].vector.tolist() != expected_sum([name_of(i) for i in ALL], 0)[0]


def test_attack_6_a_dealer_whose_bundles_do_not_open_is_reported_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    group = started()
    descriptor = group.descriptor()
    machine = group.start_round(descriptor)
    with monkeypatch.context() as patched:
        patched.setattr(sealing, "seal", lambda key, plain, aad: bytes(len(plain) + 16))
        group.send_updates([name_of(0)], descriptor)
    group.send_updates([name_of(i) for i in range(1, 5)], descriptor)
    group.post(None, machine.close())
    assert machine.abort is not None
    assert (machine.abort.cause, machine.abort.parties) == (Cause.BAD_DEALING, (name_of(0),))
    assert machine.bad_dealers == {0}


# --- 7: too few


def victim_alone(group: SimulatedGroup, machine: ServerRound) -> list[int] | None:
    votes = [sign(group, machine, i, [4]) for i in range(4)]
    return recovered(group, machine, 4, [answer(group, i, votes) for i in range(4)])


def test_attack_7_a_list_of_one_is_not_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    group = started()
    machine = masked_by_all(group)
    refused(Cause.TOO_FEW_MEMBERS, lambda: victim_alone(group, machine))
    monkeypatch.setattr(survivor_check, "_check_number", unchecked)
    assert victim_alone(group, machine) == secret_of(4)


def test_attack_7_a_sites_own_policy_may_demand_more_survivors() -> None:
    group = SimulatedGroup(SMALL)
    group.memberships[name_of(1)] = replace(group.memberships[name_of(1)], min_survivors=5)
    group.start_epoch()
    machine = masked_by_all(group)
    refused(Cause.TOO_FEW_MEMBERS, lambda: sign(group, machine, 1, range(4)))
    assert sign(group, machine, 0, range(4)) and sign(group, machine, 1, ALL)


def test_attack_7_fewer_than_t_signatures_open_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    group = started()
    machine = masked_by_all(group)
    votes = [sign(group, machine, i, ALL) for i in range(4)]
    refused(Cause.TOO_FEW_SIGNATURES, lambda: answer(group, 0, votes[:2]))
    monkeypatch.setattr(Cohort, "threshold", lambda *args: 1)
    assert answer(group, 0, votes[:1]).openings
    assert group.sites[name_of(0)].round is not None


def test_attack_7_less_than_t_shares_do_not_give_a_seed() -> None:
    group = started()
    machine = masked_by_all(group)
    votes = [sign(group, machine, i, ALL) for i in range(4)]
    answers = [answer(group, i, votes) for i in range(2)]
    shares = {one.member: bytes(one.openings[0].share) for one in answers}
    with pytest.raises(ValueError, match="at least 3"):
        shamir.combine(shares, 3)
    header = machine._offered[0][0]
    assert not unmasking.is_committed(header, 0, 0, shamir.combine(shares, 2))
    assert isinstance(answers[0].openings[0], Opening)


# --- 8: counters


def masked_twice(group: SimulatedGroup) -> int:
    """How many different updates a member sends under one round's number."""
    site = group.sites[name_of(0)]
    sent = set()
    for task_model in (b"a", b"b"):
        descriptor = group.descriptor(0, model=hashlib.sha256(task_model).digest())
        site.receive(RoundStart(descriptor=descriptor, signature=SERVER_KEY.sign(descriptor_input(descriptor))), NOW)
        assert site.round is not None
        sent.add(encode(site.round.mask(*update_of(site.name, 0), model=descriptor.model)[0].message))
        site.restart()
    return len(sent)


def test_attack_8_a_round_is_used_once_also_after_a_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    refused(Cause.STALE, lambda: masked_twice(started()))
    monkeypatch.setattr(client_round, "check_round_is_new", unchecked)
    with pytest.raises(LocalError, match="above 0"):  # the durable counter stands behind it
        masked_twice(started())
    monkeypatch.setattr(MemoryStore, "advance", unchecked)
    assert masked_twice(started()) == 2


# --- 9: counts


def lanes(group: SimulatedGroup, words: U64, rounds: int) -> list[U64]:
    """The scalar lanes that the server is sent where everybody counts `words`."""
    seen = []
    for round_ in range(rounds):
        descriptor = group.descriptor(round_)
        group.start_round(descriptor)
        for site in group.sites.values():
            assert site.round is not None
            message = site.round.mask(update_of(site.name, round_)[0], words, model=descriptor.model)[0].message
            assert isinstance(message, Masked)
            seen.append(np.frombuffer(message.scalars, dtype="<u8"))
    return seen


def test_attack_9_counts_leave_in_the_masked_lane_only_and_are_uniform_there(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = np.array([7, 2026], dtype=np.uint64)
    seen = lanes(started(), counts, 40)
    other = lanes(started(), np.zeros(2, dtype=np.uint64), 40)
    bits = np.unpackbits(np.concatenate(seen).view(np.uint8)).reshape(-1, 64)
    assert bits.shape == (400, 64)
    assert np.all(np.abs(bits.mean(axis=0) - 0.5) < 5 * 0.5 / np.sqrt(len(bits)))  # five standard deviations
    assert len({one.tobytes() for one in seen}) == len(seen)
    # the same masks over other counts: so any sent lane is as likely, whatever was counted
    assert all(np.array_equal(a - b, counts) for a, b in zip(seen, other, strict=True))
    monkeypatch.setattr(masked_update, "_add_scalar_mask", unchecked)
    assert all(np.array_equal(one, counts) for one in lanes(started(), counts, 1))


def test_attack_9_nothing_that_a_member_sends_has_its_counts_or_its_update_in_it() -> None:
    group = started()
    group.run_round(group.descriptor())
    sent = [(sender, encode(message)) for sender, _, message in group.sent if sender is not None]
    assert len(sent) >= 5 * 5  # hello, roster signature, update, list signature and answer of everybody
    for sender, data in sent:
        words, lane = update_of(sender, 0)
        assert all(word.tobytes() not in data for word in lane) and words.tobytes() not in data


# --- 10: cloned keys


def cloned_key(group: SimulatedGroup) -> bool:
    """Colluder 4 registers the inverse of member 1's coordinate, which agrees with everybody on member 1's secrets,
    and stays silent: whether what the committee opens of its masks gives away member 1."""
    prime = (1 << 255) - 19
    names = [name_of(i) for i in range(4)]

    def hook(sender: str | None, receiver: str | None, message: Record) -> Iterable[Record]:
        if isinstance(message, Hello) and sender == name_of(4):
            victim = group.sites[name_of(1)].epoch._hello.entry.public_key
            clone = pow(int.from_bytes(victim, "little"), -1, prime).to_bytes(32, "little")
            pair = key_agreement.KeyPair(private=bytes(32), public=clone)
            key = signing_key(name_of(4))
            return [forged_hello(message, pair, key, message.entry.certificate)]
        return [] if receiver == name_of(4) else [message]

    group.hook = hook
    group.start_epoch()
    descriptor = group.descriptor()
    machine = group.start_round(descriptor)
    group.send_updates(names, descriptor)
    group.post(None, machine.close())
    for phase in (Phase.SIGNATURES, Phase.OPENINGS):
        if machine.phase is phase:
            group.post(None, machine.close())
    answers = [one for _, _, one in group.sent if isinstance(one, UnmaskAnswer)]
    shares: dict[tuple[int, int], dict[int, bytes]] = {}
    for one in answers:
        for opening in one.openings:
            shares.setdefault((opening.dealer, opening.peer), {})[one.member] = opening.share
    seeds = {at: shamir.combine(held, 4) for at, held in shares.items()}
    guessed = [(seeds[1, 1], 1), (seeds[1, 4], 1)]
    guessed += [(seeds[j, 4], sign_of(1, j)) for j in (0, 2, 3)]
    return without(group, machine, 1, guessed) == secret_of(1)


def test_attack_10_a_cloned_key_is_of_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not cloned_key(SimulatedGroup(GUARDED))
    seed = key_agreement.pair_seed
    monkeypatch.setattr(key_agreement, "pair_seed", lambda prk, h, lo, hi: seed(prk, h, 0, 1))
    assert cloned_key(SimulatedGroup(GUARDED))


# --- 11: split views


def split_views(group: SimulatedGroup, machine: ServerRound) -> list[int] | None:
    """Victim 0 is on the list for members 0 and 1, not for 2 and 4; member 3 colludes: it signs and opens both."""
    colluder = group.sites[name_of(3)]
    store = dict(colluder.store._values)
    answers: list[UnmaskAnswer] = []
    for survivors, members in (((0, 1, 2, 3, 4), (0, 1)), ((1, 2, 3, 4), (2, 4))):
        colluder.store._values = dict(store)
        colluder.restart()
        votes = sorted((sign(group, machine, i, survivors) for i in (*members, 3)), key=lambda one: one.member)
        answers += [answer(group, i, votes) for i in (*members, 3)]
    return recovered(group, machine, 0, answers)


def test_attack_11_two_halves_of_a_committee_never_both_reach_the_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    group = started(GUARDED)
    machine = masked_by_all(group)
    refused(Cause.TOO_FEW_SIGNATURES, lambda: split_views(group, machine))
    monkeypatch.setattr(Cohort, "threshold", lambda *args: 3)  # as where no colluders were reckoned with
    group = started(GUARDED)
    assert split_views(group, masked_by_all(group)) == secret_of(0)


# --- 12: replays and redos


@pytest.mark.parametrize("what", ["round", "epoch", "run", "committee", "list"])
def test_attack_12_signatures_of_elsewhere_are_refused(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    group = started()
    machine = masked_by_all(group)
    votes = [sign(group, machine, i, ALL) for i in range(4)]
    here = group.descriptor()
    elsewhere = {
        "round": replace(here, round=1),
        "epoch": replace(here, epoch=1),
        "run": replace(here, run="another"),
    }.get(what, here)
    listed = bytes(32) if what == "list" else votes[0].survivors
    signed = survivors_input(elsewhere, 1 if what == "committee" else 0, listed)
    stolen = [replace(one, signature=signing_key(name_of(one.member)).sign(signed)) for one in votes]
    refused(Cause.SIGNATURE, lambda: answer(group, 0, stolen))
    monkeypatch.setattr(survivor_check, "check_signature", unchecked)
    assert answer(group, 0, stolen).openings


def one_fewer(group: SimulatedGroup) -> list[int]:
    """A round, a failure that is claimed, and the same again without member 4: the difference of the sums."""
    model = hashlib.sha256(b"the same model").digest()
    updates: dict[int, list[int]] = {}
    for round_, silent in ((0, {}), (1, {name_of(4): 1})):
        machine = group.run_round(group.descriptor(round_, model=model), silent)
        if machine.phase is not Phase.DONE:
            return []
        updates[round_] = machine.results[0].vector.tolist()
    changed = expected_sum([name_of(i) for i in range(4)], 0)[0], expected_sum([name_of(i) for i in range(4)], 1)[0]
    return [
        (a - b - (before - after)) % 2**32 for a, b, before, after in zip(updates[0], updates[1], *changed, strict=True)
    ]


def test_attack_12_a_redo_with_one_member_fewer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    group = started()
    assert one_fewer(group) == []
    causes = [error.cause for _, _, error in group.refused if isinstance(error, RefusedError)]
    assert causes == [Cause.POLICY] * 5
    monkeypatch.setattr(client_round, "check_redo", unchecked)
    assert one_fewer(started()) == secret_of(4)


def repeated(group: SimulatedGroup, *silent: Collection[int]) -> list[bool]:
    """For rounds over one model, which have a result."""
    model = hashlib.sha256(b"the same model").digest()
    done = []
    for round_, gone in enumerate(silent):
        machine = group.run_round(group.descriptor(round_, model=model), {name_of(i): 1 for i in gone})
        done.append(machine.phase is Phase.DONE)
    return done


def test_attack_12_over_one_model_there_is_one_sum_as_often_as_it_is_asked_for() -> None:
    assert repeated(started(), (), (), ()) == [True, True, True]
    assert repeated(started(), (0,), (1,), (0,)) == [True, False, True]
    assert repeated(started(), (0, 1), (3, 4)) == [True, False]
    assert repeated(started(), (0, 1, 2), (3,), (4,)) == [False, True, False]  # the first has no sum
    group = SimulatedGroup(SMALL)
    group.memberships = {name: replace(one, noised=True) for name, one in group.memberships.items()}
    group.start_epoch()
    assert repeated(group, (), (4,), (3,)) == [True, True, True]


TEN = Parameters(clients=10, colluding=0, dropout=0.4, groups=1, min_roster=10, min_survivors=4)


def between(survivors: Collection[int], quorum: Collection[int]) -> Hook:
    """Updates of survivors arrive, and a quorum is asked to sign and to open."""

    def hook(sender: str | None, receiver: str | None, message: Record) -> Iterable[Record]:
        if isinstance(message, Masked):
            return [message] if sender in {name_of(i) for i in survivors} else []
        return [message] if not isinstance(message, SurvivorOffer) or receiver in {name_of(i) for i in quorum} else []

    return hook


def three_lists(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of sums over one model and {A, 8}, {B, 8} and {A, B}, each opened by another quorum: first + second - third."""
    monkeypatch.setattr(simulated_group, "update_of", lambda name, _: update_of(name, 0))  # the model is the same
    group, first, second = started(TEN), {0, 1, 2, 3}, {4, 5, 6, 7}
    model = hashlib.sha256(b"the same model").digest()
    sums = []
    for round_, (survivors, quorum) in enumerate(
        (
            (first | {8}, {0, 1, 2, 3, 4, 5}),
            (second | {8}, {4, 5, 6, 7, 8, 9}),
            (first | second, {0, 1, 2, 6, 7, 8}),  # nobody is asked a third time
        )
    ):
        group.hook = between(survivors, quorum)
        machine = group.run_round(group.descriptor(round_, model=model))
        if machine.phase is not Phase.DONE:
            assert {error.cause for _, _, error in group.refused if isinstance(error, RefusedError)} == {Cause.POLICY}
            return []
        sums.append(machine.results[0].vector)
    told: list[int] = (sums[0] + sums[1] - sums[2]).tolist()
    return told


def test_attack_12_three_lists_that_differ_in_many_do_not_tell_one_update(monkeypatch: pytest.MonkeyPatch) -> None:
    assert three_lists(monkeypatch) == []
    kept: dict[int, list[set[int]]] = {}

    def two_that_differ(state: SealedState, cohort: Cohort, _: Descriptor, lists: Mapping[int, Sequence[int]]) -> None:
        """The rule of k + 2 changes and of two sums for each member."""
        before, new = kept.get(id(state), []), set(lists[0])
        if len(before) == 2 or any(0 < len(new ^ old) < 3 for old in before):
            raise RefusedError(Cause.POLICY, None, "two sums")

    def keep(state: SealedState, cohort: Cohort, _: Descriptor, lists: Mapping[int, Sequence[int]]) -> None:
        kept.setdefault(id(state), []).append(set(lists[0]))

    monkeypatch.setattr(client_round, "check_redo", two_that_differ)
    monkeypatch.setattr(client_round, "record_answer", keep)
    assert three_lists(monkeypatch) == [2 * word % 2**32 for word in secret_of(8)]


def test_attack_12_the_second_sum_is_refused_in_another_epoch_and_after_a_restart() -> None:
    group = started()
    assert repeated(group, ()) == [True]
    group.start_epoch(1)
    for site in group.sites.values():
        site.restart()
    assert repeated(group, (4,)) == [False]
