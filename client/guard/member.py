"""A site's part in the secure aggregation of one run: its epoch, its rounds, and what of its work it sends."""

import logging
from collections.abc import Callable
from datetime import datetime
from typing import ClassVar, Protocol

import numpy as np

from wardround.clock import utc_now
from wardround.errors import LocalError, RemoteError
from wardround.orders import Order, OrderKind
from wardround.plan import Plan
from wardround.strategies.he.messages import EncryptedOffer
from wardround.strategies.privacy.secure_random import SecureRandom
from wardround.strategies.secagg.client_epoch import Agreement, ClientEpoch
from wardround.strategies.secagg.client_round import ClientRound
from wardround.strategies.secagg.keystream import U32, U64
from wardround.strategies.secagg.lane import lane_of, model_digest, order_digest, projected, rotation_seed
from wardround.strategies.secagg.membership import Membership
from wardround.strategies.secagg.messages import (
    Cause,
    Descriptor,
    EpochStart,
    Published,
    Roster,
    RosterSignatures,
    RoundStart,
    SurvivorOffer,
    Task,
    UnmaskRequest,
    decode,
    encode,
)
from wardround.strategies.secagg.phases import MemberEpochPhase, Outgoing, RefusedError
from wardround.strategies.secagg.plan_terms import encoding_of
from wardround.strategies.secagg.wire import Record
from wardround.tally import Tally, decode_spec
from wardround.vector import F32

__all__ = ["Member"]

_log = logging.getLogger("wardround")
_NO_WORDS: U32 = np.empty(0, dtype=np.uint32)


class MemberRound(Protocol):
    """The machine of a member's rounds: `ClientRound`, or that of homomorphic aggregation."""

    notes: tuple[str, ...]

    @property
    def descriptor(self) -> Descriptor: ...

    def receive(self, message: Record, now: datetime) -> list[Outgoing]: ...

    def mask(self, vector: U32, scalars: U64, *, model: bytes) -> list[Outgoing]: ...


class Member:
    """The member of `membership` in a run of `plan`; after a restart it goes on from what its state holds.

    One message at a time. What it does and when it refuses is up to the machines of `strategies/secagg`.
    """

    messages: ClassVar[tuple[type[Record], ...]] = (SurvivorOffer, UnmaskRequest, Published)
    """What the machine of rounds is sent after a round's start."""

    def __init__(
        self,
        plan: Plan,
        membership: Membership,
        *,
        now: Callable[[], datetime] = utc_now,
        random: SecureRandom | None = None,
    ) -> None:
        self._plan, self._membership, self._now = plan, membership, now
        self._random = random or SecureRandom()
        self._epoch = ClientEpoch.resume(membership)
        self._round: MemberRound | None = None
        self._ready()

    def _ready(self) -> None:
        """Be ready for rounds, where the epoch is and no round's machine is there yet."""
        if self._round is None and self._epoch is not None and self._epoch.phase is MemberEpochPhase.READY:
            self._round = self.rounds(self._epoch.agreement)

    def rounds(self, agreement: Agreement) -> "MemberRound | None":
        """The machine for the rounds of an epoch that is agreed on; None where something is missing for it yet."""
        return ClientRound(self._membership, agreement)

    def join(self, agreement: Agreement) -> None:
        """Take part in rounds of an epoch that was agreed on elsewhere: in simulations of very many members."""
        self._round = ClientRound(self._membership, agreement)

    def close(self) -> None:
        """Erase the epoch's keys and what its last round left: at the end of a run. An epoch's own end is noticed."""
        if self._epoch is not None:
            self._epoch.end()
        self._epoch = self._round = None

    def _forget_expired(self) -> None:
        if self._epoch is not None and self._epoch.expired(self._now()):
            self.close()

    # -- messages of the protocol ---------------------------------------------------------------------

    def answer(self, frame: bytes) -> bytes:
        """The answer to a message of the protocol; empty where there is none to give.

        What a machine refuses with a named cause is answered by a Refusal. Raises RemoteError for what is malformed or
        out of order, and LocalError for an epoch that this site has had: then nothing has changed.
        """
        message = decode(frame)
        self._forget_expired()
        try:
            outgoing = self._receive(message)
            for note in () if self._round is None else self._round.notes:
                if isinstance(message, SurvivorOffer | EncryptedOffer):
                    _log.warning("%s: %s", self._membership.name, note)
            return _encoded(outgoing)
        except RefusedError as error:
            return encode(error.message(self._membership.run, *self._at(message)))

    def _receive(self, message: Record) -> list[Outgoing]:
        if isinstance(message, EpochStart):
            return self._begin_epoch(message)
        if isinstance(message, Roster | RosterSignatures):
            if self._epoch is None:
                raise RemoteError(f"expected an epoch to begin, got {type(message).__name__}")
            outgoing = self._epoch.receive(message, self._now())
            self._ready()
            return outgoing
        if not isinstance(message, self.messages) or self._round is None:
            raise RemoteError(f"expected a message of an epoch or round that has begun, got {type(message).__name__}")
        return self._round.receive(message, self._now())

    def _begin_epoch(self, message: EpochStart) -> list[Outgoing]:
        if message.run != self._membership.run:
            raise RefusedError(Cause.PARAMETERS, None, "expected an epoch of this run, got one of another")
        if self._epoch is None or self._epoch.epoch != message.epoch:
            self._epoch = ClientEpoch.begin(self._membership, message.epoch, self._now())
            self._round = None
        return self._epoch.outgoing()

    def _at(self, message: Record) -> tuple[int, int]:
        """Epoch and round that a refusal is about; round 0 of an epoch."""
        epoch = 0 if self._epoch is None else self._epoch.epoch
        if isinstance(message, Roster | RosterSignatures | EpochStart) or self._round is None:
            return epoch, 0
        try:
            return self._round.descriptor.epoch, self._round.descriptor.round
        except LocalError:
            return epoch, 0

    # -- rounds ---------------------------------------------------------------------------------------

    def begin(self, order: Order, start: bytes, spec: bytes) -> bytes | None:
        """Enter the round that `start` describes and that `order` asks for; what was sent in it, where it goes on.

        `spec` is the kind of tally that the server adds up. Raises RemoteError, and nothing has changed, where the
        round is not one of this epoch, or not of this order.
        """
        message = decode(start)
        self._forget_expired()
        if not isinstance(message, RoundStart) or self._round is None:
            raise RemoteError("expected the start of a round in an epoch that has begun")
        self._check_bound(message.descriptor, order, spec)
        sent = self._round.receive(message, self._now())
        return _encoded(sent) or None

    def protect(self, order: Order, update: F32 | None, weight: int, tally: Tally, spec: bytes) -> bytes:
        """The masked form of an update, shape (d,), if there is one, its weight, and what was counted.

        Raises ValueError for what cannot be encoded; then nothing was sent, and the round's number is not used.
        """
        words: U32 = _NO_WORDS
        if update is not None:
            encoding = encoding_of(self._plan, update.size, seed=rotation_seed(order))
            words = encoding.encode(update, self._random, weight).words.view(np.uint32)
        return self.mask(order, words, weight, tally, spec)

    def mask(self, order: Order, words: U32, weight: int, tally: Tally, spec: bytes) -> bytes:
        """The masked form of an encoded update, shape (d,) or (0,), its weight, and what was counted."""
        if self._round is None:
            raise LocalError("expected a round that has begun")
        self._check_bound(self._round.descriptor, order, spec)
        members = self._membership.parameters.group_size
        lane = lane_of(self._plan, order.kind, weight, projected(tally, decode_spec(spec)), members)
        return _encoded(self._round.mask(words, lane, model=model_digest(order)))

    def _check_bound(self, descriptor: Descriptor, order: Order, spec: bytes) -> None:
        """Raises RemoteError unless the round is about this order and no other, and of the same run.

        What is hashed is what members agree on: a field that is left out could turn the others' work against one.
        """
        task = Task.FIT if order.kind is OrderKind.FIT else Task.EVALUATE
        named = (descriptor.run, descriptor.task, descriptor.model, descriptor.order)
        if named != (order.run_id, task, model_digest(order), order_digest(order, spec)):
            raise RemoteError("expected a round whose descriptor names this order, got one of another")


def _encoded(outgoing: list[Outgoing]) -> bytes:
    """The one message to the server, if there is one."""
    return encode(outgoing[0].message) if outgoing else b""
