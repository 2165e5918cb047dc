"""The messages of homomorphic aggregation beside those of masking. See `secagg/messages` for their form and numbers.

    message         from, to            step
    KeyRequest      server to a member  key 1
    KeyDeal         member to server    key 1
    KeyOffer        server to a member  key 2
    KeyAccepted     member to server    key 2
    Encrypted       member to server    M1
    EncryptedOffer  server to members   M2, answered by a SurvivorSignature
    OpenRequest     server to a member  M3
    Opened          member to server    M3

Epochs and M0 are those of masking. A KeyHeader and an EncryptedHeader are hashed and are part of other messages.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Annotated

from wardround.errors import RemoteError
from wardround.strategies.he.he_plan import Form
from wardround.strategies.secagg.epoch_messages import MAX_GROUP
from wardround.strategies.secagg.round_messages import UnmaskRequest
from wardround.strategies.secagg.wire import (
    U16,
    U32,
    Blob,
    Blocks,
    Buffer,
    Bulk,
    Choice,
    Digest,
    Many,
    Name,
    Nested,
    Record,
    Signature,
    check_ascending,
)

__all__ = [
    "Encrypted",
    "EncryptedHeader",
    "EncryptedOffer",
    "KeyAccepted",
    "KeyDeal",
    "KeyHeader",
    "KeyOffer",
    "KeyRequest",
    "OfferedUpdate",
    "OpenRequest",
    "Opened",
    "Wanted",
    "chunks_digest",
    "chunks_in",
    "sum_digest",
]

_MAX_BOX, _MAX_CONTEXT, _MAX_CHUNKS = 1 << 19, 1 << 18, 1 << 22
_MAX_UPDATE = 1 << 34


class Wanted(IntEnum):
    """What an opener is asked for."""

    WORDS = 1
    DIGEST = 2
    """Only what tells whether it got the same: an opener may lie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRequest(Record):
    """The server asks a member to make the epoch's key. Nobody signs it: whose key it is, members see for themselves.

    `roster`: the digest of the epoch's roster.
    """

    run: Name
    epoch: U32
    roster: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyHeader(Record):
    """The part of a key deal that its dealer signs.

    `context` are the public parameters in TenSEAL's format, `fingerprint` is that of the secret, `archive` the X25519
    key that released models are sealed to (`sealed_model`), `boxes` are SHA-256 of the sealed boxes for the other
    members, in the roster's order without the dealer.
    """

    run: Name
    epoch: U32
    roster: Digest
    dealer: U16
    form: Annotated[Form, Choice(Form)]
    context: Annotated[bytes, Blob(_MAX_CONTEXT)]
    fingerprint: Digest
    archive: Digest
    boxes: Annotated[tuple[bytes, ...], Blocks(MAX_GROUP, 32)]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyDeal(Record):
    """A new key, sealed to each other member: its tag key (32 bytes) and its context with the secret key."""

    header: Annotated[KeyHeader, Nested(KeyHeader)]
    signature: Signature
    boxes: Annotated[tuple[bytes, ...], Many(Blob(_MAX_BOX), MAX_GROUP)] = field(repr=False)

    def check_contents(self) -> None:
        """Raises RemoteError unless the boxes are those that the header speaks of."""
        if tuple(hashlib.sha256(box).digest() for box in self.boxes) != self.header.boxes:
            raise RemoteError("KeyDeal.boxes: expected the boxes whose digests its header has")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyOffer(Record):
    """What a member gets of a key deal."""

    header: Annotated[KeyHeader, Nested(KeyHeader)]
    signature: Signature
    box: Annotated[bytes, Blob(_MAX_BOX)] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyAccepted(Record):
    """A member has the epoch's key with this fingerprint."""

    run: Name
    epoch: U32
    fingerprint: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptedHeader(Record):
    """The part of M1 that is signed: `chunks` is the digest of all its ciphertexts, of `size` words and `scalars`."""

    h: Digest
    member: U16
    size: U32
    scalars: U32
    chunks: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Encrypted(Record):
    """M1: an encrypted update and its scalar lane, as ciphertexts end to end; `sizes` are theirs in bytes."""

    header: Annotated[EncryptedHeader, Nested(EncryptedHeader)]
    signature: Signature
    sizes: Annotated[tuple[int, ...], Many(U32, _MAX_CHUNKS, fewest=1)]
    chunks: Annotated[Buffer, Bulk(_MAX_UPDATE)] = field(repr=False)

    def check_invariants(self) -> None:
        _check_sizes("Encrypted", self.sizes, self.chunks)


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedUpdate(Record):
    """A contributor's signed header."""

    header: Annotated[EncryptedHeader, Nested(EncryptedHeader)]
    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptedOffer(Record):
    """M2: whose updates are in the sum, ascending by member."""

    h: Digest
    members: Annotated[tuple[OfferedUpdate, ...], Many(Nested(OfferedUpdate), MAX_GROUP, fewest=1)]

    def check_invariants(self) -> None:
        check_ascending("members", [one.header.member for one in self.members])
        if len({(one.header.h, one.header.size, one.header.scalars) for one in self.members}) != 1:
            raise ValueError("EncryptedOffer.members: expected updates of one round and of equal sizes")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRequest(Record):
    """M3: signatures of one list, and the sum of its members' ciphertexts, chunk by chunk."""

    request: Annotated[UnmaskRequest, Nested(UnmaskRequest)]
    wanted: Annotated[Wanted, Choice(Wanted)]
    sizes: Annotated[tuple[int, ...], Many(U32, _MAX_CHUNKS, fewest=1)]
    chunks: Annotated[Buffer, Bulk(_MAX_UPDATE)] = field(repr=False)

    def check_invariants(self) -> None:
        _check_sizes("OpenRequest", self.sizes, self.chunks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened(Record):
    """A member's word for what the sum of a list is.

    `sum` is SHA-256 of `words`, 32-bit integers, and then `scalars`, of 64 bits, little-endian, which are there where
    they are asked for.
    """

    h: Digest
    member: U16
    survivors: Digest
    sum: Digest
    words: Annotated[Buffer, Bulk(_MAX_UPDATE)] = field(repr=False)
    scalars: Annotated[Buffer, Bulk(1 << 20)] = field(repr=False)
    signature: Signature


def chunks_in(sizes: tuple[int, ...], chunks: Buffer) -> Iterator[Buffer]:
    """The ciphertexts one by one, as views."""
    view, at = memoryview(chunks), 0
    for size in sizes:
        yield view[at : at + size]
        at += size


def chunks_digest(sizes: tuple[int, ...], chunks: Buffer) -> bytes:
    """SHA-256 of the number of ciphertexts, their sizes (4 bytes each, little-endian) and their bytes."""
    total = hashlib.sha256(len(sizes).to_bytes(4, "little"))
    total.update(b"".join(size.to_bytes(4, "little") for size in sizes))
    total.update(chunks)
    return total.digest()


def sum_digest(words: Buffer, scalars: Buffer) -> bytes:
    """What `Opened.sum` is: SHA-256 of the words' bytes and then of the scalars'."""
    total = hashlib.sha256(words)
    total.update(scalars)
    return total.digest()


def _check_sizes(what: str, sizes: tuple[int, ...], chunks: Buffer) -> None:
    if sum(sizes) != len(chunks) or not all(sizes):
        raise ValueError(f"{what}.sizes: expected sizes that add up to {len(chunks)} bytes, none of them 0")
