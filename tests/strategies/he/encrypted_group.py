"""Members and a server of homomorphic aggregation in one process, whose every message passes through a hook.

What is not about encryption is that of `tests.strategies.secagg.simulated_group`: names, keys, certificates, stores.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.strategies.secagg.simulated_group import (
    NOW,
    RUN,
    SERVER_KEY,
    Hook,
    KilledStore,
    SimulatedGroup,
    name_of,
    pass_on,
)
from wardround.errors import RemoteError
from wardround.state_store import MemoryStore
from wardround.strategies.he.client_round import EncryptedRound
from wardround.strategies.he.he_plan import HEPlan
from wardround.strategies.he.key_ceremony import accept_key, check_deal, deal_key, stored_key
from wardround.strategies.he.messages import (
    Encrypted,
    KeyAccepted,
    KeyDeal,
    KeyOffer,
    KeyRequest,
    Opened,
)
from wardround.strategies.he.packing import Packing
from wardround.strategies.he.scheme import PublicContext
from wardround.strategies.he.server_round import EncryptedServerRound
from wardround.strategies.secagg.client_epoch import ClientEpoch
from wardround.strategies.secagg.keystream import U32, U64
from wardround.strategies.secagg.membership import Membership
from wardround.strategies.secagg.messages import (
    Cause,
    Descriptor,
    Hello,
    Roster,
    RosterSignature,
    RosterSignatures,
    SurvivorSignature,
    decode,
    encode,
)
from wardround.strategies.secagg.parameters import HomomorphicParameters
from wardround.strategies.secagg.phases import (
    MemberEpochPhase,
    Outgoing,
    RefusedError,
    ServerEpochPhase,
    ServerRoundPhase,
)
from wardround.strategies.secagg.round_setting import RoundSetting
from wardround.strategies.secagg.sealed_state import SealedState
from wardround.strategies.secagg.server_epoch import ServerEpoch
from wardround.strategies.secagg.wire import Record

BITS, SIZE, SCALARS = 14, 9000, 2
"""Two chunks: what a server may swap, leave out or repeat is more than one."""
PARAMETERS = HomomorphicParameters(clients=4, colluding=0, dropout=0.25, groups=1, min_roster=4, min_survivors=3)
PAIR = HomomorphicParameters(clients=2, colluding=0, dropout=0.0, groups=1, min_roster=2, min_survivors=2)


def packing_of(plan: HEPlan, size: int, scalars: int) -> Packing:
    return Packing(plan=plan, bits=BITS, size=size, scalars=scalars)


@dataclass
class Member:
    """Its machines, and the store that survives them."""

    membership: Membership
    epoch: ClientEpoch
    plan: HEPlan
    round: EncryptedRound | None = None

    @property
    def name(self) -> str:
        return self.membership.name

    @property
    def machine(self) -> EncryptedRound:
        """Of its rounds. Raises RemoteError where it has no key."""
        if self.round is None:
            agreement = self.epoch.agreement
            key = stored_key(self.membership, agreement.cohort.epoch)
            if key is None:
                raise RemoteError("expected a key for this epoch, got none")
            self.round = EncryptedRound(self.membership, agreement, key, partial(packing_of, self.plan))
        return self.round

    def receive(self, message: Record, now: datetime) -> list[Outgoing]:
        mine = self.membership
        if isinstance(message, Roster | RosterSignatures):
            return self.epoch.receive(message, now)
        if isinstance(message, KeyRequest):
            return [Outgoing(None, deal_key(mine, self.epoch.agreement, self.plan, message))]
        if isinstance(message, KeyOffer):
            return [Outgoing(None, accept_key(mine, self.epoch.agreement, self.plan, message))]
        return self.machine.receive(message, now)

    def restart(self) -> None:
        """As after kill -9: only what is stored is left."""
        resumed = ClientEpoch.resume(self.membership)
        assert resumed is not None
        self.epoch, self.round = resumed, None

    def killed_after(self, writes: int) -> None:
        """Its store gives up after so many more writes."""
        self._use(KilledStore(self.store, writes))

    def revived(self) -> None:
        """A store that works again, with what was stored, and all else made anew."""
        kept = MemoryStore()
        kept._values, kept._counters = self.store._values, self.store._counters
        self._use(kept)
        self.restart()

    def _use(self, store: MemoryStore) -> None:
        state = SealedState(store, bytes(32), self.membership.state._random)
        self.membership = replace(self.membership, state=state)
        if self.round is not None:
            self.round._membership = self.membership

    @property
    def store(self) -> MemoryStore:
        store = self.membership.state.store
        assert isinstance(store, MemoryStore)
        return store


@dataclass
class EncryptedGroup:
    """`sites` by name, the server's machines, `sent`: everything that was sent, and `refused`: by whom, what, why."""

    parameters: HomomorphicParameters = PARAMETERS
    hook: Hook = pass_on
    now: datetime = NOW
    sites: dict[str, Member] = field(default_factory=dict)
    sent: list[tuple[str | None, str | None, Record]] = field(default_factory=list)
    refused: list[tuple[str | None, Record, RemoteError]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.base = SimulatedGroup(self.parameters)
        self.plan = HEPlan(members=self.parameters.group_size)
        self.packing = packing_of(self.plan, SIZE, SCALARS)
        self.server: ServerEpoch | None = None
        self.round: EncryptedServerRound | None = None
        self.deal: KeyDeal | None = None
        self.context: PublicContext | None = None
        self.has_key: set[str] = set()

    @property
    def names(self) -> list[str]:
        return self.base.names

    def site(self, member: int) -> Member:
        return self.sites[name_of(member)]

    # -- the network -----------------------------------------------------------------------------------------

    def post(self, sender: str | None, outgoing: Iterable[Outgoing]) -> None:
        """Deliver messages, and what they lead to, until all is quiet."""
        waiting = [(sender, one) for one in outgoing]
        while waiting:
            origin, one = waiting.pop(0)
            for message in self.hook(origin, one.receiver, one.message):
                self.sent.append((origin, one.receiver, message))
                message = decode(encode(message))
                try:
                    waiting += [(one.receiver, answer) for answer in self.arrive(origin, one.receiver, message)]
                except RemoteError as error:
                    self.refused.append((one.receiver, message, error))

    def arrive(self, sender: str | None, receiver: str | None, message: Record) -> list[Outgoing]:
        if receiver is not None:
            return self.sites[receiver].receive(message, self.now) if receiver in self.sites else []
        assert sender is not None
        if isinstance(message, KeyDeal):
            return self._hand_out(sender, message)
        if isinstance(message, KeyAccepted):
            self.has_key.add(sender)
            return []
        machine = self.server if isinstance(message, Hello | RosterSignature) else self.round
        return [] if machine is None else machine.receive(sender, message, self.now)

    def _hand_out(self, sender: str, deal: KeyDeal) -> list[Outgoing]:
        assert self.server is not None
        check_deal(self.server.cohort, deal)
        self.deal, self.context, self.has_key = deal, PublicContext(self.plan, deal.header.context), {sender}
        return list(self.offers(deal))

    def offers(self, deal: KeyDeal) -> Iterable[Outgoing]:
        """What each other member gets of a deal."""
        assert self.server is not None
        others = [name for name in self.server.cohort.names if name != self.server.cohort.names[deal.header.dealer]]
        for name, box in zip(others, deal.boxes, strict=True):
            yield Outgoing(name, KeyOffer(header=deal.header, signature=deal.signature, box=box))

    # -- epochs ----------------------------------------------------------------------------------------------

    def agree(self, epoch: int = 0, absent: Collection[str] = ()) -> None:
        """An epoch that is ready, whose key nobody has made yet."""
        self.server = self.base.server = ServerEpoch(self.base.federation, epoch)
        for name in self.names:
            if name not in absent:
                mine = self.sites[name].membership if name in self.sites else self.base.memberships[name]
                self.sites[name] = Member(mine, ClientEpoch.begin(mine, epoch, self.now), self.plan)
        for name in self.names:
            if name not in absent:
                self.post(name, self.sites[name].epoch.outgoing())
        self.post(None, self.server.close())
        if self.server.phase is ServerEpochPhase.SIGNATURES:
            self.post(None, self.server.close())

    def request(self) -> KeyRequest:
        assert self.server is not None
        return KeyRequest(run=RUN, epoch=self.server.epoch, roster=self.server.cohort.roster)

    def start_epoch(self, epoch: int = 0, dealer: int = 0, absent: Collection[str] = ()) -> None:
        """An epoch whose members all have the key of `dealer`."""
        self.agree(epoch, absent)
        self.post(None, [Outgoing(name_of(dealer), self.request())])
        assert self.has_key == set(self.sites) - set(absent), self.refused
        assert all(site.epoch.phase is MemberEpochPhase.READY for site in self.sites.values())

    # -- rounds ----------------------------------------------------------------------------------------------

    def descriptor(self, round_: int = 0, **changes: object) -> Descriptor:
        return self.base.descriptor(round_, **changes)

    def start_round(self, descriptor: Descriptor) -> EncryptedServerRound:
        assert self.server is not None and self.context is not None
        setting = RoundSetting(
            cohort=self.server.cohort,
            committee=0,
            size=SIZE,
            scalars=SCALARS,
            signing_key=SERVER_KEY,
            store=self.base.federation.store,
        )
        self.round = EncryptedServerRound.begin(setting, descriptor, self.packing, self.context)
        self.post(None, self.round.outgoing())
        return self.round

    def send_updates(self, members: Iterable[int], descriptor: Descriptor) -> None:
        for member in members:
            words, lane = update_of(member, descriptor.round)
            self.post(name_of(member), self.site(member).machine.mask(words, lane, model=descriptor.model))

    def run_round(
        self, descriptor: Descriptor | None = None, silent: Mapping[int, int] | None = None
    ) -> EncryptedServerRound:
        """A round in which a member is `silent` from stage 1 (its update), 2 (signature) or 3 (opening) on."""
        descriptor = self.descriptor() if descriptor is None else descriptor
        stages, before = {name_of(member): stage for member, stage in (silent or {}).items()}, self.hook

        def drop(sender: str | None, receiver: str | None, message: Record) -> Iterable[Record]:
            stage = {Encrypted: 1, SurvivorSignature: 2, Opened: 3}.get(type(message), 0)
            return [] if sender is not None and stage >= stages.get(sender, 4) else before(sender, receiver, message)

        self.hook = drop
        machine = self.start_round(descriptor)
        self.send_updates(range(len(self.sites)), descriptor)
        self.finish(machine)
        self.hook = before
        return machine

    def finish(self, machine: EncryptedServerRound) -> None:
        """Close one phase after another until the round is done or aborted."""
        for _ in range(8):
            if machine.phase in (ServerRoundPhase.DONE, ServerRoundPhase.ABORTED):
                return
            self.post(None, machine.close())
        raise AssertionError(f"expected a round to come to an end, got phase {machine.phase.name}")


def update_of(member: int, round_: int = 0) -> tuple[U32, U64]:
    """An encoded update, its largest and smallest values among it, and scalars whose sums wrap around."""
    random = np.random.Generator(np.random.Philox(key=1000 * round_ + member))
    half = 1 << (BITS - 1)
    words = random.integers(-half, half, SIZE, dtype=np.int32)
    words[0], words[-1] = half - 1, -half
    return words.view(np.uint32), random.integers(0, 1 << 64, SCALARS, dtype=np.uint64)


def expected_sum(members: Iterable[int], round_: int = 0) -> tuple[list[int], list[int]]:
    """By Python's own integers."""
    words, lanes = zip(*(update_of(member, round_) for member in members), strict=True)
    columns = zip(*(one.view(np.int32).tolist() for one in words), strict=True)
    return [sum(column) for column in columns], [sum(map(int, lane)) % 2**64 for lane in zip(*lanes, strict=True)]


def result_of(machine: EncryptedServerRound) -> tuple[tuple[int, ...], list[int], list[int]]:
    """Members, words as signed integers, scalars of the one sum."""
    (one,) = machine.results
    vector: Any = one.vector
    return one.members, vector.view(np.int32).tolist(), one.scalars.tolist()


def check_sum(machine: EncryptedServerRound, members: Iterable[int], round_: int = 0) -> None:
    listed = tuple(members)
    assert machine.abort is None
    assert result_of(machine) == (listed, *expected_sum(listed, round_))


def refused(cause: Cause, error: RemoteError | None) -> None:
    assert isinstance(error, RefusedError), error
    assert error.cause is cause, error


def refuses(cause: Cause, do: Any) -> None:
    with pytest.raises(RefusedError) as error:
        do()
    assert error.value.cause is cause
