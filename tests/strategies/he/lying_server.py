"""Members as sites run them, and a server of the attacker's own making, which has no member's key.

Members are `EncryptingMember`s of a plan, reached by encoded messages alone, as a link reaches them.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import numpy as np

from tests.masked_points import masked_plan
from wardround.client.guard.encrypting_member import EncryptingMember
from wardround.errors import RemoteError
from wardround.orders import SiteId
from wardround.simulations.identities import make_identities
from wardround.state_store import MemoryStore
from wardround.strategies.he.key_ceremony import stored_key
from wardround.strategies.he.messages import (
    Encrypted,
    EncryptedOffer,
    KeyAccepted,
    KeyDeal,
    KeyOffer,
    KeyRequest,
    OfferedUpdate,
    Opened,
    OpenRequest,
    Wanted,
    chunks_digest,
    chunks_in,
)
from wardround.strategies.he.scheme import KeyHolder, KeylessSum, PublicContext
from wardround.strategies.he.server_round import EncryptedServerRound
from wardround.strategies.he.terms import packing_of
from wardround.strategies.secagg.cohort import Cohort
from wardround.strategies.secagg.keystream import U32, U64
from wardround.strategies.secagg.messages import (
    Descriptor,
    EpochStart,
    RoundStart,
    SurvivorSignature,
    SurvivorVote,
    Task,
    UnmaskRequest,
    decode,
    digest_of,
    encode,
)
from wardround.strategies.secagg.phases import ServerRoundPhase
from wardround.strategies.secagg.plan_terms import he_plan_of
from wardround.strategies.secagg.round_setting import RoundSetting
from wardround.strategies.secagg.sealed_state import SealedState
from wardround.strategies.secagg.server_epoch import ServerEpoch
from wardround.strategies.secagg.signing_inputs import descriptor_input, encrypted_input, opened_input
from wardround.strategies.secagg.wire import Record

SIZE, SCALARS = 31, 2
TWO_CHUNKS = 9000
DROPOUT = {2: 0.0, 3: 0.0, 4: 0.25, 5: 0.4}
NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)


class LyingServer:
    """`members` by name, each with a store that outlives it; `notes`: what they write into their audit logs."""

    def __init__(self, sites: int = 4, size: int = SIZE, run: str = "first", **policy: Any) -> None:
        self.plan = masked_plan("protection.mode=bfv", f"protection.dropout={DROPOUT[sites]}", sites=sites)
        self.he, self.packing, self.size = he_plan_of(self.plan), packing_of(self.plan, size, SCALARS), size
        self.names, self.now = [SiteId(f"site-{i}") for i in range(sites)], NOW
        ours = make_identities(self.plan, self.names, run=run, now=NOW)
        self.federation, self.key = ours.federation, ours.server
        self.memberships = {name: replace(one, **policy) for name, one in ours.members.items()}
        self._start()

    def _start(self) -> None:
        self.notes: list[tuple[str, str]] = []
        self.members: dict[str, EncryptingMember] = {}
        for name in self.names:
            self.keep(name, MemoryStore())

    def of_another_run(self, run: str) -> Self:
        """The same hospitals and the same server, with the same signing keys, in another run."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.federation = replace(self.federation, run=run, store=MemoryStore())
        other.memberships = {name: replace(one, run=run) for name, one in self.memberships.items()}
        other._start()
        return other

    # -- members ---------------------------------------------------------------------------------------------

    def keep(self, name: str, store: MemoryStore) -> None:
        """Have this member keep its state in `store`, and start again from what is there."""
        self.memberships[SiteId(name)] = replace(
            self.memberships[SiteId(name)], state=SealedState(store, bytes(32), os.urandom)
        )
        self.restart(name)

    def restart(self, name: str) -> None:
        def note(kind: str, **detail: Any) -> None:
            self.notes.append((name, kind))

        self.members[name] = EncryptingMember(
            self.plan, self.memberships[SiteId(name)], now=lambda: self.now, note=note
        )

    def store(self, name: str) -> MemoryStore:
        store = self.memberships[SiteId(name)].state.store
        assert isinstance(store, MemoryStore)
        return store

    def tell(self, name: str, message: Record) -> Record | None:
        """What a member answers."""
        answer = self.members[name].answer(encode(message))
        return decode(answer) if answer else None

    def has_key(self, name: str, epoch: int = 0) -> bool:
        return stored_key(self.memberships[SiteId(name)], epoch) is not None

    # -- epochs ----------------------------------------------------------------------------------------------

    def agree(self, epoch: int = 0) -> Cohort:
        """An epoch that is ready, without a key."""
        machine = ServerEpoch(self.federation, epoch)
        for name in self.names:
            hello = self.tell(name, EpochStart(run=self.federation.run, epoch=epoch))
            assert hello is not None
            machine.receive(name, hello, self.now)
        for one in machine.close():
            signed = self.tell(str(one.receiver), one.message)
            assert signed is not None
            machine.receive(str(one.receiver), signed, self.now)
        for one in machine.outgoing():
            self.tell(str(one.receiver), one.message)
        self.cohort = machine.cohort
        return self.cohort

    def request(self) -> KeyRequest:
        return KeyRequest(run=self.cohort.run, epoch=self.cohort.epoch, roster=self.cohort.roster)

    def offers(self, deal: KeyDeal) -> list[tuple[str, KeyOffer]]:
        others = [name for i, name in enumerate(self.cohort.names) if i != deal.header.dealer]
        return [
            (name, KeyOffer(header=deal.header, signature=deal.signature, box=box))
            for name, box in zip(others, deal.boxes, strict=True)
        ]

    def begin(self, epoch: int = 0) -> KeyDeal:
        """An epoch whose key all members have."""
        self.agree(epoch)
        deal = self.tell(self.names[0], self.request())
        assert isinstance(deal, KeyDeal), deal
        for name, offer in self.offers(deal):
            assert isinstance(self.tell(name, offer), KeyAccepted)
        self.context = PublicContext(self.he, deal.header.context)
        return deal

    # -- rounds ----------------------------------------------------------------------------------------------

    def descriptor(self, round_: int = 0, model: bytes = b"model", task: Task = Task.FIT) -> Descriptor:
        return Descriptor(
            run=self.cohort.run,
            epoch=self.cohort.epoch,
            round=round_,
            task=task,
            model=hashlib.sha256(model).digest(),
            order=hashlib.sha256(bytes((round_,))).digest(),
            roster=self.cohort.roster,
            group_table=None,
            deadline_ms=int((self.now + timedelta(hours=1)).timestamp() * 1000),
        )

    def start_of(self, descriptor: Descriptor) -> RoundStart:
        return RoundStart(descriptor=descriptor, signature=self.key.sign(descriptor_input(descriptor)))

    def update(self, name: str, descriptor: Descriptor, value: int = 1, words: U32 | None = None) -> Encrypted:
        """Round start and update of one member, as its `begin` and `protect` do it."""
        machine: Any = self.members[name]._round
        if machine is None:
            raise RemoteError("expected the start of a round in an epoch that has begun")
        machine.receive(self.start_of(descriptor), self.now)
        words = np.full(self.size, value, dtype=np.uint32) if words is None else words
        lane: U64 = np.array([1, value], dtype=np.uint64)
        [sent] = machine.mask(words, lane, model=descriptor.model)
        assert isinstance(sent.message, Encrypted)
        return sent.message

    def updates(self, descriptor: Descriptor, names: Iterable[str] | None = None) -> dict[str, Encrypted]:
        """Of member i, words of i + 1."""
        names = self.names if names is None else names
        return {name: self.update(name, descriptor, self.names.index(SiteId(name)) + 1) for name in names}

    def resigned(self, name: str, descriptor: Descriptor, update: Encrypted, chunks: Sequence[bytes]) -> Encrypted:
        """The update with other ciphertexts, signed by its member: what a lying hospital can send."""
        sizes, data = tuple(map(len, chunks)), b"".join(chunks)
        header = replace(update.header, chunks=chunks_digest(sizes, data))
        signature = self.memberships[SiteId(name)].signing_key.sign(encrypted_input(descriptor, header))
        return Encrypted(header=header, signature=signature, sizes=sizes, chunks=data)

    def untagged(self, name: str, descriptor: Descriptor, update: Encrypted) -> Encrypted:
        """An honest encryption of something without right tags: no honest member opens a sum with it."""
        chunk = self.holder(name).encrypt(np.arange(4096, dtype=np.uint64))
        return self.resigned(name, descriptor, update, [chunk] * len(update.sizes))

    def holder(self, name: str) -> KeyHolder:
        """What a lying hospital has."""
        key = stored_key(self.memberships[SiteId(name)], self.cohort.epoch)
        assert key is not None
        return KeyHolder(self.he, key.form, key.key)

    def said(self, name: str, descriptor: Descriptor, request: OpenRequest, words: U32, lane: U64) -> Opened:
        """What a lying opener says that the sum is."""
        total = hashlib.sha256(words.astype("<u4").tobytes() + lane.astype("<u8").tobytes()).digest()
        survivors = request.request.survivors
        return Opened(
            h=digest_of(descriptor),
            member=self.names.index(SiteId(name)),
            survivors=survivors,
            sum=total,
            words=words.astype("<u4").tobytes(),
            scalars=lane.astype("<u8").tobytes(),
            signature=self.memberships[SiteId(name)].signing_key.sign(opened_input(descriptor, survivors, total)),
        )

    def sum_of(self, sent: Iterable[Encrypted]) -> list[bytes]:
        total = KeylessSum(self.context, self.packing.chunks)
        for one in sent:
            total.add(chunks_in(one.sizes, one.chunks))
        return list(total.serialized())

    def offer(self, descriptor: Descriptor, sent: Iterable[Encrypted]) -> EncryptedOffer:
        listed = sorted(sent, key=lambda one: one.header.member)
        members = tuple(OfferedUpdate(header=one.header, signature=one.signature) for one in listed)
        return EncryptedOffer(h=digest_of(descriptor), members=members)

    def votes(
        self, descriptor: Descriptor, sent: Iterable[Encrypted], names: Iterable[str] | None = None
    ) -> dict[str, Record | None]:
        """What members answer to a list."""
        offer = self.offer(descriptor, sent)
        return {name: self.tell(name, offer) for name in (self.names if names is None else names)}

    def open_request(
        self,
        descriptor: Descriptor,
        votes: Mapping[str, Record | None],
        chunks: Sequence[bytes],
        wanted: Wanted = Wanted.WORDS,
    ) -> OpenRequest:
        good = sorted((v for v in votes.values() if isinstance(v, SurvivorSignature)), key=lambda v: v.member)
        request = UnmaskRequest(
            h=digest_of(descriptor),
            committee=0,
            survivors=good[0].survivors,
            votes=tuple(SurvivorVote(member=one.member, signature=one.signature) for one in good),
        )
        return OpenRequest(request=request, wanted=wanted, sizes=tuple(map(len, chunks)), chunks=b"".join(chunks))

    # -- the product's own server, for hospitals that lie ----------------------------------------------------

    def server_round(self, descriptor: Descriptor) -> EncryptedServerRound:
        setting = RoundSetting(
            cohort=self.cohort,
            committee=0,
            size=self.size,
            scalars=SCALARS,
            signing_key=self.key,
            store=self.federation.store,
        )
        return EncryptedServerRound.begin(setting, descriptor, self.packing, self.context)

    def collect_votes(self, machine: EncryptedServerRound) -> None:
        """From the updates that the server has to its openings."""
        for one in machine.close():
            answer = self.tell(str(one.receiver), one.message)
            assert isinstance(answer, SurvivorSignature), answer
            machine.receive(str(one.receiver), answer, self.now)
        assert machine.phase is ServerRoundPhase.OPENINGS
