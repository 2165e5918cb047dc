"""The head of an audit log: how many records it has, and the hash that fixes all of them, signed by the log's owner.

A head is to our chain what a signed tree head is to a log of certificates (RFC 6962, section 3.5): whoever has kept one
can tell whether what is shown later still begins with what was there then. That it does is shown by the digests of the
bodies in between (32 bytes for each record), from which the later hash is computed without seeing a body; the same
question as of Crosby and Wallach, "Efficient data structures for tamper-evident logging", 2009 (section 3), answered by
a chain where they have a tree: ours is asked once a round, for the few records since the last time.

Against an owner who shows one history to one and another to another, it takes that different parties keep heads
and compare: so sites sign the server's heads (`CoSigned`), and keep them in their own logs.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Self

from wardround.audit.record import chained, stamp, time_of
from wardround.errors import RemoteError
from wardround.identity import site_name
from wardround.signing_key import SigningKey, check_signature

__all__ = [
    "COSIGNED_KIND",
    "LOG_BYTES",
    "MOST_DIGESTS",
    "RESTORE_ACCEPTED",
    "CoSigned",
    "Extension",
    "Head",
    "sign_head",
]

LOG_BYTES = 16
COSIGNED_KIND = "head.cosigned"
"""The kind of a site's record that has a head of the server, as `Head.table`."""
RESTORE_ACCEPTED = "restore.accepted"
"""The kind of a site's record that says that its administrator goes on with a server whose history is another."""
MOST_DIGESTS = 1 << 14
"""Digests in one `Extension`: 512 KiB, which as base64 fit into one notice."""
_CONTEXT = b"wardround audit 1\0"
_HASH_BYTES, _SIGNATURE_BYTES = 32, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """After `seq` records the log `log` had the hash `hash`; its owner signed that at `time` (as `stamp` writes it)."""

    log: bytes
    seq: int
    hash: bytes
    time: str
    signature: bytes

    def __post_init__(self) -> None:
        if (len(self.log), len(self.hash), len(self.signature)) != (LOG_BYTES, _HASH_BYTES, _SIGNATURE_BYTES):
            raise ValueError("expected a log of 16 bytes, a hash of 32, a signature of 64")
        if type(self.seq) is not int or not 0 <= self.seq < 1 << 48:
            raise ValueError("expected a number of records")
        time_of(self.time)

    @property
    def signed(self) -> bytes:
        """What the signature is over."""
        return _head_input(self.log, self.seq, self.hash, self.time)

    def check(self, public: bytes, who: str) -> None:
        """RemoteError unless it is signed with the key `public`."""
        check_signature(public, self.signature, self.signed, who)

    def table(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "log": self.log.hex(),
            "seq": self.seq,
            "hash": self.hash.hex(),
            "time": self.time,
            "signature": self.signature.hex(),
        }

    @classmethod
    def of(cls, table: object) -> Self:
        """The inverse of `table`. Raises ValueError for anything else."""
        found = _keys(table, "log", "seq", "hash", "time", "signature")
        return cls(
            log=_hex(found["log"]),
            seq=found["seq"],
            hash=_hex(found["hash"]),
            time=_text(found["time"]),
            signature=_hex(found["signature"]),
        )


def sign_head(key: SigningKey, log: bytes, seq: int, chain_hash: bytes, time: str) -> Head:
    """A head, signed with `key`."""
    signature = key.sign(_head_input(log, seq, chain_hash, time))
    return Head(log=log, seq=seq, hash=chain_hash, time=time, signature=signature)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoSigned:
    """A head that the site `site` has found to extend the one before, and signed at `at`."""

    head: Head
    site: str
    at: str
    signature: bytes

    def __post_init__(self) -> None:
        site_name(self.site)
        time_of(self.at)
        if len(self.signature) != _SIGNATURE_BYTES:
            raise ValueError("expected a signature of 64 bytes")

    @classmethod
    def make(cls, key: SigningKey, head: Head, site: str, at: datetime) -> Self:
        """`head`, signed by the site's key."""
        text = stamp(at)
        return cls(head=head, site=site, at=text, signature=key.sign(_cosigned_input(head, site, text)))

    @property
    def signed(self) -> bytes:
        """What the site's signature is over."""
        return _cosigned_input(self.head, self.site, self.at)

    def check(self, public: bytes) -> None:
        """RemoteError unless the site's key `public` has signed it."""
        check_signature(public, self.signature, self.signed, self.site)

    @property
    def signed_at(self) -> datetime:
        return time_of(self.at)

    def table(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"head": self.head.table(), "site": self.site, "at": self.at, "signature": self.signature.hex()}

    @classmethod
    def of(cls, table: object) -> Self:
        """The inverse of `table`. Raises ValueError for anything else."""
        found = _keys(table, "head", "site", "at", "signature")
        return cls(
            head=Head.of(found["head"]),
            site=_text(found["site"]),
            at=_text(found["at"]),
            signature=_hex(found["signature"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """A head, and how it is reached: the hash `start` after `first` records, and the digests of the bodies since.

    `start` need not be believed: a chain that meets a hash that one knows cannot have come from anywhere else.
    """

    head: Head
    first: int
    start: bytes
    digests: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if len(self.digests) > MOST_DIGESTS or self.first < 0 or self.first + len(self.digests) != self.head.seq:
            raise ValueError("expected a digest for each record up to the head")
        if any(len(one) != _HASH_BYTES for one in (self.start, *self.digests)):
            raise ValueError("expected digests of 32 bytes")

    def check(self, known: Head | None) -> None:
        """RemoteError, whose text says why, unless the digests lead to the head, and through `known` on the way."""
        hashes = self._hashes()
        if hashes[self.head.seq - self.first] != self.head.hash:
            raise RemoteError("its head does not follow from the records that it names")
        if known is None:
            return
        if known.log != self.head.log:
            raise RemoteError(f"it is another log ({self.head.log.hex()[:8]}, was {known.log.hex()[:8]})")
        if self.head.seq < known.seq:
            raise RemoteError(f"it has {self.head.seq} records, and had {known.seq}")
        if self.first > known.seq:
            raise RemoteError(f"it leaves out records {known.seq + 1} to {self.first}")
        if hashes[known.seq - self.first] != known.hash:
            raise RemoteError(f"its first {known.seq} records are not those that were there")

    def _hashes(self) -> list[bytes]:
        hashes = [self.start]
        for digest in self.digests:
            hashes.append(chained(hashes[-1], digest))
        return hashes

    def encode(self) -> bytes:
        """The body of a `head` notice."""
        table = {
            "head": self.head.table(),
            "first": self.first,
            "start": self.start.hex(),
            "digests": base64.b64encode(b"".join(self.digests)).decode(),
        }
        return json.dumps(table).encode()

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """The inverse of `encode`; keys that it does not know are left alone. RemoteError for anything else."""
        try:
            table = json.loads(body)
            if type(table["first"]) is not int:
                raise ValueError
            digests = base64.b64decode(_text(table["digests"]), validate=True)
            if len(digests) % _HASH_BYTES:
                raise ValueError
            return cls(
                head=Head.of(table["head"]),
                first=table["first"],
                start=_hex(table["start"]),
                digests=tuple(digests[at : at + _HASH_BYTES] for at in range(0, len(digests), _HASH_BYTES)),
            )
        except (ValueError, KeyError, TypeError, RecursionError, binascii.Error):
            raise RemoteError("head: expected a signed head and the digests that lead to it") from None


def _head_input(log: bytes, seq: int, chain_hash: bytes, time: str) -> bytes:
    return _input(b"head", log, str(seq).encode(), chain_hash, time.encode())


def _cosigned_input(head: Head, site: str, at: str) -> bytes:
    return _input(b"cosigned", sha256(head.signed).digest(), head.signature, site.encode(), at.encode())


def _input(what: bytes, *fields: bytes) -> bytes:
    """What is signed: no two contexts or lists of fields have the same."""
    pieces = [_CONTEXT, bytes((len(what),)), what]
    for one in fields:
        pieces += (len(one).to_bytes(4, "little"), one)
    return b"".join(pieces)


def _keys(table: object, *names: str) -> Mapping[str, Any]:
    if not isinstance(table, dict) or table.keys() != set(names):
        raise ValueError(f"expected {', '.join(names)}")
    return table


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("expected text")
    return value


def _hex(value: object) -> bytes:
    text = _text(value)
    found = bytes.fromhex(text)
    if found.hex() != text:
        raise ValueError("expected hexadecimal digits")
    return found
