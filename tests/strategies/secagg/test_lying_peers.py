"""Peers that send anything in any order, and machines that are killed at any write: nothing comes out that must not.

The server of the first two machines has a helper, member 4, whose keys it knows. It signs, replays, mutates and
withholds at will. The members of the third send the server anything. Each machine is driven by hypothesis.
"""

from collections.abc import Callable, Iterable
from itertools import combinations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.strategies.secagg.lying_server import ALL, allow_any_list, answer, masked_by_all, sign, started
from tests.strategies.secagg.simulated_group import (
    GUARDED,
    NOW,
    SERVER_KEY,
    KilledStore,
    SimulatedGroup,
    Site,
    expected_sum,
    name_of,
    signing_key,
    update_of,
)
from wardround.errors import LocalError, RemoteError
from wardround.state_store import MemoryStore
from wardround.strategies.secagg.client_epoch import ClientEpoch
from wardround.strategies.secagg.messages import (
    Descriptor,
    Endorsement,
    GroupOffer,
    GroupSum,
    Hello,
    Masked,
    OfferedMember,
    Published,
    Roster,
    RosterSignature,
    RosterSignatures,
    RoundStart,
    SurvivorOffer,
    SurvivorSignature,
    SurvivorVote,
    Task,
    UnmaskAnswer,
    UnmaskRequest,
    decode,
    digest_of,
    encode,
    survivors_of,
)
from wardround.strategies.secagg.phases import MemberEpochPhase, MemberRoundPhase, Outgoing, ServerRoundPhase
from wardround.strategies.secagg.server_round import ServerRound
from wardround.strategies.secagg.signing_inputs import descriptor_input, result_input, roster_input, survivors_input
from wardround.strategies.secagg.wire import Record

HELPER = 4
HONEST = range(4)
THRESHOLD = GUARDED.committee.threshold


class Ledger:
    """What members sent, and what follows from it together with all that the helper knows."""

    def __init__(self) -> None:
        self.descriptors: dict[bytes, Descriptor] = {}
        self.masked: dict[bytes, dict[int, Masked]] = {}
        self.votes: dict[tuple[bytes, bytes], dict[int, SurvivorSignature]] = {}
        self.lists: dict[bytes, frozenset[int]] = {}
        self.opened: dict[bytes, dict[tuple[int, int], set[int]]] = {}
        self.sent: dict[tuple[object, ...], set[bytes]] = {}
        self.answered: dict[tuple[object, ...], dict[frozenset[int], set[int]]] = {}

    def take(self, message: Record) -> None:
        if isinstance(message, Masked):
            header = message.header
            self.masked.setdefault(header.h, {})[header.member] = message
            self._once(message, header.h, header.member)
        elif isinstance(message, SurvivorSignature):
            self.votes.setdefault((message.h, message.survivors), {})[message.member] = message
            self._once(message, message.h, message.member)
        elif isinstance(message, UnmaskAnswer):
            for one in message.openings:
                shares = self.opened.setdefault(message.h, {})
                shares.setdefault((one.dealer, one.peer), set()).add(message.member)
            about = self.descriptors[message.h]
            if survivors := self.lists[message.survivors]:
                sums = self.answered.setdefault((about.task, about.model), {})
                sums.setdefault(survivors, set()).add(message.member)
            self._once(message, message.h, message.member)

    def _once(self, message: Record, h: bytes, member: int) -> None:
        about = self.descriptors[h]
        self.sent.setdefault((type(message), about.epoch, about.round, member), set()).add(encode(message))

    def knows(self, h: bytes, i: int, j: int) -> bool:
        """Whether the seed of i and j (of i alone where they are one) can be put together."""
        if HELPER in (i, j):
            return True
        shares = self.opened.get(h, {})
        dealt = [(i, j), (j, i)] if i != j else [(i, i)]
        return any(len(shares.get(pair, set()) | {HELPER}) >= THRESHOLD for pair in dealt)

    def check(self) -> None:
        for key, messages in self.sent.items():
            assert len(messages) == 1, f"{key}: expected one message, got {len(messages)}"
        for h, masked in self.masked.items():
            for victim in set(masked) - {HELPER}:
                seen = all(self.knows(h, victim, peer) for peer in range(5))
                assert not seen, f"the update of {victim} came out"
        for sums in self.answered.values():
            for one, other in combinations(sums.values(), 2):
                assert one & other <= {HELPER}, "two sums over one model"
            assert sum(len(members | {HELPER}) >= THRESHOLD for members in sums.values()) <= 1


def mutated(message: Record, at: int, bit: int) -> Record | None:
    """The message with one bit changed, where it is one still."""
    data = bytearray(encode(message))
    data[5 + at % (len(data) - 5)] ^= 1 << bit
    try:
        return decode(bytes(data))
    except RemoteError:
        return None


members = st.sets(st.integers(0, 4), min_size=1)
few = st.just(set[int]()) | st.sets(st.integers(0, 4), max_size=2)
some = few | st.sets(st.integers(0, 4), max_size=4)
kills = st.none() | st.integers(0, 3)


class LyingServer(RuleBasedStateMachine):
    """The members' machines, and a server that may send them anything."""

    @initialize()
    def begin(self) -> None:
        self.group, self.ledger, self.epoch = SimulatedGroup(GUARDED), Ledger(), 0
        self.pool: list[Record] = []
        self.agree()

    def agree(self) -> None:
        self.group.start_epoch(self.epoch)
        assert not self.group.refused
        self.pool += [message for _, _, message in self.group.sent]
        for site in self.group.sites.values():
            site.restart()

    def site(self, member: int) -> Site:
        return self.group.sites[name_of(member)]

    def try_(self, member: int, do: Callable[[], list[Outgoing]], kill: int | None, allowed: str = "killed") -> None:
        """Whatever a machine does, it changes nothing where it refuses, and a killed one restarts."""
        site = self.site(member)
        state, whole = site.membership.state, site.store
        before = (dict(whole._values), dict(whole._counters), self.phase(member))
        if kill is not None:
            state.store = KilledStore(whole, kill)
        try:
            outgoing = do()
        except RemoteError as error:
            assert len(str(error)) < 1000
            after = (whole._values, whole._counters, self.phase(member))
            assert before == after, error
            if isinstance(error.__cause__, LocalError):  # killed, or the round's number is burnt
                site.restart()
            return
        except LocalError as error:
            if str(error) != "killed":
                assert allowed in str(error) or "waits for an update" in str(error)
                return
            state.store = whole
            site.restart()
            return
        finally:
            state.store = whole
        for one in outgoing:
            assert one.receiver is None
            self.ledger.take(one.message)
            self.pool.append(one.message)

    def phase(self, member: int) -> tuple[object, object]:
        site = self.site(member)
        return site.epoch.phase, None if site.round is None else site.round.phase

    def deliver(self, member: int, message: Record, kill: int | None = None) -> None:
        self.pool.append(message)
        self.try_(member, lambda: self.site(member).receive(decode(encode(message)), NOW), kill)

    def descriptor(self, pick: int) -> Descriptor:
        known = list(self.ledger.descriptors.values())
        return known[pick % len(known)]

    @rule(
        step=st.sampled_from((1, 1, 1, 0, -1)),
        model=st.integers(0, 1),
        task=st.sampled_from(Task),
        stages=st.sampled_from((1, 2, 3, 4, 4, 4, 5, 5)),
        silent=few,
        lists=st.tuples(some, some),
        half=st.just(set(HONEST)) | members,
    )
    def play(
        self,
        step: int,
        model: int,
        task: Task,
        stages: int,
        silent: set[int],
        lists: tuple[set[int], set[int]],
        half: set[int],
    ) -> None:
        """A round as far as `stages`, in which the halves of the committee may be shown different lists; in the fifth
        everybody is shown the second."""
        everybody = set(range(5))
        self.start(step, model, task, everybody, None)
        h = digest_of(self.descriptor(-1))
        if stages > 1:
            self.mask(everybody - silent, None)
        for shown in (half, set[int]())[: stages - 2 - (stages == 4)]:
            self.split_offers(-1, everybody - lists[0], everybody - lists[1], shown)
            for at, (about, _) in enumerate(list(self.ledger.votes)):
                if about == h and stages > 3:
                    self.ask(at, everybody, None)

    @rule(step=st.integers(-1, 2), model=st.integers(0, 1), task=st.sampled_from(Task), to=members, kill=kills)
    def start(self, step: int, model: int, task: Task, to: set[int], kill: int | None) -> None:
        last = max((one.round for one in self.ledger.descriptors.values() if one.epoch == self.epoch), default=-1)
        descriptor = self.group.descriptor(max(0, last + step), model=bytes([model]) * 32, task=task)
        self.ledger.descriptors.pop(digest_of(descriptor), None)  # it is the newest now
        self.ledger.descriptors[digest_of(descriptor)] = descriptor
        message = RoundStart(descriptor=descriptor, signature=SERVER_KEY.sign(descriptor_input(descriptor)))
        for member in to:
            self.deliver(member, message, kill)

    @rule(of=members, kill=kills)
    def mask(self, of: set[int], kill: int | None) -> None:
        for member in of:
            machine = self.site(member).round
            if machine is not None and machine.phase is MemberRoundPhase.STARTED:
                words, lane = update_of(name_of(member), machine.descriptor.round)
                model = machine.descriptor.model
                self.try_(member, lambda m=machine, w=words, n=lane, d=model: m.mask(w, n, model=d), kill, "above")  # type: ignore[misc]

    def offer(self, h: bytes, receiver: int, listed: Iterable[int]) -> None:
        masked = self.ledger.masked.get(h, {})
        offered = []
        for member in sorted(set(listed) & set(masked)):
            one = masked[member]
            sealed = b"" if member == receiver else one.sealed[receiver - (receiver > member)]
            offered.append(OfferedMember(header=one.header, signature=one.signature, sealed=sealed))
        survivors = digest_of(survivors_of(one.header for one in offered))
        self.ledger.lists[survivors] = frozenset(one.header.member for one in offered)
        message = SurvivorOffer(
            h=h, committee=0, receiver=receiver, groups=(GroupOffer(group=0, members=tuple(offered)),)
        )
        if receiver == HELPER:
            data = survivors_input(self.ledger.descriptors[h], 0, survivors)
            vote = SurvivorSignature(
                h=h, committee=0, member=HELPER, survivors=survivors, signature=signing_key(name_of(HELPER)).sign(data)
            )
            self.ledger.votes.setdefault((h, survivors), {})[HELPER] = vote
            return
        self.deliver(receiver, message)

    @precondition(lambda self: self.ledger.descriptors)
    @rule(pick=st.integers(-3, 3), first=members, second=members, half=members)
    def split_offers(self, pick: int, first: set[int], second: set[int], half: set[int]) -> None:
        """One list to some members, another to the rest, and the helper signs both."""
        h = digest_of(self.descriptor(pick))
        for member in HONEST:
            self.offer(h, member, first if member in half else second)
        for listed in (first, second):
            self.offer(h, HELPER, listed)

    @precondition(lambda self: self.ledger.votes)
    @rule(pick=st.integers(-3, 3), to=members, kill=kills)
    def ask(self, pick: int, to: set[int], kill: int | None) -> None:
        key = list(self.ledger.votes)[pick % len(self.ledger.votes)]
        votes = self.ledger.votes[key]
        message = UnmaskRequest(
            h=key[0],
            committee=0,
            survivors=key[1],
            votes=tuple(SurvivorVote(member=m, signature=votes[m].signature) for m in sorted(votes)),
        )
        for member in to - {HELPER}:
            self.deliver(member, message, kill)

    @precondition(lambda self: self.ledger.descriptors)
    @rule(pick=st.integers(-3, 3), to=members, kill=kills)
    def publish(self, pick: int, to: set[int], kill: int | None) -> None:
        descriptor = self.descriptor(pick)
        groups = (GroupSum(group=0, members=(0, 1, 2), sum=bytes(32)),)
        signature = SERVER_KEY.sign(result_input(descriptor, 0, groups))
        message = Published(h=digest_of(descriptor), committee=0, groups=groups, signature=signature)
        for member in to:
            self.deliver(member, message, kill)

    @rule(pick=st.integers(0, 999), to=members, kill=kills)
    def replay(self, pick: int, to: set[int], kill: int | None) -> None:
        for member in to - {HELPER}:
            self.deliver(member, self.pool[pick % len(self.pool)], kill)

    @rule(pick=st.integers(0, 999), to=st.sampled_from(HONEST), at=st.integers(0, 9999), bit=st.integers(0, 7))
    def mutate(self, pick: int, to: int, at: int, bit: int) -> None:
        changed = mutated(self.pool[pick % len(self.pool)], at, bit)
        if changed is not None:
            self.try_(to, lambda: self.site(to).receive(changed, NOW), None)

    @rule(member=st.sampled_from(HONEST))
    def restart(self, member: int) -> None:
        self.site(member).restart()

    @precondition(lambda self: self.epoch < 1)
    @rule()
    def next_epoch(self) -> None:
        self.epoch += 1
        self.agree()

    @invariant()
    def nothing_came_out(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.check()


class LyingAboutMembers(RuleBasedStateMachine):
    """The members' machines of epochs, and a server that may show them any roster of what it was sent."""

    @initialize()
    def begin(self) -> None:
        self.group = SimulatedGroup(GUARDED)
        self.machines: dict[int, ClientEpoch] = {}
        self.hellos: dict[int, dict[int, Hello]] = {}
        self.shown: dict[bytes, Roster] = {}
        self.signed: dict[bytes, dict[str, Endorsement]] = {}
        self.sent: dict[tuple[object, ...], set[bytes]] = {}
        self.pool: list[Record] = []

    def try_(self, member: int, do: Callable[[], list[Outgoing]], kill: int | None) -> None:
        state = self.group.memberships[name_of(member)].state
        whole = state.store
        assert isinstance(whole, MemoryStore)
        machine = self.machines.get(member)
        before = (dict(whole._values), dict(whole._counters), None if machine is None else machine.phase)
        if kill is not None:
            state.store = KilledStore(whole, kill)
        try:
            outgoing = do()
        except RemoteError as error:
            assert before == (whole._values, whole._counters, None if machine is None else machine.phase), error
            return
        except LocalError as error:
            assert str(error) == "killed" or "expected a value above" in str(error)
            state.store = whole
            self.restart(member)
            return
        finally:
            state.store = whole
        for one in outgoing:
            self.pool.append(one.message)
            if isinstance(one.message, Hello):
                self.hellos.setdefault(one.message.entry.epoch, {})[member] = one.message
                self.once(one.message, one.message.entry.epoch, member)
            elif isinstance(one.message, RosterSignature):
                endorsed = self.signed.setdefault(one.message.roster, {})
                endorsed[name_of(member)] = one.message.endorsement
                self.once(one.message, one.message.epoch, member)

    def once(self, message: Record, epoch: int, member: int) -> None:
        self.sent.setdefault((type(message), epoch, member), set()).add(encode(message))

    @rule(epoch=st.integers(0, 3), to=members, kill=kills)
    def start(self, epoch: int, to: set[int], kill: int | None) -> None:
        def enter(member: int) -> list[Outgoing]:
            self.machines[member] = ClientEpoch.begin(self.group.memberships[name_of(member)], epoch, NOW)
            return self.machines[member].outgoing()

        for member in to:
            self.try_(member, lambda member=member: enter(member), kill)  # type: ignore[misc]

    @rule(pick=st.integers(-2, 2), left_out=few, to=members, kill=kills)
    def show(self, pick: int, left_out: set[int], to: set[int], kill: int | None) -> None:
        if not self.hellos:  # killed before they were sent
            return
        hellos = list(self.hellos.values())[pick % len(self.hellos)]
        chosen = [hellos[member] for member in sorted(hellos) if member not in left_out]
        if not chosen:
            return
        roster = Roster(hellos=tuple(chosen))
        digest = digest_of(roster)
        self.shown[digest] = roster
        names = [hello.entry.name for hello in chosen]
        if name_of(HELPER) in names:
            data = roster_input(roster.run, roster.epoch, digest)
            mine = Endorsement(member=names.index(name_of(HELPER)), signature=signing_key(name_of(HELPER)).sign(data))
            self.signed.setdefault(digest, {})[name_of(HELPER)] = mine
        for member in to - {HELPER}:
            self.deliver(member, roster, kill)

    @precondition(lambda self: self.signed)
    @rule(pick=st.integers(-3, 3), to=members, kill=kills)
    def show_signatures(self, pick: int, to: set[int], kill: int | None) -> None:
        digest = list(self.signed)[pick % len(self.signed)]
        roster, given = self.shown[digest], self.signed[digest]
        message = RosterSignatures(
            run=roster.run,
            epoch=roster.epoch,
            roster=digest,
            endorsements=tuple(sorted(given.values(), key=lambda one: one.member)),
        )
        for member in to - {HELPER}:
            self.deliver(member, message, kill)

    @rule(epoch=st.integers(0, 3), left_out=few, half=st.just(set(HONEST)) | members)
    def play(self, epoch: int, left_out: set[int], half: set[int]) -> None:
        """An epoch of everybody, in which the halves may be shown different rosters."""
        self.start(epoch, set(range(5)), None)
        self.show(-1, left_out, half, None)
        self.show(-1, set(), set(range(5)) - half, None)
        for pick in range(len(self.signed)):
            self.show_signatures(pick, set(range(5)), None)

    @precondition(lambda self: self.pool)
    @rule(pick=st.integers(0, 99), to=members, kill=kills)
    def replay(self, pick: int, to: set[int], kill: int | None) -> None:
        for member in to - {HELPER}:
            self.deliver(member, self.pool[pick % len(self.pool)], kill)

    @precondition(lambda self: self.pool)
    @rule(pick=st.integers(0, 99), to=st.sampled_from(HONEST), at=st.integers(0, 9999), bit=st.integers(0, 7))
    def mutate(self, pick: int, to: int, at: int, bit: int) -> None:
        changed = mutated(self.pool[pick % len(self.pool)], at, bit)
        if changed is not None and to in self.machines:
            self.try_(to, lambda: self.machines[to].receive(changed, NOW), None)

    def deliver(self, member: int, message: Record, kill: int | None) -> None:
        self.pool.append(message)
        if member in self.machines:
            self.try_(member, lambda: self.machines[member].receive(decode(encode(message)), NOW), kill)

    @rule(member=st.sampled_from(HONEST))
    def restart(self, member: int) -> None:
        resumed = ClientEpoch.resume(self.group.memberships[name_of(member)])
        if resumed is not None:
            self.machines[member] = resumed

    @invariant()
    def one_roster_is_agreed_on(self) -> None:
        if not hasattr(self, "machines"):
            return
        for key, messages in self.sent.items():
            assert len(messages) == 1, f"{key}: expected one message, got {len(messages)}"
        agreed: dict[int, set[bytes]] = {}
        for member, machine in self.machines.items():
            if member != HELPER and machine.phase is MemberEpochPhase.READY:
                agreed.setdefault(machine.epoch, set()).add(machine.agreement.cohort.roster)
                assert len(machine.agreement.cohort.names) >= GUARDED.min_roster
        assert all(len(rosters) == 1 for rosters in agreed.values())


class LyingMembers(RuleBasedStateMachine):
    """The server's machine of a round, and members who send it anything under any name."""

    @initialize()
    def begin(self) -> None:
        self.group = SimulatedGroup(GUARDED)
        self.group.start_epoch()
        self.pool = [message for sender, _, message in self.group.sent if sender is not None]
        self.held: list[tuple[str, Record]] = []
        self.group.hook = self.hold
        self.machine = self.group.start_round(self.group.descriptor())
        self.group.send_updates(self.group.names, self.group.descriptor())

    def hold(self, sender: str | None, receiver: str | None, message: Record) -> Iterable[Record]:
        if sender is None:
            return [message]
        self.held.append((sender, message))
        self.pool.append(message)
        return []

    def give(self, sender: str, message: Record) -> None:
        store = self.group.federation.store
        assert isinstance(store, MemoryStore)
        before = (dict(store._values), self.machine.phase, self.machine.results, self.machine.bad_dealers)
        try:
            outgoing = self.machine.receive(sender, message, NOW)
        except RemoteError:
            assert before == (store._values, self.machine.phase, self.machine.results, self.machine.bad_dealers)
            return
        self.group.post(None, outgoing)

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0, 99))
    def pass_on(self, pick: int) -> None:
        self.give(*self.held.pop(pick % len(self.held)))

    @precondition(lambda self: self.held)
    @rule()
    def pass_all_on(self) -> None:
        for sender, message in self.held[:]:
            self.give(sender, message)

    @rule(sender=st.integers(0, 4), pick=st.integers(0, 99))
    def under_another_name(self, sender: int, pick: int) -> None:
        self.give(name_of(sender), self.pool[pick % len(self.pool)])

    @rule(sender=st.integers(0, 4), pick=st.integers(0, 99), at=st.integers(0, 9999), bit=st.integers(0, 7))
    def mutate(self, sender: int, pick: int, at: int, bit: int) -> None:
        changed = mutated(self.pool[pick % len(self.pool)], at, bit)
        if changed is not None:
            self.give(name_of(sender), changed)

    @rule()
    def close(self) -> None:
        self.group.post(None, self.machine.close())

    @precondition(lambda self: self.machine.phase in (ServerRoundPhase.MASKS, ServerRoundPhase.SIGNATURES))
    @rule()
    def killed(self) -> None:
        assert self.group.setting is not None
        resumed = ServerRound.resume(self.group.setting)
        assert resumed is not None and resumed.phase is self.machine.phase
        self.machine = self.group.round = resumed

    @invariant()
    def a_sum_is_exact_or_there_is_none(self) -> None:
        if not hasattr(self, "machine"):
            return
        if self.machine.phase is not ServerRoundPhase.DONE:
            assert self.machine.results == ()
        for result in self.machine.results:
            assert len(result.members) >= GUARDED.min_survivors
            expected = expected_sum([name_of(member) for member in result.members], 0)
            assert (result.vector.tolist(), result.scalars.tolist()) == expected


def at_most(examples: int) -> settings:
    return settings(
        max_examples=examples, stateful_step_count=35, deadline=None, suppress_health_check=list(HealthCheck)
    )


@pytest.mark.parametrize("machine", [LyingServer, LyingAboutMembers, LyingMembers])
def test_whatever_a_peer_sends_nothing_comes_out_that_must_not(machine: type[RuleBasedStateMachine]) -> None:
    run_state_machine_as_test(machine, settings=at_most(30))


@pytest.mark.slow
@pytest.mark.parametrize("machine", [LyingServer, LyingAboutMembers, LyingMembers])
def test_whatever_a_peer_sends_for_long_nothing_comes_out_that_must_not(machine: type[RuleBasedStateMachine]) -> None:
    run_state_machine_as_test(machine, settings=at_most(300))


def test_the_ledger_of_what_came_out_sees_an_update_that_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """The invariant itself, on a round in which the rule of one list is removed."""
    ledger, group = Ledger(), started(GUARDED)
    machine = masked_by_all(group)
    ledger.descriptors[machine._h] = group.descriptor()
    for _, _, message in group.sent:
        ledger.take(message)
    ledger.check()
    allow_any_list(monkeypatch)
    for listed in (ALL, (0, 1, 2, 4)):
        votes = [sign(group, machine, i, listed) for i in HONEST]
        ledger.lists[votes[0].survivors] = frozenset(listed)
        for i in HONEST:
            ledger.take(answer(group, i, votes))
    with pytest.raises(AssertionError, match="expected one message"):
        ledger.check()
    ledger.sent.clear()
    with pytest.raises(AssertionError, match="the update of 3 came out"):
        ledger.check()
