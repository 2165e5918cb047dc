"""The messages of secure aggregation, and their binary form.

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
      17  EpochStart         server to a member   epoch 1
   18-27  of homomorphic aggregation: see `he/messages`

Every SHA-256 of a message is over its whole binary form. What is signed is in `signing_inputs`. An UnmaskAnswer is
not signed: each opening is proven against a root that its dealer signed. What is checked here is form; whether
signatures, digests and thresholds hold is for those to check who receive.
"""

import hashlib
from collections.abc import Iterable
from functools import lru_cache

from wardround.errors import RemoteError
from wardround.strategies.he.messages import (
    Encrypted,
    EncryptedHeader,
    EncryptedOffer,
    KeyAccepted,
    KeyDeal,
    KeyHeader,
    KeyOffer,
    KeyRequest,
    Opened,
    OpenRequest,
)
from wardround.strategies.secagg.epoch_messages import (
    MAX_GROUP,
    MAX_ROSTER,
    Endorsement,
    Entry,
    EpochStart,
    Group,
    GroupTable,
    Hello,
    Roster,
    RosterSignature,
    RosterSignatures,
    beacon_of,
    commit_nonce,
)
from wardround.strategies.secagg.round_messages import (
    Cause,
    Descriptor,
    Fault,
    GroupOffer,
    GroupSum,
    Header,
    Masked,
    OfferedMember,
    Opening,
    Published,
    Refusal,
    Report,
    RoundStart,
    Survivor,
    SurvivorList,
    SurvivorOffer,
    SurvivorSignature,
    SurvivorVote,
    Task,
    UnmaskAnswer,
    UnmaskRequest,
)
from wardround.strategies.secagg.wire import Buffer, Reader, Record, read_record, write_record

__all__ = [
    "MAX_GROUP",
    "MAX_ROSTER",
    "Cause",
    "Descriptor",
    "Endorsement",
    "Entry",
    "EpochStart",
    "Fault",
    "Group",
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
    "commit_nonce",
    "decode",
    "digest_of",
    "encode",
    "encode_parts",
    "survivors_of",
]

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
    17: (EpochStart, 1 << 10),
    18: (KeyRequest, 1 << 10),
    19: (KeyHeader, 1 << 19),
    20: (KeyDeal, 1 << 28),
    21: (KeyOffer, _MIB),
    22: (KeyAccepted, 1 << 10),
    23: (EncryptedHeader, 1 << 8),
    24: (Encrypted, (1 << 34) + 32 * _MIB),
    25: (EncryptedOffer, _MIB),
    26: (OpenRequest, (1 << 34) + 32 * _MIB),
    27: (Opened, (1 << 34) + _MIB),
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
    if isinstance(message, Descriptor | Header):
        return _kept_digest(message)
    return _kept_roster(message) if isinstance(message, Roster) else _digest(message)


def _digest(message: Record) -> bytes:
    return hashlib.sha256(encode(message)).digest()


_kept_digest, _kept_roster = lru_cache(maxsize=1024)(_digest), lru_cache(maxsize=2)(_digest)
"""Of what is asked for again and again: h for every header, each header for its signature and its list, the roster."""


def survivors_of(headers: Iterable[Header | EncryptedHeader]) -> SurvivorList:
    """The list of these headers, in any order. Raises ValueError for two of one member."""
    survivors = [Survivor(member=header.member, header=digest_of(header)) for header in headers]
    return SurvivorList(survivors=tuple(sorted(survivors, key=lambda one: one.member)))
