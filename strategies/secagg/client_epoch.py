"""A member's epoch: fresh keys, one roster that it signs, and the secrets that it shares with each other member.

What is durable, under `secagg/<run>/`: `epoch`, a counter of the epochs begun; `epoch-state`, sealed: the epoch's keys,
hello, signed roster and signature; `table`, the group table once it is drawn for the whole run; `draws`, how many
rosters a nonce was revealed for (see `draws`). Where groups are drawn for each round, every epoch draws, and no table
is kept.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self, TypeVar

from wardround.errors import LocalError
from wardround.strategies.secagg import key_agreement
from wardround.strategies.secagg.cohort import Cohort, cohort_of, digest_of_parameters, draw_groups
from wardround.strategies.secagg.draws import count_draw
from wardround.strategies.secagg.membership import Membership
from wardround.strategies.secagg.messages import (
    Cause,
    Endorsement,
    Entry,
    GroupTable,
    Hello,
    Roster,
    RosterSignature,
    RosterSignatures,
    beacon_of,
    commit_nonce,
    decode,
    digest_of,
    encode,
)
from wardround.strategies.secagg.parameters import Tables
from wardround.strategies.secagg.phases import MemberEpochPhase, Outgoing, RefusedError, handler_for
from wardround.strategies.secagg.roster_check import check_endorsements, check_roster
from wardround.strategies.secagg.signing_inputs import hello_input, roster_input
from wardround.strategies.secagg.wire import Record

__all__ = ["EPOCH_LASTS", "Agreement", "ClientEpoch"]

EPOCH_LASTS = timedelta(hours=24)

_KEY_BYTES = 32
_M = TypeVar("_M", bound=Record)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What an epoch gives a member for its rounds: the cohort, its own index, and PRK by member of its committee."""

    cohort: Cohort
    member: int
    secrets: Mapping[int, bytes] = field(repr=False)
    started: datetime


class ClientEpoch:
    """The machine of one member in one epoch; made by `begin`, or by `resume` after a restart.

    `agreement` is there when phase is READY.
    """

    def __init__(self, membership: Membership, parts: list[bytes]) -> None:
        self._membership, self._parts = membership, parts
        self.epoch = int.from_bytes(parts[0], "big")
        self.phase = MemberEpochPhase.ENDED
        self._agreement: Agreement | None = None
        if len(parts) == 1:
            return
        self._started = datetime.fromtimestamp(int.from_bytes(parts[1], "big"), UTC)
        self.phase, self._hello = MemberEpochPhase.HELLO, _stored(parts[4], Hello)
        if len(parts) > 5:
            self.phase = MemberEpochPhase.SIGNED
        if len(parts) > 8:
            self._agreement, _ = self._agree(*self._signed_roster(), _stored(parts[8], RosterSignatures))
            self.phase = MemberEpochPhase.READY

    @classmethod
    def begin(cls, membership: Membership, epoch: int, now: datetime) -> Self:
        """A new epoch with fresh keys; `outgoing` is its hello. Raises LocalError unless above every epoch before."""
        pair = key_agreement.generate(membership.random)
        table = _table(membership)
        nonce = membership.random(_KEY_BYTES) if membership.parameters.drawn and table is None else b""
        entry = Entry(
            run=membership.run,
            epoch=epoch,
            authority=membership.authority.fingerprint,
            plan=membership.plan,
            parameters=digest_of_parameters(membership.parameters),
            name=membership.name,
            public_key=pair.public,
            certificate=membership.certificate,
            nonce_commitment=commit_nonce(membership.run, epoch, membership.name, nonce) if nonce else None,
        )
        hello = Hello(entry=entry, signature=membership.signing_key.sign(hello_input(entry)))
        parts = [
            epoch.to_bytes(4, "big"),
            int(now.timestamp()).to_bytes(8, "big"),
            pair.private,
            nonce,
            encode(hello),
        ]
        membership.state.store.advance(f"secagg/{membership.run}/epoch", epoch)
        membership.state.put(_key(membership), parts)
        membership.state.erase(_round_key(membership))
        return cls(membership, parts)

    @classmethod
    def resume(cls, membership: Membership) -> Self | None:
        """The epoch as it is stored; None where there was none, so that this member waits for the next."""
        parts = membership.state.get(_key(membership))
        return cls(membership, parts) if parts else None

    @property
    def agreement(self) -> Agreement:
        if self._agreement is None:
            raise LocalError(f"epoch {self.epoch}: expected an epoch that is ready, got phase {self.phase.name}")
        return self._agreement

    def expired(self, now: datetime) -> bool:
        """Whether its time is over while it still has keys, which `end` erases."""
        return self.phase is not MemberEpochPhase.ENDED and now >= self._started + EPOCH_LASTS

    def outgoing(self) -> list[Outgoing]:
        """What this phase has sent, for sending it again: the same bytes."""
        if self.phase is MemberEpochPhase.HELLO:
            return [Outgoing(None, self._hello)]
        if self.phase is MemberEpochPhase.SIGNED:
            return [Outgoing(None, decode(self._parts[7]))]
        return []

    def receive(self, message: Record, now: datetime) -> list[Outgoing]:
        """Take the server's message. Raises RemoteError, and changes nothing, for one that is not in order."""
        return handler_for(_TABLE, self.phase, message)(self, message, now)

    def end(self) -> None:
        """Erase the epoch's keys and what its last round left; that the epoch was is kept."""
        self._membership.state.put(_key(self._membership), self._parts[:1])
        self._membership.state.erase(_round_key(self._membership))
        self._parts, self._agreement = self._parts[:1], None
        self.phase = MemberEpochPhase.ENDED

    def _sign(self, roster: Roster, now: datetime) -> list[Outgoing]:
        mine = self._membership
        table = _table(mine)
        keys = check_roster(mine, self._hello, None if table is None else digest_of(table), roster, now)
        nonce = self._parts[3] or None
        if nonce is None:
            _cohort(roster, keys, table, mine)
        digest = digest_of(roster)
        member = [hello.entry.name for hello in roster.hellos].index(mine.name)
        signature = mine.signing_key.sign(roster_input(mine.run, self.epoch, digest))
        endorsed = Endorsement(member=member, nonce=nonce, signature=signature)
        message = RosterSignature(run=mine.run, epoch=self.epoch, roster=digest, endorsement=endorsed)
        parts = [*self._parts, encode(roster), b"".join(keys), encode(message)]
        if nonce is not None:
            most = mine.parameters.starts + mine.parameters.regrouped_rounds
            count_draw(mine.state.store, mine.run, self.epoch, most, now)
        mine.state.put(_key(mine), parts)
        self._parts, self.phase = parts, MemberEpochPhase.SIGNED
        return self.outgoing()

    def _sign_again(self, roster: Roster, now: datetime) -> list[Outgoing]:
        if encode(roster) != self._parts[5]:
            raise RefusedError(Cause.OTHER_LIST, None, "expected the roster that was signed, got another of this epoch")
        return [Outgoing(None, decode(self._parts[7]))]

    def _start(self, signatures: RosterSignatures, now: datetime) -> list[Outgoing]:
        roster, keys = self._signed_roster()
        drawing = bool(self._parts[3])
        needed = self._membership.parameters.signatures_needed(len(keys), drawing=drawing)
        check_endorsements(roster, keys, needed, signatures)
        agreement, table = self._agree(roster, keys, signatures)
        parts = [*self._parts, encode(signatures)]
        if drawing and table is not None and self._membership.parameters.tables is Tables.ONCE:
            self._membership.state.store.put(_table_key(self._membership), encode(table))
        self._membership.state.put(_key(self._membership), parts)
        self._parts, self._agreement, self.phase = parts, agreement, MemberEpochPhase.READY
        return []

    def _start_again(self, signatures: RosterSignatures, now: datetime) -> list[Outgoing]:
        if signatures.roster != self.agreement.cohort.roster:
            raise RefusedError(Cause.OTHER_LIST, None, "expected signatures of the roster that was signed here")
        return []

    def _signed_roster(self) -> tuple[Roster, tuple[bytes, ...]]:
        keys = self._parts[6]
        return _stored(self._parts[5], Roster), tuple(
            keys[at : at + _KEY_BYTES] for at in range(0, len(keys), _KEY_BYTES)
        )

    def _agree(
        self, roster: Roster, keys: tuple[bytes, ...], signatures: RosterSignatures
    ) -> tuple[Agreement, GroupTable | None]:
        """What follows from a roster, its members' signing keys and its signatures, all checked."""
        mine = self._membership
        if self._parts[3]:
            nonces = [one.nonce for one in signatures.endorsements if one.nonce is not None]
            beacon = beacon_of(digest_of(roster), nonces)
            table: GroupTable | None = draw_groups(roster, beacon, mine.parameters.groups)
        else:
            table = _table(mine)
        cohort = _cohort(roster, keys, table, mine)
        member = cohort.names.index(mine.name)
        secrets = {}
        for other in cohort.holders(cohort.committee_of(member)):
            if other != member:
                entry = roster.hellos[other].entry
                try:
                    secrets[other] = key_agreement.pair_key(self._parts[2], entry.public_key, cohort.roster)
                except ValueError as error:
                    raise RefusedError(Cause.MALFORMED, entry.name, f"{error}; the epoch is void") from None
        agreement = Agreement(cohort=cohort, member=member, secrets=secrets, started=self._started)
        return agreement, table


def _cohort(roster: Roster, keys: tuple[bytes, ...], table: GroupTable | None, mine: Membership) -> Cohort:
    """The cohort. Raises RefusedError where there is none: a newcomer, or a committee that may be all colluders."""
    try:
        return cohort_of(roster, keys, table, mine.parameters)
    except ValueError as error:
        raise RefusedError(Cause.PARAMETERS, None, str(error)) from None


def _table(mine: Membership) -> GroupTable | None:
    """The group table of the plan, or the one that was drawn for the whole run."""
    if mine.group_table is not None:
        return mine.group_table
    stored = mine.state.store.get(_table_key(mine))
    return None if stored is None else _stored(stored, GroupTable)


def _table_key(mine: Membership) -> str:
    return f"secagg/{mine.run}/table"


def _round_key(mine: Membership) -> str:
    return f"secagg/{mine.run}/round"


def _key(mine: Membership) -> str:
    return f"secagg/{mine.run}/epoch-state"


def _stored(data: bytes, kind: type[_M]) -> _M:
    message = decode(data)
    if not isinstance(message, kind):
        raise LocalError(f"expected a stored {kind.__name__}, got {type(message).__name__}")
    return message


_Handler = Callable[[ClientEpoch, Any, datetime], list[Outgoing]]
_TABLE: dict[tuple[MemberEpochPhase, type[Record]], _Handler] = {
    (MemberEpochPhase.HELLO, Roster): ClientEpoch._sign,
    (MemberEpochPhase.SIGNED, Roster): ClientEpoch._sign_again,
    (MemberEpochPhase.SIGNED, RosterSignatures): ClientEpoch._start,
    (MemberEpochPhase.READY, Roster): ClientEpoch._sign_again,
    (MemberEpochPhase.READY, RosterSignatures): ClientEpoch._start_again,
}
