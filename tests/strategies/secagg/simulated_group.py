"""Members and a server of secure aggregation in one process, whose every message passes through a hook.

The hook gets sender and receiver (None is the server) and the message, and gives what arrives instead: nothing, the
same, another, or several.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np

from wardround.errors import LocalError, RemoteError
from wardround.identity import Authority, Revocations, issue_certificate, make_authority
from wardround.pins import ApprovedKeys
from wardround.signing_key import SigningKey, fingerprint_of
from wardround.state_store import MemoryStore
from wardround.strategies.secagg.client_epoch import ClientEpoch
from wardround.strategies.secagg.client_round import ClientRound
from wardround.strategies.secagg.keystream import U32, U64
from wardround.strategies.secagg.membership import Membership
from wardround.strategies.secagg.messages import (
    Descriptor,
    Hello,
    Masked,
    Roster,
    RosterSignature,
    RosterSignatures,
    SurvivorSignature,
    Task,
    UnmaskAnswer,
    decode,
    encode,
)
from wardround.strategies.secagg.parameters import Parameters, Tables
from wardround.strategies.secagg.phases import MemberEpochPhase, Outgoing, ServerEpochPhase, ServerRoundPhase
from wardround.strategies.secagg.round_setting import RoundSetting
from wardround.strategies.secagg.sealed_state import SealedState
from wardround.strategies.secagg.server_epoch import Federation, ServerEpoch
from wardround.strategies.secagg.server_round import ServerRound
from wardround.strategies.secagg.wire import Record

RUN = "stroke-2026"
PLAN = hashlib.sha256(b"plan").digest()
NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
YEAR = timedelta(days=365)
SIZE, SCALARS = 7, 2
SMALL = Parameters(clients=5, colluding=0, dropout=0.4, groups=1, min_roster=4, min_survivors=3)
GUARDED = Parameters(clients=5, colluding=1, dropout=0.2, groups=1, min_roster=4, min_survivors=3)
GROUPED = Parameters(clients=8, colluding=1, dropout=0.25, groups=2, min_roster=8, min_survivors=3)
UNREVOKED = Revocations(number=1, serials=frozenset(), next_update=NOW + YEAR)

Hook = Callable[[str | None, str | None, Record], Iterable[Record]]


def stream(label: str) -> Callable[[int], bytes]:
    """Fixed bytes in the place of the operating system's."""
    count = 0

    def random(size: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_256(f"{label} {count}".encode()).digest(size)

    return random


def pass_on(sender: str | None, receiver: str | None, message: Record) -> Iterable[Record]:
    return [message]


def name_of(i: int) -> str:
    return f"site-{i:02}"


@cache
def signing_key(name: str) -> SigningKey:
    return SigningKey.make(stream(f"signing {name}"))


AUTHORITY_KEY = SigningKey.make(stream("authority"))
AUTHORITY = make_authority(AUTHORITY_KEY, "coordinator", not_before=NOW, not_after=NOW + YEAR, random=stream("serial"))
SERVER_KEY = SigningKey.make(stream("server"))


@cache
def certificate(name: str, public: bytes) -> bytes:
    return issue_certificate(
        AUTHORITY,
        AUTHORITY_KEY,
        name=name,
        public=public,
        not_before=NOW,
        not_after=NOW + YEAR,
        random=stream(f"serial {name}"),
    )


class KilledStore(MemoryStore):
    """What is `stored`; its process is killed at the n-th write from now on."""

    def __init__(self, stored: MemoryStore, writes: int) -> None:
        super().__init__()
        self._values, self._counters, self.left = stored._values, stored._counters, writes

    def _write(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise LocalError("killed")

    def put(self, key: str, value: bytes) -> None:
        self._write()
        super().put(key, value)

    def advance(self, key: str, to: int) -> None:
        self._write()
        super().advance(key, to)


@dataclass
class Site:
    """A member: its machines, and the store that survives them."""

    membership: Membership
    epoch: ClientEpoch
    round: ClientRound | None = None

    @property
    def name(self) -> str:
        return self.membership.name

    @property
    def store(self) -> MemoryStore:
        store = self.membership.state.store
        assert isinstance(store, MemoryStore)
        return store

    def receive(self, message: Record, now: datetime) -> list[Outgoing]:
        if isinstance(message, Roster | RosterSignatures):
            return self.epoch.receive(message, now)
        if self.round is None:
            self.round = ClientRound(self.membership, self.epoch.agreement)
        return self.round.receive(message, now)

    def restart(self) -> None:
        """As after kill -9: only what is stored is left."""
        resumed = ClientEpoch.resume(self.membership)
        assert resumed is not None
        self.epoch, self.round = resumed, None
        if resumed.phase is MemberEpochPhase.READY:
            self.round = ClientRound(self.membership, resumed.agreement)


class SimulatedGroup:
    """`sites` by name, the server's machines, and `sent`: everything that was sent, as (sender, receiver, message)."""

    def __init__(self, parameters: Parameters, members: int | None = None, hook: Hook = pass_on) -> None:
        self.parameters, self.hook, self.now = parameters, hook, NOW
        self.names = [name_of(i) for i in range(parameters.clients if members is None else members)]
        self.authority = Authority(AUTHORITY)
        self.accepted = ApprovedKeys({name: fingerprint_of(signing_key(name).public) for name in self.names})
        self.memberships = {name: self.membership(name) for name in self.names}
        self.federation = Federation(
            run=RUN,
            plan=PLAN,
            parameters=parameters,
            authority=self.authority,
            revocations=UNREVOKED,
            store=MemoryStore(),
            random=stream("server's draws"),
        )
        self.sites: dict[str, Site] = {}
        self.sent: list[tuple[str | None, str | None, Record]] = []
        self.refused: list[tuple[str | None, Record, RemoteError]] = []
        self.server: ServerEpoch | None = None
        self.round: ServerRound | None = None
        self.setting: RoundSetting | None = None

    def membership(self, name: str) -> Membership:
        return Membership(
            run=RUN,
            plan=PLAN,
            parameters=self.parameters,
            name=name,
            signing_key=signing_key(name),
            certificate=certificate(name, signing_key(name).public),
            authority=self.authority,
            revocations=UNREVOKED,
            accepted=self.accepted,
            server=SERVER_KEY.public,
            state=SealedState(MemoryStore(), bytes(32), stream(f"nonces {name}")),
            random=stream(f"draws {name}"),
            noised=self.parameters.tables is Tables.EACH_ROUND,
        )

    def post(self, sender: str | None, outgoing: Iterable[Outgoing]) -> None:
        """Deliver messages, and what they lead to, until all is quiet. A refusal is kept in `refused`."""
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
        machine = self.server if isinstance(message, Hello | RosterSignature) else self.round
        return [] if machine is None else machine.receive(sender, message, self.now)

    def start_epoch(self, epoch: int = 0, absent: Collection[str] = ()) -> None:
        self.server = ServerEpoch(self.federation, epoch)
        for name in self.names:
            if name not in absent:
                mine = self.memberships[name]
                self.sites[name] = Site(mine, ClientEpoch.begin(mine, epoch, self.now))
        for name, site in self.sites.items():
            if name not in absent:
                self.post(name, site.epoch.outgoing())
        self.post(None, self.server.close())
        if self.server.phase is ServerEpochPhase.SIGNATURES:
            self.post(None, self.server.close())

    def descriptor(self, round_: int = 0, **changes: object) -> Descriptor:
        assert self.server is not None
        cohort = self.server.cohort
        made = Descriptor(
            run=RUN,
            epoch=cohort.epoch,
            round=round_,
            task=Task.FIT,
            model=hashlib.sha256(f"model {cohort.epoch} {round_}".encode()).digest(),
            order=hashlib.sha256(f"order {cohort.epoch} {round_}".encode()).digest(),
            roster=cohort.roster,
            group_table=cohort.group_table,
            deadline_ms=int((NOW + timedelta(hours=1)).timestamp() * 1000),
        )
        return replace(made, **changes)  # type: ignore[arg-type]

    def start_round(
        self, descriptor: Descriptor, excluded: frozenset[int] = frozenset(), committee: int = 0
    ) -> ServerRound:
        assert self.server is not None
        self.setting = RoundSetting(
            cohort=self.server.cohort,
            committee=committee,
            size=SIZE,
            scalars=SCALARS,
            signing_key=SERVER_KEY,
            store=self.federation.store,
            excluded=excluded,
        )
        self.round = ServerRound.begin(self.setting, descriptor)
        self.post(None, self.round.outgoing())
        return self.round

    def send_updates(self, names: Iterable[str], descriptor: Descriptor) -> None:
        for name in names:
            site = self.sites[name]
            assert site.round is not None
            words, lane = update_of(name, descriptor.round)
            self.post(name, site.round.mask(words, lane, model=descriptor.model))

    def run_round(
        self, descriptor: Descriptor, silent: Mapping[str, int] | None = None, committee: int = 0
    ) -> ServerRound:
        """A round in which a member is `silent` from stage 1 (M1), 2 or 3 on; the server then closes each phase."""
        silent, before = silent or {}, self.hook

        def drop(sender: str | None, receiver: str | None, message: Record) -> Iterable[Record]:
            stage = {Masked: 1, SurvivorSignature: 2, UnmaskAnswer: 3}.get(type(message), 0)
            if sender is not None and stage >= silent.get(sender, 4):
                return []
            return before(sender, receiver, message)

        self.hook = drop
        machine = self.start_round(descriptor, committee=committee)
        assert self.setting is not None
        holders = self.setting.cohort.holders(committee)
        self.send_updates([self.setting.cohort.names[member] for member in holders], descriptor)
        self.post(None, machine.close())
        for phase in (ServerRoundPhase.SIGNATURES, ServerRoundPhase.OPENINGS):
            if machine.phase is phase:
                self.post(None, machine.close())
        self.hook = before
        return machine


def update_of(name: str, round_: int) -> tuple[U32, U64]:
    """A member's encoded update and scalars in a round: words of full width, so that sums wrap around."""
    data = hashlib.shake_256(f"update {name} {round_}".encode()).digest(4 * SIZE + 8 * SCALARS)
    return np.frombuffer(data[: 4 * SIZE], dtype="<u4"), np.frombuffer(data[4 * SIZE :], dtype="<u8")


def expected_sum(names: Iterable[str], round_: int) -> tuple[list[int], list[int]]:
    """By Python's own integers: what the server must learn."""
    vectors, lanes = zip(*(update_of(name, round_) for name in names), strict=True)
    words = [sum(int(one[k]) for one in vectors) % 2**32 for k in range(SIZE)]
    return words, [sum(int(one[k]) for one in lanes) % 2**64 for k in range(SCALARS)]
