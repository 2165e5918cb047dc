"""The messages of an epoch: who takes part, under which keys, and in which group. See `messages` for their form."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from wardround.strategies.secagg.wire import (
    U16,
    U32,
    Blob,
    Digest,
    Fixed,
    Many,
    Maybe,
    Name,
    Nested,
    Record,
    Signature,
    check_ascending,
    written,
)

__all__ = [
    "MAX_GROUP",
    "MAX_ROSTER",
    "Endorsement",
    "Entry",
    "EpochStart",
    "Group",
    "GroupTable",
    "Hello",
    "Roster",
    "RosterSignature",
    "RosterSignatures",
    "beacon_of",
    "commit_nonce",
]

MAX_GROUP = 255
"""Members of a group or committee: a Shamir holder is a non-zero byte."""
MAX_ROSTER = (1 << 16) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochStart(Record):
    """The server asks for an epoch of this number; a member answers with its hello. Nobody signs it."""

    run: Name
    epoch: U32


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Record):
    """A member as it enters an epoch: what its hello signs.

    `authority` is the fingerprint of the CA, `certificate` DER, `public_key` that of X25519.
    `nonce_commitment` is there where the epoch draws groups.
    """

    run: Name
    epoch: U32
    authority: Digest
    plan: Digest
    parameters: Digest
    name: Name
    public_key: Digest
    certificate: Annotated[bytes, Blob(4096)]
    nonce_commitment: Annotated[bytes | None, Maybe(Digest)] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello(Record):
    """An entry, signed by its member."""

    entry: Annotated[Entry, Nested(Entry)]
    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster(Record):
    """Everybody's hello, ascending by name in UTF-8, all for one run, epoch, CA, plan and parameters.

    No name and no public key is there twice. A member is its index in `hellos`. `group_table` is the digest of the
    group table, once there is one.
    """

    hellos: Annotated[tuple[Hello, ...], Many(Nested(Hello), MAX_ROSTER, fewest=1)]
    group_table: Annotated[bytes | None, Maybe(Digest)] = None

    def check_invariants(self) -> None:
        entries = [hello.entry for hello in self.hellos]
        check_ascending("names", [entry.name.encode() for entry in entries])
        if len({(one.run, one.epoch, one.authority, one.plan, one.parameters) for one in entries}) != 1:
            raise ValueError("Roster.hellos: expected one run, epoch, authority, plan and parameters")
        if len({entry.public_key for entry in entries}) != len(entries):
            raise ValueError("Roster.hellos: expected every public key once")
        if len({entry.nonce_commitment is None for entry in entries}) != 1:
            raise ValueError("Roster.hellos: expected commitments to nonces from all members or from none")

    @property
    def run(self) -> str:
        return self.hellos[0].entry.run

    @property
    def epoch(self) -> int:
        return self.hellos[0].entry.epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Endorsement(Record):
    """A member's signature of a roster, and the nonce that it committed to, where there is one."""

    member: U16
    nonce: Annotated[bytes | None, Maybe(Fixed(32))] = None
    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterSignature(Record):
    """A member's endorsement of the roster with this digest."""

    run: Name
    epoch: U32
    roster: Digest
    endorsement: Annotated[Endorsement, Nested(Endorsement)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterSignatures(Record):
    """The endorsements of one roster, ascending by member."""

    run: Name
    epoch: U32
    roster: Digest
    endorsements: Annotated[tuple[Endorsement, ...], Many(Nested(Endorsement), MAX_ROSTER)]

    def check_invariants(self) -> None:
        check_ascending("endorsing members", [one.member for one in self.endorsements])


@dataclass(frozen=True, slots=True, kw_only=True)
class Group(Record):
    """The names of one group, ascending in UTF-8."""

    names: Annotated[tuple[str, ...], Many(Name, MAX_GROUP, fewest=1)]

    def check_invariants(self) -> None:
        check_ascending("names", [name.encode() for name in self.names])


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTable(Record):
    """Who is in which group, by name, since it outlives the epochs whose indices it would need."""

    run: Name
    groups: Annotated[tuple[Group, ...], Many(Nested(Group), MAX_ROSTER, fewest=1)]

    def check_invariants(self) -> None:
        names = [name for group in self.groups for name in group.names]
        if len(set(names)) != len(names):
            raise ValueError("GroupTable.groups: expected every name in one group")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Nonce(Record):
    run: Name
    epoch: U32
    name: Name
    nonce: Annotated[bytes, Fixed(32)]


def commit_nonce(run: str, epoch: int, name: str, nonce: bytes) -> bytes:
    """The commitment of `name` to its 32 random bytes.

    SHA-256 of `wardround nonce 1`, a zero byte, and run, epoch, name and nonce as fields of a message. The name is in
    it, so that nobody can repeat the commitment of another and then its nonce.
    """
    committed = _Nonce(run=run, epoch=epoch, name=name, nonce=nonce)
    return hashlib.sha256(b"wardround nonce 1\0" + written(committed)).digest()


def beacon_of(roster: bytes, nonces: Iterable[bytes]) -> bytes:
    """SHA-256 of the roster's digest and all nonces in roster order: what the groups are drawn from."""
    return hashlib.sha256(b"".join((roster, *nonces))).digest()
