"""A member's rounds within an epoch: one M1, one signed list of survivors and one answer for each.

What is durable, under `secagg/<run>/`: `round/<epoch>`, a counter of the rounds in which anything was sent; `round`,
sealed: phase, descriptor, own shares, signature and answer; `m1`, its bytes. They are written in this order, and before
anything is sent; where the counter was moved and no more is stored, the number is burnt, and its round sat out. The
answer is worked out and stored when the list is signed, so that the bundles are opened once and not kept. When the sum
is published, only the descriptor stays.

Where groups are drawn for each round, an epoch has one round of training; evaluations may come before and after it in
the same groups, and add no more than they do with groups that hold for the whole run.
"""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np

from wardround.errors import LocalError, RemoteError
from wardround.signing_key import check_signature
from wardround.strategies.secagg.answered_lists import check_redo, record_answer
from wardround.strategies.secagg.client_epoch import EPOCH_LASTS, Agreement
from wardround.strategies.secagg.draws import settle_draws
from wardround.strategies.secagg.keystream import U32, U64
from wardround.strategies.secagg.masked_update import mask_update
from wardround.strategies.secagg.membership import Membership
from wardround.strategies.secagg.messages import (
    Cause,
    Descriptor,
    Masked,
    Published,
    RoundStart,
    SurvivorOffer,
    SurvivorSignature,
    Task,
    UnmaskAnswer,
    UnmaskRequest,
    decode,
    digest_of,
    encode,
    survivors_of,
)
from wardround.strategies.secagg.near_lists import near_lists, record_last
from wardround.strategies.secagg.parameters import Tables
from wardround.strategies.secagg.phases import MemberRoundPhase, Outgoing, RefusedError, handler_for
from wardround.strategies.secagg.signing_inputs import (
    descriptor_input,
    reports_input,
    result_input,
    survivors_input,
)
from wardround.strategies.secagg.survivor_check import check_offer, check_votes, open_bundles, openings_of
from wardround.strategies.secagg.wire import Record

__all__ = ["ROUNDS", "ClientRound"]

ROUNDS = 100
"""Of an epoch, from 0."""


class ClientRound:
    """The machine of one member for the rounds of an epoch; after a restart it goes on as it was.

    `notes`: what the site's own policy wants to have logged of the round at hand, as lines.
    """

    def __init__(self, membership: Membership, agreement: Agreement) -> None:
        self._membership, self._cohort, self._member = membership, agreement.cohort, agreement.member
        self._secrets, self._until = agreement.secrets, agreement.started + EPOCH_LASTS
        self._committee = self._cohort.committee_of(self._member)
        self.phase = MemberRoundPhase.IDLE
        self._start: RoundStart | None = None
        self._used = -1
        self._trained = False
        self._own_shares = b""
        self._parts: list[bytes] = []
        self.published: Published | None = None
        self.notes: tuple[str, ...] = ()
        parts = membership.state.get(f"secagg/{membership.run}/round")
        if parts:
            start = decode(parts[1])
            if isinstance(start, RoundStart) and start.descriptor.roster == self._cohort.roster:
                self._parts, self._start, self._own_shares, self._trained = parts, start, parts[2], bool(parts[3])
                self.phase = MemberRoundPhase[parts[0].decode()]
                self._used = start.descriptor.round - (self.phase is MemberRoundPhase.STARTED)

    @property
    def descriptor(self) -> Descriptor:
        return self._begun().descriptor

    def receive(self, message: Record, now: datetime) -> list[Outgoing]:
        """Take the server's message. Raises RemoteError, and changes nothing, for one that is not in order."""
        return handler_for(_TABLE, self.phase, message)(self, message, now)

    def mask(self, vector: U32, scalars: U64, *, model: bytes) -> list[Outgoing]:
        """M1 of an encoded update and its scalars, for the round that has begun; once.

        `model` is the digest of the model that the update is from. Raises LocalError where none is asked for or the
        round's number is burnt, and RefusedError where the server's descriptor is of another model: then masks do not
        cancel, and nothing is sent.
        """
        if self.phase is not MemberRoundPhase.STARTED:
            raise LocalError(f"expected a round that waits for an update, got phase {self.phase.name}")
        descriptor = self.descriptor
        if model != descriptor.model:
            raise RefusedError(Cause.PARAMETERS, None, "expected the model of the round's descriptor, got another")
        for words, kind in ((vector, np.uint32), (scalars, np.uint64)):
            if words.ndim != 1 or words.dtype != np.dtype(kind):
                raise ValueError(f"expected a vector of {kind.__name__}, got {words.dtype} of shape {words.shape}")
        self._use()
        mine = self._membership
        dealt = mask_update(
            self._cohort, self._member, self._secrets, descriptor, vector, scalars, mine.signing_key, mine.random
        )
        self._commit(MemberRoundPhase.MASKED, dealt.own_shares)
        settle_draws(mine.state.store, mine.run)
        mine.state.store.put(self._m1_key(), encode(dealt.masked))
        return [Outgoing(None, dealt.masked)]

    def _begun(self) -> RoundStart:
        if self._start is None:
            raise LocalError("expected a round that has begun, got none")
        return self._start

    def _begin(self, start: RoundStart, now: datetime) -> list[Outgoing]:
        check_start(self._membership, self._cohort.roster, self._cohort.group_table, start, now)
        if now >= self._until:
            raise RefusedError(Cause.STALE, None, "expected an epoch begun less than 24 hours ago; start another")
        round_ = start.descriptor.round
        if (start.descriptor.epoch, self._cohort.roster) != (self._cohort.epoch, start.descriptor.roster):
            raise RefusedError(Cause.STALE, None, "expected a round of this epoch, got another")
        if start == self._start and self.phase is not MemberRoundPhase.IDLE:
            return self._sent()
        check_round_is_new(round_, self._used)
        once = self._membership.parameters.tables is Tables.EACH_ROUND
        if once and self._trained and start.descriptor.task is Task.FIT:
            raise RefusedError(
                Cause.POLICY, None, "expected one round of training in the groups of this epoch, got another; begin one"
            )
        self._commit(MemberRoundPhase.STARTED, b"", start=start)  # restarted, it still helps with lists and shares
        self.published, self.notes = None, ()
        return []

    def _sent(self) -> list[Outgoing]:
        """M1 of this round again, where there is one: the bytes that are stored."""
        stored = self._membership.state.store.get(self._m1_key()) if self._parts else None
        if not stored:
            return []
        masked = decode(stored)
        same = isinstance(masked, Masked) and masked.header.h == digest_of(self.descriptor)
        return [Outgoing(None, masked)] if same else []

    def _sign(self, offer: SurvivorOffer, now: datetime) -> list[Outgoing]:
        mine, descriptor = self._membership, self.descriptor
        least = max(mine.parameters.min_survivors, mine.min_survivors)
        lists = check_offer(self._cohort, self._member, descriptor, offer, least)
        if self._unnoised:
            check_redo(mine.state, self._cohort, descriptor, lists)
        notes = near_lists(mine.state, self._cohort, descriptor, lists, mine.min_difference)
        if notes and mine.refuse_near_lists:
            raise RefusedError(Cause.POLICY, None, notes[0])
        headers = [one.header for group in offer.groups for one in group.members]
        if any(header.member == self._member for header in headers) and not self._own_shares:
            raise RefusedError(Cause.STATE_LOST, mine.name, "expected a list without this member, which sent no update")
        shares, reports = open_bundles(self._cohort, self._member, self._secrets, self._own_shares, offer)
        survivors = digest_of(survivors_of(headers))
        signature = SurvivorSignature(
            h=offer.h,
            committee=self._committee,
            member=self._member,
            survivors=survivors,
            signature=mine.signing_key.sign(survivors_input(descriptor, self._committee, survivors)),
            reports=reports,
            reports_signature=mine.signing_key.sign(reports_input(descriptor, self._committee, reports))
            if reports
            else None,
        )
        answer = UnmaskAnswer(
            h=offer.h,
            committee=self._committee,
            member=self._member,
            survivors=survivors,
            openings=openings_of(self._cohort, shares, lists),
        )
        if self.phase is MemberRoundPhase.STARTED:  # it sends no M1 in this round any more
            try:
                self._use()
            except LocalError as error:
                reason = "expected a round whose number is not used up, sits this one out"
                raise RefusedError(Cause.STATE_LOST, mine.name, reason) from error
        by_group = json.dumps({str(group): members for group, members in lists.items()}).encode()
        self._commit(MemberRoundPhase.SIGNED, b"", survivors, encode(signature), encode(answer), by_group)
        settle_draws(mine.state.store, mine.run)
        self.notes = notes
        return [Outgoing(None, signature)]

    def _sign_again(self, offer: SurvivorOffer, now: datetime) -> list[Outgoing]:
        survivors = digest_of(survivors_of(one.header for group in offer.groups for one in group.members))
        if offer.h != digest_of(self.descriptor) or survivors != self._parts[4]:
            raise RefusedError(Cause.OTHER_LIST, None, "expected the list that was signed, got another of this round")
        return [Outgoing(None, decode(self._parts[5]))]

    def _answer(self, request: UnmaskRequest, now: datetime) -> list[Outgoing]:
        check_votes(self._cohort, self.descriptor, self._committee, self._parts[4], request)
        if self.phase is MemberRoundPhase.SIGNED:
            lists = {int(group): members for group, members in json.loads(self._parts[7]).items()}
            mine = self._membership
            if self._unnoised:
                record_answer(mine.state, self._cohort, self.descriptor, lists)
            if mine.min_difference:
                record_last(mine.state, self._cohort, self.descriptor, lists)
            self._commit(MemberRoundPhase.ANSWERED, b"", *self._parts[4:])
        return [Outgoing(None, decode(self._parts[6]))]

    def _learn(self, published: Published, now: datetime) -> list[Outgoing]:
        start = self._start
        if start is None or (published.h, published.committee) != (digest_of(start.descriptor), self._committee):
            raise RefusedError(Cause.STALE, None, "expected the result of this round and committee, got another")
        signed = result_input(start.descriptor, published.committee, published.groups)
        _check_server(self._membership.server, published.signature, signed)
        if self.phase is not MemberRoundPhase.IDLE:
            self._membership.state.store.put(self._m1_key(), b"")
            self._commit(MemberRoundPhase.IDLE, b"")
        self.published = published
        return []

    @property
    def _unnoised(self) -> bool:
        """Whether sums of this round have no noise of their own: no evaluation has."""
        return not self._membership.noised or self.descriptor.task is Task.EVALUATE

    def _use(self) -> None:
        """Spend the round's number: nothing is sent twice under one number, whatever comes after."""
        descriptor = self.descriptor
        self._membership.state.store.advance(f"secagg/{descriptor.run}/round/{descriptor.epoch}", descriptor.round)

    def _commit(
        self, phase: MemberRoundPhase, own_shares: bytes, *rest: bytes, start: RoundStart | None = None
    ) -> None:
        """Store where the round stands, or a round that begins; from any other phase on its number is used."""
        mine, start = self._membership, start or self._begun()
        used = phase is not MemberRoundPhase.STARTED
        trained = self._trained or (used and start.descriptor.task is Task.FIT)
        parts = [phase.name.encode(), encode(start), own_shares, b"\1" if trained else b"", *rest]
        mine.state.put(f"secagg/{mine.run}/round", parts)
        self._parts, self._start, self._own_shares, self._trained, self.phase = parts, start, own_shares, trained, phase
        self._used = start.descriptor.round if used else self._used

    def _m1_key(self) -> str:
        return f"secagg/{self._membership.run}/m1"


def check_start(mine: Membership, roster: bytes, group_table: bytes | None, start: RoundStart, now: datetime) -> None:
    """Raises RefusedError unless the server signed a descriptor of this run, roster and table, with time left."""
    descriptor = start.descriptor
    _check_server(mine.server, start.signature, descriptor_input(descriptor))
    if (descriptor.run, descriptor.roster, descriptor.group_table) != (mine.run, roster, group_table):
        raise RefusedError(Cause.PARAMETERS, None, "expected a round of the agreed roster and groups, got another")
    if descriptor.round >= ROUNDS:
        raise RefusedError(
            Cause.STALE, None, f"expected a round below {ROUNDS}, got {descriptor.round}; start an epoch"
        )
    if descriptor.deadline_ms <= now.timestamp() * 1000:
        raise RefusedError(Cause.DEADLINE, None, "expected a deadline that is to come, got one that is over")


def check_round_is_new(round_: int, used: int) -> None:
    """Raises RefusedError unless `round_` is above the last one used: a mask used twice is no mask."""
    if round_ <= used:
        raise RefusedError(Cause.STALE, None, f"expected a round above {used}, got {round_}")


def _check_server(server: bytes, signature: bytes, signed: bytes) -> None:
    try:
        check_signature(server, signature, signed, "server")
    except RemoteError as error:
        raise RefusedError(Cause.SIGNATURE, None, str(error)) from None


_Handler = Callable[[ClientRound, Any, datetime], list[Outgoing]]
_TABLE: dict[tuple[MemberRoundPhase, type[Record]], _Handler] = {
    **{(phase, RoundStart): ClientRound._begin for phase in MemberRoundPhase},
    (MemberRoundPhase.STARTED, SurvivorOffer): ClientRound._sign,
    (MemberRoundPhase.MASKED, SurvivorOffer): ClientRound._sign,
    (MemberRoundPhase.SIGNED, SurvivorOffer): ClientRound._sign_again,
    (MemberRoundPhase.ANSWERED, SurvivorOffer): ClientRound._sign_again,
    (MemberRoundPhase.SIGNED, UnmaskRequest): ClientRound._answer,
    (MemberRoundPhase.ANSWERED, UnmaskRequest): ClientRound._answer,
    **{(phase, Published): ClientRound._learn for phase in MemberRoundPhase},
}
