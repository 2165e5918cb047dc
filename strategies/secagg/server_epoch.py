"""The server's epoch: it collects hellos, shows everybody the same roster, and passes their signatures on.

It checks what members will check, so that one bad hello is left out by name and does not void the epoch. Nothing here
is trusted by members. What is durable, under `secagg-server/<run>/`: `roster`, `keys` and `signatures` of the epoch
that is ready, and `table`, the group table once it is drawn for the whole run.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self, TypeVar

from wardround.errors import LocalError
from wardround.identity import Authority, Revocations
from wardround.state_store import StateStore
from wardround.strategies.secagg import key_agreement
from wardround.strategies.secagg.cohort import Cohort, cohort_of, digest_of_parameters, draw_groups
from wardround.strategies.secagg.messages import (
    Cause,
    Endorsement,
    GroupTable,
    Hello,
    Roster,
    RosterSignature,
    RosterSignatures,
    beacon_of,
    decode,
    digest_of,
    encode,
)
from wardround.strategies.secagg.parameters import Parameters, Tables
from wardround.strategies.secagg.phases import Outgoing, RefusedError, ServerEpochPhase, handler_for
from wardround.strategies.secagg.roster_check import check_endorsements, check_hello
from wardround.strategies.secagg.wire import Record

__all__ = ["Federation", "ServerEpoch"]

_KEY_BYTES = 32
_M = TypeVar("_M", bound=Record)


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """What the server knows of a run: the approved plan's digest, its parameters, and the authority of its members."""

    run: str
    plan: bytes
    parameters: Parameters
    authority: Authority
    revocations: Revocations
    store: StateStore
    random: Callable[[int], bytes] = field(repr=False)
    group_table: GroupTable | None = None


class ServerEpoch:
    """The machine of the server in one epoch. `cohort` is there when phase is READY."""

    def __init__(self, federation: Federation, epoch: int) -> None:
        self._federation, self.epoch = federation, epoch
        self.phase = ServerEpochPhase.HELLOS
        self._table = _table(federation)
        self._drawing = federation.parameters.drawn and self._table is None
        self._hellos: dict[str, tuple[Hello, bytes]] = {}
        self._roster: Roster | None = None
        self._endorsements: dict[int, Endorsement] = {}
        self._cohort: Cohort | None = None

    @classmethod
    def resume(cls, federation: Federation) -> Self | None:
        """The last epoch that was ready; None where there is none or it was not stored as a whole."""
        store, at = federation.store, f"secagg-server/{federation.run}"
        roster, keys, signatures = (store.get(f"{at}/{name}") for name in ("roster", "keys", "signatures"))
        if roster is None or keys is None or signatures is None:
            return None
        found, signed = _stored(roster, Roster), _stored(signatures, RosterSignatures)
        if signed.roster != digest_of(found):
            return None
        machine = cls(federation, found.epoch)
        machine._roster, machine.phase = found, ServerEpochPhase.READY
        machine._endorsements = {one.member: one for one in signed.endorsements}
        split = [keys[start : start + _KEY_BYTES] for start in range(0, len(keys), _KEY_BYTES)]
        machine._cohort = cohort_of(found, split, machine._table or machine._drawn(), federation.parameters)
        return machine

    @property
    def cohort(self) -> Cohort:
        if self._cohort is None:
            raise LocalError(f"epoch {self.epoch}: expected an epoch that is ready, got phase {self.phase.name}")
        return self._cohort

    def receive(self, sender: str, message: Record, now: datetime) -> list[Outgoing]:
        """Take a message of the member `sender`. Raises RemoteError, and changes nothing, for one not in order."""
        return handler_for(_TABLE, self.phase, message)(self, sender, message, now)

    def close(self) -> list[Outgoing]:
        """The time of this phase is over: go on with those who came. Raises RefusedError where they are too few."""
        if self.phase is ServerEpochPhase.HELLOS:
            return self._show_roster()
        if self.phase is ServerEpochPhase.SIGNATURES:
            return self._pass_on()
        return []

    def outgoing(self) -> list[Outgoing]:
        """What this phase has sent, for those who lost it."""
        if self._roster is None:
            return []
        message = self._signatures() if self.phase is ServerEpochPhase.READY else self._roster
        return [Outgoing(hello.entry.name, message) for hello in self._roster.hellos]

    def _enter(self, sender: str, hello: Hello, now: datetime) -> list[Outgoing]:
        ours, entry = self._federation, hello.entry
        agreed = (ours.run, self.epoch, ours.authority.fingerprint, ours.plan, digest_of_parameters(ours.parameters))
        if entry.name != sender:
            raise RefusedError(Cause.SIGNATURE, sender, f"expected its own hello, got that of {entry.name}")
        if (entry.run, entry.epoch, entry.authority, entry.plan, entry.parameters) != agreed:
            raise RefusedError(
                Cause.PARAMETERS, sender, f"expected run, plan and parameters of epoch {self.epoch}, got others"
            )
        if (entry.nonce_commitment is not None) != self._drawing:
            raise RefusedError(
                Cause.NONCE, sender, f"expected {'a' if self._drawing else 'no'} nonce for a draw of groups"
            )
        key = check_hello(hello, ours.authority, ours.revocations, now)
        try:  # a point of small order would void the epoch for everybody
            key_agreement.pair_key(ours.random(_KEY_BYTES), entry.public_key, bytes(_KEY_BYTES))
        except ValueError as error:
            raise RefusedError(Cause.MALFORMED, sender, str(error)) from None
        if self._table is not None and not any(sender in group.names for group in self._table.groups):
            raise RefusedError(Cause.POLICY, sender, "expected a member of the group table; it waits for the next run")
        if sender not in self._hellos and len(self._hellos) == ours.parameters.clients:
            raise RefusedError(
                Cause.PARAMETERS, sender, f"expected a federation of {ours.parameters.clients}, which are all here"
            )
        for name, (other, its_key) in self._hellos.items():
            if name == sender and other != hello:
                raise RefusedError(Cause.TWICE, sender, "expected one hello in an epoch, got another")
            if name != sender and (its_key == key or other.entry.public_key == entry.public_key):
                raise RefusedError(Cause.TWICE, sender, f"expected keys of its own, got one of {name}")
        self._hellos[sender] = hello, key
        return []

    def _show_roster(self) -> list[Outgoing]:
        least = self._federation.parameters.min_roster
        if len(self._hellos) < least:
            raise RefusedError(
                Cause.TOO_FEW_MEMBERS, None, f"expected at least {least} members, got {len(self._hellos)}"
            )
        names = sorted(self._hellos, key=str.encode)
        table = None if self._table is None else digest_of(self._table)
        self._roster = Roster(hellos=tuple(self._hellos[name][0] for name in names), group_table=table)
        self.phase = ServerEpochPhase.SIGNATURES
        return self.outgoing()

    def _collect(self, sender: str, message: RosterSignature, now: datetime) -> list[Outgoing]:
        roster, member = self._shown(), message.endorsement.member
        names = [hello.entry.name for hello in roster.hellos]
        if member >= len(names) or names[member] != sender:
            raise RefusedError(Cause.SIGNATURE, sender, f"expected its own signature, got one of member {member}")
        given = RosterSignatures(
            run=message.run, epoch=message.epoch, roster=message.roster, endorsements=(message.endorsement,)
        )
        check_endorsements(roster, self._keys(), 1, given)
        self._endorsements[member] = message.endorsement
        return self._pass_on() if len(self._endorsements) == len(names) else []

    def _pass_on(self) -> list[Outgoing]:
        roster, ours = self._shown(), self._federation
        names = [hello.entry.name for hello in roster.hellos]
        needed = ours.parameters.signatures_needed(len(names), drawing=self._drawing)
        if len(self._endorsements) < needed:
            missing = [name for member, name in enumerate(names) if member not in self._endorsements]
            raise RefusedError(
                Cause.TOO_FEW_SIGNATURES,
                missing[0],
                f"expected {needed} signatures of the roster, got {len(self._endorsements)} ({len(missing)} members "
                "are silent); begin another epoch, without them",
            )
        signatures, table = self._signatures(), self._table or self._drawn()
        try:
            cohort = cohort_of(roster, self._keys(), table, ours.parameters)
        except ValueError as error:
            raise RefusedError(Cause.PARAMETERS, None, f"{error}; begin another epoch") from None
        at = f"secagg-server/{ours.run}"
        if table is not None and ours.parameters.tables is not Tables.EACH_ROUND:
            ours.store.put(f"{at}/table", encode(table))
        ours.store.put(f"{at}/roster", encode(roster))
        ours.store.put(f"{at}/keys", b"".join(cohort.keys))
        ours.store.put(f"{at}/signatures", encode(signatures))
        self._table, self._cohort, self.phase = table, cohort, ServerEpochPhase.READY
        return self.outgoing()

    def _drawn(self) -> GroupTable | None:
        """The groups that all nonces of the shown roster deal, where this epoch draws."""
        if not self._drawing:
            return None
        nonces = [one.nonce for one in self._signatures().endorsements if one.nonce is not None]
        roster = self._shown()
        return draw_groups(roster, beacon_of(digest_of(roster), nonces), self._federation.parameters.groups)

    def _signatures(self) -> RosterSignatures:
        roster = self._shown()
        return RosterSignatures(
            run=roster.run,
            epoch=roster.epoch,
            roster=digest_of(roster),
            endorsements=tuple(self._endorsements[member] for member in sorted(self._endorsements)),
        )

    def _shown(self) -> Roster:
        if self._roster is None:
            raise LocalError(f"epoch {self.epoch}: expected a roster that is shown, got phase {self.phase.name}")
        return self._roster

    def _keys(self) -> tuple[bytes, ...]:
        return tuple(self._hellos[hello.entry.name][1] for hello in self._shown().hellos)


def _table(federation: Federation) -> GroupTable | None:
    if federation.group_table is not None:
        return federation.group_table
    stored = federation.store.get(f"secagg-server/{federation.run}/table")
    return None if stored is None else _stored(stored, GroupTable)


def _stored(data: bytes, kind: type[_M]) -> _M:
    message = decode(data)
    if not isinstance(message, kind):
        raise LocalError(f"expected a stored {kind.__name__}, got {type(message).__name__}")
    return message


_Handler = Callable[[ServerEpoch, str, Any, datetime], list[Outgoing]]
_TABLE: Mapping[tuple[ServerEpochPhase, type[Record]], _Handler] = {
    (ServerEpochPhase.HELLOS, Hello): ServerEpoch._enter,
    (ServerEpochPhase.SIGNATURES, RosterSignature): ServerEpoch._collect,
}
