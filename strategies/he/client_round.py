"""A member's rounds within an epoch of homomorphic aggregation: one update, one signed list, one sum that it opens.

What is durable, under `secagg/<run>/`: `round/<epoch>`, a counter of the rounds in which anything was sent; `round`,
sealed: phase, descriptor, whether the epoch has trained, the signed list, its signature and its members, and the digest
of the one sum that is opened; `m1`, the encrypted update. They are written before anything is sent.

A member opens one sum of a round, of the list that more than half of the roster signed, itself among them or not. What
does not have the tags of that list ends the epoch: the key is erased before the refusal is sent, so that a server that
alters ciphertexts to see what members make of them gets no answer of this member after the first such one.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from wardround.errors import LocalError, RemoteError
from wardround.signing_key import check_signature
from wardround.strategies.he.encryption import ChunkCipher
from wardround.strategies.he.key_ceremony import EpochKey, erase_key
from wardround.strategies.he.messages import (
    Encrypted,
    EncryptedHeader,
    EncryptedOffer,
    Opened,
    OpenRequest,
    Wanted,
    chunks_digest,
    chunks_in,
    sum_digest,
)
from wardround.strategies.he.packing import Packing
from wardround.strategies.secagg.answered_lists import check_redo, record_answer
from wardround.strategies.secagg.client_epoch import EPOCH_LASTS, Agreement
from wardround.strategies.secagg.client_round import check_round_is_new, check_start
from wardround.strategies.secagg.cohort import Cohort
from wardround.strategies.secagg.keystream import U32, U64
from wardround.strategies.secagg.membership import Membership
from wardround.strategies.secagg.messages import (
    Cause,
    Descriptor,
    RoundStart,
    SurvivorSignature,
    Task,
    decode,
    digest_of,
    encode,
    survivors_of,
)
from wardround.strategies.secagg.near_lists import near_lists, record_last
from wardround.strategies.secagg.phases import MemberRoundPhase, Outgoing, RefusedError, handler_for
from wardround.strategies.secagg.signing_inputs import encrypted_input, opened_input, survivors_input
from wardround.strategies.secagg.survivor_check import check_votes
from wardround.strategies.secagg.wire import Record, bytes_of

__all__ = ["EncryptedRound", "check_update"]

_FORGED = (
    "expected the sum of the listed members' updates, each once, got another; nothing of it is told, and the key of "
    "this epoch is not used again"
)
"""The same words whatever was wrong, and where."""

PackingOf = Callable[[int, int], Packing]
"""How an update of so many words, and so many scalars, is packed under the plan."""


class EncryptedRound:
    """The machine of one member for the rounds of an epoch; after a restart it goes on as it was.

    `notes`: what the site's own policy wants to have logged of the round at hand, as lines.
    """

    def __init__(self, membership: Membership, agreement: Agreement, key: EpochKey, packing: PackingOf) -> None:
        self._membership, self._cohort, self._member = membership, agreement.cohort, agreement.member
        self._key, self._packing, self._until = key, packing, agreement.started + EPOCH_LASTS
        self.phase = MemberRoundPhase.IDLE
        self._start: RoundStart | None = None
        self._ciphers: ChunkCipher | None = None
        self._used = -1
        self._parts: list[bytes] = []
        self.notes: tuple[str, ...] = ()
        parts = membership.state.get(f"secagg/{membership.run}/round")
        if parts:
            start = decode(parts[1])
            if isinstance(start, RoundStart) and start.descriptor.roster == self._cohort.roster:
                self._parts, self._start = parts, start
                self.phase = MemberRoundPhase[parts[0].decode()]
                self._used = start.descriptor.round - (self.phase is MemberRoundPhase.STARTED)

    @property
    def descriptor(self) -> Descriptor:
        if self._start is None:
            raise LocalError("expected a round that has begun, got none")
        return self._start.descriptor

    def receive(self, message: Record, now: datetime) -> list[Outgoing]:
        """Take the server's message. Raises RemoteError, and changes nothing, for one that is not in order.

        RefusedError with the cause FORGED_SUM: the key is erased, and the epoch is over for this member.
        """
        return handler_for(_TABLE, self.phase, message)(self, message, now)

    def mask(self, vector: U32, scalars: U64, *, model: bytes) -> list[Outgoing]:
        """M1 of an encoded update and its scalars, for the round that has begun; once.

        Raises ValueError for a value that does not fit, LocalError where no update is asked for, and RefusedError where
        the server's descriptor is of another model.
        """
        if self.phase is not MemberRoundPhase.STARTED:
            raise LocalError(f"expected a round that waits for an update, got phase {self.phase.name}")
        if model != self.descriptor.model:
            raise RefusedError(Cause.PARAMETERS, None, "expected the model of the round's descriptor, got another")
        mine, h, packing = self._membership, digest_of(self.descriptor), self._packing(vector.size, scalars.size)
        slots = packing.pack(vector, scalars)
        self._use()
        chunks = self._cipher(packing).encrypt(h, self._member, slots)
        sizes, data = tuple(map(len, chunks)), b"".join(chunks)
        header = EncryptedHeader(
            h=h, member=self._member, size=vector.size, scalars=scalars.size, chunks=chunks_digest(sizes, data)
        )
        signature = mine.signing_key.sign(encrypted_input(self.descriptor, header))
        message = Encrypted(header=header, signature=signature, sizes=sizes, chunks=data)
        self._commit(MemberRoundPhase.MASKED)
        mine.state.store.put(self._m1_key, encode(message))
        return [Outgoing(None, message)]

    def _begin(self, start: RoundStart, now: datetime) -> list[Outgoing]:
        check_start(self._membership, self._cohort.roster, self._cohort.group_table, start, now)
        if now >= self._until:
            raise RefusedError(Cause.STALE, None, "expected an epoch begun less than 24 hours ago; start another")
        if start.descriptor.epoch != self._cohort.epoch:
            raise RefusedError(Cause.STALE, None, "expected a round of this epoch, got another")
        if start == self._start and self.phase is not MemberRoundPhase.IDLE:
            return self._sent()
        check_round_is_new(start.descriptor.round, self._used)
        self._commit(MemberRoundPhase.STARTED, start=start)
        self.notes = ()
        return []

    def _sent(self) -> list[Outgoing]:
        """M1 of this round again, where there is one: the bytes that are stored."""
        stored = self._membership.state.store.get(self._m1_key)
        message = decode(stored) if stored else None
        if isinstance(message, Encrypted) and message.header.h == digest_of(self.descriptor):
            return [Outgoing(None, message)]
        return []

    def _sign(self, offer: EncryptedOffer, now: datetime) -> list[Outgoing]:
        mine, descriptor = self._membership, self.descriptor
        members = self._listed(offer)
        lists = {0: members}
        if self._unnoised:
            check_redo(mine.state, self._cohort, descriptor, lists)
        notes = near_lists(mine.state, self._cohort, descriptor, lists, mine.min_difference)
        if notes and mine.refuse_near_lists:
            raise RefusedError(Cause.POLICY, None, notes[0])
        if self._member in members and self.phase is MemberRoundPhase.STARTED:
            raise RefusedError(Cause.STATE_LOST, mine.name, "expected a list without this member, which sent no update")
        if self.phase is MemberRoundPhase.STARTED:
            try:
                self._use()
            except LocalError as error:
                reason = "expected a round whose number is not used up, sits this one out"
                raise RefusedError(Cause.STATE_LOST, mine.name, reason) from error
        survivors = digest_of(survivors_of(one.header for one in offer.members))
        signature = SurvivorSignature(
            h=offer.h,
            committee=0,
            member=self._member,
            survivors=survivors,
            signature=mine.signing_key.sign(survivors_input(descriptor, 0, survivors)),
        )
        shape = offer.members[0].header
        listed = json.dumps({"members": members, "size": shape.size, "scalars": shape.scalars}).encode()
        # whoever opens the list, this member has let it be opened: over this model it lets no other
        if self._unnoised:
            record_answer(mine.state, self._cohort, descriptor, lists)
        if mine.min_difference:
            record_last(mine.state, self._cohort, descriptor, lists)
        self._commit(MemberRoundPhase.SIGNED, survivors, encode(signature), listed, b"")
        self.notes = notes
        return [Outgoing(None, signature)]

    def _listed(self, offer: EncryptedOffer) -> tuple[int, ...]:
        """The members of a list that may be signed. Raises RefusedError for any other offer."""
        mine, descriptor = self._membership, self.descriptor
        if offer.h != digest_of(descriptor):
            raise RefusedError(Cause.STALE, None, "expected an offer of this round, got another")
        least = max(mine.parameters.min_survivors, mine.min_survivors)
        if len(offer.members) < least:
            raise RefusedError(
                Cause.TOO_FEW_MEMBERS,
                None,
                f"expected a list of at least {least} members, got {len(offer.members)}; nothing is opened",
            )
        for one in offer.members:
            check_update(self._cohort, descriptor, one.header, one.signature)
        return tuple(one.header.member for one in offer.members)

    def _sign_again(self, offer: EncryptedOffer, now: datetime) -> list[Outgoing]:
        survivors = digest_of(survivors_of(one.header for one in offer.members))
        if offer.h != digest_of(self.descriptor) or survivors != self._parts[2]:
            raise RefusedError(Cause.OTHER_LIST, None, "expected the list that was signed, got another of this round")
        return [Outgoing(None, decode(self._parts[3]))]

    def _open(self, message: OpenRequest, now: datetime) -> list[Outgoing]:
        mine, descriptor = self._membership, self.descriptor
        _, _, survivors, signature, stored, opened = self._parts
        check_votes(self._cohort, descriptor, 0, survivors, message.request)
        listed = json.loads(stored)
        asked = chunks_digest(message.sizes, message.chunks)
        if opened and asked != opened:
            raise RefusedError(Cause.TWICE, None, "expected one sum in a round, got another of the same list")
        if not opened:  # from here on no other sum of this round is opened, whatever comes of this one
            self._commit(MemberRoundPhase.ANSWERED, survivors, signature, stored, asked)
        try:
            words, scalars = self._decrypted(message, **listed)
        except RemoteError:
            erase_key(mine)
            raise RefusedError(Cause.FORGED_SUM, None, _FORGED) from None
        data = bytes_of(words), bytes_of(scalars)
        total = sum_digest(*data)
        told = data if message.wanted is Wanted.WORDS else (b"", b"")
        answer = Opened(
            h=digest_of(descriptor),
            member=self._member,
            survivors=survivors,
            sum=total,
            words=told[0],
            scalars=told[1],
            signature=mine.signing_key.sign(opened_input(descriptor, survivors, total)),
        )
        return [Outgoing(None, answer)]

    def _decrypted(self, message: OpenRequest, members: list[int], size: int, scalars: int) -> tuple[U32, U64]:
        """The sums of words and scalars. Raises RemoteError for what is not the sum of these members' updates."""
        packing = self._packing(size, scalars)
        if len(message.sizes) != packing.chunks:
            raise RemoteError(f"expected a sum of {packing.chunks} chunks, got {len(message.sizes)}")
        h, chunks = digest_of(self.descriptor), list(chunks_in(message.sizes, message.chunks))
        slots = self._cipher(packing).decrypt(h, members, chunks)
        return packing.unpack(slots, len(members))

    def _cipher(self, packing: Packing) -> ChunkCipher:
        """Made when it is first used: it loads TenSEAL."""
        if self._ciphers is None:
            self._ciphers = ChunkCipher(packing.plan, self._key)
        return self._ciphers

    @property
    def _unnoised(self) -> bool:
        """Whether sums of this round have no noise of their own: no evaluation has."""
        return not self._membership.noised or self.descriptor.task is Task.EVALUATE

    def _use(self) -> None:
        """Spend the round's number: nothing is sent twice under one number, whatever comes after."""
        descriptor = self.descriptor
        self._membership.state.store.advance(f"secagg/{descriptor.run}/round/{descriptor.epoch}", descriptor.round)

    def _commit(self, phase: MemberRoundPhase, *rest: bytes, start: RoundStart | None = None) -> None:
        """Store where the round stands, or a round that begins; from any other phase on its number is used."""
        mine, start = self._membership, start or self._start
        if start is None:
            raise LocalError("expected a round that has begun, got none")
        parts = [phase.name.encode(), encode(start), *rest]
        mine.state.put(f"secagg/{mine.run}/round", parts)
        self._parts, self._start, self.phase = parts, start, phase
        if phase is not MemberRoundPhase.STARTED:
            self._used = start.descriptor.round

    @property
    def _m1_key(self) -> str:
        return f"secagg/{self._membership.run}/m1"


def check_update(cohort: Cohort, descriptor: Descriptor, header: EncryptedHeader, signature: bytes) -> str:
    """The name of the member who sent this update in this round. Raises RefusedError where none did."""
    if header.member >= cohort.size:
        raise RefusedError(Cause.MALFORMED, None, f"expected a member below {cohort.size}, got {header.member}")
    name = cohort.names[header.member]
    if header.h != digest_of(descriptor):
        raise RefusedError(Cause.STALE, name, "expected an update of this round, got one of another")
    try:
        check_signature(cohort.keys[header.member], signature, encrypted_input(descriptor, header), name)
    except RemoteError as error:
        raise RefusedError(Cause.SIGNATURE, name, str(error)) from None
    return name


_Handler = Callable[[EncryptedRound, Any, datetime], list[Outgoing]]
_TABLE: Mapping[tuple[MemberRoundPhase, type[Record]], _Handler] = {
    **{(phase, RoundStart): EncryptedRound._begin for phase in MemberRoundPhase},
    (MemberRoundPhase.STARTED, EncryptedOffer): EncryptedRound._sign,
    (MemberRoundPhase.MASKED, EncryptedOffer): EncryptedRound._sign,
    (MemberRoundPhase.SIGNED, EncryptedOffer): EncryptedRound._sign_again,
    (MemberRoundPhase.ANSWERED, EncryptedOffer): EncryptedRound._sign_again,
    (MemberRoundPhase.SIGNED, OpenRequest): EncryptedRound._open,
    (MemberRoundPhase.ANSWERED, OpenRequest): EncryptedRound._open,
}
