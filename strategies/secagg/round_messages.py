"""The messages of a round, from the server's descriptor to the sum. See `messages` for their form."""

import hashlib
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Annotated

from wardround.errors import RemoteError
from wardround.strategies.secagg.epoch_messages import MAX_GROUP, MAX_ROSTER
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
    Record,
    Signature,
    Text,
    check_ascending,
)

__all__ = [
    "Cause",
    "Descriptor",
    "Fault",
    "GroupOffer",
    "GroupSum",
    "Header",
    "Masked",
    "OfferedMember",
    "Opening",
    "Published",
    "Refusal",
    "Report",
    "RoundStart",
    "Survivor",
    "SurvivorList",
    "SurvivorOffer",
    "SurvivorSignature",
    "SurvivorVote",
    "Task",
    "UnmaskAnswer",
    "UnmaskRequest",
]

_MAX_DEPTH = 8
"""Of a tree over the shares of at most 256 secrets."""
_MAX_OPENINGS = 1 << 15
"""Above (255 − D)(1 + D) for any number D of drop-outs."""
_MAX_SEALED = 32 * MAX_GROUP + 16

_Digests = Annotated[tuple[bytes, ...], Blocks(MAX_GROUP, 32)]


class Task(IntEnum):
    """What the round computes."""

    FIT = 1
    EVALUATE = 2


class Fault(IntEnum):
    """What is wrong with a dealer's bundle."""

    UNREADABLE = 1
    """It is what the header's digest says, and does not open."""
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
    FORGED_SUM = 18
    """A decrypted sum is not that of the listed updates."""
    FORM = 19
    """This machine cannot encrypt in the form that is asked for."""
    SECRET_KEY = 20
    """Public parameters came with a secret key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor(Record):
    """What a round is about; its digest is h, which is in every mask. `deadline_ms`: Unix time.

    `order` is the digest of everything that members are asked: of each byte that their work may depend on, so that they
    all do the same, or their masks do not cancel. `model` is that of the model alone, and of what is done with it: two
    sums over one model are told by it, whatever else a server varies. `roster` and `group_table`: digests.
    """

    run: Name
    epoch: U32
    round: U32
    task: Annotated[Task, Choice(Task)]
    model: Digest
    order: Digest
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
    ciphertexts: _Digests
    commitments: _Digests
    roots: _Digests

    def check_invariants(self) -> None:
        if len(self.roots) != len(self.ciphertexts) + 1:
            raise ValueError(f"Header.roots: expected {len(self.ciphertexts) + 1}, got {len(self.roots)}")
        if not 1 <= len(self.commitments) <= len(self.roots):
            raise ValueError(f"Header.commitments: expected 1 to {len(self.roots)}, got {len(self.commitments)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Masked(Record):
    """M1: the masked update and the masked scalar lane, little-endian, and the sealed bundles for the committee.

    How wide a word of `vector` is, and how many there are, is said by the plan. A sealed bundle is the holder's shares
    of the dealer's secrets, 32 bytes each in the order of the commitments, and 16 bytes for the tag.
    """

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
        check_ascending("members", [one.header.member for one in self.members])


@dataclass(frozen=True, slots=True, kw_only=True)
class SurvivorOffer(Record):
    """M2: who has survived, in every group of a committee, ascending by group; no member in two."""

    h: Digest
    committee: U16
    receiver: U16
    groups: Annotated[tuple[GroupOffer, ...], Many(Nested(GroupOffer), MAX_GROUP)]

    def check_invariants(self) -> None:
        check_ascending("groups", [one.group for one in self.groups])
        offered = [one for group in self.groups for one in group.members]
        if len({one.header.member for one in offered}) != len(offered):
            raise ValueError("SurvivorOffer.groups: expected every member once")
        for one in offered:
            if (one.header.h, one.header.committee) != (self.h, self.committee):
                raise ValueError("SurvivorOffer.groups: expected headers of this round and committee")
            if (one.header.member == self.receiver) != (one.sealed == b""):
                raise ValueError("SurvivorOffer.groups: expected a bundle from everybody but the receiver")


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
        check_ascending("survivors", [one.member for one in self.survivors])


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
        check_ascending("reported dealers", [one.dealer for one in self.reports])
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
        check_ascending("voting members", [one.member for one in self.votes])


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
        check_ascending("openings", [(one.dealer, one.peer) for one in self.openings])


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSum(Record):
    """Whose updates are in a group's sum, ascending, and SHA-256 of the sum."""

    group: U16
    members: Annotated[tuple[int, ...], Many(U16, MAX_GROUP)]
    sum: Digest

    def check_invariants(self) -> None:
        check_ascending("members", self.members)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published(Record):
    """What came of a committee's groups, ascending by group, no member in two; signed by the server."""

    h: Digest
    committee: U16
    groups: Annotated[tuple[GroupSum, ...], Many(Nested(GroupSum), MAX_GROUP)]
    signature: Signature

    def check_invariants(self) -> None:
        check_ascending("groups", [one.group for one in self.groups])
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
