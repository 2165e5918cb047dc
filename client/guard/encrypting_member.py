"""A site's part in homomorphic aggregation: beside a member's epochs and orders, the key of each epoch."""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import ClassVar

from wardround.client.guard.member import Member, MemberRound
from wardround.clock import utc_now
from wardround.errors import RemoteError
from wardround.plan import Plan
from wardround.strategies.he.client_round import EncryptedRound
from wardround.strategies.he.key_ceremony import accept_key, deal_key, erase_key, stored_key
from wardround.strategies.he.messages import EncryptedOffer, KeyOffer, KeyRequest, OpenRequest
from wardround.strategies.he.sealed_model import ArchiveKey
from wardround.strategies.he.terms import packing_of
from wardround.strategies.secagg.client_epoch import Agreement
from wardround.strategies.secagg.membership import Membership
from wardround.strategies.secagg.messages import Cause, EpochStart
from wardround.strategies.secagg.phases import MemberEpochPhase, Outgoing, RefusedError
from wardround.strategies.secagg.plan_terms import he_plan_of
from wardround.strategies.secagg.wire import Record

__all__ = ["EncryptingMember", "KeepArchive", "KeyNote", "member_of"]

_MOST_FORGED = 5
"""In a row: as many as void rounds end a run. Each tells the server a little of a key that is then erased."""
KeyNote = Callable[..., None]
"""Writes a line of the site's audit log: `note(kind, **detail)`."""
KeepArchive = Callable[[ArchiveKey], None]
"""Keeps, durably, what the run's released model is opened with; the same key may come again."""


class EncryptingMember(Member):
    """A `Member` that has an epoch's key for its rounds, and erases it with the epoch.

    `note` is told of every key that is made, accepted or erased, and of every sum that is opened. `archive` is given
    the archive key of every epoch before the server is told that this member has the epoch's key, so that there is no
    model that the server believes this member can open and it cannot; it outlives the epoch.
    """

    messages: ClassVar[tuple[type[Record], ...]] = (EncryptedOffer, OpenRequest)

    def __init__(
        self,
        plan: Plan,
        membership: Membership,
        *,
        now: Callable[[], datetime] = utc_now,
        note: KeyNote | None = None,
        archive: KeepArchive | None = None,
    ) -> None:
        self._archive = archive
        self._note = note or (lambda kind, **detail: None)
        super().__init__(plan, membership, now=now)
        if self._round is None:  # whatever is stored is of an epoch that is over
            self._erase("another epoch began")

    def rounds(self, agreement: Agreement) -> MemberRound | None:
        """The machine for the rounds of an epoch, where its key is here."""
        key = stored_key(self._membership, agreement.cohort.epoch)
        if key is None:
            return None
        return EncryptedRound(self._membership, agreement, key, partial(packing_of, self._plan))

    def close(self) -> None:
        """Erase the epoch's keys."""
        self._erase("the epoch is over")
        super().close()

    def _receive(self, message: Record) -> list[Outgoing]:
        if isinstance(message, KeyRequest | KeyOffer):
            return self._take_key(message)
        try:
            outgoing = super()._receive(message)
        except RefusedError as error:
            if error.cause is Cause.FORGED_SUM:
                epoch, number = self._at(message)
                self._membership.state.store.put(self._forged_key, str(self._forged + 1).encode())
                self.close()
                self._note("sum.forged", epoch=epoch, round=number)
                self._note("key.erased", reason="a sum was forged")
            raise
        if isinstance(message, EpochStart) and self._round is None:  # only now: an epoch that was refused ends none
            self._erase("another epoch begins")
        if isinstance(message, OpenRequest):
            if self._forged:
                self._membership.state.store.put(self._forged_key, b"0")
            self._note("sum.opened", epoch=self._at(message)[0], round=self._at(message)[1])
        return outgoing

    def _take_key(self, message: KeyRequest | KeyOffer) -> list[Outgoing]:
        if self._epoch is None or self._epoch.phase is not MemberEpochPhase.READY:
            raise RemoteError(f"expected an epoch that is ready, got {type(message).__name__}")
        if self._forged >= _MOST_FORGED:
            raise RefusedError(
                Cause.POLICY, None, f"expected sums as they were listed, got {_MOST_FORGED} others: no further key"
            )
        agreement, plan = self._epoch.agreement, he_plan_of(self._plan)
        had = stored_key(self._membership, self._epoch.epoch) is not None
        answer: Record
        if isinstance(message, KeyRequest):
            answer = deal_key(self._membership, agreement, plan, message)
            kind, dealer, fingerprint = "key.dealt", agreement.member, answer.header.fingerprint
        else:
            answer = accept_key(self._membership, agreement, plan, message)
            kind, dealer, fingerprint = "key.accepted", message.header.dealer, answer.fingerprint
        if not had:
            names = agreement.cohort.names
            self._note(
                kind,
                epoch=self._epoch.epoch,
                fingerprint=fingerprint.hex(),
                dealer=names[dealer],
                members=list(names),
            )
        key = stored_key(self._membership, self._epoch.epoch)
        if self._archive is not None and key is not None:  # also for one asked again: a kill may have come between
            self._archive(key.archive(self._membership.run))
        self._ready()
        return [Outgoing(None, answer)]

    @property
    def _forged(self) -> int:
        """How many forged sums this member has seen since it opened one that was not."""
        return int(self._membership.state.store.get(self._forged_key) or 0)

    @property
    def _forged_key(self) -> str:
        return f"secagg/{self._membership.run}/he-forged"

    def _erase(self, why: str) -> None:
        if erase_key(self._membership):
            self._note("key.erased", reason=why)


def member_of(
    plan: Plan,
    membership: Membership,
    *,
    now: Callable[[], datetime] = utc_now,
    note: KeyNote | None = None,
    archive: KeepArchive | None = None,
) -> Member:
    """The member of a run of `plan`, by what protects it."""
    if plan.protection.homomorphic:
        return EncryptingMember(plan, membership, now=now, note=note, archive=archive)
    return Member(plan, membership, now=now)
