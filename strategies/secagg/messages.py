"""The messages of secure aggregation, their binary form, and what is signed.

A message is `WSA1` (the digit is the version), one byte for its kind, and its fields in the order of their declaration
(see `wire`). Members are named once, in the roster; from then on a member is its index there. A value has one encoding,
so that equal digests mean equal messages.

    kind  message            from, to            step
       1  Hello              member to server    epoch 1
       2  Roster             server to members   epoch 2
       3  RosterSignature    member to server    epoch 2
       4  RosterSignatures   server to members   epoch 3
       5  RoundStart         server to members   M0
       6  Masked             member to server    M1
       7  SurvivorOffer      server to a member  M2
       8  SurvivorSignature  member to server    M2
       9  UnmaskRequest      server to members   M3
      10  UnmaskAnswer       member to server    M3
      11  Published          server to members   result
      12  Refusal            either to the other any
      13  GroupTable         only hashed
      14  Descriptor         hashed, and part of a RoundStart
      15  Header             hashed, and part of a Masked and of a SurvivorOffer
      16  SurvivorList       only hashed

What is signed is `wardround secagg 1` and a zero byte, the domain (one byte for its length, ASCII), the run (two bytes
for its length, UTF-8), epoch (4 bytes), round (4), committee (2), and then the domain's body. So no signature is of use
in another domain, run, epoch, round or committee. What belongs to no round or committee has 0 there.

    domain      round  committee  body
    hello       0      0          the fields of the Entry
    roster      0      0          SHA-256 of the Roster
    descriptor  yes    0          h
    M1          yes    yes        h, SHA-256 of the Header
    U           yes    yes        h, SHA-256 of the SurvivorList
    reports     yes    yes        h, the number of reports (4 bytes), each report
    result      yes    yes        h, the number of groups (4 bytes), each group

h is SHA-256 of the Descriptor. Every SHA-256 of a message is over its whole binary form. An UnmaskAnswer is not signed:
each opening is proven against a root that its dealer signed. Checked here is form; whether signatures, digests and
thresholds hold is checked by those who receive.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from itertools import pairwise
from typing import Annotated, Any

from wardround.errors import RemoteError
from wardround.strategies.secagg.wire import (
    U16,
    U32,
    U64,
    Blob,
    Blocks,
    Buffer,
    Bulk,
    Choice,
    Digest,
    Fixed,
    Many,
    Maybe,
    Name,
    Nested,
    Reader,
    Record,
    Signature,
    Text,
    read_record,
    write_record,
    written,
)

__all__ = [
    "Cause",
    "Descriptor",
    "Endorsement",
    "Entry",
    "Fault",
    "GroupOffer",
    "GroupSum",
    "GroupTable",
    "Header",
    "Hello",
    "Masked",
    "OfferedMember",
    "Opening",
    "Published",
    "Refusal",
    "Report",
    "Roster",
    "RosterSignature",
    "RosterSignatures",
    "RoundStart",
    "Survivor",
    "SurvivorList",
    "SurvivorOffer",
    "SurvivorSignature",
    "SurvivorVote",
    "Task",
    "UnmaskAnswer",
    "UnmaskRequest",
    "beacon_of",
    "decode",
    "descriptor_input",
    "digest_of",
    "encode",
    "encode_parts",
    "header_input",
    "hello_input",
    "reports_input",
    "result_input",
    "roster_input",
    "survivors_input",
]

MAX_GROUP = 255
"""Members of a group or committee: a Shamir holder is a non-zero byte."""
MAX_ROSTER = (1 << 16) - 1
_MAX_DEPTH = 16
_MAX_OPENINGS = 1 << 15  # (255 − D)(1 + D) at most, for D drop-outs
_MAX_SEALED = 32 * MAX_GROUP + 64

Digests = Annotated[tuple[bytes, ...], Blocks(MAX_GROUP, 32)]
Members = Annotated[tuple[int, ...], Many(U16, MAX_ROSTER)]


class Task(IntEnum):
    """What the round computes."""

    FIT = 1
    EVALUATE = 2


class Fault(IntEnum):
    """What is wrong with a dealer's bundle."""

    UNREADABLE = 1
    """It is not what the header's digest says, or does not open."""
    WRONG_SHARES = 2
    """It opens, but its shares do not have the header's root."""


class Cause(IntEnum):
    """Why a peer does not go on."""

    MALFORMED = 1
    CERTIFICATE = 2
    REVOKED = 3
    NOT_PINNED = 4
    SIGNATURE = 5
    TWICE = 6
    """A name, a signing key or a public key is there twice."""
    PARAMETERS = 7
    """The plan, its parameters or the model are not those that were agreed on."""
    TOO_FEW_MEMBERS = 8
    NONCE = 9
    """A nonce is missing, or is not what was committed to."""
    STALE = 10
    """An epoch or a round is not above the last one used."""
    OTHER_LIST = 11
    """Another list was signed or answered in this round."""
    TOO_FEW_SIGNATURES = 12
    BAD_DEALING = 13
    POLICY = 14
    NOT_FINITE = 15
    DEADLINE = 16
    STATE_LOST = 17


class _Domain(StrEnum):
    HELLO = "hello"
    ROSTER = "roster"
    DESCRIPTOR = "descriptor"
    M1 = "M1"
    U = "U"
    REPORTS = "reports"
    RESULT = "result"


# -- epoch ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Record):
    """A member as it enters an epoch: what its hello signs.

    `authority` is the fingerprint of the CA, `certificate` DER, `public_key` that of X25519. `nonce` commits to 32
    bytes, where the epoch draws groups.
    """

    run: Name
    epoch: U32
    authority: Digest
    plan: Digest
    parameters: Digest
    name: Name
    public_key: Digest
    certificate: Annotated[bytes, Blob(4096)]
    nonce: Annotated[bytes | None, Maybe(Digest)] = None


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
        _check_ascending("names", [entry.name.encode() for entry in entries])
        if len({(one.run, one.epoch, one.authority, one.plan, one.parameters) for one in entries}) != 1:
            raise ValueError("Roster.hellos: expected one run, epoch, authority, plan and parameters")
        if len({entry.public_key for entry in entries}) != len(entries):
            raise ValueError("Roster.hellos: expected every public key once")
        if len({entry.nonce is None for entry in entries}) != 1:
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
        _check_ascending("endorsing members", [one.member for one in self.endorsements])


@dataclass(frozen=True, slots=True, kw_only=True)
class Group(Record):
    """The names of one group, ascending in UTF-8."""

    names: Annotated[tuple[str, ...], Many(Name, MAX_GROUP, fewest=1)]

    def check_invariants(self) -> None:
        _check_ascending("names", [name.encode() for name in self.names])


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTable(Record):
    """Who is in which group, by name, since it outlives the epochs whose indices it would need."""

    run: Name
    groups: Annotated[tuple[Group, ...], Many(Nested(Group), MAX_ROSTER, fewest=1)]

    def check_invariants(self) -> None:
        names = [name for group in self.groups for name in group.names]
        if len(set(names)) != len(names):
            raise ValueError("GroupTable.groups: expected every name in one group")


def beacon_of(roster: bytes, nonces: Iterable[bytes]) -> bytes:
    """SHA-256 of the roster's digest and all nonces in roster order: what the groups are drawn from."""
    return hashlib.sha256(b"".join((roster, *nonces))).digest()


# -- round ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor(Record):
    """What a round is about; its digest is h. `model`, `roster`, `group_table`: digests. `deadline_ms`: Unix time."""

    run: Name
    epoch: U32
    round: U32
    task: Annotated[Task, Choice(Task)]
    model: Digest
    roster: Digest
    group_table: Annotated[bytes | None, Maybe(Digest)] = None
    deadline_ms: U64


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundStart(Record):
    """M0: a descriptor, signed by the server."""

    descriptor: Annotated[Descriptor, Nested(Descriptor)]
    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Header(Record):
    """The part of M1 that is signed.

    `vector` and `scalars` are SHA-256 of their bytes; `ciphertexts` those of the bundles, in the committee's order
    without the dealer. `roots` are of the trees over each holder's shares, in the committee's order, the dealer's own
    too; `commitments` to the dealer's own seed first and then to its pair seeds, in its group's order.
    """

    h: Digest
    committee: U16
    member: U16
    vector: Digest
    scalars: Digest
    ciphertexts: Digests
    commitments: Digests
    roots: Digests

    def check_invariants(self) -> None:
        if len(self.roots) != len(self.ciphertexts) + 1:
            raise ValueError(f"Header.roots: expected {len(self.ciphertexts) + 1}, got {len(self.roots)}")
        if not 1 <= len(self.commitments) <= len(self.roots):
            raise ValueError(f"Header.commitments: expected 1 to {len(self.roots)}, got {len(self.commitments)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Masked(Record):
    """M1: the masked update and the masked scalar lane, little-endian, and the sealed bundles for the committee."""

    header: Annotated[Header, Nested(Header)]
    signature: Signature
    vector: Annotated[Buffer, Bulk(1 << 34)] = field(repr=False)
    scalars: Annotated[Buffer, Bulk(1 << 20)] = field(repr=False)
    sealed: Annotated[tuple[bytes, ...], Blocks(MAX_GROUP, largest=_MAX_SEALED)] = field(repr=False)

    def check_invariants(self) -> None:
        if len(self.scalars) % 8:
            raise ValueError(f"Masked.scalars: expected words of 8 bytes, got {len(self.scalars)} bytes")
        if len(self.sealed) != len(self.header.ciphertexts):
            raise ValueError(f"Masked.sealed: expected {len(self.header.ciphertexts)}, got {len(self.sealed)}")

    def check_contents(self) -> None:
        """Raises RemoteError unless vector, scalars and bundles are those that the header speaks of."""
        parts = ("vector", self.vector, self.header.vector), ("scalars", self.scalars, self.header.scalars)
        for name, data, digest in parts:
            if hashlib.sha256(data).digest() != digest:
                raise RemoteError(f"Masked.{name}: expected the bytes whose digest its header has")
        for sealed, digest in zip(self.sealed, self.header.ciphertexts, strict=True):
            if hashlib.sha256(sealed).digest() != digest:
                raise RemoteError("Masked.sealed: expected the bundles whose digests its header has")


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedMember(Record):
    """A survivor's signed header, and its bundle for the receiver: empty where the receiver dealt it itself."""

    header: Annotated[Header, Nested(Header)]
    signature: Signature
    sealed: Annotated[bytes, Blob(_MAX_SEALED)] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOffer(Record):
    """The survivors of one group, ascending by member; nobody where the group is given up."""

    group: U16
    members: Annotated[tuple[OfferedMember, ...], Many(Nested(OfferedMember), MAX_GROUP)]

    def check_invariants(self) -> None:
        _check_ascending("members", [one.header.member for one in self.members])


@dataclass(frozen=True, slots=True, kw_only=True)
class SurvivorOffer(Record):
    """M2: who has survived, in every group of a committee, ascending by group; no member in two."""

    h: Digest
    committee: U16
    receiver: U16
    groups: Annotated[tuple[GroupOffer, ...], Many(Nested(GroupOffer), MAX_GROUP)]

    def check_invariants(self) -> None:
        _check_ascending("groups", [one.group for one in self.groups])
        offered = [one for group in self.groups for one in group.members]
        if len({one.header.member for one in offered}) != len(offered):
            raise ValueError("SurvivorOffer.groups: expected every member once")
        for one in offered:
            if (one.header.h, one.header.committee) != (self.h, self.committee):
                raise ValueError("SurvivorOffer.groups: expected headers of this round and committee")
            if (one.header.member == self.receiver) != (one.sealed == b""):
                raise ValueError("SurvivorOffer.groups: expected a bundle from everybody but the receiver")

    def survivors(self) -> "SurvivorList":
        """The list that is to be signed."""
        headers = [one.header for group in self.groups for one in group.members]
        return SurvivorList.of(headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Survivor(Record):
    """A member of the list, and the digest of its header."""

    member: U16
    header: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class SurvivorList(Record):
    """Everybody in U with the digest of its header, ascending by member. Its digest is what a committee signs."""

    survivors: Annotated[tuple[Survivor, ...], Many(Nested(Survivor), MAX_ROSTER)]

    def check_invariants(self) -> None:
        _check_ascending("survivors", [one.member for one in self.survivors])

    @staticmethod
    def of(headers: Iterable[Header]) -> "SurvivorList":
        """The list of these headers, in any order. Raises ValueError for two of one member."""
        entries = [Survivor(member=header.member, header=digest_of(header)) for header in headers]
        return SurvivorList(survivors=tuple(sorted(entries, key=lambda one: one.member)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Report(Record):
    """What a member says of the bundle that `dealer` sealed for it."""

    dealer: U16
    fault: Annotated[Fault, Choice(Fault)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SurvivorSignature(Record):
    """A member's signature of a list, and its reports of bad bundles, ascending by dealer, signed where there are any.

    The reports have a signature of their own, since more than c of them are evidence for others.
    """

    h: Digest
    committee: U16
    member: U16
    survivors: Digest
    signature: Signature
    reports: Annotated[tuple[Report, ...], Many(Nested(Report), MAX_GROUP)] = ()
    reports_signature: Annotated[bytes | None, Maybe(Signature)] = None

    def check_invariants(self) -> None:
        _check_ascending("reported dealers", [one.dealer for one in self.reports])
        if bool(self.reports) != (self.reports_signature is not None):
            raise ValueError("SurvivorSignature.reports_signature: expected one where there are reports, else none")


@dataclass(frozen=True, slots=True, kw_only=True)
class SurvivorVote(Record):
    """A member's signature of a list."""

    member: U16
    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class UnmaskRequest(Record):
    """M3: signatures of one list from distinct members, ascending. It says nothing of what is to be opened."""

    h: Digest
    committee: U16
    survivors: Digest
    votes: Annotated[tuple[SurvivorVote, ...], Many(Nested(SurvivorVote), MAX_GROUP, fewest=1)]

    def check_invariants(self) -> None:
        _check_ascending("voting members", [one.member for one in self.votes])


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening(Record):
    """A share of one of `dealer`'s secrets: its own seed where `peer` is the dealer, else its pair seed with `peer`.

    `proof`: the digests on the way from the share to the root in the dealer's header.
    """

    dealer: U16
    peer: U16
    share: Annotated[bytes, Fixed(32)] = field(repr=False)
    proof: Annotated[tuple[bytes, ...], Blocks(_MAX_DEPTH, 32)]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnmaskAnswer(Record):
    """A member's shares for one list, ascending by dealer and peer."""

    h: Digest
    committee: U16
    member: U16
    survivors: Digest
    openings: Annotated[tuple[Opening, ...], Many(Nested(Opening), _MAX_OPENINGS)]

    def check_invariants(self) -> None:
        _check_ascending("openings", [(one.dealer, one.peer) for one in self.openings])


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSum(Record):
    """Whose updates are in a group's sum, ascending, and SHA-256 of the sum."""

    group: U16
    members: Annotated[tuple[int, ...], Many(U16, MAX_GROUP)]
    sum: Digest

    def check_invariants(self) -> None:
        _check_ascending("members", self.members)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published(Record):
    """What came of a committee's groups, ascending by group, no member in two; signed by the server."""

    h: Digest
    committee: U16
    groups: Annotated[tuple[GroupSum, ...], Many(Nested(GroupSum), MAX_GROUP)]
    signature: Signature

    def check_invariants(self) -> None:
        _check_ascending("groups", [one.group for one in self.groups])
        members = [member for group in self.groups for member in group.members]
        if len(set(members)) != len(members):
            raise ValueError("Published.groups: expected every member in one group")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal(Record):
    """Why the sender does not go on with an epoch (round 0) or a round, and who is the reason, where it is a party."""

    run: Name
    epoch: U32
    round: U32
    cause: Annotated[Cause, Choice(Cause)]
    party: Annotated[str | None, Maybe(Name)] = None
    reason: Annotated[str, Text(800)]


# -- binary form ---------------------------------------------------------------------------------------------

_MAGIC = b"WSA1"
_MIB = 1 << 20

_KINDS: dict[int, tuple[type[Record], int]] = {
    1: (Hello, 1 << 14),
    2: (Roster, 1 << 28),
    3: (RosterSignature, 1 << 10),
    4: (RosterSignatures, 8 * _MIB),
    5: (RoundStart, 1 << 10),
    6: (Masked, (1 << 34) + 8 * _MIB),
    7: (SurvivorOffer, 16 * _MIB),
    8: (SurvivorSignature, 1 << 12),
    9: (UnmaskRequest, 1 << 15),
    10: (UnmaskAnswer, 32 * _MIB),
    11: (Published, _MIB),
    12: (Refusal, 1 << 12),
    13: (GroupTable, 32 * _MIB),
    14: (Descriptor, 1 << 10),
    15: (Header, 1 << 15),
    16: (SurvivorList, 4 * _MIB),
}
_NUMBERS = {kind: number for number, (kind, _) in _KINDS.items()}


def encode_parts(message: Record) -> list[Buffer]:
    """The binary form in pieces, the update's bytes uncopied among them. Raises ValueError for what is no message."""
    number = _NUMBERS.get(type(message))
    if number is None:
        raise ValueError(f"expected a message, got {type(message).__name__}, which is only a part of one")
    out: list[Buffer] = [_MAGIC, bytes((number,))]
    write_record(message, out)
    if (size := sum(map(len, out))) > _KINDS[number][1]:
        raise ValueError(f"{type(message).__name__}: expected at most {_KINDS[number][1]} bytes, got {size}")
    return out


def encode(message: Record) -> bytes:
    """The binary form in one piece."""
    return b"".join(encode_parts(message))


def decode(data: Buffer) -> Record:
    """The message in `data`, whose `Masked` holds views of it. Raises RemoteError for anything malformed."""
    reader = Reader(data)
    if bytes(data[:4]) != _MAGIC or len(data) < 5:
        raise RemoteError(f"message: expected {_MAGIC!r} and a kind, got {bytes(data[:5])!r}")
    number = reader.take(5)[4]
    if number not in _KINDS:
        raise RemoteError(f"message: expected a kind from 1 to {max(_KINDS)}, got {number}")
    kind, most = _KINDS[number]
    if len(data) > most:
        raise RemoteError(f"{kind.__name__}: expected at most {most} bytes, got {len(data)}")
    message = read_record(kind, reader)
    if reader.left:
        raise RemoteError(f"{kind.__name__}: expected the end, got {reader.left} bytes more")
    return message


def digest_of(message: Record) -> bytes:
    """SHA-256 of the binary form: h of a Descriptor, the roster hash, and so on."""
    digest = hashlib.sha256()
    for part in encode_parts(message):
        digest.update(part)
    return digest.digest()


# -- what is signed ------------------------------------------------------------------------------------------


def hello_input(entry: Entry) -> bytes:
    """What a member signs to enter an epoch."""
    return _signing_input(_Domain.HELLO, entry.run, entry.epoch, 0, 0, written(entry))


def roster_input(run: str, epoch: int, roster: bytes) -> bytes:
    """What a member signs, once for each run and epoch, of the roster with this digest."""
    return _signing_input(_Domain.ROSTER, run, epoch, 0, 0, roster)


def descriptor_input(descriptor: Descriptor) -> bytes:
    """What the server signs to start a round."""
    return _round_input(_Domain.DESCRIPTOR, descriptor, 0, b"")


def header_input(descriptor: Descriptor, header: Header) -> bytes:
    """What a member signs of its M1, in the round of `descriptor`."""
    return _round_input(_Domain.M1, descriptor, header.committee, digest_of(header))


def survivors_input(descriptor: Descriptor, committee: int, survivors: bytes) -> bytes:
    """What a committee's member signs, once for each run, epoch and round, of the list with this digest."""
    return _round_input(_Domain.U, descriptor, committee, survivors)


def reports_input(descriptor: Descriptor, committee: int, reports: Sequence[Report]) -> bytes:
    """What a committee's member signs of its reports."""
    return _round_input(_Domain.REPORTS, descriptor, committee, _listed(reports))


def result_input(descriptor: Descriptor, committee: int, groups: Sequence[GroupSum]) -> bytes:
    """What the server signs of a result."""
    return _round_input(_Domain.RESULT, descriptor, committee, _listed(groups))


def _round_input(domain: _Domain, descriptor: Descriptor, committee: int, body: bytes) -> bytes:
    body = digest_of(descriptor) + body
    return _signing_input(domain, descriptor.run, descriptor.epoch, descriptor.round, committee, body)


def _signing_input(domain: _Domain, run: str, epoch: int, round_: int, committee: int, body: bytes) -> bytes:
    context = _Context(run=run, epoch=epoch, round=round_, committee=committee)
    return b"".join((b"wardround secagg 1\0", bytes((len(domain),)), domain.encode(), written(context), body))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Context(Record):
    run: Name
    epoch: U32
    round: U32
    committee: U16


def _listed(records: Sequence[Record]) -> bytes:
    return b"".join((len(records).to_bytes(4, "little"), *map(written, records)))


def _check_ascending(what: str, keys: Sequence[Any]) -> None:
    """One order, and nobody twice: else one value would have many encodings, or one member many votes."""
    if not all(a < b for a, b in pairwise(keys)):
        raise ValueError(f"expected {what} in ascending order, each once")
